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

from _adaptation import office

from dgbench.spec import RunSpec


def runs(data_dir: Path | None) -> list[RunSpec]:
    return office("OfficeHome", data_dir, steps=10001)
