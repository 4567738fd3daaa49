"""Reads the golden vectors: numbers computed by the methods' official code.

``tests/golden/{dg,other,domainbed}`` hold them; ``DGBENCH_GOLDEN=FOLDER`` points the same tests at other
vectors of the same kinds. A test takes every case of a kind, whatever their number, sizes and tags:

    @pytest.mark.golden
    @pytest.mark.parametrize("case", cases("dg", "coral"))
    def test_coral(case): ...
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BUNDLED = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("DGBENCH_GOLDEN") or BUNDLED).expanduser().resolve()

DG_KINDS = sorted(path.stem for path in (BUNDLED / "dg").iterdir() if path.suffix in (".npz", ".json"))


@dataclass(frozen=True)
class Case:
    """One case of a file: arrays by name, and the hyper-parameters."""

    name: str
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    hp: dict[str, Any] = field(default_factory=dict)
    alt: dict[str, np.ndarray] = field(default_factory=dict)  # other readings, no targets (folder other)

    @property
    def tag(self) -> str:
        return str(self.hp.get("tag", ""))

    def x(self, name: str, grad: bool = False, dtype: torch.dtype | None = None) -> torch.Tensor:
        """An input as a fresh tensor; ``grad`` makes it a leaf that wants a gradient."""
        tensor = torch.tensor(self.inputs[name])
        if dtype is not None and tensor.is_floating_point():
            tensor = tensor.to(dtype)
        return tensor.requires_grad_(grad)

    def domains(self, name: str = "x") -> list[str]:
        """``x_0, x_1, ...`` or ``x0, x1, ...``: the inputs of one name, by domain."""
        rest = {key: key.removeprefix(name).lstrip("_") for key in self.inputs if key.startswith(name)}
        return sorted((key for key, number in rest.items() if number.isdigit()), key=lambda k: int(rest[k]))


def files(folder: str, kind: str, suffix: str = ".npz") -> list[Path]:
    """The files of a kind: those whose name begins with it and with no longer kind (fish, fishr)."""
    longer = [k for k in DG_KINDS if k.startswith(kind) and k != kind] if folder == "dg" else []
    return [
        path
        for path in sorted((FOLDER / folder).glob(f"{kind}*{suffix}"))
        if not any(path.stem.startswith(other) for other in longer)
    ]


def cases(folder: str, kind: str) -> list[Any]:
    """Every case of a kind as a pytest parameter."""
    found = [case for path in files(folder, kind) for case in _read(path)]
    return [pytest.param(case, id=case.name) for case in found]


def documents(folder: str, kind: str) -> list[dict[str, Any]]:
    """The JSON files of a kind."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in files(folder, kind, ".json")]


def close(actual: Any, expected: Any, rtol: float = 1e-8, atol: float = 1e-10) -> None:
    """Assert equality within the tolerance of the kind; nan equals nan."""
    if isinstance(actual, torch.Tensor):
        actual = actual.detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def _read(path: Path) -> list[Case]:
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if "n_cases" not in arrays:  # one case a file: in_x, hp_x, out_x, alt_x
        parts = {part: _below(arrays, f"{part}_") for part in ("in", "out", "hp", "alt")}
        hp = {name: value.item() if value.ndim == 0 else value for name, value in parts["hp"].items()}
        return [Case(path.stem, parts["in"], parts["out"], hp, parts["alt"])]
    found = []
    for i in range(int(arrays["n_cases"])):
        hp = json.loads(str(arrays[f"case{i}/hp"])) if f"case{i}/hp" in arrays else {}
        name = f"{path.stem}-{i}-{hp.get('tag', '')}".rstrip("-")
        found.append(Case(name, _below(arrays, f"case{i}/in/"), _below(arrays, f"case{i}/out/"), hp))
    return found


def _below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
