"""What surrounds the runs: checkpoints, the collector."""

import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import torch

from ..build import build
from ..checkpoint import State
from ..errors import UsageError
from ..machine import Machine
from ..meter import Meter
from ..spec import RunSpec
from .images import data_dir
from .ratio import Ratio, alternate, milliseconds, paired

RUNS = 10_080

READ = """
import json, pathlib, sys
for path in pathlib.Path(sys.argv[1]).glob("*/results.jsonl"):
    for line in path.open():
        json.loads(line)
"""


def checkpoint(turns: int) -> list[Ratio]:
    """A checkpoint of ResNet-18 and Adam / the same tensors in one file by ``torch.save``."""
    spec = RunSpec(
        "PACS", "ERM", test_envs=("sketch",), backbone="resnet18", pretrained="none", image_size=32
    )
    ours = build(spec.resolved(), Machine(data_dir=data_dir(), device="cpu"))
    ours.algorithm.update(ours.loader.batch(0))
    state = State(ours.algorithm, {}, Meter())
    with tempfile.TemporaryDirectory() as name:
        folder, steps = Path(name), count()
        state.save(folder, next(steps))
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)

        def bare() -> None:
            torch.save(saved, folder / "bare.pt")

        title = "checkpoint / torch.save, ResNet-18 with Adam"
        return [alternate(title, lambda: state.save(folder, next(steps)), bare, turns)]


def collector(turns: int) -> list[Ratio]:
    """The table of 10,080 runs with 10 records each, read anew and again / ``json.loads`` of every line."""
    generator = Path(__file__).parents[2] / "tests" / "generate_sweep.py"
    if not generator.exists():
        raise UsageError(f"the collector's sweep is written by {generator}, which only a checkout has")
    with tempfile.TemporaryDirectory() as name:
        sweep = f"{name}/sweep"
        _call([str(generator), sweep, "--format", "domainbed", "--runs", str(RUNS)])
        table, lines = ["-m", "dgbench.collect_results", "--input_dir", sweep], ["-c", READ, sweep]
        return [
            paired(
                f"table of {RUNS:,} runs, {which} / json.loads of every line",
                lambda: _call(table),
                lambda: _call(lines),
                1,
            )
            for which in ("first time", "again")
        ]


def _call(arguments: list[str]) -> float:
    """The time of a Python process."""
    return milliseconds(lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))
