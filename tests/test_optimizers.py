"""Torch's fused optimizers step as the plain ones do, for every method that uses them."""

from typing import Any

import pytest
import torch

from dgbench import contract, registry
from dgbench.algorithm import Algorithm
from dgbench.algorithms.erm import ERM

CHOSEN = {"optimizer": "sgd", "momentum": 0.9}  # whose steps do not amplify rounding as Adam's do


@pytest.mark.parametrize("name", registry.names("algorithms"))
def test_fused_steps_are_plain_steps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = registry.find("algorithms", name)
    assert issubclass(method, Algorithm)
    weights = []
    for fused in (Algorithm._fused, property(lambda self: False)):
        monkeypatch.setattr(Algorithm, "_fused", fused)
        algorithm = contract.build(method, **CHOSEN).to(memory_format=torch.channels_last)
        contract.train(algorithm, range(3))
        weights.append(list(algorithm.parameters()))
    for ours, plain in zip(*weights, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        ({"optimizer": "adam", "weight_decay": 0.01}, torch.optim.Adam),
        ({"optimizer": "adamw", "weight_decay": 0.02}, torch.optim.AdamW),
        ({"optimizer": "sgd", "weight_decay": 0.03, "momentum": 0.8, "nesterov": True}, torch.optim.SGD),
        ({"optimizer": "sgd", "momentum": 0.0, "nesterov": False}, torch.optim.SGD),
    ],
)
def test_the_optimizer_has_what_was_asked_for(chosen: dict[str, Any], kind: type) -> None:
    (optim,) = contract.build(ERM, lr=0.004, **chosen).optims
    (group,) = optim.param_groups
    assert type(optim) is kind and group["lr"] == 0.004
    assert {"optimizer": chosen["optimizer"], **group}.items() >= chosen.items()
