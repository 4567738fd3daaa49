"""Torch's fused optimizers step as the plain ones do, for every method that uses them."""

import pytest
import torch

from dgbench import contract, registry
from dgbench.algorithm import Algorithm

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
