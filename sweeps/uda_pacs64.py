"""Domain adaptation on PACS at 64 px from scratch: photo > each other domain and back, 3 trials.

Rows: source only (ERM), DANN_UDA, CDAN, MCC, FixMatch, SCALE. Adam with learning rate 1e-3 and a cosine
schedule, 32 + 32 images, 601 updates, evaluated every 200, bf16. No published numbers.
Cost: 108 runs of 601 updates on 64 images or more; on one core some 10 minutes each of source only, 30 of
SCALE.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid

METHODS = ["ERM", "DANN_UDA", "CDAN", "MCC", "FixMatch", "SCALE"]


def runs(data_dir: Path | None) -> list[RunSpec]:
    planned = grid(
        METHODS,
        ["PACS"],
        data_dir=data_dir,
        task="domain_adaptation",
        pairs=True,
        backbone="resnet18",
        pretrained="none",
        image_size=64,
        precision="bf16",
        steps=601,
        checkpoint_freq=200,
        hparams={"lr": 1e-3, "lr_schedule": "cosine"},
    )
    return [spec for spec in planned if "photo" in (*spec.source_envs, *spec.test_envs)]
