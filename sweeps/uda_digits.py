"""Domain adaptation on MNIST: turned by 0 > 45 and by 0 > 75 degrees, plain > on noise, 3 trials.

Rows: source only (ERM), DAN, DANN_UDA, CDAN, FixMatch, SCALE, and SCALE without each of its terms. Two 3 x 3
convolutions (digits_cnn), Adam with learning rate 1e-3, 32 images of the source and 32 of the target, 801
updates in bf16, evaluated every 400; every image of the target is trained on without its label and scored. No
published numbers.
Cost: 81 runs; on one core some 25 seconds of training for source only, 40 to 50 for the others, 70 for SCALE,
and 10 (25 on noise) of evaluation: about an hour and a half in all.
"""

from pathlib import Path
from typing import Any

from dgbench.spec import RunSpec
from dgbench.sweep import grid

ABLATION: list[dict[str, Any]] = [{}, *({f"{term}_weight": 0.0} for term in ("unlabelled", "cl", "reg"))]


def runs(data_dir: Path | None) -> list[RunSpec]:
    def adapt(methods: list[str], **chosen: Any) -> list[RunSpec]:
        settings: dict[str, Any] = {
            "data_dir": data_dir,
            "task": "domain_adaptation",
            "backbone": "digits_cnn",
            "precision": "bf16",
            "steps": 801,
            "checkpoint_freq": 400,
            "hparams": {"batch_size": 32, **chosen},
        }
        rotated = grid(methods, ["RotatedMNIST"], envs=["45", "75"], source_envs=("0",), **settings)
        return rotated + grid(methods, ["NoisyMNIST"], envs=["noise"], source_envs=("mnist",), **settings)

    planned = adapt(["ERM", "DAN", "DANN_UDA", "CDAN"]) + adapt(["FixMatch"], threshold=0.9)
    for terms in ABLATION:
        planned += adapt(["SCALE"], **terms)
    return sorted(planned, key=lambda spec: spec.trial_seed)  # a whole table after every trial
