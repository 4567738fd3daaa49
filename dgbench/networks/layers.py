"""Layers that backbones and methods share."""

from typing import TypeVar

from torch import nn

Self = TypeVar("Self", bound="Featurizer")


class Featurizer(nn.Module):
    """A network from images (N, C, H, W) to features (N, n_outputs).

    With ``freeze_bn``, ``train()`` leaves every BatchNorm2d in evaluation mode: the running statistics stay
    at their (pretrained) values, the affine weights still train.
    """

    n_outputs: int
    freeze_bn = False

    def train(self: Self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_bn:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self
