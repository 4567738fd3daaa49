"""Backbones of torchvision and, through an extra, of timm."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from ..errors import extra, unknown
from .layers import Featurizer
from .moco import MOCO
from .moco import weights as moco_weights


class ResNet(Featurizer):
    """A torchvision ResNet without its last layer: global average pooling, then dropout.

    pretrained: the name of torchvision weights ("IMAGENET1K_V1" for published comparisons), for ResNet-50
    one of ``moco.MOCO``, or "none".
    channels: of the images; where they are not 3, filter i of the first layer is that of colour i modulo 3.
    """

    def __init__(
        self, name: str, pretrained: str, freeze_bn: bool, dropout: float, channels: int = 3
    ) -> None:
        super().__init__()
        weights, moco = None, pretrained in MOCO and name == "resnet50"
        if pretrained != "none" and not moco:
            choices = torchvision.models.get_model_weights(name)
            if pretrained not in choices.__members__:
                raise unknown(f"weights of {name}", pretrained, [*choices.__members__, *MOCO, "none"])
            weights = choices[pretrained]
        self.net = torchvision.models.get_model(name, weights=weights)
        self.n_outputs = self.net.fc.in_features
        self.net.fc = nn.Identity()
        if moco:
            self.net.load_state_dict(moco_weights(pretrained)[0])
        if channels != 3:
            old = self.net.conv1
            self.net.conv1 = nn.Conv2d(channels, old.out_channels, 7, stride=2, padding=3, bias=False)
            with torch.no_grad():
                self.net.conv1.weight.copy_(old.weight[:, torch.arange(channels) % 3])
        self.dropout = nn.Dropout(dropout)
        self.freeze_bn = freeze_bn
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.net(x))  # (N, n_outputs)

    def stages(self) -> list[nn.Module]:
        net = self.net
        stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
        head = nn.Sequential(net.avgpool, nn.Flatten(), self.dropout)
        return [stem, net.layer1, net.layer2, net.layer3, net.layer4, head]


class Timm(Featurizer):
    """A timm model, ``timm:NAME``, without its head; pretrained: "default" (the name's tag) or "none"."""

    def __init__(
        self, name: str, pretrained: str, freeze_bn: bool, dropout: float, channels: int = 3
    ) -> None:
        super().__init__()
        timm_config(name)
        self.net = import_timm().create_model(
            name.removeprefix("timm:"), pretrained=pretrained != "none", num_classes=0, in_chans=channels
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
    return extra("timm", "--backbone timm:NAME", "timm")
