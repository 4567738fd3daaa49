"""Sweep folders from literal numbers, for the tests of records, selection and tables."""

import json
import os
from pathlib import Path

from dgbench.spec import RunSpec

DOMAINS = ("art", "cartoon", "sketch")
SHARED = Path(os.environ.get("DGBENCH_SHARED", Path(__file__).parents[2] / "shared"))


def spec(algorithm="ERM", target="sketch", **fields):
    """A run on the data set Toy with the domains art, cartoon and sketch."""
    targets = (target,) if isinstance(target, str) else target
    settings = {"steps": 601, "checkpoint_freq": 300, "backbone": "small", "pretrained": "none"}
    return RunSpec("Toy", algorithm, test_envs=targets, **{**settings, **fields})


def record(run, step, accuracies, weights="raw", fingerprint=None):
    """One line. accuracies: {"art/out": 0.5, ...}."""
    sources = run.source_envs or [name for name in DOMAINS if name not in run.test_envs]
    targets = run.test_envs or [name for name in DOMAINS if name not in sources]
    return {
        "run": run.run_id(),
        "spec": run.to_dict(),
        "step": step,
        "weights": weights,
        "losses": {"loss": 1.0},
        "metrics": {f"{part}/acc": accuracy for part, accuracy in accuracies.items()},
        "parts": {
            "validation": [f"{name}/out" for name in sources],
            "test": [f"{name}/in" for name in targets],
            "oracle": [f"{name}/out" for name in targets],
        },
        "fingerprint": fingerprint or {},
    }


def lines_of(*steps, weights="raw"):
    """A line of the same run for each step."""
    run = spec()
    return [record(run, step, constant(run, 0.5, 0.5), weights) for step in steps]


def constant(run, validation, test, oracle=0.5):
    """{part: accuracy} with one value for every source and one for every target."""
    targets = run.test_envs or [name for name in DOMAINS if name not in run.source_envs]
    values = {f"{name}/out": oracle if name in targets else validation for name in DOMAINS}
    return {**values, **{f"{name}/in": test for name in targets}}


def write(folder, run, lines, done=True):
    """The folder of a run, with ``lines`` as its records."""
    path = Path(folder) / run.run_id()
    path.mkdir(parents=True)
    (path / "spec.json").write_text(json.dumps(run.to_dict()))
    (path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if done:
        (path / "done").touch()
    return path


def write_simple(folder, run, test, validation=0.5, **kwargs):
    """A run that is done, with one checkpoint at its last step."""
    return write(folder, run, [record(run, run.steps - 1, constant(run, validation, test), **kwargs)])


def plan(folder, runs):
    """The sweep.json of these runs."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "sweep.json").write_text(json.dumps({"specs": [run.to_dict() for run in runs]}))
