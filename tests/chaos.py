"""A sweep by pools under faults, against the same sweep left alone: ``make chaos``.

Workers and whole launches are killed with SIGKILL at random moments; in between, records are torn and
checkpoints cut or changed, the disk is full or read-only, and the time stamps of leases jump by years. Every
run must end with the records of the undisturbed sweep, each once. Prints how often each happened.
"""

import argparse
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sweeps_by_process import call, children, is_alive, results, start, starts, states, wait_for, writers
from tqdm import tqdm

from dgbench import lease

FLAGS = ("--steps", "120", "--checkpoint_freq", "40", "--checkpoint_every_min", "0.005", "--n_trials")
DISK = "64m"
YEARS = 10 * 365 * 86400


class Campaign:
    """One sweep in ``folder``, a small disk of its own if ``is_disk``, until all runs are done."""

    def __init__(self, folder: Path, trials: int, is_disk: bool, seed: int, bar: tqdm) -> None:
        self.bar, self.folder, self.out, self.is_disk = bar, folder, folder / "out", is_disk
        self.flags = [*FLAGS, str(trials), "--launcher", "pool", "--workers", "2"]
        self.random, self.counts = random.Random(seed), Counter[str]()
        self.pools: list[subprocess.Popen[str]] = []

    def run(self, kills: int) -> None:
        """Faults until there were so many kills; then only what makes the sweep end."""
        faults = [self.tear_records, self.damage_checkpoints, self.let_clocks_jump]
        faults += [self.fill_the_disk, self.lose_the_right_to_write] if self.is_disk else []
        next_fault, kills_per_fault = itertools.cycle(faults), max(4, kills // 20)
        while not self.is_over():
            self.keep_launched()
            self.random.choice([self.kill_a_worker] * 9 + [self.kill_a_launch])(kills)
            if kills_per_fault * (self.counts["other faults"] + 1) <= self.counts["kill -9"] < kills:
                self.counts["other faults"] += 1
                next(next_fault)()
        for pool in self.pools:
            pool.communicate(timeout=300)

    def is_over(self) -> bool:
        return set(states(self.out)) == {"done"}

    def keep_launched(self) -> None:
        """One or two launches at a time; failed runs are tried again."""
        self.pools = self.living()
        if not self.pools and "failed" in states(self.out):
            self.counts["retries"] += 1
            self.launch("retry")
        while len(self.pools) < self.random.choice([1, 1, 2]):
            self.counts["launches"] += 1
            self.launch("launch")

    def launch(self, what: str) -> None:
        with open(self.folder.with_name("log.txt"), "a") as log:
            self.pools.append(start(what, self.out, *self.flags, stdout=log))

    def kill_a_worker(self, kills: int) -> None:
        """At a random moment after some process has begun to write a run."""
        until = time.monotonic() + 60
        while not (pids := writers(self.out)) and time.monotonic() < until and self.pools[0].poll() is None:
            time.sleep(0.02)
        time.sleep(self.random.uniform(0, 1.5))
        if pids and self.counts["kill -9"] < kills:
            self.kill(self.random.choice(pids), "of workers")

    def kill_a_launch(self, kills: int) -> None:
        time.sleep(self.random.uniform(0, 3))
        living = self.living()
        if living and self.counts["kill -9"] < kills:
            self.end(self.random.choice(living))

    def end(self, pool: "subprocess.Popen[str]") -> None:
        """Kill a launch; its workers end with it."""
        pids = children(pool.pid)
        self.kill(pool.pid, "of launches")
        pool.wait()
        wait_for(lambda: not any(map(is_alive, pids)))

    def kill(self, pid: int, of: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.counts["kill -9"] += 1
            self.bar.update()
            self.counts[f"kill -9 {of}"] += 1

    def kill_all(self) -> None:
        """What is damaged next must have no writer, as after a crash of the machine."""
        for pool in self.living():
            self.end(pool)

    def living(self) -> "list[subprocess.Popen[str]]":
        return [pool for pool in self.pools if pool.poll() is None]

    def unfinished(self, name: str) -> list[Path]:
        return [path for path in self.out.glob(f"*/{name}") if not (path.parent / "done").exists()]

    def tear_records(self) -> None:
        self.kill_all()
        for path in self.unfinished("results.jsonl"):
            with open(path, "ab") as file:
                file.write(b'{"step": 7, "metr')
            self.counts["torn records"] += 1

    def damage_checkpoints(self) -> None:
        """Of every unfinished run, once there is one with a checkpoint."""
        wait_for(lambda: self.unfinished("checkpoint.pt") or not self.living())
        self.kill_all()
        for path in self.unfinished("checkpoint.pt"):
            content = bytearray(path.read_bytes())
            at = self.random.randrange(len(content))
            if self.random.random() < 0.5:
                del content[at:]
            else:
                content[at] ^= 255
            path.write_bytes(content)
            self.counts["damaged checkpoints"] += 1

    def let_clocks_jump(self) -> None:
        """To the past or the future, for leases and all else that runs have written."""
        for path in [
            *self.out.glob(f"*/{lease.NAME}"),
            *self.out.glob("*/*.*"),
            *self.out.glob(".submit/*/*"),
        ]:
            with contextlib.suppress(OSError):
                jump = time.time() + self.random.choice([-1, 1]) * YEARS
                os.utime(path, (jump, jump))
        self.counts["clock jumps"] += 1

    def fill_the_disk(self) -> None:
        """Until a launch gives up, or some seconds long."""
        ballast = self.folder / "ballast"
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(2**16))
        time.sleep(self.random.uniform(1, 6))
        ballast.unlink()
        self.counts["full disks"] += 1

    def lose_the_right_to_write(self) -> None:
        self.kill_all()
        for how in ("ro", "rw"):
            mount = ["mount", "-o", f"remount,{how}", str(self.folder)]
            wait_for(lambda: subprocess.run(mount, capture_output=True).returncode == 0)  # noqa: B023
            if how == "ro" and "waiting" in states(self.out):
                told = call("launch", self.out, *self.flags, expect=2)
                assert "give another --output_dir" in told and told.count("\n") == 1, told
        self.counts["read-only folders"] += 1


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system in memory at ``folder``; False, and a plain folder, for one who may not mount."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def table(folder: Path) -> str:
    """What the collector prints of a sweep."""
    command = [sys.executable, "-m", "dgbench.collect_results", "--input_dir", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def campaign(folder: Path, kills: int, trials: int, seed: int) -> Counter[str]:
    """Sweeps of 6 x ``trials`` runs until there were so many kills; what happened. Asserts the outcome."""
    calm, counts, rounds = folder / "calm", Counter[str](), 0
    call("launch", calm, *FLAGS, str(trials), "--launcher", "pool", "--workers", "2")
    bar = tqdm(total=kills, unit="kill")
    while counts["kill -9"] < kills:
        rounds += 1
        with small_disk(folder / f"round{rounds}") as is_disk:
            it = Campaign(folder / f"round{rounds}", trials, is_disk, seed + rounds, bar)
            try:
                it.run(kills - counts["kill -9"])
                assert len(results(it.out)) == 6 * trials and results(it.out) == results(calm)
                assert table(it.out) == table(calm)
                counts += it.counts + Counter(
                    {"sweeps": 1, "begun or taken up again": sum(starts(it.out).values())}
                )
            finally:
                it.kill_all()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--trials", type=int, default=4, help="6 runs each")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = campaign(Path(folder), args.kills, args.trials, args.seed)
    for name, count in sorted(counts.items()):
        print(f"{count:6} {name}")
    print(f"all runs ended as in the undisturbed sweep; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
