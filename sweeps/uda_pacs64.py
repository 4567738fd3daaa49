"""Domain adaptation on PACS at 64 px from scratch: photo > each other domain and back, 3 trials.

Rows: source only (ERM), DANN_UDA, CDAN, FixMatch, SCALE. Adam with learning rate 1e-3 and a cosine schedule,
16 + 16 images, 601 updates in bf16, evaluated every 200. No published numbers.
Cost: 90 runs; on one core some 2 minutes of source only, 3 of the others, 4 of SCALE: an hour and a half for
a trial. photo as the source comes first.
"""

from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid

METHODS = ["ERM", "DANN_UDA", "CDAN", "FixMatch", "SCALE"]


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
        hparams={"lr": 1e-3, "lr_schedule": "cosine", "batch_size": 16},
    )
    chosen = [spec for spec in planned if "photo" in (*spec.source_envs, *spec.test_envs)]
    return sorted(chosen, key=lambda spec: (spec.trial_seed, spec.source_envs != ("photo",)))
