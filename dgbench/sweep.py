"""Many runs: ``python -m dgbench.sweep launch --algorithms ERM PCL --datasets PACS --output_dir DIR``.

A sweep is a folder: sweep.json lists the planned runs, and each run has a folder of its name. The state of
a run is read from its own files, so a second launch goes on with what is missing and skips what is done.
Instead of flags, a file of ``sweeps/`` names the runs of a paper's table; few flags go with it.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from . import flags, registry, status
from .cancel import cancel
from .errors import UsageError, exit_on_usage_error, unknown
from .launch_sweep import dry_run_text, launch_sweep
from .launchers import slurm_preflight
from .plan import read_plan
from .records import ARCHIVE, holds_run
from .spec import RunSpec

SWEEPS = Path(__file__).parent.parent / "sweeps"
COMMANDS = ("launch", "retry", "status", "cancel", "logs")
LAUNCHERS = ("serial", "pool", "slurm")
ON_A_FILE = ("steps", "checkpoint_freq", "averaging", "hparams", "precision")
"""Flags that change the runs of a sweep's file; it decides the rest of what a run is."""
PER_RUN = ("dataset", "algorithm", "test_envs", "source_envs", "trial_seed", "hparams_seed")
OF_A_GRID = (
    *("algorithms", "datasets", "n_trials", "n_hparams", "n_hparams_from"),
    *("test_env_pairs", "pairs", "envs"),
)


def grid(
    algorithms: Sequence[str],
    datasets: Sequence[str],
    n_trials: int = 3,
    n_hparams: int = 1,
    n_hparams_from: int = 0,
    data_dir: Path | None = None,
    test_env_pairs: bool = False,
    pairs: bool = False,
    envs: Sequence[str] = (),
    **fixed: Any,
) -> list[RunSpec]:
    """Every trial x data set x algorithm x target x hyper-parameter draw, as resolved specs.

    envs: only these targets (sources, for single_source; for retrieval, pairs of these), default all.
    test_env_pairs: also hold out every target with each other domain, which leave-one-domain-out selection
    needs. pairs: one source for each target, every ordered pair. fixed: other fields of ``RunSpec``.
    """
    task = fixed.get("task", "domain_generalization")
    if task == "retrieval" and n_hparams - n_hparams_from > 1:
        raise UsageError("retrieval has no labels to choose among several draws; choose from: --n_hparams 1")
    if test_env_pairs and task in ("single_source", "retrieval"):
        raise UsageError(f"--test_env_pairs has no meaning for {task}, which holds no domain out")
    runs = []
    for trial, dataset, algorithm in itertools.product(range(n_trials), datasets, algorithms):
        data: Any = registry.find("datasets", dataset)
        names = data.domain_names(data_dir)
        chosen = RunSpec(dataset, algorithm, test_envs=tuple(envs)).resolved(data_dir).test_envs or names
        roles = _roles(task, names, chosen, pairs)
        if task == "single_source" and data.validation and not envs:
            roles = [{"source_envs": ()}]  # its own source
        if test_env_pairs:
            two = itertools.combinations(names, 2)
            roles += [{"test_envs": pair} for pair in two if not set(pair).isdisjoint(chosen)]
        if not roles:  # pairs of domains were asked for, as any domain alone is a target
            one = f"--envs {' '.join(envs)} leaves {dataset} one" if envs else f"{dataset} has one"
            needs = "--task retrieval" if task == "retrieval" else "--pairs"
            raise UsageError(f"{needs} needs two domains, {one}; choose from: {', '.join(names)}")
        for role, draw in itertools.product(roles, range(n_hparams_from, n_hparams)):
            spec = RunSpec(dataset, algorithm, trial_seed=trial, hparams_seed=draw, **fixed | role)
            runs.append(spec.resolved(data_dir))
    return runs


def steps_of_epochs(
    dataset: str, envs: Sequence[str], epochs: int, batch_size: int, data_dir: Path | None = None
) -> tuple[int, int]:
    """(steps, steps of an epoch) in which the largest of these domains is seen so often."""
    data: Any = registry.find("datasets", dataset)
    per_epoch = max(data.count(env, data_dir) for env in envs) // batch_size
    return epochs * per_epoch, per_epoch


