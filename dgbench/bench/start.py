"""Start and memory of a run, each in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Callable

from .images import data_dir
from .ratio import Ratio, paired

PACS = "--dataset PACS --algorithm ERM --test_envs photo --backbone resnet18 --pretrained none --steps 3"
DIGITS = "--dataset RotatedDigits --algorithm ERM --test_envs 0 --steps 3"

MILLISECONDS = "(time.time() - float(sys.argv[1])) * 1000"
# a run is one process: pages of libraries count whole, whoever else has them open
MEBIBYTES = "peak_memory_gb(torch.device('cpu')) * 1024"

# torch imports its compiler with the first optimizer, and torchvision does
AFTER_IMPORTS = """
import sys, time
import dgbench.train, torch._dynamo
from dgbench.machine import peak_memory_gb
if "PACS" in sys.argv:
    import torchvision
print({figure})
"""
IMPORTS = AFTER_IMPORTS.format(figure=MILLISECONDS)
MEMORY_OF_IMPORTS = AFTER_IMPORTS.format(figure=MEBIBYTES)

AT_FIRST_UPDATE = """
import sys, time, tempfile, torch
from dgbench import train
from dgbench.algorithm import Algorithm
from dgbench.machine import peak_memory_gb
def first(self, batch):
    self.optims
    print({figure}, flush=True)
    raise KeyboardInterrupt
Algorithm.update = first
try:
    train.main([*sys.argv[2:], "--output_dir", tempfile.mkdtemp() + "/run"])
except KeyboardInterrupt:
    pass
"""
FIRST_UPDATE = AT_FIRST_UPDATE.format(figure=MILLISECONDS)
MEMORY_AT_FIRST_UPDATE = AT_FIRST_UPDATE.format(figure=MEBIBYTES)

WHOLE_RUN = """
import sys, tempfile, contextlib, io, torch
from dgbench import train
from dgbench.machine import peak_memory_gb
with contextlib.redirect_stdout(io.StringIO()):
    train.main([*sys.argv[2:], "--output_dir", tempfile.mkdtemp() + "/run"])
print(peak_memory_gb(torch.device("cpu")) * 1024)
"""

MODEL_ALONE = """
import sys, torch
import dgbench.train
from dgbench import hparams, registry
from dgbench.algorithm import Batch, Problem
from dgbench.machine import peak_memory_gb
erm = registry.find("algorithms", "ERM")
hp = hparams.resolve(erm, registry.find("datasets", "PACS"), {})
model = erm(Problem((3, 224, 224), 7, 3, 3, 1, backbone="resnet18"), hp).to(memory_format=torch.channels_last)
x, y = torch.randn(96, 3, 224, 224), torch.randint(7, (96,))
for step in range(3):
    model.update(Batch(x, y, y, y, 3))
print(peak_memory_gb(torch.device("cpu")) * 1024)
"""


def start(turns: int) -> list[Ratio]:
    """From the start of a process to its first update, the batch at hand / to the end of its imports."""
    cases = {
        "PACS, ResNet-18, 3 x 32, 224 px": [*PACS.split(), "--data_dir", str(data_dir())],
        "RotatedDigits": DIGITS.split(),
    }
    ratios = []
    for name, flags in cases.items():
        process(FIRST_UPDATE, flags)()  # decodes what is not decoded yet
        title = f"start to first update / imports, {name}"
        ratios.append(paired(title, process(FIRST_UPDATE, flags), process(IMPORTS, flags), min(turns, 5)))
    return ratios


def memory(turns: int) -> list[Ratio]:
    """At the first update / after imports; and most of a run with evaluations / of its model's updates alone.

    A run keeps what it has freed (``machine.place``): its peak is larger, its steps are faster.
    """
    flags, name = [*PACS.split(), "--data_dir", str(data_dir())], "PACS, ResNet-18, 3 x 32, 224 px"
    first, whole = process(MEMORY_AT_FIRST_UPDATE, flags), process(WHOLE_RUN, [*flags, "--cache", "disk"])
    at_first = paired(
        f"memory at the first update / of imports, {name}", first, process(MEMORY_OF_IMPORTS, flags), 1, "MiB"
    )
    return [
        at_first,
        paired(f"memory of a run / of its model, {name}", whole, process(MODEL_ALONE), 1, "MiB"),
    ]


def process(script: str, flags: list[str] | None = None) -> Callable[[], float]:
    """The last number that the script prints."""

    def measure() -> float:
        # through a shell: a process's peak memory counts that of the one it was forked from
        shell = ["sh", "-c", '"$@"; exit $?', "sh"]
        command = [*shell, sys.executable, "-c", script, str(time.time()), *(flags or [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    return measure
