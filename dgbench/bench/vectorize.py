"""Runs as one program against the same runs one after another."""

from dataclasses import replace
from itertools import count
from pathlib import Path

from .. import live
from ..build import Built, build
from ..checkpoint import State
from ..machine import Machine
from ..meter import Meter
from ..spec import RunSpec
from ..train import Course, update
from ..vectorized import Program
from .ratio import Ratio, alternate

RUNS = 16


def vectorize(turns: int) -> list[Ratio]:
    """An update of each of 16 runs: ERM on RotatedDigits, 5 x 64, on images and on features."""
    images = RunSpec("RotatedDigits", "ERM", test_envs=("0",))
    cases = {
        "digits_cnn, 8 px": images,
        "mnist_cnn, 8 px": replace(images, backbone="mnist_cnn"),
        "linear on 64 features": replace(images, frozen=True),
    }
    return [_one(name, spec, turns) for name, spec in cases.items()]


def _one(name: str, spec: RunSpec, turns: int) -> Ratio:
    ours, theirs = (_courses(spec) for _ in range(2))
    program, steps, alone = Program(ours), count(), count()

    def one_after_another() -> None:
        step = next(alone)
        for course in theirs:
            update(course.state, course.run.loader, step, course.run.seed)

    title = f"{RUNS} runs as one program / one after another, {name}, 5 x 64"
    return alternate(title, lambda: program.update(next(steps)), one_after_another, max(1, turns // 6))


def _courses(spec: RunSpec) -> list[Course]:
    runs: list[Built] = []
    for i in range(RUNS):
        own = {"lr": 1e-3 / (i + 1)}
        runs.append(build(replace(spec, trial_seed=i, hparams=own).resolved(), Machine(device="cpu")))
    shown = live.start("none", Path(), "", {})
    return [Course(run, Path(), Machine(), State(run.algorithm, {}, Meter()), shown, 0) for run in runs]
