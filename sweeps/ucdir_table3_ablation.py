"""UCDIR (Hu and Lee, ECCV 2022), Table 3: the terms of its loss, seven classes of DomainNet, 6 pairs.

Rows: IW alone (all weights 0), with CW (se_weight, dd_weight 0), with SE (dd_weight 0), and the full model;
the protocol is that of ucdir_table2, and the last row's runs are its own. --selection oracle_epoch is the
paper's rule, the best epoch by the test labels; the default is the last.
Cost: 24 runs of about 1,000,000 images in two views.
"""

from pathlib import Path

from _ucdir import DOMAINNET_PAIRS, OFF, protocol

from dgbench.spec import RunSpec


def runs(data_dir: Path | None) -> list[RunSpec]:
    rows = [("UCDIR", {"hparams": off}) for off in (*OFF, {})]
    return protocol(rows, "DomainNet7", DOMAINNET_PAIRS, data_dir)
