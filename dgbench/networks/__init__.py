"""Backbones and heads. ``featurizer`` maps images (N, C, H, W) to features (N, n_outputs)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import UsageError, unknown
from ..views import IMAGENET_MEAN, IMAGENET_STD
from .heads import projector
from .layers import Featurizer, Given
from .moco import MOCO
from .moco import weights as moco_weights
from .small import SMALL

if TYPE_CHECKING:
    from ..algorithm import Problem

RESNETS = ("resnet18", "resnet50", "resnet101", "resnet152")


def names() -> list[str]:
    """Values of ``--backbone``; any timm model is ``timm:NAME``."""
    return [*SMALL, *RESNETS, "timm:NAME"]


def featurizer(problem: "Problem", hp: Mapping[str, Any]) -> Featurizer:
    """The network that ``problem.backbone`` names."""
    name = problem.backbone
    if problem.frozen:
        return Given(problem.input_shape[0], 0.0 if name in SMALL else hp["resnet_dropout"])
    if name in SMALL:
        if problem.pretrained != "none":
            raise UsageError(f"--backbone {name} has no pretrained weights; choose from: --pretrained none")
        return SMALL[name](problem.input_shape)
    from .backbones import ResNet, Timm  # torchvision takes a second to import

    settings = (problem.pretrained, problem.freeze_bn, hp["resnet_dropout"], problem.input_shape[0])
    if name not in RESNETS and not name.startswith("timm:"):
        raise unknown("backbone", name, names())
    try:
        return ResNet(name, *settings) if name in RESNETS else Timm(name, *settings)
    except OSError as error:
        told = f"cannot get the weights {problem.pretrained} of {name}: {error}"
        raise UsageError(f"{told}; run once where there is a network, or give --pretrained none") from error


def mean_and_std(backbone: str) -> tuple[Sequence[float], Sequence[float]]:
    """Of RGB images in [0, 1], as the backbone expects them: ImageNet's, or the timm model's own."""
    if backbone.startswith("timm:"):
        from .backbones import timm_config

        config = timm_config(backbone)
        return config.mean, config.std
    return IMAGENET_MEAN, IMAGENET_STD


def image_size(backbone: str) -> int | None:
    """The side in pixels that a timm model was trained at; None for other backbones."""
    if not backbone.startswith("timm:"):
        return None
    from .backbones import timm_config

    return timm_config(backbone).input_size[-1]


def projection(problem: "Problem", n_inputs: int, n_outputs: int) -> nn.Module:
    """The head in front of a contrastive loss; its weights are those of the backbone's file, if they fit."""
    head = projector(n_inputs, n_outputs)
    if problem.pretrained in MOCO:
        state = moco_weights(problem.pretrained)[1]
        if {key: value.shape for key, value in state.items()} == {
            k: v.shape for k, v in head.state_dict().items()
        }:
            head.load_state_dict(state)
    return head


def classifier(n_inputs: int, num_classes: int, nonlinear: bool = False) -> nn.Module:
    """A linear classifier, or DomainBed's three-layer one (widths n/2, n/4)."""
    if not nonlinear:
        return nn.Linear(n_inputs, num_classes)
    return nn.Sequential(
        nn.Linear(n_inputs, n_inputs // 2),
        nn.ReLU(),
        nn.Linear(n_inputs // 2, n_inputs // 4),
        nn.ReLU(),
        nn.Linear(n_inputs // 4, num_classes),
    )
