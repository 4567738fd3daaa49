"""Backbones of torchvision and, through an extra, of timm."""

from typing import Any

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
    """A timm model, ``timm:NAME``, without its head; pretrained: "default" (the name's tag) or "none"."""

    def __init__(self, name: str, pretrained: str, freeze_bn: bool, dropout: float) -> None:
        super().__init__()
        timm_config(name)
        self.net = import_timm().create_model(
            name.removeprefix("timm:"), pretrained=pretrained != "none", num_classes=0
        )
        self.n_outputs = self.net.num_features
        self.dropout = nn.Dropout(dropout)
        self.freeze_bn = freeze_bn
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.net(x))  # (N, n_outputs)


def timm_config(backbone: str) -> Any:
    """mean, std, input_size of ``timm:NAME``; ``UsageError`` for an unknown name."""
    timm, name = import_timm(), backbone.removeprefix("timm:")
    if not timm.is_model(name.split(".")[0]):
        raise unknown(
            "timm model", name, timm.list_models(f"*{name[:4]}*")[:20] or ["resnet50", "vit_base_patch16_224"]
        )
    return timm.get_pretrained_cfg(name)


def import_timm():  # type: ignore[no-untyped-def]
    """timm, or one line that says how to get it."""
    try:
        import timm
    except ImportError:
        raise UsageError("--backbone timm:NAME needs the extra: pip install 'dgbench[timm]'") from None
    return timm
