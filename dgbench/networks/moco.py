"""Weights of momentum contrast (MoCo v2; Chen et al. 2020, arXiv 2003.04297), which UCDIR starts from."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UsageError
from ..sources.fetch import FetchError, fetch
from ..sources.source import File

_QUERY = "module.encoder_q."
_FOLDER = "https://dl.fbaipublicfiles.com/moco/moco_checkpoints"
MOCO = {
    "moco_v2_800ep": File(
        f"{_FOLDER}/moco_v2_800ep/moco_v2_800ep_pretrain.pth.tar",
        "moco_v2_800ep_pretrain.pth.tar",
        md5="a04e12f8",  # its first digits, all that is published
    )
}
"""{value of ``--pretrained``: its file}, for ResNet-50."""


def weights(name: str) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """The states of torchvision's ResNet-50 without its last layer, and of the two-layer head behind it.

    Kept in torch's folder of checkpoints; ``UsageError`` where it cannot be had.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        (path,) = fetch(MOCO[name], folder)
    except (FetchError, OSError) as error:
        raise UsageError(
            f"cannot get the weights {name}: {error}; put {MOCO[name].name} into {folder}, or choose from: "
            "--pretrained IMAGENET1K_V1, none"
        ) from error
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    query = {key.removeprefix(_QUERY): value for key, value in state.items() if key.startswith(_QUERY)}
    head = {key.removeprefix("fc."): value for key, value in query.items() if key.startswith("fc.")}
    return {key: value for key, value in query.items() if not key.startswith("fc.")}, head
