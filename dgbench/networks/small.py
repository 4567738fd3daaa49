"""Networks for small images, trained from scratch."""

from collections.abc import Callable

from torch import Tensor, nn

from ..errors import UsageError
from .layers import Featurizer


class DigitsCNN(Featurizer):
    """For 8 x 8 digits: two 3 x 3 convolutions (32, 64 filters), max-pooling, a linear layer to 64."""

    n_outputs = 64

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(input_shape[0], 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (input_shape[1] // 2) * (input_shape[2] // 2), self.n_outputs),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # (N, 64)

    def stages(self) -> list[nn.Module]:
        return [nn.Identity(), self.layers[:2], self.layers[2:4], self.layers[4:]]


class MNISTCNN(Featurizer):
    """DomainBed's MNIST network: four 3 x 3 convolutions, ReLU then group norm, global average pooling.

    Source: DomainBed, networks.py, class MNIST_CNN (64, 128, 128, 128 filters; the second has stride 2).
    """

    n_outputs = 128

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = input_shape[0]
        for width, stride in ((64, 1), (128, 2), (128, 1), (128, 1)):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU(), nn.GroupNorm(8, width)]
            channels = width
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # (N, 128)

    def stages(self) -> list[nn.Module]:
        return [nn.Identity(), *(self.layers[i : i + 3] for i in range(0, 12, 3)), self.layers[12:]]


class TwoConv(Featurizer):
    """The network of the RCL paper, taken from JiGen's digits model, for 28 x 28 images.

    ``maps``: conv 5 x 5 (64), ReLU, max-pool 2, conv 5 x 5 (128), ReLU, max-pool 2: (N, 128, 4, 4).
    ``head``: 2048 -> 1024 -> ReLU -> 1024 -> ReLU. Other sizes, of 16 or more, are pooled to
    4 x 4.
    """

    n_outputs = 1024

    def __init__(self, input_shape: tuple[int, int, int]) -> None:
        super().__init__()
        if min(input_shape[1:]) < 16:
            raise UsageError(
                f"two_conv needs images of at least 16 pixels, these have {min(input_shape[1:])}; "
                "choose from: digits_cnn, mnist_cnn"
            )
        self.maps = nn.Sequential(
            nn.Conv2d(input_shape[0], 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        pool = nn.Identity() if input_shape[1:] == (28, 28) else nn.AdaptiveAvgPool2d(4)
        self.head = nn.Sequential(
            pool, nn.Flatten(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x))  # (N, 1024)

    def stages(self) -> list[nn.Module]:
        return [nn.Identity(), self.maps[:3], self.maps[3:], self.head]


SMALL: dict[str, Callable[[tuple[int, int, int]], Featurizer]] = {
    "digits_cnn": DigitsCNN,
    "mnist_cnn": MNISTCNN,
    "two_conv": TwoConv,
}
