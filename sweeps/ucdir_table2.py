"""UCDIR (Hu and Lee, ECCV 2022), Table 2: seven classes of DomainNet, 6 pairs, P@50, P@100, P@200.

Rows: untrained, ID, ProtoNCE, CDS, PCS and UCDIR, one run each as published. The official protocol: ResNet-50
and head from MoCo-v2's 800 epochs, nothing frozen, 200 epochs of the larger domain, 64 images of each, SGD
with learning rate 2e-4 and a cosine per epoch, evaluated on the training images after each epoch. How the
paper trained the other rows is not known; here they are trained as UCDIR is. --selection oracle_epoch is the
paper's rule, the best epoch by the test labels; the default is the last.
The images of the domain real are counted in --data_dir; without it their number, and the steps, are a guess.
Cost: 36 runs of about 1,000,000 images, two views each for UCDIR and ProtoNCE.
"""

from pathlib import Path

from _ucdir import COMPARISON, DOMAINNET_PAIRS, protocol

from dgbench.spec import RunSpec


def runs(data_dir: Path | None) -> list[RunSpec]:
    return protocol(COMPARISON, "DomainNet7", DOMAINNET_PAIRS, data_dir)
