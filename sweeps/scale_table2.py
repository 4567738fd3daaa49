"""SCALE (Li et al., 2024), Table 2: Office-Home, each of A, C, P, R as source of each other, 3 trials.

Rows: source only (ERM), DAN, DANN_UDA, CDAN, MCC, MDD, MeanTeacher, FixMatch, SCALE. The published rows None
(source only) and SCALE are comparable; CLIP, DAPrompt and AD-CLIP start from CLIP's weights and are published
numbers only. ResNet-50, IMAGENET1K_V1, batch-norm statistics trained, SGD with Nesterov momentum 0.9,
learning rate falling as (1 + gamma t)^-0.75 and a tenth of it in the backbone, 32 + 32 images: what the
Transfer-Learning-Library has for Office-Home, since the paper says nothing; MeanTeacher with its Adam. 10,001
updates, evaluated every 500. The library reports the best epoch on the target, the paper does not say.
Cost: 324 runs of 10,001 updates on 64 images or more; for GPUs.
"""

from pathlib import Path
from typing import Any

from dgbench.hparams import defaults, on_office
from dgbench.spec import RunSpec
from dgbench.sweep import grid

OWN = ["DAN", "DANN_UDA", "CDAN", "MCC", "MDD", "SCALE"]  # their defaults on Office-Home are these values


def schedule(lr: float, lr_gamma: float, weight_decay: float) -> dict[str, Any]:
    return defaults(on_office(lr, lr_gamma, weight_decay)["OfficeHome"])


SHARED: dict[str, dict[str, Any]] = {
    "ERM": schedule(1e-3, 3e-4, 5e-4),
    "FixMatch": {**schedule(3e-3, 4e-4, 1e-3), "threshold": 0.9},
    "MeanTeacher": {"lr": 1e-4, "lr_schedule": "inverse", "lr_gamma": 1e-3},
}


def runs(data_dir: Path | None) -> list[RunSpec]:
    def pairs(methods: list[str], hparams: dict[str, Any]) -> list[RunSpec]:
        return grid(
            methods,
            ["OfficeHome"],
            data_dir=data_dir,
            task="domain_adaptation",
            pairs=True,
            steps=10001,
            checkpoint_freq=500,
            freeze_bn=False,
            hparams=hparams,
        )

    planned = [spec for method, values in SHARED.items() for spec in pairs([method], values)]
    return planned + pairs(OWN, {})
