"""RCL (Duboudin et al., ICCVW 2021), Table 2: MNIST-MP, 10 trials, and the upper bound on MNIST.

Rows: ERM, dropout, dropout & orthogonality, dropout & covariance, jigsaw, reconstruction, SD, RSC, RCL with
m = 0.2, 0.4, 0.6, 0.8, 0.9 and infinity (rcl_margin 0), and ERM on MNIST. The three rows "early stopping
@95" are those runs of Jigsaw, SD and RCL m = 0.9 under --selection early_stopping --threshold 0.95.
The paper's protocol: its network, SGD, batches of 128, Nesterov momentum 0.9, learning rate 1e-3, weight
decay 1e-5, 10 epochs, validated after each, best validation; +/- there is the standard deviation.
Cost: 150 runs of 600,000 images; on one core some 10 minutes each in bf16 and twice that in float32.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid

METHODS = (
    *("ERM", "Dropout", "DropoutOrthogonality", "DropoutCovariance"),
    *("Jigsaw", "Reconstruction", "SD", "RSC"),
)
MARGINS = (0.2, 0.4, 0.6, 0.8, 0.9, 0.0)
TRIALS = 10
TABLE = ("--validation", "--spread", "deviation")


def runs(data_dir: Path | None) -> list[RunSpec]:
    def single_source(methods: tuple[str, ...], dataset: str, **hparams: float) -> list[RunSpec]:
        return grid(methods, [dataset], TRIALS, data_dir=data_dir, task="single_source", hparams=hparams)

    planned = single_source(METHODS, "MNIST_MP")
    for margin in MARGINS:
        planned += single_source(("RCL",), "MNIST_MP", rcl_margin=margin)
    planned += single_source(("ERM",), "MNIST")
    return sorted(planned, key=lambda spec: spec.trial_seed)  # a whole table after every trial
