"""A run seen while it trains: ``--log tensorboard`` or ``--log wandb``; off by default.

Both read the records that ``results.jsonl`` gets, so nothing is computed for them.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError, extra, unknown

KINDS = ("none", "tensorboard", "wandb")


@dataclass(frozen=True)
class Log:
    """Takes each record of a run; ``close`` at its end."""

    write: Callable[[Mapping[str, Any]], object]
    close: Callable[[], object]


def start(kind: str, folder: Path, run: str, config: Mapping[str, Any], first: int = 0) -> Log:
    """The log of a run. config: its spec. first: the step at which a resumed run goes on.

    ``UsageError`` for an unknown kind and for a package that is not installed.
    """
    if kind == "none":
        return Log(lambda record: None, lambda: None)
    if kind == "tensorboard":
        return _tensorboard(folder, first)
    if kind == "wandb":
        return _wandb(folder, run, config)
    raise unknown("--log", kind, KINDS)


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """A record's numbers by name; the kind of weights stands before them unless it is raw."""
    if record["weights"] != "raw":
        return {f"{record['weights']}/{name}": value for name, value in record["metrics"].items()}
    losses = {f"loss/{name}": value for name, value in record["losses"].items()}
    speed = {name: record[name] for name in ("images_per_second", "memory_gb")}
    return {**losses, **record["metrics"], **speed}


def _tensorboard(folder: Path, first: int) -> Log:
    tensorboard = extra("torch.utils.tensorboard", "--log tensorboard", "tensorboard")
    writer = tensorboard.SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)

    def write(record: Mapping[str, Any]) -> None:
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, record["step"])
        writer.flush()  # a killed run has shown all its records

    return Log(write, writer.close)


def _wandb(folder: Path, run: str, config: Mapping[str, Any]) -> Log:
    wandb = extra("wandb", "--log wandb", "wandb")
    try:
        opened = wandb.init(
            project="dgbench",
            id=f"{run}-{hashlib.sha256(os.path.realpath(folder).encode()).hexdigest()[:8]}",  # of this folder
            name=run,
            dir=str(folder),
            config=dict(config),
            resume="allow",
            reinit="create_new",  # several runs may train as one program
        )
    except wandb.Error as error:
        raise UsageError(f"--log wandb does not begin: {error} Or set WANDB_MODE=offline.") from error
    return Log(lambda record: opened.log({**scalars(record), "update": record["step"]}), opened.finish)
