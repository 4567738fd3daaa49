"""Domain adaptation on MNIST: turned by 0 > 45 and by 0 > 75 degrees, plain > on noise, 3 trials.

Rows: source only (ERM), DAN, DANN_UDA, CDAN, MCC, MDD, MeanTeacher, FixMatch, SCALE, and SCALE without each
of its terms. The two-layer convolutional network of the RCL paper, Adam with learning rate 1e-3, 32 images of
the source and 32 of the target, 2,001 updates, evaluated every 500; every image of the target is trained on
without its label and scored. No published numbers.
Cost: 108 runs; on one core some 4 minutes each of source only and 10 of SCALE.
"""

from pathlib import Path
from typing import Any

from dgbench.spec import RunSpec
from dgbench.sweep import grid

METHODS = ["ERM", "DAN", "DANN_UDA", "CDAN", "MCC", "MDD", "MeanTeacher"]
ABLATION: list[dict[str, Any]] = [{}, *({f"{term}_weight": 0.0} for term in ("unlabelled", "cl", "reg"))]


def runs(data_dir: Path | None) -> list[RunSpec]:
    def adapt(methods: list[str], **chosen: Any) -> list[RunSpec]:
        settings: dict[str, Any] = {
            "data_dir": data_dir,
            "task": "domain_adaptation",
            "backbone": "two_conv",
            "steps": 2001,
            "checkpoint_freq": 500,
            "hparams": {"batch_size": 32, **chosen},
        }
        rotated = grid(methods, ["RotatedMNIST"], envs=["45", "75"], source_envs=("0",), **settings)
        return rotated + grid(methods, ["NoisyMNIST"], envs=["noise"], source_envs=("mnist",), **settings)

    planned = adapt(METHODS) + adapt(["FixMatch"], threshold=0.9)
    for terms in ABLATION:
        planned += adapt(["SCALE"], **terms)
    return sorted(planned, key=lambda spec: spec.trial_seed)  # a whole table after every trial
