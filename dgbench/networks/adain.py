"""Style transfer by adaptive instance normalisation (Huang and Belongie, ICCV 2017, arXiv 1703.06868).

The weights are those of naoto0804/pytorch-AdaIN, release v0.0.0: vgg_normalised.pth and decoder.pth, to be
put in torch's folder for checkpoints.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UsageError

FILES = ("vgg_normalised.pth", "decoder.pth")
ENCODER = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512)  # VGG-19 up to relu4_1
DECODER = (256, "up", 256, 256, 256, 128, "up", 128, 64, "up", 64)


def adain(content: Tensor, style: Tensor, alpha: float = 1.0, eps: float = 1e-5) -> Tensor:
    """alpha times the content with the style's mean and standard deviation per channel, plus the rest of it.

    content, style (N, C, H, W) feature maps; variances are unbiased, eps is added to them.
    """
    (m, s), (m2, s2) = (
        (f.mean((2, 3), True), (f.var((2, 3), keepdim=True) + eps).sqrt()) for f in (content, style)
    )
    return alpha * ((content - m) / s * s2 + m2) + (1 - alpha) * content


class StyleTransfer(nn.Module):
    """Images (N, 3, H, W) with the style of other images; nothing in it trains."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean_std: tuple[Sequence[float], Sequence[float]], alpha: float = 0.5) -> None:
        """mean_std: how the images are normalised, per channel. alpha: share of the style."""
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 3, 1), *_layers(3, ENCODER))
        self.decoder = nn.Sequential(*_layers(512, DECODER), nn.ReflectionPad2d(1), nn.Conv2d(64, 3, 3))
        self.alpha = alpha
        for name, values in zip(("mean", "std"), mean_std, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """(N, 3, H, W) twice -> (N, 3, H, W), in [0, 1] before they are normalised again."""
        f, g = (self.encoder(x * self.std + self.mean) for x in (content, style))
        height, width = content.shape[2:]
        images = self.decoder(adain(f, g, self.alpha))[..., :height, :width]
        return (images.clamp(0, 1) - self.mean) / self.std

    def load(self, folder: Path, digits: str) -> "StyleTransfer":
        """Take the published weights; ``digits``: the first 8 of the SHA-256 of both files."""
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise UsageError(
                f"style=adain needs {' and '.join(missing)} of naoto0804/pytorch-AdaIN in {folder}; "
                "choose from: style=none"
            )
        found = hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()[:8]
        if found != digits:
            raise UsageError(
                f"the style transfer's weights in {folder} have the hash {found}, not {digits!r}; "
                f"choose from: style_hash={found}"
            )
        encoder, decoder = (torch.load(folder / name, weights_only=True) for name in FILES)
        kept = {k: v for k, v in encoder.items() if int(k.split(".")[0]) < len(self.encoder)}
        self.encoder.load_state_dict(kept)
        self.decoder.load_state_dict(decoder)
        return self


def _layers(channels: int, plan: Sequence[int | str]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for entry in plan:
        if entry == "pool":
            layers.append(nn.MaxPool2d(2, 2, 0, ceil_mode=True))
        elif entry == "up":
            layers.append(nn.Upsample(scale_factor=2))
        else:
            width = int(entry)
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
    return layers
