"""The contract: every method in ``algorithms/`` is held to the same ten promises."""

import copy
import re
from collections import UserDict
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from dgbench import hparams, registry
from dgbench.algorithm import Algorithm, Batch, Problem
from dgbench.dataset import Dataset
from dgbench.spec import RunSpec
from dgbench.train import run

NAMES = registry.names("algorithms")
DOMAINS, ROWS, CLASSES = 3, 8, 4
PROBLEM = Problem((1, 8, 8), CLASSES, DOMAINS, 100, 10, (50,) * DOMAINS, (50,) * DOMAINS, "digits_cnn")


def build(name: str, **chosen: Any) -> Algorithm:
    method = registry.find("algorithms", name)
    hp = Recording(hparams.resolve(method, Dataset, chosen))
    torch.manual_seed(0)
    algorithm = method(PROBLEM, hp)
    algorithm.train()
    return algorithm


class Recording(UserDict):
    """Hyper-parameters that remember which of them were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


def make_batch(step: int = 0) -> Batch:
    r = torch.Generator().manual_seed(step)
    n = DOMAINS * ROWS

    def images() -> torch.Tensor:
        return torch.rand(n, 1, 8, 8, generator=r)

    domain = torch.arange(DOMAINS).repeat_interleave(ROWS)
    return Batch(
        x=images(),
        y=torch.randint(CLASSES, (n,), generator=r),
        d=domain,
        idx=torch.randint(50, (n,), generator=r),
        num_domains=DOMAINS,
        x2=images(),
        u=images(),
        u2=images(),
        ud=domain,
        uidx=torch.randint(50, (n,), generator=r),
    )


def train(algorithm: Algorithm, steps: range) -> list[dict[str, torch.Tensor]]:
    logs = []
    for step in steps:
        torch.manual_seed(step)
        algorithm.step = step
        logs.append(algorithm.update(make_batch(step)))
    return logs


@pytest.mark.parametrize("name", NAMES)
def test_logs_are_finite_detached_scalars(name: str) -> None:
    for logs in train(build(name), range(3)):
        assert "loss" in logs
        for key, value in logs.items():
            assert value.shape == () and not value.requires_grad and torch.isfinite(value), key


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_moves(name: str) -> None:
    algorithm = build(name)
    before = copy.deepcopy(dict(algorithm.named_parameters()))
    train(algorithm, range(4))
    pattern = algorithm.quirks.get("unmoved", "$^")
    still = {key for key, value in algorithm.named_parameters() if torch.equal(value, before[key])}
    assert still == {key for key in before if re.fullmatch(pattern, key)}


@pytest.mark.parametrize("name", NAMES)
def test_shapes(name: str) -> None:
    algorithm = build(name).eval()
    x = make_batch().x
    assert algorithm(x).shape == (len(x), CLASSES)
    assert algorithm.features(x).ndim == 2 and len(algorithm.features(x)) == len(x)


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_does_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    algorithm = build(name)
    if "batch" in algorithm.quirks:
        pytest.skip(algorithm.quirks["batch"])
    train(algorithm, range(2))
    x = make_batch().x
    algorithm.eval()
    torch.testing.assert_close(algorithm(x)[:5], algorithm(x[:5]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_weights(name: str) -> None:
    first, second = build(name), build(name)
    train(first, range(3))
    train(second, range(3))
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_from_its_state(name: str) -> None:
    whole, half, resumed = build(name), build(name), build(name)
    train(whole, range(6))
    train(half, range(3))
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    for optim, saved in zip(resumed.optims, half.optims, strict=True):
        optim.load_state_dict(copy.deepcopy(saved.state_dict()))
    train(resumed, range(3, 6))
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))


@pytest.mark.parametrize("name", NAMES)
def test_declared_hyper_parameters_are_used(name: str) -> None:
    algorithm = build(name)
    train(algorithm, range(3))
    unread = set(algorithm.hparams) - algorithm.hp.read - {"batch_size"}
    pattern = algorithm.quirks.get("unread", "$^")
    assert unread == {key for key in algorithm.hparams if re.fullmatch(pattern, key)}


@pytest.mark.parametrize("name", NAMES)
def test_is_plain_training_at_zero_weight(name: str) -> None:
    """Gradients, not weights after a step: Adam divides the size of a gradient away."""
    method = registry.find("algorithms", name)
    if method.erm_when is None:
        pytest.skip(f"{name} declares no hyper-parameters under which it is plain training")
    algorithm, batch = build(name, **method.erm_when), make_batch()
    plain = copy.deepcopy(algorithm)
    torch.manual_seed(0)
    cross_entropy(plain(batch.x), batch.y).backward()
    torch.manual_seed(0)
    algorithm.update(batch)
    for (key, ours), expected in zip(algorithm.named_parameters(), plain.parameters(), strict=True):
        zeros = torch.zeros_like(ours)
        grad, wanted = (zeros if g is None else g for g in (ours.grad, expected.grad))
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-6, msg=f"{name}: {key}")
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in plain.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_knows_tensors_only(name: str) -> None:
    text = registry.source("algorithms", name).read_text()
    code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    assert not re.findall(r"\.item\(|\.cuda\(|\bprint\(|\bopen\(|\.cpu\(|\bdataset", code)


@pytest.mark.parametrize("name", NAMES)
def test_docstring_says_what_is_coded(name: str) -> None:
    text = registry.source("algorithms", name).read_text()
    title, rest = text.removeprefix('"""').split("\n", 1)
    assert re.fullmatch(rf"{re.escape(name)}: .+ \(.+ \d{{4}}\)\.", title), title
    for part in ("Objective as coded", "Source:", "Differs from the paper:", "arXiv"):
        assert part in rest, part


@pytest.mark.parametrize("name", NAMES)
def test_runs_under_its_tasks(name: str, tmp_path: Any) -> None:
    for task in registry.find("algorithms", name).tasks:
        where = {"source_envs": ("0",)} if task == "single_source" else {"test_envs": ("0",)}
        spec = RunSpec("RotatedDigits", name, task=task, steps=2, **where)
        record = run(spec, tmp_path / task)
        assert record["step"] == 1 and all(
            0 <= v <= 1 for k, v in record["metrics"].items() if k.endswith("/acc")
        )
