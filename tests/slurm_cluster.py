"""A Slurm of one node in a folder of its own: munged, slurmctld, slurmd, on loopback, without accounting.

As root, so that it may start jobs. Slurm 22.05's defaults wait minutes; what is set here makes it prompt.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sweeps_by_process import is_alive, wait_for

PACKAGES = "slurmctld slurmd slurm-client munge"
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged")
DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """\
ClusterName=dgbench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
AccountingStorageType=accounting_storage/none
KillWait=3
MaxArraySize=10
FirstJobId={first}
SlurmdTimeout=10
SlurmctldTimeout=10
MessageTimeout=5
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES DefMemPerCPU=100 PriorityTier=10
PartitionName=low Nodes={host} DefMemPerCPU=100 PriorityTier=1 PreemptMode=REQUEUE GraceTime=15
"""


def why_not() -> str:
    """Why no cluster can be started here; empty if one can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if any(not shutil.which(tool, path=path) for tool in TOOLS):
        return f"no Slurm here: apt-get install -y --no-install-recommends {PACKAGES}"
    if not importlib.util.find_spec("submitit"):
        return "submitit is not installed: pip install -e '.[slurm]'"
    return "" if os.geteuid() == 0 else "a Slurm that starts jobs needs root"


@dataclass
class Cluster:
    root: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands that mean this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.root / "slurm.conf")}

    def call(self, *command: str) -> str:
        return subprocess.run(command, env=self.env, check=True, capture_output=True, text=True).stdout

    def pid(self, daemon: str) -> int:
        return int((self.root / f"{daemon}.pid").read_text())

    def signal(self, daemon: str, number: int) -> None:
        """Send it, and wait for the end of a daemon that it ends."""
        os.kill(pid := self.pid(daemon), number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            wait_for(lambda: not is_alive(pid), 30)

    def start(self, daemon: str) -> None:
        root = self.root
        if daemon == "munged":
            files = {"pid": "munged.pid", "key": "key", "log": "munged.log", "seed": "seed"}
            flags = [f"--{kind}-file={root}/{name}" for kind, name in files.items()]
            flags.append("--force")  # although the folders above may be private
            command = ["munged", f"--socket={root}/munge.sock", *flags]
        else:
            command = [daemon]
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        subprocess.run(command, env={**self.env, "PATH": path}, check=True, stdout=-3, stderr=-3)

    def is_ready(self) -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            return any(
                state in self.call("sinfo", "-h", "-p", "main", "-o", "%t") for state in ("idle", "mix")
            )
        return False

    def start_all(self) -> None:
        for folder in ("state", "spool"):
            (self.root / folder).mkdir(parents=True)
        (self.root / "key").write_bytes(secrets.token_bytes(128))
        (self.root / "key").chmod(0o600)
        host = socket.gethostname().split(".")[0]
        gpus = [self.root / f"gpu{i}" for i in range(2)]  # character devices, as /dev/null is
        for gpu in gpus:
            os.mknod(gpu, 0o020666, os.makedev(1, 3))
        (self.root / "gres.conf").write_text(f"NodeName={host} Name=gpu File={self.root}/gpu[0-1]\n")
        first = 1000 + secrets.randbelow(10**7)  # ids are not used again by the next cluster
        conf = CONF.format(host=host, root=self.root, ports=_free_ports(2), first=first)
        (self.root / "slurm.conf").write_text(conf)
        for daemon in DAEMONS:
            self.start(daemon)
        wait_for(self.is_ready, 60)

    def stop_all(self) -> None:
        """Jobs first: they outlive slurmd."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.call("scancel", "--state=PENDING", "--user=root")
            self.call("scancel", "--user=root")
            wait_for(lambda: not self.call("squeue", "-h"), 60)
        for daemon in reversed(DAEMONS):
            with contextlib.suppress(OSError):
                os.kill(self.pid(daemon), signal.SIGCONT)
                self.signal(daemon, signal.SIGKILL)
        shutil.rmtree(self.root)


def _free_ports(count: int) -> list[int]:
    found = [socket.socket() for _ in range(count)]
    for it in found:
        it.bind(("127.0.0.1", 0))
    ports = [it.getsockname()[1] for it in found]
    for it in found:
        it.close()
    return ports
