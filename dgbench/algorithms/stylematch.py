"""StyleMatch: Semi-Supervised Domain Generalization with Stochastic StyleMatch (Zhou et al., IJCV 2023).

arXiv 2106.00592.
Objective as coded: FixMatch's form "ssdg", a sum over domains, with ``stochastic`` with the logits

    z . w_c / (|z| |w_c| temperature),   w = mu + softplus(sigma - 4) eps,   eps ~ N(0, 1)

where eps is drawn anew for each domain and each term; with ``style`` "adain" plus a third term, the same
labels and masks on each weak view in the style of the image at the same place of another source domain, drawn
for each domain (AdaIN, half style). Pseudo-labels and evaluation take w = mu; evaluation with
``ensemble`` takes the mean of the logits of so many draws, as does the recorded accuracy of pseudo-labels.
Without style (the default) this is "v3" of the authors' code, with it "v1"; without ``stochastic`` the
classifier is linear: with style "v2", else "v4", their FixMatch. The style transfer's weights are a download,
see ``networks/adain.py``; a run without it says so in its log.
Source: KaiyangZhou/ssdg-benchmark, trainers/stylematch.py.
Differs from the paper: weak views are stylised, where the authors take images without augmentation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import networks
from ..algorithm import Batch, Problem
from ..errors import UsageError
from ..hparams import Option
from ..losses.pseudo_labels import pseudo_label_loss
from ..networks.adain import StyleTransfer
from ..networks.stochastic import StochasticClassifier
from .fixmatch import FixMatch, Seen, Targets


class StyleMatch(FixMatch):
    """FixMatch per domain with a classifier of random weights and images in other domains' styles."""

    hparams = {
        "unlabelled_weight": FixMatch.hparams["unlabelled_weight"],
        "threshold": FixMatch.hparams["threshold"],
        "stochastic": (True, None),
        "temperature": (0.05, None),
        "ensemble": (0, None),
        "style": ("none", Option(("none", "adain"))),
        "style_hash": ("", None),
    }
    tasks = ("semi_supervised",)
    needs = (*FixMatch.needs, "strong_labelled")
    erm_when = None
    ssdg = own_classifier = True
    classifier: Any
    style: StyleTransfer | None

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        if hp["stochastic"]:
            size = self.featurizer.n_outputs, problem.num_classes
            self.classifier = StochasticClassifier(*size, hp["temperature"])
        kind, digits = hp["style"], hp["style_hash"]
        self.style = None
        if kind == "none":
            self.warnings = ("StyleMatch runs without stylised images; they need style=adain",)
        else:
            if problem.input_shape[0] != 3 or problem.input_shape[1] < 32 or problem.num_domains < 2:
                raise UsageError("style=adain needs RGB photographs of two domains; choose from: style=none")
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            transfer = StyleTransfer(networks.mean_and_std(problem.backbone))
            self.style = transfer.load(folder, digits)

    def forward(self, x: Tensor) -> Tensor:
        z, draws = self.features(x), self.hp["ensemble"]
        if not draws or not self.hp["stochastic"]:
            return self.classifier(z)
        copies = self.classifier.sample(z.repeat(draws, 1), draws)
        return copies.unflatten(0, (draws, -1)).mean(0)

    def logits(self, z: Tensor) -> Tensor:
        if not self.hp["stochastic"]:
            return self.classifier(z)
        return self.classifier.sample(z, self.problem.num_domains)

    def see(self, batch: Batch) -> Seen:
        seen = super().see(batch)
        if self.style is None:
            return seen
        u = seen.batch.u
        assert u is not None
        styles = batch.per_domain(u)[another(batch.num_domains, u.device)].flatten(0, 1)
        return seen._replace(styled=self.logits(self.encode(self.style(u, styles))))

    def unlabelled_loss(self, seen: Seen, targets: Targets) -> Tensor:
        loss = super().unlabelled_loss(seen, targets)
        return loss if seen.styled is None else loss + pseudo_label_loss(seen.styled, *targets)


def another(domains: int, device: torch.device) -> Tensor:
    """(D,): for each domain another one, all others equally likely."""
    shift = torch.randint(1, domains, (domains,), device=device)
    return (torch.arange(domains, device=device) + shift) % domains
