"""Runs as one program against the same runs one after another."""

import tempfile
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

from ..course import Course, opened
from ..machine import Machine
from ..spec import RunSpec
from ..train import update
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
    with ExitStack() as stack:
        ours, theirs = (_courses(spec, stack) for _ in range(2))
        program, steps, alone = Program(ours), count(), count()

        def one_after_another() -> None:
            step = next(alone)
            for course in theirs:
                update(course.state, course.run.loader, step, course.run.seed)

        title = f"{RUNS} runs as one program / one after another, {name}, 5 x 64"
        return alternate(title, lambda: program.update(next(steps)), one_after_another, max(1, turns // 6))


def _courses(spec: RunSpec, stack: ExitStack) -> list[Course]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    specs = [replace(spec, trial_seed=i, hparams={"lr": 1e-3 / (i + 1)}) for i in range(RUNS)]
    found = [
        stack.enter_context(opened(own, folder / str(i), Machine(device="cpu")))
        for i, own in enumerate(specs)
    ]
    return [course for course in found if course is not None]
