"""Few labels on RotatedMNIST: does FixMatch beat its labels, and does FixCLR (our reading) beat FixMatch?

Rows: ERM on the labelled images, FixMatch, FreeMatch, and each with FixCLR on top; and, as a table of its
own, ERM on every label (task domain_generalization), the ceiling. Real MNIST, targets 0 and 75, 10 labels
per class and domain, 3 trials, the network of two convolutions from scratch, bf16, Adam with learning rate
1e-3, 16 labelled and 16 unlabelled images per domain, 801 updates; running means over some 100 of them. The
last model is reported: --selection last. The ceiling's images are not shifted, unlike the others'.
Cost: 36 runs, some 80 minutes of one core.
"""

from pathlib import Path

from _few_labels import small_table

from dgbench.spec import RunSpec

TABLE = ("--selection", "last")


def runs(data_dir: Path | None) -> list[RunSpec]:
    return small_table(
        "RotatedMNIST",
        data_dir,
        {"batch_size": 16},
        envs=("0", "75"),
        backbone="two_conv",
        precision="bf16",
        steps=801,
        checkpoint_freq=200,
    )
