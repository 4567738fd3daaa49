"""Layers that backbones and methods share."""

from collections.abc import Sequence
from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn

from ..errors import UsageError

Self = TypeVar("Self", bound="Featurizer")


class Featurizer(nn.Module):
    """A network from images (N, C, H, W) to features (N, n_outputs).

    With ``freeze_bn``, ``train()`` leaves every BatchNorm2d in evaluation mode: the running statistics stay
    at their (pretrained) values, the affine weights still train.
    """

    n_outputs: int
    freeze_bn = False

    def stages(self) -> Sequence[nn.Module]:
        """The network, cut where a layer can be put between: modules whose composition is ``forward``.

        Stage 0 is what comes before the first residual stage (nothing in a small network), stage k >= 1 the
        k-th residual stage or convolution. Each gives a feature map (N, C, H, W), but the last, which maps
        the last of them to the features (N, n_outputs). The modules are the network's own, not copies.
        """
        raise UsageError(
            "this method works on feature maps, which the backbone does not give; "
            "choose from: --backbone resnet18, resnet50, digits_cnn, mnist_cnn, two_conv"
        )

    def maps_and_head(self) -> tuple[nn.Sequential, nn.Module]:
        """The network cut before its head: (N, C, H, W) -> last feature map, and that -> (N, n_outputs)."""
        *front, head = self.stages()
        return nn.Sequential(*front), head

    def train(self: Self, mode: bool = True) -> Self:
        super().train(mode)
        if self.freeze_bn:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


class Given(Featurizer):
    """Features (N, F, 1, 1) of a frozen backbone, computed before: flattened, and dropout."""

    def __init__(self, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.n_outputs, self.dropout = n_outputs, nn.Dropout(dropout)

    def stages(self) -> Sequence[nn.Module]:
        raise UsageError("this method works on feature maps, which --frozen does not give; leave it out")

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x.flatten(1))  # (N, F)


class Tail(Featurizer):
    """A copy of a featurizer's stages from ``first`` on: (N, C, H, W) -> (N, n_outputs)."""

    def __init__(self, featurizer: Featurizer, first: int) -> None:
        super().__init__()
        self.layers = deepcopy(nn.Sequential(*featurizer.stages()[first:]))
        self.n_outputs, self.freeze_bn = featurizer.n_outputs, featurizer.freeze_bn
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
