"""A whole step and a whole evaluation as they would run on a GPU: on torch's "meta" device."""

from typing import Any

import pytest
import torch

from dgbench import averaging
from dgbench.build import build
from dgbench.checkpoint import State
from dgbench.evaluate import predictions
from dgbench.machine import Machine
from dgbench.meter import Meter
from dgbench.one_device import OneDevice
from dgbench.spec import RunSpec
from dgbench.train import update

CASES: list[tuple[str, dict[str, Any]]] = [
    ("ERM", {"test_envs": ("0",), "averaging": ("swad", "swa", "ema")}),
    ("ERM", {"test_envs": ("0",), "hparams": {"class_balanced": True, "optimizer": "sgd"}}),
    ("FixCLR", {"test_envs": ("0",), "task": "semi_supervised"}),
    ("SCALE", {"test_envs": ("0",), "task": "domain_adaptation"}),
    ("RCL", {"source_envs": ("0",), "task": "single_source"}),
    ("UCDIR", {"test_envs": ("0", "15"), "task": "retrieval"}),
]


@pytest.mark.parametrize(("algorithm", "settings"), CASES)
def test_a_step_and_an_evaluation_wait_for_no_value(algorithm: str, settings: dict[str, Any]) -> None:
    spec = RunSpec("RotatedDigits", algorithm, steps=5, **settings).resolved()
    run = build(spec, Machine(device="meta"))
    state = State(run.algorithm, averaging.make(spec.averaging, run.algorithm), Meter())
    with OneDevice():
        for step in range(3):
            update(state, run.loader, step, run.seed)
        for pool in run.split.evaluated.values():
            for logits, y in predictions(run.algorithm, run.loader.evaluation(pool)):
                assert logits.device.type == y.device.type == "meta"
    assert {value.device.type for value in state.meter.sums.values()} == {"meta"}


def test_what_waits_or_mixes_is_seen() -> None:
    far, near = torch.ones(3, device="meta"), torch.ones(3)
    with OneDevice():
        assert (far * near.sum()).device.type == "meta"  # a scalar of the CPU goes along
        assert near.to(far).device.type == "meta"
        with pytest.raises(RuntimeError, match=r"mul.* of tensors on cpu and meta"):
            _ = far * near
        with pytest.raises(RuntimeError):
            far[torch.tensor([0])]
        for wait in (lambda: far.sum().item(), lambda: bool(far.any()), lambda: far[far > 0], far.cpu):
            with pytest.raises((RuntimeError, NotImplementedError)):
                wait()
