"""Domain adaptation between the domains of an Office data set, as the Transfer-Learning-Library trains it.

SGD with Nesterov momentum 0.9, learning rate falling as (1 + gamma t)^-0.75 and a tenth of it in the
backbone, 32 + 32 images; MeanTeacher with Adam. Not as there: FixMatch and MeanTeacher without a bottleneck,
MeanTeacher without training on the source alone before.
"""

from pathlib import Path
from typing import Any

from dgbench.hparams import defaults, on_office
from dgbench.spec import RunSpec
from dgbench.sweep import grid

OWN = ["DAN", "DANN_UDA", "CDAN", "MCC", "MDD", "SCALE"]  # on Office data, the library's optimizers


def schedule(lr: float, lr_gamma: float, weight_decay: float) -> dict[str, Any]:
    return defaults(on_office(lr, lr_gamma, weight_decay)["OfficeHome"])


SHARED: dict[str, dict[str, Any]] = {
    "ERM": schedule(1e-3, 3e-4, 5e-4),
    "FixMatch": {**schedule(3e-3, 4e-4, 1e-3), "threshold": 0.9},
    "MeanTeacher": {"lr": 1e-4, "featurizer_lr": 0.1, "lr_schedule": "inverse", "lr_gamma": 1e-3},
}


def office(dataset: str, data_dir: Path | None, steps: int) -> list[RunSpec]:
    def pairs(methods: list[str], hparams: dict[str, Any]) -> list[RunSpec]:
        return grid(
            methods,
            [dataset],
            data_dir=data_dir,
            task="domain_adaptation",
            pairs=True,
            steps=steps,
            checkpoint_freq=500,
            freeze_bn=False,
            hparams=hparams,
        )

    planned = [spec for method, values in SHARED.items() for spec in pairs([method], values)]
    return planned + pairs(OWN, {})
