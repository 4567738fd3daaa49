"""One run: ``python -m dgbench.train --dataset PACS --algorithm PCL --test_envs sketch --output_dir DIR``.

A run that is killed anywhere goes on from its checkpoint and ends with the same records and weights, bit
for bit on one CPU machine. What its folder holds: ``course.py``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from . import flags, hparams, lease, records, schedule
from .checkpoint import State
from .course import Course, opened, summary
from .errors import exit_on_usage_error
from .loaders import Loader
from .machine import Machine, machine_from
from .spec import RunSpec


def run(
    spec: RunSpec, folder: Path, machine: Machine | None = None, progress: bool = False
) -> dict[str, Any]:
    """Train, evaluate, record; returns the last record. Nothing is written before the spec and data are good.

    Raises ``UsageError`` for bad input, ``Busy`` while another process writes the folder; any other exception
    is also written to error.txt.
    """
    machine = machine or Machine()
    with opened(spec, folder, machine) as course:
        if course is not None:
            _train(course, progress)
    return records.read_lines(folder / "results.jsonl")[0][-1]


def _train(course: Course, progress: bool) -> None:
    """The loop, top to bottom."""
    run, algorithm = course.run, course.run.algorithm
    assert run.spec.steps is not None
    evaluations = set(records.evaluation_steps(run.spec))
    steps = range(course.first, run.spec.steps)
    bar = tqdm(steps, initial=course.first, total=run.spec.steps, disable=not progress, unit="step")
    for step in bar:
        if step % algorithm.problem.steps_per_epoch == 0:
            algorithm.step = step
            algorithm.begin_epoch(run.loader.epoch_pools(run.split))
        update(course.state, run.loader, step, run.seed)
        if step in evaluations:
            bar.set_postfix_str(course.evaluate(step), refresh=False)
            course.save(step)
            course.state.meter.start()  # neither was training
        elif course.save_is_due():
            course.save(step)
    course.end()


def update(state: State, loader: Loader, step: int, seed: int) -> None:
    """One step: batch, update, averages. Nothing in it waits for the device."""
    batch = loader.batch(step)
    seed_all(hparams.seed_hash(seed, step), loader.device)  # dropout and mixing are functions of the step
    state.algorithm.step = step
    loader.memos.clear()
    schedule.apply(state.algorithm)
    state.meter.add(state.algorithm.update(batch), batch.images)
    for averager in state.averagers.values():
        averager.update(state.algorithm, step)


def seed_all(seed: int, device: torch.device) -> None:
    """``torch.manual_seed`` of the generators that a run on this device reads.

    On the CPU its own alone: for a GPU that is not in use, torch would format the stack each time.
    """
    (torch.default_generator if device.type == "cpu" else torch).manual_seed(seed)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.train", description=__doc__.split("\n")[0])
    flags.add_spec_flags(parser)
    flags.add_machine_flags(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="the run's folder")
    args = parser.parse_args(argv)
    machine = machine_from(args)
    lease.Watch().wait(args.output_dir)
    record = run(RunSpec(**flags.spec_values(args)), args.output_dir, machine, progress=sys.stderr.isatty())
    print(summary(record))
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
