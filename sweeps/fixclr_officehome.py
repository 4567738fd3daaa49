"""FixCLR (Son et al., MIPR 2025, arXiv 2506.20841), our reading of it, on OfficeHome.

Rows: each domain held out; ERM on the labelled images, six methods with pseudo-labels and StyleMatch, each
without and with FixCLR on top; tables: 5 or 10 labels, ImageNet weights or from scratch. The paper's
numbers and settings are not known to us; FixCLR is "our reading".
Protocol of the semi-supervised domain generalization benchmark (KaiyangZhou/ssdg-benchmark): ResNet-18, 16
labelled and 16 unlabelled images per domain, SGD with momentum 0.9, weight decay 5e-4, learning rates 0.003
(backbone) and 0.01 (classifier), cosine per epoch, 1,600 updates, 20 epochs of the least source. The last
model is reported: --selection last. Batch norm trains. Differs from it: our 80 % "in" parts in place of its
lists of files; 3 trials, not 5.
Cost: 720 runs of 1,600 updates of 144 images (FixMatch).
"""

from itertools import product
from pathlib import Path

from dgbench.spec import RunSpec
from dgbench.sweep import grid

BASES = ("FixMatch", "FlexMatch", "FreeMatch", "SoftMatch", "DeFixMatch", "DebiasPL", "StyleMatch")
PROTOCOL = {
    "batch_size": 16,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "lr": 0.01,
    "featurizer_lr": 0.3,
    "lr_schedule": "cosine_epoch",
}


def runs(data_dir: Path | None) -> list[RunSpec]:
    rows = [("ERM", {}), *((base, {}) for base in BASES), *(("FixCLR", {"base": base}) for base in BASES)]
    return [
        spec
        for pretrained, labels, (method, chosen) in product(("IMAGENET1K_V1", "none"), (5, 10), rows)
        for spec in grid(
            [method],
            ["OfficeHome"],
            data_dir=data_dir,
            task="semi_supervised",
            labels_per_class=labels,
            backbone="resnet18",
            pretrained=pretrained,
            freeze_bn=False,
            steps=1600,
            checkpoint_freq=400,
            hparams={**PROTOCOL, **chosen},
        )
    ]
