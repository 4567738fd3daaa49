"""What a run will cost on this machine, estimated from its arithmetic."""

import time
from functools import cache
from typing import Any

import torch

from . import networks, registry
from .algorithm import Problem
from .build import check
from .spec import RunSpec
from .tasks import sources_and_targets

TRAINING_PASSES = 3  # forward, and backward to inputs and to weights
STEP_SECONDS = 1e-3  # of anything but arithmetic, at least


def seconds_per_run(spec: RunSpec) -> tuple[dict[str, Any], float]:
    """(resolved hyper-parameters, seconds) of a resolved spec with one thread on the CPU or on the GPU.

    Counts a plain forward and backward pass per training image; methods with more passes cost more. On
    features of a frozen backbone, the time that any step takes.
    """
    _, hp = check(spec)
    dataset = registry.find("datasets", spec.dataset)
    envs = dataset.domains  # type: ignore[attr-defined]
    if spec.task == "retrieval":
        sources = 2
    elif envs:
        sources = len(sources_and_targets(spec, envs)[0])
    else:
        sources = 3
    assert spec.steps and spec.backbone
    shape = dataset.input_shape or (3, spec.image_size, spec.image_size)  # type: ignore[attr-defined]
    images = spec.steps * sources * hp["batch_size"]
    flops = 0.0 if spec.frozen else _flops_per_image(spec.backbone, shape)
    return hp, spec.steps * STEP_SECONDS + TRAINING_PASSES * images * flops / _flops_per_second()


@cache
def _flops_per_image(backbone: str, shape: tuple[int, int, int]) -> float:
    """Of convolutions and linear layers. (torch's counter and its meta device import the compiler:
    1.5 s, 200 MB.)"""
    problem = Problem(shape, 2, 1, 1, 1, backbone=backbone)
    net = networks.featurizer(problem, {"resnet_dropout": 0.0}).eval()
    counts: list[int] = []

    def count(layer: Any, inputs: Any, out: torch.Tensor) -> None:
        counts.append(2 * out.numel() * layer.weight[0].numel())

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        net(torch.zeros(1, *shape))
    return sum(counts)


@cache
def _flops_per_second() -> float:
    """Measured on one convolution of a ResNet's kind, forward and backward."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    conv = torch.nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    x = torch.randn(32, 64, 28, 28, device=device).requires_grad_()

    def passes(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            conv(x).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    passes(1)
    count = 5
    seconds = passes(count)
    torch.set_num_threads(threads)
    return TRAINING_PASSES * count * 2 * 64 * 64 * 9 * 32 * 28 * 28 / seconds
