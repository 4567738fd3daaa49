"""What a run costs beside its training, in a pool and as a process of its own."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .ratio import Ratio, paired

STAMPED = '''
import time
from pathlib import Path

from dgbench.algorithms.erm import ERM


class Stamped(ERM):
    """Tells when its first update began."""

    def loss(self, batch):
        with open(Path(__file__).with_name("stamps.txt"), "a") as file:
            file.write(f"{time.time()}\\n")
        return super().loss(batch)
'''


def launcher(turns: int) -> list[Ratio]:
    """From the end of a run to the first update of the next one in its worker / a process for each run."""
    name = "start to first update, a pool's worker / a process per run, RotatedDigits"
    return [paired(name, _in_a_pool, _in_a_process, min(turns, 5))]


def _in_a_pool() -> float:
    """Milliseconds; the median over runs after a worker's first, which pays for the imports."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["sweep", "launch", "--algorithms", "Stamped", "--datasets", "RotatedDigits"]
        stamps = _stamps(Path(folder), *command, "--n_trials", "1", "--workers", "1")
        ends = sorted(path.stat().st_mtime for path in Path(folder).glob("out/*/done"))
        overheads = [begun - ended for ended, begun in zip(ends, stamps[1:], strict=False)]
        return statistics.median(overheads) * 1000


def _in_a_process() -> float:
    """Milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        command = ["train", "--algorithm", "Stamped", "--dataset", "RotatedDigits", "--test_envs", "0"]
        return (_stamps(Path(folder), *command)[0] - started) * 1000


def _stamps(folder: Path, module: str, *flags: str) -> list[float]:
    """When the runs of a command began to train, in seconds."""
    plugin = folder / "stamped.py"
    plugin.write_text(STAMPED)
    command = [sys.executable, "-m", f"dgbench.{module}", *flags, "--plugin", str(plugin), "--steps", "1"]
    command += ["--threads", "1", "--skip_model_save", "--output_dir", str(folder / "out")]
    subprocess.run(command, capture_output=True, check=True)
    return sorted(map(float, (folder / "stamps.txt").read_text().split()))
