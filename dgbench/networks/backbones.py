"""Backbones of torchvision and, through an extra, of timm."""

import torchvision
from torch import Tensor, nn

from ..errors import UsageError, unknown
from .layers import Featurizer


class ResNet(Featurizer):
    """A torchvision ResNet without its last layer: global average pooling, then dropout.

    pretrained: the name of torchvision weights ("IMAGENET1K_V1" for published comparisons) or "none".
    """

    def __init__(self, name: str, pretrained: str, freeze_bn: bool, dropout: float) -> None:
        super().__init__()
        weights = None
        if pretrained != "none":
            choices = torchvision.models.get_model_weights(name)
            if pretrained not in choices.__members__:
                raise unknown(f"weights of {name}", pretrained, [*choices.__members__, "none"])
            weights = choices[pretrained]
        self.net = torchvision.models.get_model(name, weights=weights)
        self.n_outputs = self.net.fc.in_features
        self.net.fc = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.freeze_bn = freeze_bn
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.net(x))  # (N, n_outputs)


class Timm(Featurizer):
    """Any timm model as a feature extractor; ``pretrained`` is "default" (the model's own tag) or "none"."""

    def __init__(self, name: str, pretrained: str, freeze_bn: bool, dropout: float) -> None:
        super().__init__()
        timm = import_timm()
        if not timm.is_model(name):
            near = timm.list_models(f"*{name.split('_')[0]}*")[:20]
            raise unknown("timm model", name, near or timm.list_models()[:20])
        self.net = timm.create_model(name, pretrained=pretrained != "none", num_classes=0)
        self.n_outputs = self.net.num_features
        self.dropout = nn.Dropout(dropout)
        self.freeze_bn = freeze_bn
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.net(x))  # (N, n_outputs)


def import_timm():  # type: ignore[no-untyped-def]
    """timm, or one line that says how to get it."""
    try:
        import timm
    except ImportError:
        raise UsageError("--backbone timm:NAME needs the extra: pip install 'dgbench[timm]'") from None
    return timm
