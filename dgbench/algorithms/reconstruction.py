"""Reconstruction: A decoder on the feature map, a baseline of RCL (Duboudin et al., ICCVW 2021).

arXiv 2106.07916, sections 4.2 and 5.1; after Ghifary et al., ICCV 2015.
Objective as coded, with the last feature map f, g = tanh of four transposed convolutions, x (N, C, H, W):

    L = 1/N sum_i CE(o_i, y_i) + reconstruction_weight mean over all pixels and channels of (g(f) - x)^2

Source: the RCL paper; its authors published no code.
Differs from the paper: nothing known; the distance and the sizes of the decoder are left open there. Images
normalised with ImageNet's statistics are not in the range of tanh.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ..algorithm import Algorithm, Batch, Logs, Problem
from ..hparams import Choice

WIDTHS = (64, 32, 16)  # channels between the four layers of the decoder


class Reconstruction(Algorithm):
    """Cross-entropy, and a decoder that must find the image again in the feature map."""

    hparams = {"reconstruction_weight": (1.0, Choice((0.001, 0.01, 0.1, 1.0, 5.0, 10.0)))}
    erm_when = {"reconstruction_weight": 0.0}

    def __init__(self, problem: Problem, hp: Mapping[str, Any]) -> None:
        super().__init__(problem, hp)
        self.featurizer.eval()
        with torch.no_grad():
            f = self.featurizer.maps_and_head()[0](torch.zeros(1, *problem.input_shape))
        self.featurizer.train()
        self.decoder = decoder(tuple(f.shape[1:]), problem.input_shape)

    def loss(self, batch: Batch) -> tuple[Tensor, Logs]:
        maps, head = self.featurizer.maps_and_head()
        f = maps(batch.x)
        nll = cross_entropy(self.classifier(head(f)), batch.y)
        error = mse_loss(self.decoder(f).to(batch.x.dtype), batch.x)
        return nll + self.hp["reconstruction_weight"] * error, {"nll": nll, "error": error}


def decoder(maps: tuple[int, ...], image: tuple[int, int, int]) -> nn.Sequential:
    """Four transposed convolutions from maps (C, h, h) to images (C, H, H), ReLU between, tanh at the end.

    The sides of what they give are H/8, H/4, H/2 and H, but at least h.
    """
    layers: list[nn.Module] = []
    channels, size = maps[0], maps[1]
    for width, part in zip((*WIDTHS, image[0]), (8, 4, 2, 1), strict=True):
        wanted = max(maps[1], math.ceil(image[1] / part))
        stride = wanted // size
        kernel = wanted - (size - 1) * stride + 2
        layers += [nn.ConvTranspose2d(channels, width, kernel, stride, padding=1), nn.ReLU()]
        channels, size = width, wanted
    return nn.Sequential(*layers[:-1], nn.Tanh())
