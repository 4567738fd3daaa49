"""DomainBed's ``results.jsonl`` in the shape of ours.

Its lines hold ``env{i}_{in,out}_acc`` for every environment i beside ``args``, the flags of the run.
"""

import json
from collections.abc import Sequence
from functools import cache
from itertools import count, takewhile
from typing import Any

from .. import registry
from ..errors import UsageError
from ..spec import RunSpec


def spec(line: dict[str, Any]) -> RunSpec:
    """The run that a line of DomainBed's belongs to; its ``seed`` and paths are left out."""
    args = line["args"]
    names = _environments(args["dataset"], _count(line))
    chosen = args.get("hparams")
    return RunSpec(
        dataset=args["dataset"],
        algorithm=args["algorithm"],
        task=args.get("task") or "domain_generalization",
        test_envs=tuple(names[i] for i in args["test_envs"]),
        trial_seed=args["trial_seed"],
        hparams_seed=args["hparams_seed"],
        hparams=json.loads(chosen) if isinstance(chosen, str) else chosen or {},
        steps=args.get("steps"),
        checkpoint_freq=args.get("checkpoint_freq"),
        holdout_fraction=args.get("holdout_fraction", 0.2),
    )


def convert(spec: RunSpec, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of one run as records: sources' "out" validate, the target's "in" is reported."""
    names = _environments(spec.dataset, _count(lines[0]))
    keys = {
        f"env{i}_{part}_acc": f"{names[i]}/{part}/acc" for i in range(len(names)) for part in ("in", "out")
    }
    parts = {
        "validation": [f"{name}/out" for name in names if name not in spec.test_envs],
        "test": [f"{name}/in" for name in spec.test_envs],
        "oracle": [f"{name}/out" for name in spec.test_envs],
    }
    before = -1
    converted = []
    for line in lines:
        record = {
            "step": line["step"],
            "weights": "raw",
            "metrics": {new: line[old] for old, new in keys.items() if old in line},
            "parts": parts,
            "hparams": line.get("hparams", {}),
        }
        if "loss" in line:
            record["losses"] = {"loss": line["loss"]}
        if "step_time" in line:  # the mean since the line before; evaluation is not timed
            record["seconds"] = {"train": line["step_time"] * (line["step"] - before), "evaluate": 0.0}
        if "mem_gb" in line:
            record["memory_gb"] = line["mem_gb"]
        converted.append(record)
        before = line["step"]
    return converted


def _count(line: dict[str, Any]) -> int:
    return sum(1 for _ in takewhile(lambda i: f"env{i}_out_acc" in line, count()))


@cache
def _environments(dataset: str, number: int) -> tuple[str, ...]:
    """Names of DomainBed's environments: the data set's domains where we know it, else env0, env1, ..."""
    try:
        names: tuple[str, ...] = registry.find("datasets", dataset).domains  # type: ignore[attr-defined]
    except UsageError:
        names = ()
    return names if len(names) == number else tuple(f"env{i}" for i in range(number))
