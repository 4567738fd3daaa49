"""What ``sweep launch`` and ``retry`` do: choose the runs that are theirs, have them done, tell how."""

import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from . import records, registry, status
from .errors import UsageError, extra
from .launchers import launches, slurm_preflight, squeue
from .plan import plan, read_plan
from .spec import RunSpec
from .status import states


def launch_sweep(args: Any, runs: Sequence[RunSpec]) -> int:
    """Execute what there is to do, and say how the sweep stands; returns the exit status."""
    folder, started, slurm = args.output_dir, time.perf_counter(), args.launcher == "slurm"
    _check_content(args, runs)
    todo, queued = _todo(args, runs)
    try:
        if slurm and (todo or queued):
            _submit(args, runs, todo, queued)
        elif todo:
            _execute(args, runs, todo)
        elif not {*map(RunSpec.run_id, runs)} <= {*map(RunSpec.run_id, read_plan(folder))}:
            # all are done, and the plan was lost
            with _writing(folder):
                plan(folder, runs)
    except KeyboardInterrupt:
        jobs = "; jobs go on: see `status`, `cancel`" if slurm else ""
        print(f"\nstopped; the same command goes on with {folder}{jobs}")
        return 130
    print(status.text(folder, runs))
    if slurm and args.no_wait:
        print(f"{len(todo)} runs submitted; {folder}")
        return 0
    state = states(folder, runs)
    print(f"{len(todo)} runs in {status.duration(time.perf_counter() - started)}; {folder}")
    if "failed" in state.values():
        print("run the same command with `retry` in place of `launch` to try the failed ones again")
    return int(any(is_ != "done" for is_ in state.values()))


def dry_run_text(args: Any, runs: Sequence[RunSpec]) -> str:
    """The runs, their state and hyper-parameters, an estimate of the cost; of Slurm, what it would get."""
    from .cost import seconds_per_run  # imports torch

    state = states(args.output_dir, runs)
    lines, missing = [], 0.0
    for spec in runs:
        hp, seconds = seconds_per_run(spec)
        is_ = state[spec.run_id()]
        missing += 0 if is_ == "done" else seconds
        lines.append(f"{is_:8} {spec.run_id()}  {json.dumps(hp)}  about {status.duration(seconds)}")
    left, workers = sum(is_ != "done" for is_ in state.values()), _workers(args)
    duration = status.duration(missing / workers)
    lines.append(f"{len(runs)} runs, {left} to do: about {duration} with {workers} workers here")
    if args.launcher == "slurm":
        lines += ["", _submitter(args).dry_run_text(_todo(args, runs)[0])]
    return "\n".join(lines)


def _check_content(args: Any, runs: Sequence[RunSpec]) -> None:
    """``UsageError`` where what is done was made from other images than those of ``--data_dir``.

    Asked of data sets that are found on disk: they have one name, whatever their images are.
    """
    for name in dict.fromkeys(spec.dataset for spec in runs):
        cls: Any = registry.find("datasets", name)
        own = (spec for spec in runs if spec.dataset == name and not cls.domains)
        spec = next((s for s in own if records.state(args.output_dir / s.run_id()) == "done"), None)
        if spec is None:
            continue
        lines, _ = records.read_lines(args.output_dir / spec.run_id() / "results.jsonl")
        there = {domain: told["hash"] for line in lines[-1:] for domain, told in line["fingerprint"].items()}
        data = cls(args.data_dir, spec.trial_seed, spec.image_size, args.cache)
        domains = [d for d in cls.domain_names(args.data_dir) if d in there or not spec.source_envs]
        here = {domain.name: domain.fingerprint for domain in data.load(domains)}
        if differing := sorted(d for d in {*here, *there} if here.get(d) != there.get(d)):
            raise UsageError(
                f"{args.output_dir} has runs on other images than those in {args.data_dir}: "
                f"{', '.join(differing)} differ; give another --output_dir"
            )


def _todo(args: Any, runs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[str]]:
    """launch: what has not ended, and what it waits for: what is queued already; retry: what has failed."""
    folder = args.output_dir
    try:
        launches.forget_unsubmitted(folder)
        tasks = launches.slurm_tasks(folder, status.ended(folder, runs))  # before states: they end in between
    except squeue.NoAnswer as error:
        if args.launcher == "slurm":
            raise
        print(f"jobs of this sweep may be in Slurm's queue, which cannot be asked: {error}", file=sys.stderr)
        tasks = {}  # one that begins meanwhile meets the leases
    state = states(folder, runs)
    if args.command == "retry":  # nobody takes what has failed, also not the task in the queue that it was of
        return [spec for spec in runs if state[spec.run_id()] == "failed"], []
    open_ = [spec for spec in runs if state[spec.run_id()] in ("waiting", "running")]
    queued = [run for spec in open_ if (run := spec.run_id()) in tasks and not tasks[run].is_ending()]
    if args.launcher == "slurm":  # a pool waits for another's runs and may do them; a job should not
        queued += [run for launch in launches.living(folder) for run in launch.runs]
    left_out = set(queued)
    return [spec for spec in open_ if spec.run_id() not in left_out], queued


def _submitter(args: Any) -> Any:
    """After a look at the cluster; nothing is written."""
    wanted = slurm_preflight.resources_from(args)
    cluster = slurm_preflight.preflight(wanted)
    extra("submitit", "--launcher slurm", "slurm")
    from .launchers.slurm import Submitter
    from .machine import machine_from

    return Submitter(args.output_dir.absolute(), machine_from(args), wanted, cluster)


def _submit(args: Any, runs: Sequence[RunSpec], todo: Sequence[RunSpec], queued: Sequence[str]) -> None:
    submitter = _submitter(args)
    from .launch import check, check_data  # imports torch

    check(todo)
    check_data(todo, args.data_dir)
    with _interruptible():
        with _writing(args.output_dir):
            _plan(args, runs, todo)
            launch = submitter.create()
        submitter.launch(launch, todo, queued, wait=not args.no_wait)


def _execute(args: Any, runs: Sequence[RunSpec], todo: Sequence[RunSpec]) -> None:
    from . import launch
    from .launchers import pool  # import torch
    from .machine import machine_from

    launch.check(todo)
    launch.check_data(todo, args.data_dir)
    machine, folder = machine_from(args), args.output_dir
    how = launch.serial if args.launcher == "serial" else pool.pool
    with ExitStack() as launched:
        with _writing(folder):
            _plan(args, runs, todo)
            launched.enter_context(launches.local(folder, args.launcher, [spec.run_id() for spec in todo]))
        with _interruptible():
            how(todo, folder, machine, _workers(args))


def _plan(args: Any, runs: Sequence[RunSpec], todo: Sequence[RunSpec]) -> None:
    plan(args.output_dir, runs)
    for spec in todo if args.command == "retry" else ():
        (args.output_dir / spec.run_id() / "error.txt").unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What is written before a launch."""
    try:
        yield
    except OSError as error:
        told = f"cannot write in {folder} ({error.strerror}); give another --output_dir"
        raise UsageError(told) from None


def _workers(args: Any) -> int:
    from .launch import default_workers  # imports torch

    return 1 if args.launcher == "serial" else args.workers or default_workers(args.device, args.threads)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM, which ``cancel`` sends, ends a launch as Ctrl-C does: workers first."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
