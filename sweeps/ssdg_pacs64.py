"""Few labels on PACS at 64 px from scratch: FixMatch and FreeMatch, without and with FixCLR (our reading).

Rows: ERM on the labelled images, FixMatch, FreeMatch, and each with FixCLR on top; and, as a table of its
own, ERM on every label (task domain_generalization), the ceiling. Each domain held out, 10 labels per class
and domain, 3 trials, ResNet-18 from scratch, Adam with learning rate 1e-3, 16 labelled and 16 unlabelled
images per domain, bf16, 1,001 updates; running means over some 100 of them. The last model is reported:
--selection last. The ceiling has DomainBed's crops and colours where the others have flips and shifts.
Cost: 72 runs of 1,001 updates, some 12 hours of one core, 4 for each trial.
"""

from pathlib import Path

from _few_labels import small_table

from dgbench.spec import RunSpec

TABLE = ("--selection", "last")


def runs(data_dir: Path | None) -> list[RunSpec]:
    return small_table(
        "PACS",
        data_dir,
        {"batch_size": 16, "lr": 1e-3},
        backbone="resnet18",
        pretrained="none",
        image_size=64,
        precision="bf16",
        steps=1001,
        checkpoint_freq=500,
    )
