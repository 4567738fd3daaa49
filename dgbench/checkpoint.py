"""What a killed run goes on from, and the weights that a finished run leaves."""

import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import files
from .algorithm import Algorithm
from .averager import Averager
from .meter import Meter

LAST, BEFORE = "checkpoint.pt", "checkpoint.before.pt"
RECORDS = "results.jsonl"
DAMAGE = (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, RuntimeError, EOFError, ValueError)
"""What reading a file that is cut or changed raises."""


@dataclass
class State:
    """All that changes while a run trains. Random numbers need no state: they are functions of the step."""

    algorithm: Algorithm
    averagers: Mapping[str, Averager]
    meter: Meter

    def save(self, folder: Path, step: int) -> None:
        """Write checkpoint.pt; ``step`` is the next update. The one before stays until this one is whole."""
        state = {
            "step": step,
            "algorithm": self._weights(),
            "optims": [optim.state_dict() for optim in self.algorithm.optims],
            "averagers": {name: averager.state_dict() for name, averager in self.averagers.items()},
            "meter": self.meter.state_dict(),
            "records": _records(folder),
        }
        files.replace(folder / LAST, lambda file: torch.save(state, file), keep=folder / BEFORE)

    def load(self, folder: Path, device: torch.device, say: Callable[[str], object]) -> int:
        """Take up the last whole checkpoint, saying what is damaged; returns the next update."""
        for name in (LAST, BEFORE):
            state = _read(folder / name, say)
            if state is not None:
                break
        else:
            return 0
        self.algorithm.load_state_dict(state["algorithm"])
        for optim, saved in zip(self.algorithm.optims, state["optims"], strict=True):
            optim.load_state_dict(saved)
        for name, averager in self.averagers.items():
            averager.load_state_dict(state["averagers"][name])
        self.meter.load_state_dict(state["meter"], device)
        return state["step"]

    def finish(self, folder: Path, keep_weights: bool) -> None:
        """Write weights.pt ({kind of weights: state dict}) and then ``done``; the checkpoint goes."""
        if keep_weights:
            weights = {"raw": self._weights()}
            for name, averager in self.averagers.items():
                with averager.swapped(self.algorithm):
                    weights[name] = self._weights()
            files.replace(folder / "weights.pt", lambda file: torch.save(weights, file))
        files.replace_text(folder / "done", "")
        for name in (LAST, BEFORE):
            (folder / name).unlink(missing_ok=True)

    def _weights(self) -> dict[str, Tensor]:
        """Copies: a row of a larger tensor would be saved with all of it."""
        return {name: value.clone() for name, value in self.algorithm.state_dict().items()}


def _read(path: Path, say: Callable[[str], object]) -> dict[str, Any] | None:
    """A checkpoint; None if there is none, or it is damaged, which torch alone may not notice, or ahead of
    the records.

    Its tensors are of the CPU: a GPU without room would look like damage.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if bad := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {bad}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        told = f"is damaged ({str(error).splitlines()[0]})"
    else:
        if _records(path.parent) >= state.get("records", 0):
            return state
        told = f"was made with more records than {RECORDS} has"  # a copy of a folder in which a run went on
    say(f"{path.name} {told}; going back to the one before")
    path.unlink()  # so that it never takes that one's place
    return None


def _records(folder: Path) -> int:
    """Bytes of the records in a run's folder."""
    path = folder / RECORDS
    return path.stat().st_size if path.exists() else 0