def _roles(
    task: str, names: Sequence[str], chosen: Sequence[str], pairs: bool
) -> list[dict[str, tuple[str, ...]]]:
    """Which domains are source and target in each run of a trial."""
    if task == "retrieval":
        return [{"test_envs": pair} for pair in itertools.combinations(chosen, 2)]
    if task == "single_source":
        return [{"source_envs": (name,)} for name in chosen]
    if pairs:
        others = [(source, target) for target in chosen for source in names if source != target]
        return [{"source_envs": (source,), "test_envs": (target,)} for source, target in others]
    return [{"test_envs": (name,)} for name in chosen]


def load_file(name: str, data_dir: Path | None = None) -> list[RunSpec]:
    """The runs of a file in ``sweeps/`` (by name) or of any Python file (by path)."""
    runs = getattr(_module(name), "runs", None)
    if not callable(runs):
        raise UsageError(f"the sweep file {name!r} defines no function runs(data_dir) that returns its runs")
    return [spec.resolved(data_dir) for spec in runs(data_dir)]


def table_flags(name: str) -> list[str]:
    """How the file's table is printed: its ``TABLE``, flags of ``dgbench.collect_results``."""
    return [*getattr(_module(name), "TABLE", ())]


def file_of(name: str) -> Path:
    """The file of a sweep: one of ``sweeps/``, or a user's own."""
    return Path(name) if name.endswith(".py") else SWEEPS / f"{name}.py"


def _module(name: str) -> ModuleType:
    path = file_of(name)
    if not path.is_file():
        raise unknown("sweep", name, names())
    sys.path.insert(0, str(path.parent))  # as for a script: a file may import its neighbours
    try:
        return registry.run_file(path, f"dgbench_sweep_{path.stem}")
    finally:
        sys.path.remove(str(path.parent))


def names() -> list[str]:
    """The files of ``sweeps/``."""
    return sorted(path.stem for path in SWEEPS.glob("[!_]*.py"))


def runs_of(args: Any) -> list[RunSpec]:
    """The runs that a command line, as ``parse`` reads it, is about."""
    named = args.algorithms and args.datasets and not args.file
    # runs of a plan or a file name the content of their label split, and the flag says where it lies
    given = flags.spec_values(args, skip=() if named else ("label_split",))
    for name in ("n_trials", "n_hparams"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)} must be at least 1")
    if args.file:
        return _checked(args, _of_file(args, given))
    if not named:
        if args.command != "launch" and (runs := read_plan(args.output_dir)):
            return _checked(args, _of_plan(args, given, runs))
        nothing = "" if args.command == "launch" else f"{args.output_dir} holds no sweep; "
        raise UsageError(
            f"{nothing}give --algorithms and --datasets, or a sweep file; choose from: {', '.join(names())}"
        )
    if (args.n_hparams_from or 0) >= (args.n_hparams or 1):
        raise UsageError(f"--n_hparams_from {args.n_hparams_from} must be below --n_hparams")
    shape = {name: getattr(args, name) for name in OF_A_GRID if getattr(args, name)}
    return grid(data_dir=args.data_dir, **shape, **given)


def _of_plan(args: Any, given: Mapping[str, Any], runs: Sequence[RunSpec]) -> list[RunSpec]:
    """The planned runs, or those of the methods or the data sets that the flags name."""
    wanted = {
        kind: {registry.canonical(f"{kind}s", name) for name in getattr(args, f"{kind}s")}
        for kind in ("algorithm", "dataset")
    }
    others = [name for name in OF_A_GRID if name not in ("algorithms", "datasets") and getattr(args, name)]
    if others := [*others, *given]:
        raise UsageError(f"--{others[0]} needs --algorithms and --datasets")
    return [
        spec for spec in runs if all(getattr(spec, kind) in names for kind, names in wanted.items() if names)
    ]


def _checked(args: Any, runs: list[RunSpec]) -> list[RunSpec]:
    """The runs; ``UsageError`` if the flags leave none, or if none would look at ``--label_split``."""
    if not runs:
        given = [f"--{name}" for name in ("algorithms", "datasets", "n_trials") if getattr(args, name)]
        raise UsageError(f"{' and '.join(given) or args.file} leaves no run")
    if args.label_split and not any(spec.label_split for spec in runs):
        raise UsageError(f"--label_split {args.label_split} has no meaning here; none of the runs names one")
    return runs


