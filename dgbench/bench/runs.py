"""Whole runs, data and evaluation included, against runs made DomainBed's way (``peer.py``)."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from time import perf_counter

from ..errors import UsageError
from ..machine import Machine
from ..spec import PRECISIONS, RunSpec
from ..train import run
from . import peer
from .images import data_dir
from .ratio import Ratio

CASES = {
    "RotatedMNIST, MNIST CNN": RunSpec(
        "RotatedMNIST", "ERM", test_envs=("0",), steps=201, checkpoint_freq=100
    ),
    "PACS, ResNet-18, 224 px": RunSpec(
        "PACS",
        "ERM",
        test_envs=("sketch",),
        steps=21,
        checkpoint_freq=20,
        backbone="resnet18",
        pretrained="none",
    ),
}
SEEDS = {"RotatedMNIST": 3, "PACS": 1}
"""Runs of each: so few updates on PACS say nothing about accuracy."""
THEIRS = "DomainBed's way"


def runs(turns: int) -> list[Ratio]:
    """A run in float32 and in bf16 / a run made DomainBed's way, in float32: from a warm cache, in turns."""
    ratios = []
    for name, spec in CASES.items():
        try:
            ratios += whole(f"{name}, {spec.steps} steps", spec, SEEDS[spec.dataset])
        except UsageError as error:
            print(f"left out: {name} ({error})")
    return ratios


def whole(name: str, spec: RunSpec, seeds: int) -> list[Ratio]:
    """Ours in each precision against the same reference: median time, and mean accuracy of several seeds."""
    _ours(replace(spec, steps=1), 0)  # decodes what is not decoded yet
    calls = {precision: partial(_ours, replace(spec, precision=precision)) for precision in PRECISIONS}
    calls[THEIRS] = partial(_theirs, spec)
    times, scores = ({kind: list[float]() for kind in calls} for _ in range(2))
    for seed in range(seeds):
        for kind, call in calls.items():
            started = perf_counter()
            scores[kind].append(call(seed))
            times[kind].append((perf_counter() - started) * 1000)
            told = f"{times[kind][-1] / 1000:.1f} s, accuracy on the target {scores[kind][-1]:.2f} %"
            print(f"{name}, {kind}, seed {seed}: {told}")
    ratios = [_ratio("whole run", "ms", name, kind, times, median) for kind in PRECISIONS]
    if seeds > 1:
        ratios += [_ratio("accuracy", "%", name, kind, scores, mean) for kind in PRECISIONS]
    return ratios


def _ratio(
    what: str,
    unit: str,
    name: str,
    kind: str,
    figures: Mapping[str, Sequence[float]],
    middle: Callable[[Sequence[float]], float],
) -> Ratio:
    ours, theirs = middle(figures[kind]), middle(figures[THEIRS])
    return Ratio(f"{what}, {kind} / {THEIRS}, {name}", ours, theirs, ours / theirs, unit)


def _ours(spec: RunSpec, seed: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        last = run(replace(spec, seed=seed), Path(folder) / "run", Machine(data_dir=data_dir(), device="cpu"))
    return 100 * float(last["metrics"][f"{spec.test_envs[0]}/in/acc"])


def _theirs(spec: RunSpec, seed: int) -> float:
    assert spec.steps and spec.checkpoint_freq
    return 100 * peer.whole(spec.dataset, data_dir(), spec.steps, spec.checkpoint_freq, seed)
