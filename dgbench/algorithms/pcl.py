"""PCL: Proxy-based Contrastive Learning (Yao et al., CVPR 2022).

No arXiv id; equations 4 and 5.

Objective as coded, over N rows, C classes, x = encoder(featurizer(image)) (N, d), r = projection(x) (N, d),
free parameters W (C, d) and V (d, d), proxies P = W V^T (C, d), with cosines s_ij = cos(r_i, r_j) and
p_i = cos(r_i, P_{y_i}), and a = alpha:

    L     = 1/N sum_i CE(x_i W^T, y_i) + pcl_weight * L_PCL
    L_PCL = 1/N sum_i [ -a p_i + log( exp(a p_i) + sum_{j: y_j != y_i, s_ij >= 1e-6} exp(a s_ij) ) ]

The logits have no bias and no scale; nothing is detached. This is ``variant`` "aligned"; the others are
defined in ``losses/contrastive.py``.
Source: PCL's official code, algorithms.py (class ERM), losses.py (ProxyPLoss), networks.py. The heads are the
official ones for PACS, OfficeHome and TerraIncognita, the only data sets it configures; small images have a
head of 128 and 64 units, all others that of PACS.
Differs from the paper: "official" and "aligned" have no proxies as negatives and drop samples of cosine below
1e-6; "official" (it presumably gave the published numbers, with SWAD) also takes the positives in the order
of the classes, not of the rows; "paper" does neither; "paper_indomain" as well keeps negatives in the domain.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import LogUniform, Option, Uniform, on_small_images
from ..losses.contrastive import PROXY_VARIANTS, proxy_contrastive
from ..networks.heads import blocks


class PCL(Algorithm):
    """Cross-entropy, and samples pulled to their class's proxy and pushed from other classes' samples."""

    hparams = {
        "pcl_weight": (1.0, LogUniform(-1, 1)),
        "alpha": (12.0, Uniform(4, 20)),
        "variant": ("aligned", Option(PROXY_VARIANTS)),
        "num_hidden": (1, None),  # encoder: blocks of linear, batch norm, ReLU, dropout before its last layer
        "hidden_dim": (512, None),
        "out_dim": (256, None),
        "proj_layers": (1, None),  # projection: linear layers with dropout between them
        "head_dropout": (0.25, None),
    }
    hparams_on = {
        "OfficeHome": {"out_dim": (512, None), "proj_layers": (2, None)},
        "TerraIncognita": {"out_dim": (512, None), "num_hidden": (2, None)},
        **on_small_images({"hidden_dim": (128, None), "out_dim": (64, None)}),
    }

    own_classifier = True
    erm_when = {"pcl_weight": 0.0}
    classifier: nn.Linear

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        d, p = hp["out_dim"], hp["head_dropout"]
        widths = [self.featurizer.n_outputs] + [hp["hidden_dim"]] * hp["num_hidden"]
        self.encoder = nn.Sequential(*blocks(widths, p), nn.Linear(widths[-1], d))
        for layer in self.encoder:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        self.projection = nn.Sequential(nn.Linear(d, d))
        for _ in range(hp["proj_layers"] - 1):
            self.projection.extend((nn.Dropout(p), nn.Linear(d, d)))
        self.classifier = nn.Linear(d, problem.num_classes, bias=False)  # W
        self.proxy_map = nn.Parameter(torch.empty(d, d))  # V
        for weight in (self.classifier.weight, self.proxy_map):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), mode="fan_out")

    def features(self, x: Tensor) -> Tensor:
        return self.encoder(self.featurizer(x))  # (N, d)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        x = self.features(batch.x)
        r, proxies = self.projection(x), self.classifier.weight @ self.proxy_map.T
        ce = cross_entropy(self.classifier(x), batch.y)
        pcl = proxy_contrastive(r, batch.y, proxies, batch.d, self.hp["alpha"], self.hp["variant"])
        return ce + self.hp["pcl_weight"] * pcl, {"ce": ce, "pcl": pcl}
