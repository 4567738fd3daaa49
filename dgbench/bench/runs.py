"""Whole runs, data and evaluation included, against runs made DomainBed's way (``peer.py``)."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import UsageError
from ..machine import Machine
from ..spec import PRECISIONS, RunSpec
from ..train import run
from . import peer
from .images import data_dir
from .ratio import Ratio, milliseconds

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


def runs(turns: int) -> list[Ratio]:
    """A run in float32 and in bf16 / a run made DomainBed's way, in float32; once each, from a warm cache."""
    ratios = []
    for name, spec in CASES.items():
        try:
            ratios += whole(name, spec)
        except UsageError as error:
            print(f"left out: {name} ({error})")
    return ratios


def whole(name: str, spec: RunSpec) -> list[Ratio]:
    """Ours in each precision against the same reference."""
    assert spec.steps and spec.checkpoint_freq
    _ours(replace(spec, steps=1))()  # decodes what is not decoded yet
    theirs = milliseconds(peer.whole(spec.dataset, data_dir(), spec.steps, spec.checkpoint_freq))
    ratios = []
    for precision in PRECISIONS:
        ours = milliseconds(_ours(replace(spec, precision=precision)))
        title = f"whole run, {precision} / DomainBed's way, {name}, {spec.steps} steps"
        ratios.append(Ratio(title, ours, theirs, ours / theirs))
    return ratios


def _ours(spec: RunSpec) -> Callable[[], None]:
    def call() -> None:
        with tempfile.TemporaryDirectory() as folder:
            run(spec, Path(folder) / "run", Machine(data_dir=data_dir(), device="cpu"))

    return call
