"""Style of feature maps: MixStyle, uncertain statistics (DSU), style and content randomisation (SagNet).

The style of a sample is the mean and the variance of each channel over space; what is left after removing
them is its content. All functions take x (N, C, H, W) or, with statistics over the features of a sample,
(N, F). ``partner`` (N,) int64 is the row that each row is mixed with.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from ..errors import UsageError
from ..losses.sets import column
from .layers import Featurizer


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over space, or over the features where there is no space; dims are kept.

    The variance of a single position is zero.
    """
    dims = tuple(range(2, x.ndim)) or (1,)
    size = math.prod(x.shape[dim] for dim in dims)
    var, mean = torch.var_mean(x, dims, correction=min(1, size - 1), keepdim=True)
    return mean, var


def mix_style(x: Tensor, partner: Tensor, lam: Tensor, eps: float = 1e-6) -> Tensor:
    """MixStyle (Zhou et al., ICLR 2021); lam (N,): the share of a sample's own style.

    With s = sqrt(var + eps) and statistics that are not differentiated,
    y = (x - mean) / s * (lam s + (1 - lam) s[partner]) + lam mean + (1 - lam) mean[partner].
    """
    mean, var = moments(x.detach())
    std, lam = (var + eps).sqrt(), column(lam, x)
    std_mixed = lam * std + (1 - lam) * std[partner]
    return (x - mean) / std * std_mixed + lam * mean + (1 - lam) * mean[partner]


def perturb_style(x: Tensor, noise_mean: Tensor, noise_std: Tensor, eps: float = 1e-6) -> Tensor:
    """DSU (Li et al., ICLR 2022); noise_mean, noise_std (N, C, 1, 1): standard normal.

    With s = sqrt(var + eps), the spread over the batch of the mean and of s gives the scale of the noise:
    y = (x - mean) / s * (s + noise_std * S(s)) + mean + noise_mean * S(mean), where
    S(v) = sqrt(var_batch(v) + eps), unbiased. Everything is differentiated.
    """
    mean, var = moments(x)
    std = (var + eps).sqrt()

    def spread(v: Tensor) -> Tensor:
        return (v.var(0, keepdim=True, correction=min(1, len(v) - 1)) + eps).sqrt()

    return (x - mean) / std * (std + noise_std * spread(std)) + mean + noise_mean * spread(mean)


def randomize_style(x: Tensor, partner: Tensor, alpha: Tensor, eps: float = 1e-5) -> Tensor:
    """SagNet's style randomisation (Nam et al., CVPR 2021), alpha (N,): own content, mixed style.

    As coded officially and in DomainBed it is the variances that are interpolated, not their roots:
    y = (x - mean) / sqrt(var + eps) * sqrt(var' + eps) + mean', v' = alpha v + (1 - alpha) v[partner].
    """
    mean, var = moments(x)
    alpha = column(alpha, x)
    mean_mixed = alpha * mean + (1 - alpha) * mean[partner]
    var_mixed = alpha * var + (1 - alpha) * var[partner]
    return (x - mean) / (var + eps).sqrt() * (var_mixed + eps).sqrt() + mean_mixed


def randomize_content(x: Tensor, partner: Tensor, eps: float = 1e-5) -> Tensor:
    """SagNet's content randomisation: the partner's content, not differentiated, in the own style."""
    mean, var = moments(x)
    std = (var + eps).sqrt()
    return ((x - mean) / std)[partner].detach() * std + mean


def cross_domain(domains: int, rows: int) -> Tensor:
    """Random partners (domains * rows,) from another domain: domains in a random cycle, rows shuffled.

    Each row is the partner of exactly one. With two domains this is MixStyle's "crossdomain" mixing.
    """
    cycle, following = torch.randperm(domains), torch.empty(domains, dtype=torch.int64)
    following[cycle] = cycle.roll(-1)
    return (following[:, None] * rows + torch.rand(domains, rows).argsort(1)).flatten()


def swapped_halves(groups: int, rows: int) -> Tensor:
    """Random partners (groups * rows,) from the other half of the own group of ``rows`` rows.

    With an odd number of rows, the middle one counts as both halves.
    """
    half = rows // 2
    first = half + torch.rand(groups, rows - half).argsort(1)
    second = torch.rand(groups, half).argsort(1)
    return (torch.cat([first, second], 1) + rows * torch.arange(groups)[:, None]).flatten()


def half_pairs(sizes: Sequence[int]) -> list[Tensor]:
    """Rows of pair i: the first half of domain i, then the second half of domain i + 1 (cyclic).

    sizes: rows of each domain in a domain-major batch. Source: the SWAD repository, class Mixstyle2.
    """
    halves = [rows.tensor_split(2) for rows in torch.arange(sum(sizes)).split(list(sizes))]
    return [torch.cat([a[0], b[1]]) for a, b in zip(halves, [*halves[1:], halves[0]], strict=True)]


class StyleMixing(nn.Module):
    """MixStyle as a layer, in training with probability ``p``; lam ~ Beta(alpha, alpha) for each sample.

    mix: "random" partners of the batch; "crossdomain", of another domain; "pairs", of the other half of
    the own group of N / num_domains rows, each group tossing its own coin.
    """

    def __init__(self, p: float, alpha: float, mix: str, num_domains: int) -> None:
        super().__init__()
        self.p, self.mix, self.num_domains = p, mix, num_domains
        self.beta = Beta(alpha, alpha)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        n, groups = len(x), self.num_domains if self.mix == "pairs" else 1
        on = torch.rand(groups) < self.p  # drawn on the CPU, so that asking for it waits for no device
        if not on.any():
            return x
        if self.mix == "random":
            partner = torch.randperm(n)
        elif self.mix == "crossdomain":
            partner = cross_domain(self.num_domains, n // self.num_domains)
        else:
            partner = swapped_halves(groups, n // groups)
        mixed = mix_style(x, partner.to(x.device), self.beta.sample((n,)).to(x))
        if on.all():
            return mixed
        rows = on.repeat_interleave(n // groups).to(x.device)
        return torch.where(column(rows, x), mixed, x)


class StyleNoise(nn.Module):
    """DSU as a layer, in training with probability ``p``."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or torch.rand(()) >= self.p:
            return x
        noise = torch.randn(2, *x.shape[:2], 1, 1, dtype=x.dtype, device=x.device)
        return perturb_style(x, noise[0], noise[1])


class Between(Featurizer):
    """A featurizer with one layer put after some of its stages.

    after: digits, the stages (``Featurizer.stages``); those that the network lacks are left out.
    """

    def __init__(self, network: Featurizer, layer: nn.Module, after: str) -> None:
        super().__init__()
        self.network, self.layer = network, layer
        self.n_outputs, self.freeze_bn = network.n_outputs, network.freeze_bn
        there = [i for i, stage in enumerate(network.stages()[:-1]) if not isinstance(stage, nn.Identity)]
        self.after = {i for i in there if str(i) in after}
        if not after.isdigit() or not self.after:
            raise UsageError(
                f"no layer can be put after stages {after!r}; give digits of: {''.join(map(str, there))}"
            )
        self.train()

    def stages(self) -> Sequence[nn.Module]:
        return [
            nn.Sequential(stage, self.layer) if i in self.after else stage
            for i, stage in enumerate(self.network.stages())
        ]

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages():
            x = stage(x)
        return x
