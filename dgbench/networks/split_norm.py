"""Batch norm over parts of a batch, which keeps what a key encoder sees apart from its own batch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm


class SplitBatchNorm(nn.BatchNorm2d):
    """Statistics per part in training: row i is in part i modulo ``parts``. Running ones are the parts' mean.

    Source: UCDIR, moco/builder.py, class SplitBatchNorm (2 parts). A batch that ``parts`` does not divide is
    taken whole.
    """

    parts = 2

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        if not self.training or n % self.parts:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        means, variances = self.running_mean.repeat(self.parts), self.running_var.repeat(self.parts)
        out = batch_norm(
            x.reshape(-1, c * self.parts, h, w),
            means,
            variances,
            self.weight.repeat(self.parts),
            self.bias.repeat(self.parts),
            True,
            # None as in torch: every batch counts the same
            1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum,
            self.eps,
        )
        with torch.no_grad():
            self.running_mean.copy_(means.view(self.parts, c).mean(0))
            self.running_var.copy_(variances.view(self.parts, c).mean(0))
        return out.view(n, c, h, w)


def split_batch_norms(network: nn.Module) -> nn.Module:
    """The network with every BatchNorm2d computing over parts; weights and statistics stay."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SplitBatchNorm
    return network
