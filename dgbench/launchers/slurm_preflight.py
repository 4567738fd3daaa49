"""What a launch asks of a Slurm cluster, checked before anything is written or submitted.

sbatch itself refuses much of it, but accepts some requests that wait for ever, such as more CPUs than any
node has.
"""

import argparse
import re
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import UsageError, unknown
from . import squeue

OWN_OPTIONS = ("array", "error", "job-name", "open-mode", "output", "signal", "wrap")
FLAGS = {
    "partition": "default: the cluster's",
    "account": "",
    "qos": "",
    "gpus": "of a task; default 0",
    "cpus": "of a task; default: --threads + --data_workers",
    "mem": "of a task, such as 8G",
    "constraint": "features of the nodes",
    "comment": "of the jobs",
    "timeout_min": "of a task, which then goes on from its checkpoint in a new one; default 240",
    "signal_delay_s": "before that, when a task is told to stop; default 120",
    "array_parallelism": "tasks at a time; default 256",
    "runs_per_task": "default: as many as last 5 to 10 minutes, by the estimate of --dry_run",
    "max_submit": "tasks in the queue at a time; more follow as they end",
}


@dataclass(frozen=True)
class Resources:
    """What each task gets, and how many there are; ``FLAGS`` says what 0 and "" mean."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    gpus: int = 0
    cpus: int = 0
    mem: str = ""
    constraint: str = ""
    comment: str = ""
    timeout_min: int = 240
    signal_delay_s: int = 120
    array_parallelism: int = 256
    runs_per_task: int = 0
    max_submit: int = 0
    sbatch: dict[str, Any] = field(default_factory=dict)  # other options of sbatch; True: one without value

    def check(self) -> None:
        """``UsageError`` for values that no cluster takes."""
        for name, value in vars(self).items():
            if isinstance(value, int) and value < (name in ("timeout_min", "array_parallelism")):
                raise UsageError(f"--{name} {value} is too small")
            texts = [part for pair in value.items() for part in pair] if name == "sbatch" else [value]
            if any("\n" in str(text) for text in texts):
                raise UsageError(f"--{name} must be one line")
        for key in self.sbatch:
            if key in OWN_OPTIONS or key.replace("-", "_") in FLAGS:
                raise UsageError(
                    f"--sbatch {key} is not free; see the flags of `python -m dgbench.sweep --help`"
                )
        if self.usable_min <= 0:
            raise UsageError(
                f"--signal_delay_s {self.signal_delay_s} leaves nothing of --timeout_min {self.timeout_min}"
            )
        self.megabytes()

    @property
    def usable_min(self) -> float:
        """Minutes of a task before it is told to stop."""
        return self.timeout_min - self.signal_delay_s / 60

    def megabytes(self) -> float:
        """``mem``, which Slurm reads as MB without a unit."""
        if not self.mem:
            return 0.0
        found = re.fullmatch(r"(\d+)([KMGT]?)B?", self.mem, re.IGNORECASE)
        if not found:
            raise UsageError(f"--mem {self.mem} is no amount of memory; write it like 8G or 500M")
        return int(found[1]) * 1024.0 ** "KMGT".index((found[2] or "M").upper()) / 1024


@dataclass(frozen=True)
class Cluster:
    """max_array: most tasks of an array; seconds: KillWait and MessageTimeout of its configuration."""

    max_array: int
    kill_wait: float
    message_timeout: float
    accounting: bool  # works; nothing here needs it


def add_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per field of ``Resources``."""
    group = parser.add_argument_group("--launcher slurm")
    for f in fields(Resources):
        if f.name in FLAGS:
            kind = int if isinstance(f.default, int) else str
            group.add_argument(f"--{f.name}", type=kind, default=f.default, help=FLAGS[f.name])
    group.add_argument(
        "--sbatch",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="other options of sbatch",
    )
    group.add_argument("--no_wait", action="store_true", help="return when all is submitted")


def resources_from(args: argparse.Namespace) -> Resources:
    """What a command line asks for."""
    values = {name: getattr(args, name) for name in FLAGS}
    values["cpus"] = args.cpus or max(1, args.threads) + args.data_workers
    pairs = [text.removeprefix("--").partition("=") for text in args.sbatch]
    return Resources(
        **values, sbatch={key.replace("_", "-"): value if is_ else True for key, is_, value in pairs}
    )


def preflight(wanted: Resources) -> Cluster:
    """The cluster; ``NoAnswer`` if it cannot be asked, ``UsageError`` for what it cannot give."""
    wanted.check()
    for tool in ("sbatch", "srun", "squeue", "scancel"):
        squeue.find(tool)
    if "is UP" not in (told := squeue.call("scontrol", "ping")):
        raise squeue.NoAnswer(f"Slurm does not answer: {' '.join(told.split())}; try again later")
    _check_nodes(wanted)
    config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", squeue.call("scontrol", "show", "config"), re.M))
    return Cluster(
        max_array=int(config.get("MaxArraySize", 1001)),  # the largest index + 1
        kill_wait=_seconds(config.get("KillWait", "30")),
        message_timeout=_seconds(config.get("MessageTimeout", "10")),
        accounting=_accounts(config.get("AccountingStorageType", "")),
    )


def _check_nodes(wanted: Resources) -> None:
    rows = [line.split("|") for line in squeue.call("sinfo", "-h", "-e", "-o", "%P|%c|%m|%G").splitlines()]
    partitions = [row[0] for row in rows]
    asked = set(filter(None, wanted.partition.split(",")))  # Slurm takes the first that is free
    for name in asked - {partition.rstrip("*") for partition in partitions}:
        raise unknown("partition", name, dict.fromkeys(p.rstrip("*") for p in partitions))
    ours = [row for row in rows if (row[0].rstrip("*") in asked if asked else row[0].endswith("*"))]
    if not ours:
        if not asked:
            choices = ", ".join(dict.fromkeys(partitions))
            raise UsageError(f"the cluster has no default partition; give --partition: {choices}")
        return
    have = [(_number(cpus), _number(mem), _gpus(gres)) for _, cpus, mem, gres in ours]
    need = (wanted.cpus, wanted.megabytes(), wanted.gpus)
    if not any(all(n <= h for n, h in zip(need, node, strict=True)) for node in have):
        told = [f"{cpus:.0f} CPUs, {mem:.0f}M, {gpus} GPUs" for cpus, mem, gpus in sorted(set(have))]
        raise UsageError(
            f"no node has --cpus {wanted.cpus} --mem {wanted.mem or 0} --gpus {wanted.gpus} together; "
            f"choose at most: {'; or '.join(told)}"
        )


def _accounts(kind: str) -> bool:
    if kind.endswith("none"):
        return False
    try:
        squeue.call("sacct", "-n", "-X")
    except squeue.NoAnswer:
        return False
    return True


def _number(text: str) -> float:
    return float(text.rstrip("+"))


def _seconds(text: str) -> float:
    return float(text.split()[0])


def _gpus(gres: str) -> int:
    """Of ``gpu:a100:4(S:0-1),gpu:2,disk:1``."""
    return sum(int(number) for number in re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", gres))
