"""Command lines: the flags of a run are the fields of ``RunSpec``; every mistake is a ``UsageError``."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn

from . import registry
from .errors import UsageError
from .live import KINDS
from .spec import RunSpec


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are ``UsageError``, one line each."""

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:  # ``parse_args`` calls it
        """As its own, with ~ in paths, which a shell leaves in NAME=~/path; ``--plugin`` files are loaded."""
        found, others = super().parse_known_args(*args, **kwargs)
        for name, value in vars(found).items():
            if isinstance(value, Path):
                setattr(found, name, value.expanduser())
            elif isinstance(value, list):
                setattr(found, name, [v.expanduser() if isinstance(v, Path) else v for v in value])
        for path in getattr(found, "plugin", ()):
            registry.load_plugin(path)
        return found, others

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def add_spec_flags(
    parser: argparse.ArgumentParser, skip: Sequence[str] = (), given_only: bool = False
) -> None:
    """One flag per field of ``RunSpec`` that is not in ``skip``; given_only: no defaults."""
    group = parser.add_argument_group("the run (these decide its numbers and its name)")
    for f in fields(RunSpec):
        if f.name in skip or f.name == "label_split":  # a machine has the file, a spec its content
            continue
        required = f.default is MISSING and f.default_factory is MISSING
        options: dict[str, Any] = {"help": f.metadata["help"], "required": required}
        if f.name == "hparams":
            options |= {"type": parse_hparams, "default": {}, "metavar": "JSON"}
        elif f.type == tuple[str, ...]:
            options |= {"nargs": "*", "default": ()}
        elif f.type is bool:
            options |= {"action": "store_true"}
        else:
            options |= {"type": _TYPES.get(f.type, str), "default": None if required else f.default}
        if given_only:
            options["default"] = argparse.SUPPRESS
        group.add_argument(f"--{f.name}", **options)


def spec_values(args: argparse.Namespace, skip: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of ``RunSpec`` that ``args`` has and that are not in ``skip``."""
    from .label_split import read  # which imports this module

    known = {f.name for f in fields(RunSpec)} - {*skip}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(args).items() if k in known}
    if values.pop("label_split", None):
        values["label_split"] = read(args.label_split).identity
    return values


def parse_hparams(text: str) -> Mapping[str, Any]:
    """A JSON object; ``UsageError`` says where it is malformed."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--hparams is not JSON ({error}); write it like '{{\"lr\": 1e-4}}'") from None
    if not isinstance(value, dict):
        raise UsageError("--hparams must be a JSON object; write it like '{\"lr\": 1e-4}'")
    return value


def parse_bool(text: str) -> bool:
    """true / false."""
    if text.lower() not in ("true", "false"):
        raise UsageError(f"{text!r} is not a truth value; choose from: true, false")
    return text.lower() == "true"


_TYPES: dict[Any, Any] = {int: int, float: float, int | None: int, bool | None: parse_bool}


def add_machine_flags(parser: argparse.ArgumentParser, threads: int = 0) -> None:
    """Where and with what a run happens, the fields of ``Machine``; none of it changes a run's name."""
    group = parser.add_argument_group("the machine (these change no number of a run on a given device)")
    group.add_argument("--data_dir", type=Path, help="the folder that holds the data sets")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    group.add_argument("--threads", type=int, default=threads, help=f"of the CPU; 0: all; default: {threads}")
    group.add_argument("--cache", default="disk", choices=("none", "ram", "disk"), help="decoded images")
    group.add_argument(
        "--data_workers",
        type=int,
        default=0,
        help="processes of a run that prepare batches, none in a pool; 0: in line",
    )
    group.add_argument(
        "--vectorize",
        type=int,
        default=1,
        metavar="K",
        help="in a sweep: up to K runs that differ in seeds and real hyper-parameters train as one program",
    )
    group.add_argument(
        "--runs_per_gpu", type=int, default=1, metavar="N", help="in a pool on GPUs: N times as many workers"
    )
    group.add_argument(
        "--label_split",
        type=Path,
        help="semi_supervised: a file of the labelled images; for runs that are planned, or a folder of such",
    )
    group.add_argument("--plugin", type=Path, action="append", default=[], help="FILE.py or FILE.py:Class")
    group.add_argument("--skip_model_save", action="store_true", help="keep no weights when a run is done")
    group.add_argument("--log", default="none", choices=KINDS, help="also show records there while they come")
    group.add_argument(
        "--checkpoint_every_min",
        type=float,
        default=10.0,
        metavar="MIN",
        help="also save what a killed run goes on from between evaluations; 0: only then",
    )
