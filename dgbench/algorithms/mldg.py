"""MLDG: Learning to Generalize, Meta-Learning for Domain Generalization (Li et al., AAAI 2018).

arXiv 1710.03463, Algorithm 1, in its first-order form.
Objective as coded: the D source domains, in random order, are cut into D - n meta-train and n = n_meta_test
meta-test domains; pair (i, j) is a meta-train domain and the meta-test domains in turn. With L_d(w) the mean
cross-entropy of domain d at weights w, and one first step of a fresh Adam,

    w_i = w - lr * g / (|g| + 1e-8),    g = grad L_i(w) + weight_decay * w    (per entry)
    G   = 1/D * sum over pairs (i, j) of [ grad L_i(w) + mldg_beta * grad L_j(w_i) ]

and G is given to the outer Adam. The division is by D, not by the number of pairs. n_meta_test = 0 pairs each
domain with the next in the random order, as DomainBed did before it had this hyper-parameter. Where the
domains are no more than n_meta_test, one is left to meta-train (DomainBed would train nothing).
Source: DomainBed, algorithms.py, class MLDG.
Differs from the paper: no derivative through the inner step; the inner step is Adam's, in effect the sign of
the gradient, with the hyper-parameter lr whatever the run's optimizer and schedule; each meta-train domain
takes its own inner step instead of one on their sum. From DomainBed: batch-norm statistics that train follow
the passes at w; there they never move.
"""

from collections.abc import Sequence
from itertools import cycle

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from ..algorithm import MULTI_SOURCE, Algorithm, Batch, Logs
from ..hparams import Choice, LogUniform


class MLDG(Algorithm):
    """Gradients of domain i now, and of domain j after a step on domain i."""

    hparams = {"mldg_beta": (1.0, LogUniform(-1, 1)), "n_meta_test": (2, Choice((1, 2)))}
    erm_when = {"mldg_beta": 0.0, "n_meta_test": 0}
    tasks = MULTI_SOURCE
    min_domains = 2

    def update(self, batch: Batch) -> Logs:
        x, y = batch.per_domain(batch.x), batch.per_domain(batch.y)
        pairs = [(x[i], y[i], x[j], y[j]) for i, j in self.pairs(batch.num_domains)]
        loss, outer = self.outer_gradient(pairs, batch.num_domains)
        for p, g in zip(self.parameters(), outer, strict=True):
            p.grad = g
        self.optims[0].step()
        return {"loss": loss}

    def pairs(self, domains: int) -> list[tuple[int, int]]:
        """(meta-train, meta-test) domains."""
        order, tests = torch.randperm(domains).tolist(), min(self.hp["n_meta_test"], domains - 1)
        train, test = (order[:-tests], order[-tests:]) if tests else (order, order[1:] + order[:1])
        return list(zip(train, cycle(test), strict=False))

    def outer_gradient(self, pairs: Sequence[Sequence[Tensor]], domains: int) -> tuple[Tensor, list[Tensor]]:
        """The logged loss and G from (x_i, y_i, x_j, y_j) of each pair."""
        names, params = zip(*self.named_parameters(), strict=True)
        losses, outer, beta = [], [torch.zeros_like(p) for p in params], self.hp["mldg_beta"]
        for x_i, y_i, x_j, y_j in pairs:
            loss_i = cross_entropy(self(x_i), y_i)
            grads_i = torch.autograd.grad(loss_i, params)
            inner = {name: self._step(p, g) for name, p, g in zip(names, params, grads_i, strict=True)}
            statistics = {name: buffer.clone() for name, buffer in self.named_buffers()}  # not those at w
            loss_j = cross_entropy(functional_call(self, {**inner, **statistics}, (x_j,)), y_j)
            grads_j = torch.autograd.grad(loss_j, list(inner.values()))
            for total, g_i, g_j in zip(outer, grads_i, grads_j, strict=True):
                total += (g_i + beta * g_j) / domains
            losses.append((loss_i + beta * loss_j).detach())
        return torch.stack(losses).sum() / domains, outer

    def _step(self, p: Tensor, grad: Tensor) -> Tensor:
        """The weights after the first step of a fresh Adam, whose moments are then g and g^2."""
        p = p.detach()
        g = grad + self.hp["weight_decay"] * p
        return (p - self.hp["lr"] * g / (g.abs() + 1e-8)).requires_grad_()
