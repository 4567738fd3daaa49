"""FixCLR (Son et al., MIPR 2025, arXiv 2506.20841), our reading of it, on PACS.

Rows: each domain held out, 3 trials; ERM, CORAL and PCL on the labelled images; eight methods with
pseudo-labels, without and with FixCLR on top; tables: 5 or 10 labels per class and domain, ImageNet weights
or from scratch. The paper's own numbers and settings are not known to us.
Protocol of the semi-supervised domain generalization benchmark (KaiyangZhou/ssdg-benchmark): ResNet-18, 16
labelled and 16 unlabelled images per domain, SGD with momentum 0.9, weight decay 5e-4, learning rates 0.003
(backbone) and 0.01 (classifier), cosine per epoch, 3,160 updates, 40 epochs of the smallest domain. The last
model is reported: --selection last.
Differs from it: FixMatch in its general form; StyleMatch without styles; 80 % "in" parts in place of its
lists of files, which dgbench.train --label_split reads; 3 trials, not 5.
Cost: 912 runs of 3,160 updates of up to 144 images, of more with DeFixMatch and StyleMatch.
"""

from pathlib import Path

from _few_labels import fixclr_on_images

from dgbench.spec import RunSpec

TABLE = ("--selection", "last")


def runs(data_dir: Path | None) -> list[RunSpec]:
    return fixclr_on_images("PACS", data_dir, steps=3160)
