"""A run the way DomainBed makes it, written anew for comparison: DomainBed itself is not here.

float32 in the default memory layout; per-image transforms in a ``DataLoader``, images decoded at every read;
every part of every domain evaluated at every checkpoint, in batches of 64; the loss read at every step. All
in this process, as with no workers. Facts from DomainBed's scripts/train.py, datasets.py and networks.py.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms as T
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Subset, TensorDataset
from torchvision.datasets import ImageFolder

from .. import networks
from ..algorithm import Problem
from ..datasets._digits import mnist
from ..datasets.pacs import PACS
from ..splits import split
from ..views import IMAGENET_MEAN, IMAGENET_STD

SIZE = 224
TRAINING = T.Compose(
    [
        T.RandomResizedCrop(SIZE, scale=(0.7, 1.0)),
        T.RandomHorizontalFlip(),
        T.ColorJitter(0.3, 0.3, 0.3, 0.3),
        T.RandomGrayscale(),
        T.ToTensor(),
        T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ]
)
EVALUATION = T.Compose([T.Resize((SIZE, SIZE)), T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


def rotated_mnist(data_dir: Path) -> list[Dataset[Any]]:
    """Six domains, each image rotated by itself."""
    digits = mnist(data_dir, "RotatedMNIST")
    order = np.random.default_rng(0).permutation(len(digits.labels))
    domains: list[Dataset[Any]] = []
    for i, angle in enumerate((0, 15, 30, 45, 60, 75)):
        rows = order[i::6]
        turn = T.Compose(
            [
                T.ToPILImage(),
                T.Lambda(
                    lambda image, angle=angle: T.functional.rotate(image, angle, T.InterpolationMode.BILINEAR)
                ),
                T.ToTensor(),
            ]
        )
        images = torch.stack([turn(image) for image in digits.images[rows]])
        domains.append(TensorDataset(images, torch.from_numpy(digits.labels[rows])))
    return domains


def pacs(data_dir: Path, target: int) -> list[Dataset[Any]]:
    """Four domains; the sources' whole domains are augmented, their validation parts too."""
    root = PACS.root(data_dir)
    return [
        ImageFolder(str(root / name), EVALUATION if i == target else TRAINING)
        for i, name in enumerate(PACS.domains)
    ]


class Run:
    """ERM before its first step."""

    def __init__(
        self,
        domains: Sequence[Dataset[Any]],
        target: int,
        backbone: str,
        shape: tuple[int, int, int],
        classes: int,
        batch_size: int,
        lr: float,
    ) -> None:
        problem = Problem(shape, classes, len(domains) - 1, 1, 1, backbone=backbone)
        featurizer = networks.featurizer(problem, {"resnet_dropout": 0.0})
        self.network = nn.Sequential(featurizer, networks.classifier(featurizer.n_outputs, classes))
        self.optim = torch.optim.Adam(self.network.parameters(), lr=lr)
        self.parts: list[Dataset[Any]] = []
        self.streams = []
        for env, domain in enumerate(domains):
            inside, outside = (Subset(domain, rows.tolist()) for rows in split(len(domain), 0.2, 0, env))  # type: ignore[arg-type]
            self.parts += [inside, outside]
            if env != target:
                self.streams.append(_endless(inside, batch_size))

    def step(self) -> float:
        batches = [next(stream) for stream in self.streams]
        x, y = (torch.cat(column) for column in zip(*batches, strict=True))
        loss = cross_entropy(self.network(x), y)
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return loss.item()

    def evaluate(self) -> list[float]:
        """Accuracy on every part."""
        self.network.eval()
        found = []
        with torch.no_grad():
            for part in self.parts:
                right = 0.0
                for x, y in DataLoader(part, 64):
                    right += (self.network(x).argmax(1) == y).sum().item()
                found.append(right / len(part))  # type: ignore[arg-type]
        self.network.train()
        return found

    def whole(self, steps: int, checkpoint_freq: int) -> list[float]:
        """The last evaluation."""
        found: list[float] = []
        for step in range(steps):
            self.step()
            if step % checkpoint_freq == 0 or step == steps - 1:
                found = self.evaluate()
        return found


def _endless(part: Dataset[Any], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    sampler = BatchSampler(RandomSampler(part, replacement=True), batch_size, drop_last=True)  # type: ignore[arg-type]
    while True:
        yield from DataLoader(part, batch_sampler=sampler)


def whole(dataset: str, data_dir: Path, steps: int, checkpoint_freq: int, seed: int) -> float:
    """A whole run, its data included; the accuracy on the target's "in" part."""
    torch.manual_seed(seed)
    if dataset == "RotatedMNIST":
        target, made = 0, Run(rotated_mnist(data_dir), 0, "mnist_cnn", (1, 28, 28), 10, 64, 1e-3)
    else:
        target, made = 3, Run(pacs(data_dir, 3), 3, "resnet18", (3, SIZE, SIZE), 7, 32, 5e-5)
    return made.whole(steps, checkpoint_freq)[2 * target]
