"""Layers that backbones and methods share."""

from torch import nn


class FrozenBatchNormStatistics:
    """Mixin: ``train()`` leaves every BatchNorm2d in evaluation mode when ``freeze_bn`` is set.

    Running statistics stay at their (pretrained) values; the affine weights still train.
    """

    freeze_bn = False

    def train(self, mode: bool = True) -> "FrozenBatchNormStatistics":
        super().train(mode)  # type: ignore[misc]
        if self.freeze_bn:
            for module in self.modules():  # type: ignore[attr-defined]
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self
