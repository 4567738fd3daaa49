"""Every method in ``algorithms/`` keeps the contract, and a method that breaks it is caught."""

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dgbench import check, contract, registry
from dgbench.algorithm import Algorithm
from dgbench.algorithms.erm import ERM
from dgbench.hparams import Choice, Option

NAMES = registry.names("algorithms")


@pytest.mark.parametrize("promise", contract.PROMISES)
@pytest.mark.parametrize("name", NAMES)
def test_contract(name: str, promise: str) -> None:
    reason = contract.PROMISES[promise](registry.find("algorithms", name))
    if reason is not None:
        pytest.skip(f"{name}: {reason}")


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_what_is_coded(name: str) -> None:
    text = registry.source("algorithms", name).read_text()
    title, rest = text.removeprefix('"""').split("\n", 1)
    assert re.fullmatch(rf"{re.escape(name)}: .+ \(.+ \d{{4}}\)\.", title), title
    for part in ("Objective as coded", "Source:", "Differs from the paper:", "arXiv"):
        assert part in rest, part


class Logs(ERM):
    def loss(self, batch):
        loss, _ = super().loss(batch)
        return loss, {"accuracy": batch.y.float()}


class Stuck(ERM):
    def __init__(self, problem, hp):
        super().__init__(problem, hp)
        self.unused = nn.Linear(2, 2)


class Flat(ERM):
    def features(self, x):
        return super().features(x)[:, :, None]

    def forward(self, x):
        return self.classifier(self.featurizer(x))


class Pooled(ERM):
    def forward(self, x):
        return self.classifier(self.features(x) - self.features(x).mean(0))


class Clock(ERM):
    calls = 0

    def loss(self, batch):
        Clock.calls += 1
        loss, logs = super().loss(batch)
        return loss * (1 + Clock.calls), logs


class Forgets(ERM):
    ema = 0.0

    def loss(self, batch):
        loss, logs = super().loss(batch)
        self.ema = 0.9 * self.ema + loss.detach()
        return loss * self.ema, logs


class Unread(ERM):
    hparams = {"weight": (1.0, None)}


class Illegal(ERM):
    hparams = {"mode": ("a", Option(("b",)))}

    def loss(self, batch):
        assert self.hp["mode"]
        return super().loss(batch)


class Misspelt(ERM):
    hparams_on = {"Pacs": {"lr": (1e-4, None)}}


class Elsewhere(ERM):
    hparams_on = {"PACS": {"temperature": (2.0, None)}}


class NotPlain(ERM):
    hparams = {"temperature": (2.0, Choice((1.0, 2.0)))}
    erm_when = {"temperature": 2.0}

    def loss(self, batch):
        return cross_entropy(self(batch.x) * self.hp["temperature"], batch.y), {}


class Prints(ERM):
    def loss(self, batch):
        loss, logs = super().loss(batch)
        return loss + 0 * loss.item(), logs


class Mixes(ERM):
    """Its table is no buffer, so it stays where it was made."""

    def __init__(self, problem, hp):
        super().__init__(problem, hp)
        self.table = torch.ones(problem.num_classes, problem.num_classes)

    def loss(self, batch):
        return cross_entropy(self(batch.x) @ self.table, batch.y), {}


class Waits(ERM):
    def loss(self, batch):
        loss, logs = super().loss(batch)
        return (loss, logs) if loss > 0 else (2 * loss, logs)


class LogsElsewhere(ERM):
    def loss(self, batch):
        loss, logs = super().loss(batch)
        return loss, logs | {"rate": torch.rand(())}


class Peeks(ERM):
    """Reads the data set behind the trainer's back."""

    def loss(self, batch):
        held = next(f.frame.f_locals["built"] for f in inspect.stack() if "built" in f.frame.f_locals)
        target = held.split.evaluated["0/in"].domain
        loss, logs = super().loss(batch)
        return loss * (1 + torch.tensor(target.images).float().mean()), logs


class Fails(ERM):
    def loss(self, batch):
        if batch.x.shape[0] != contract.DOMAINS * contract.ROWS:
            raise RuntimeError("only this batch")
        return super().loss(batch)


BREAKS: dict[type[Algorithm], Callable] = {
    Mixes: contract.keeps_to_its_device,
    Waits: contract.keeps_to_its_device,
    LogsElsewhere: contract.keeps_to_its_device,
    Logs: contract.logs_are_finite_detached_scalars,
    Stuck: contract.every_parameter_moves,
    Flat: contract.features_and_logits_have_their_shapes,
    Pooled: contract.evaluation_does_not_depend_on_the_rest_of_the_batch,
    Clock: contract.same_seed_same_weights,
    Forgets: contract.goes_on_from_its_state,
    Unread: contract.declared_hyper_parameters_are_used,
    Illegal: contract.hyper_parameters_are_legal,
    Misspelt: contract.hyper_parameters_are_legal,
    Elsewhere: contract.hyper_parameters_are_legal,
    NotPlain: contract.is_plain_training_where_it_says_so,
    Prints: contract.knows_tensors_only,
    Peeks: contract.what_is_hidden_changes_nothing,
    Fails: contract.runs_under_its_tasks,
}


@pytest.mark.parametrize("method", BREAKS, ids=lambda m: m.__name__)
def test_a_broken_promise_is_caught(method: type[Algorithm]) -> None:
    assert set(BREAKS.values()) == set(contract.PROMISES.values())
    with pytest.raises(Exception) as caught:
        BREAKS[method](method)
    assert method is Fails or method is Illegal or isinstance(caught.value, contract.Broken)


@pytest.mark.slow
def test_the_card_of_a_good_and_of_a_broken_method(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.py"
    good.write_text("from dgbench.algorithms.erm import ERM\n\n\nclass Good(ERM):\n    pass\n")
    assert check.main([str(good)]) == 0
    text = capsys.readouterr().out
    assert "BROKEN" not in text and "learns" in text and "update / ERM's update" in text
    bad = tmp_path / "bad.py"
    bad.write_text(
        good.read_text().replace("Good", "Bad").replace("    pass", "    hparams = {'w': (1.0, None)}")
    )
    assert check.main([str(bad)]) == 1
    assert "declared and never read: ['w']" in capsys.readouterr().out
    late = tmp_path / "late.py"
    late.write_text(good.read_text().replace("Good", "Late").replace("    pass", LATE))
    assert check.main([str(late)]) == 1
    text = capsys.readouterr().out
    assert "runs under its tasks" in text and "ValueError: too late" in text
    hashed = tmp_path / "hashed.py"
    hashed.write_text(good.read_text().replace("Good", "Hashed").replace("    pass", HASHED))
    with pytest.raises(contract.Broken, match="weights depend on PYTHONHASHSEED"):
        check.other_processes(str(hashed), *check.find(str(hashed)))


HASHED = """    def loss(self, batch):
        order = list({"first", "second", "third", "fourth", "fifth"})
        loss, logs = super().loss(batch)
        return loss * (1 + order.index("first")), logs"""
LATE = """    def loss(self, batch):
        if self.step > 8:
            raise ValueError("too late")
        return super().loss(batch)"""