def _of_file(args: Any, given: Mapping[str, Any]) -> list[RunSpec]:
    """The runs of a file, of its first ``--n_trials`` trials, with what else the flags change."""
    wrong = [name for name in OF_A_GRID if name != "n_trials" and getattr(args, name)]
    if wrong := wrong + [name for name in given if name not in ON_A_FILE]:
        allowed = ", ".join(f"--{name}" for name in ("n_trials", *ON_A_FILE))
        raise UsageError(f"a sweep file decides --{wrong[0]} itself; choose from: {allowed}")
    chosen = dict(given.get("hparams", {}))
    return [
        replace(spec, **{**given, "hparams": {**spec.hparams, **chosen}}).resolved(args.data_dir)
        for spec in load_file(args.file, args.data_dir)
        if args.n_trials is None or spec.trial_seed < args.n_trials
    ]


def parse(argv: Sequence[str] | None = None) -> Any:
    """The command line; plugins that it names are loaded."""
    return _parser().parse_args(argv)


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="python -m dgbench.sweep", description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("file", nargs="?", help=f"a file of sweeps/: {', '.join(names())}; of logs: a run")
    parser.add_argument("--algorithms", nargs="+", default=[])
    parser.add_argument("--datasets", nargs="+", default=[])
    parser.add_argument("--n_trials", type=int, help="default: 3, or all of a sweep file")
    parser.add_argument("--n_hparams", type=int, help="draws, default 1; draw 0 is the defaults")
    parser.add_argument("--n_hparams_from", type=int, help="the first draw; default 0")
    parser.add_argument("--envs", nargs="+", default=[], help="only these targets (single_source: sources)")
    parser.add_argument("--single_test_envs", action="store_true", help="the default here; DomainBed's flag")
    parser.add_argument(
        "--test_env_pairs", action="store_true", help="also hold out each target with each other domain"
    )
    parser.add_argument("--pairs", action="store_true", help="one source for each target, every pair")
    parser.add_argument("--output_dir", type=Path, required=True, help="the sweep's folder")
    parser.add_argument("--launcher", default="pool", help=f"one of: {', '.join(LAUNCHERS)}")
    parser.add_argument("--workers", type=int, default=0, help="of the pool; default: GPUs, or CPU cores")
    parser.add_argument(
        "--dry_run", action="store_true", help="print the runs and their cost, launch nothing"
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=5.0,
        metavar="SECONDS",
        help="status again and again until all is over",
    )
    flags.add_spec_flags(parser, skip=PER_RUN, given_only=True)
    flags.add_machine_flags(parser, threads=1)
    slurm_preflight.add_flags(parser)
    return parser


def _check(args: Any) -> None:
    """``UsageError`` for flags that would have no effect, and for a folder that is no place for runs."""
    if (args.output_dir / ARCHIVE).exists():
        told = "its runs are done and archived; dgbench.collect_results reads it, launch into another folder"
        raise UsageError(f"{args.output_dir} is a published sweep: {told}")
    if holds_run(args.output_dir):
        raise UsageError(f"{args.output_dir} holds a run; give another folder for a sweep")
    if args.dry_run and args.command not in ("launch", "retry"):
        raise UsageError(f"--dry_run has no meaning for {args.command}; choose from: launch, retry")
    if args.watch and args.command != "status":
        raise UsageError(f"--watch has no meaning for {args.command}; choose from: status")
    for name in ("workers", "watch"):
        if (value := getattr(args, name) or 0) < 0:
            raise UsageError(f"--{name} {value} must not be negative")


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Exit status 1 if a run failed or is missing at the end, 130 after Ctrl-C."""
    args = parse(argv)
    if args.launcher not in LAUNCHERS:
        raise unknown("launcher", args.launcher, LAUNCHERS)
    if args.command == "logs":
        print(status.log_text(args.output_dir, status.planned(args.output_dir), args.file or ""))
        return 0
    _check(args)
    runs = runs_of(args)
    if args.command == "cancel":
        print("\n".join(cancel(args.output_dir, runs)))
    elif args.command == "status" and args.watch:
        status.watch(args.output_dir, runs, args.watch)
    elif args.command == "status":
        print(status.text(args.output_dir, runs))
    elif args.dry_run:
        print(dry_run_text(args, runs))
    else:
        return launch_sweep(args, runs)
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
