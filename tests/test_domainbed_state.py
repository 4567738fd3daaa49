"""What a checkpoint keeps of classes written for DomainBed beside their weights."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from dgbench import contract, domainbed, registry
from dgbench.course import Course
from dgbench.spec import RunSpec
from dgbench.train import run

torch.set_num_threads(1)


STATES = """
import collections
import numpy as np
import torch
from dgbench.domainbed import ERM


class Kept(ERM):
    def __init__(self, *args):
        super().__init__(*args)
        self.begin()

    def update(self, minibatches, unlabeled=None):
        logs = super().update([(x * self.scale(), y) for x, y in minibatches])
        self.go_on()
        return logs


class Number(Kept):
    def begin(self):
        self.factor, self.turns, self.steps = np.float32(1), {np.int64(0): np.float64(1)}, 0
    def scale(self):
        return float(self.factor * self.turns[0])
    def go_on(self):
        self.factor, self.steps = self.factor * np.float32(0.9), self.steps + np.int64(1)
        self.turns[np.int64(0)] -= np.float64(0.01)


class Trained(Kept):
    def begin(self):
        self.t = torch.ones(1, requires_grad=True)
        self.more = [torch.ones(2, requires_grad=True)]
        self.shared = self.other = torch.zeros(1)
        self.sgd = torch.optim.SGD([self.t, *self.more], lr=0.1, momentum=0.5)
    def scale(self):
        return (self.t + self.more[0].sum() + self.other).item()
    def go_on(self):
        self.sgd.zero_grad()
        (self.t.square().sum() + self.more[0].square().sum()).backward()
        self.sgd.step()
        self.other = self.other + 0.1


class Private(Kept):
    def begin(self):
        self._steps, self._mean = 0, None
    def scale(self):
        return 1 + 0.1 * self._steps + (self._mean or 0)
    def go_on(self):
        self._steps, self._mean = self._steps + 1, 0.01 * self._steps


class Average:  # DomainBed's MovingAverage, which its Fishr holds in a list
    def __init__(self):
        self.data, self._updates = {}, 0
    def update(self, value):
        self._updates += 1
        self.data["value"] = 0.9 * self.data.get("value", torch.zeros(1)) + 0.1 * value


class Objects(Kept):
    def begin(self):
        self.averages = [Average(), Average()]
    def scale(self):
        return 1 + sum(float(a.data.get("value", 0)) + a._updates for a in self.averages)
    def go_on(self):
        for i, average in enumerate(self.averages):
            average.update(i + 1)


class Scheduled(Kept):
    def begin(self):
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (1 + step))
    def scale(self):
        return 1.0
    def go_on(self):
        self.schedule.step()


class Loose(Kept):  # as TRM
    def begin(self):
        self.layers = [torch.nn.Linear(1, 1) for _ in range(2)]
        self.sgd = [torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.5) for layer in self.layers]
    def scale(self):
        return 1 + sum(layer.weight.item() for layer in self.layers)
    def go_on(self):
        for layer, sgd in zip(self.layers, self.sgd):
            layer.zero_grad()
            layer(torch.ones(1)).square().sum().backward()
            sgd.step()


class SAM(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr))
        self.base_optimizer = torch.optim.Adam(self.param_groups, lr=lr)
        self.param_groups = self.base_optimizer.param_groups
    def step(self):
        self.base_optimizer.step()


class Within(Kept):
    def begin(self):
        self.optimizer = SAM(self.network.parameters(), self.hparams["lr"])
    def scale(self):
        return 1.0
    def go_on(self):
        pass


class Buffers(Kept):  # the first as in GroupDRO
    def begin(self):
        self.register_buffer("q", torch.Tensor())
        self.register_buffer("mean", None)
    def scale(self):
        if not len(self.q):
            self.q = torch.ones(3)
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(2))
        return self.q.sum().item() * self.late.sum().item() + (0 if self.mean is None else self.mean.item())
    def go_on(self):
        self.q, self.late, self.mean = self.q * 0.9, self.late * 1.1, self.q.mean()


class Counts(Kept):
    def begin(self):
        self.seen, self.order = collections.defaultdict(int), collections.OrderedDict()
        self.count = collections.Counter()
        self.deep = collections.defaultdict(lambda: collections.defaultdict(int))
    def scale(self):
        return 1 + 0.01 * (self.seen[1] + len(self.order) + self.count["a"] + self.deep["x"]["y"])
    def go_on(self):
        self.seen[len(self.seen) % 3] += 1
        self.order[len(self.order)] = 1
        self.order.move_to_end(0)
        self.count.update("ab")
        self.deep["x"]["y"] += 1
        self.deep["x"]["z"] += 1
"""


@pytest.mark.parametrize(
    "name", ["Number", "Trained", "Private", "Objects", "Scheduled", "Loose", "Within", "Buffers", "Counts"]
)
def test_what_a_class_keeps_beside_its_weights_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A run that is stopped after its third record, and one that is not: the same records and weights."""
    path = tmp_path / "states.py"
    path.write_text(STATES)
    registry.load_plugin(path)
    averaging = ("swa", "swad:n_converge=1,n_tolerance=1")
    spec = RunSpec("RotatedDigits", name, test_envs=("0",), steps=8, checkpoint_freq=2, averaging=averaging)
    whole = run(spec, tmp_path / "whole")

    save = Course.save

    def stop(course: Course, step: int) -> None:
        save(course, step)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Course, "save", stop)
        run(spec, tmp_path / "half")
    resumed = run(spec, tmp_path / "half")
    assert "go on at step 5" in (tmp_path / "half" / "log.txt").read_text()
    assert (resumed["metrics"], resumed["losses"]) == (whole["metrics"], whole["losses"])
    ours, theirs = (
        torch.load(tmp_path / folder / "weights.pt", weights_only=True)["raw"] for folder in ("half", "whole")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours if not key.endswith("_extra_state"))


def test_a_kind_of_the_constructor_stays_and_shared_objects_are_shared(tmp_path: Path) -> None:
    path = tmp_path / "states.py"
    path.write_text(STATES)
    registry.load_plugin(path)
    half, resumed = (
        cast(domainbed.Adapted, contract.build(registry.find("algorithms", "Number"))) for _ in range(2)
    )
    half.module.both = half.module.again = [1.0]
    half.module.array = np.ones(2)  # not kept, and no hindrance
    half.module.factor *= np.float32(0.9)
    torch.save(half.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert type(resumed.module.factor) is np.float32 and resumed.module.factor == half.module.factor
    assert resumed.module.both is resumed.module.again and not hasattr(resumed.module, "array")
