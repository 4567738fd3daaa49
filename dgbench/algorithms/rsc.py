"""RSC: Self-Challenging Improves Cross-Domain Generalization (Huang et al., ECCV 2020).

arXiv 2007.02454, Eq. 1-5 and section 3.3.
Objective as coded, with z (N, F) or (N, C, H, W), logits o(z), p_i(z) = softmax(o(z_i))_{y_i}, and the
gradient g = d sum_i o(z)_{i, y_i} / d z; m is not differentiated:

    L = 1/N sum_i CE(o(z_i * m_i), y_i),    m_i = keep_i if row i is challenged, else 1

``rsc_variant`` "domainbed": z are the pooled features, with f = rsc_f_drop_factor, b = rsc_b_drop_factor and
Q the linear quantile: keep = [ g < Q_{1-f} over the features of the row ]; row i is challenged where
change_i = p_i(z) - p_i(z * keep) is not below Q_{1-b} over the batch.
"official": z is the last feature map; a coin chooses between two kinds of keep = [ score <= T ], T the value
of rank n (from 0) in descending order. With gbar (C,) the mean of g over space, "spatial": score (H, W) =
sum_c z_c gbar_c, n = ceil(HW / 3); "channel": score = gbar, n = ceil(C / 3.2). Row i is challenged where
max(0, change_i - 1e-4) exceeds the value of rank round(N P), P = 0.3, and 0.5 in the second half of the run
(the official 20 epochs, stretched). Dropout is off while masks are made.
"random_rate": z and the channel scores of "official", n = floor(p C) with p ~ U(0, 1) drawn for each update,
so that n channels are dropped; every row is challenged (a baseline of RCL, arXiv 2106.07916).
Source: DomainBed, algorithms.py, class RSC; official code, models/resnet.py.
Differs from the paper: "domainbed" has pooled features, where g is the classifier's row y_i, so that the mask
depends on the label only; "official" drops 1/3.2 of the channels, not 1/3. Batches are not doubled by flips.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..algorithm import Algorithm, Batch, Logs
from ..hparams import Option, Uniform, on_missing_patterns
from ..losses.precision import full_precision
from ..losses.sets import column

DROPPED = {"spatial": 3, "channel": 3.2}  # 1 / share of the scores that "official" drops
VARIANTS = Option(("domainbed", "official", "random_rate"))


class RSC(Algorithm):
    """Cross-entropy on features whose most predictive part is muted."""

    hparams = {
        "rsc_f_drop_factor": (1 / 3, Uniform(0, 0.5)),
        "rsc_b_drop_factor": (1 / 3, Uniform(0, 0.5)),
        "rsc_variant": ("domainbed", VARIANTS),
    }
    hparams_on = on_missing_patterns({"rsc_variant": ("random_rate", VARIANTS)})

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        kind, model, z = "feature", self.classifier, batch.x
        if self.hp["rsc_variant"] == "domainbed":
            z = self.features(z)
        else:
            kind = "spatial" if torch.rand(()) < 0.5 else "channel"
            kind = kind if self.hp["rsc_variant"] == "official" else "random"
            maps, head = self.featurizer.maps_and_head()
            z, model = maps(z), nn.Sequential(head, self.classifier)
        mask = self.mask(model, z, batch.y, kind)
        return cross_entropy(model(z * mask), batch.y), {"muted": 1 - mask.to(z.dtype).mean()}

    def mask(self, model: nn.Module, z: Tensor, y: Tensor, kind: str) -> Tensor:
        """True where z is kept: (N, F); "spatial" (N, 1, H, W), "channel" and "random" (N, C, 1, 1)."""
        z = z.detach().requires_grad_()
        model.eval()
        logits = model(z)
        (g,) = torch.autograd.grad(logits.gather(1, y[:, None]).sum(), z)
        with torch.no_grad():
            mask = self.candidates(z, g, kind)
            if kind != "random":
                change = true_probability(logits, y) - true_probability(model(z * mask), y)
                mask = mask | column(self.spared(change, kind), z)
        model.train(self.training)
        return mask

    def candidates(self, z: Tensor, g: Tensor, kind: str) -> Tensor:
        """What is left of a challenged row."""
        if kind == "feature":
            return g < quantile(g, 1 - self.hp["rsc_f_drop_factor"])
        gbar = g.mean((2, 3), keepdim=True)
        score = (z * gbar).sum(1, keepdim=True) if kind == "spatial" else gbar
        size = score[0].numel()
        n = int(torch.rand(()) * size) if kind == "random" else math.ceil(size / DROPPED[kind])
        return score <= ranked(score.flatten(1), n).view(-1, 1, 1, 1)

    def spared(self, change: Tensor, kind: str) -> Tensor:
        """Rows (N,) whose probability of the true class falls too little to be challenged."""
        if kind == "feature":
            return change < quantile(change, 1 - self.hp["rsc_b_drop_factor"])
        change = (change - 1e-4).clamp(min=0)
        return change <= ranked(change, round(len(change) * self.batch_fraction()))

    def batch_fraction(self) -> float:
        """P, of the official 20 epochs."""
        return 0.3 + 0.2 * (20 * self.step // self.problem.num_steps // 10)


def true_probability(logits: Tensor, y: Tensor) -> Tensor:
    """logits (N, C), y (N,) -> (N,)."""
    return logits.softmax(1).gather(1, y[:, None]).squeeze(1)


@full_precision
def quantile(values: Tensor, q: float) -> Tensor:
    """The linear quantile over the last dimension, which is kept."""
    return values.quantile(q, dim=-1, keepdim=True)


def ranked(values: Tensor, rank: int) -> Tensor:
    """The value of a rank, from 0, in descending order over the last dimension, which is kept."""
    last = values.shape[-1] - 1
    return values.sort(-1, descending=True).values[..., min(rank, last), None]
