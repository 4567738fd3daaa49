"""Classes as they are written for DomainBed run as they are."""

import copy
import io
import json
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from dgbench import contract, domainbed, hparams, registry, train
from dgbench.algorithm import Algorithm, Batch, Problem
from dgbench.dataset import Dataset
from dgbench.errors import UsageError
from dgbench.spec import RunSpec
from dgbench.train import run

torch.set_num_threads(1)

PLUGIN = '''
import copy
import random

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from dgbench.domainbed import ERM, Algorithm, networks


class PlainERM(Algorithm):
    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super(PlainERM, self).__init__(input_shape, num_classes, num_domains, hparams)
        self.featurizer = networks.Featurizer(input_shape, self.hparams)
        self.classifier = networks.Classifier(
            self.featurizer.n_outputs, num_classes, self.hparams['nonlinear_classifier'])
        self.network = nn.Sequential(self.featurizer, self.classifier)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(), lr=self.hparams["lr"], weight_decay=self.hparams['weight_decay'])

    def update(self, minibatches, unlabeled=None):
        all_x = torch.cat([x for x, y in minibatches])
        all_y = torch.cat([y for x, y in minibatches])
        loss = F.cross_entropy(self.predict(all_x), all_y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {'loss': loss.item()}

    def predict(self, x):
        return self.network(x)


class Adversary(ERM):
    """Two optimizers, a counter in a buffer, turns; no key 'loss'."""
    hparams = {'adv_lambda': (0.5, lambda r: 10**r.uniform(-2, 0)), 'mlp_width': 16, 'mlp_depth': 3,
               'mlp_dropout': 0.1}

    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.register_buffer('update_count', torch.tensor([0]))
        self.discriminator = networks.MLP(self.featurizer.n_outputs, num_domains, self.hparams)
        self.disc_opt = torch.optim.Adam(self.discriminator.parameters(), lr=self.hparams['lr'])

    def update(self, minibatches, unlabeled=None):
        self.update_count += 1
        all_x = torch.cat([x for x, y in minibatches])
        all_y = torch.cat([y for x, y in minibatches])
        labels = torch.cat([torch.full((x.shape[0], ), i, dtype=torch.int64, device=x.device)
                            for i, (x, y) in enumerate(minibatches)])
        z = self.featurizer(all_x)
        disc_loss = F.cross_entropy(self.discriminator(z), labels)
        if self.update_count.item() % 2:
            self.disc_opt.zero_grad()
            disc_loss.backward()
            self.disc_opt.step()
            return {'disc_loss': disc_loss.item()}
        loss = F.cross_entropy(self.classifier(z), all_y) - self.hparams['adv_lambda'] * disc_loss
        self.disc_opt.zero_grad()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {'gen_loss': loss.item()}


class Unlabeled(ERM):
    """Also makes predictions on unlabelled images certain."""
    needs = ("unlabelled",)

    def update(self, minibatches, unlabeled=None):
        all_x = torch.cat([x for x, y in minibatches])
        all_y = torch.cat([y for x, y in minibatches])
        p = self.predict(torch.cat(unlabeled)).softmax(1)
        entropy = -(p * p.log()).sum(1).mean()
        loss = F.cross_entropy(self.predict(all_x), all_y) + entropy
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seen = [len(u) for u in unlabeled]
        return {'loss': loss, 'entropy': entropy.item(), 'images': sum(self.seen), 'share': np.float64(0.5)}


class Annealed(ERM):
    """Makes its optimizer anew, counts in attributes, mixes with numpy's and Python's numbers."""
    hparams = {'anneal': 3}

    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.count, self.drawn = 0, (random.random(), np.random.rand())
        self.average = {'loss': torch.zeros(()), 'of': [0, 0.0, None, 'x']}

    def update(self, minibatches, unlabeled=None):
        if self.count == self.hparams['anneal']:
            self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.hparams['lr'] / 10)
        lam = np.random.beta(0.5, 0.5) * random.random()
        (x, y), (x2, y2) = minibatches[:2]
        o = self.predict(lam * x + (1 - lam) * x2)
        loss = lam * F.cross_entropy(o, y) + (1 - lam) * F.cross_entropy(o, y2)
        self.average['loss'] = 0.9 * self.average['loss'] + loss.detach()
        loss = loss * self.average['loss']
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.count += 1
        return {'loss': loss.item()}


class Meta(ERM):
    """A clone and its optimizer live in attributes that only update() makes; the state is carried over."""

    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__(input_shape, num_classes, num_domains, hparams)
        self.inner_state = None

    def update(self, minibatches, unlabeled=None):
        self.inner = copy.deepcopy(self.network)
        self.inner_opt = torch.optim.Adam(self.inner.parameters(), lr=self.hparams['lr'])
        if self.inner_state is not None:
            self.inner_opt.load_state_dict(self.inner_state)
        for x, y in minibatches:
            loss = F.cross_entropy(self.inner(x), y)
            self.inner_opt.zero_grad()
            loss.backward()
            self.inner_opt.step()
        self.inner_state = self.inner_opt.state_dict()
        for p, q in zip(self.network.parameters(), self.inner.parameters()):
            p.data.lerp_(q.data, 0.5)
        return {'loss': loss.item()}


class Context(ERM):
    """As ARM: the backbone gets one more channel than the images have."""

    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__((1 + input_shape[0],) + input_shape[1:], num_classes, num_domains, hparams)

    def predict(self, x):
        return self.network(torch.cat([x, x.mean(1, keepdim=True)], dim=1))


class Undeclared(ERM):
    def update(self, minibatches, unlabeled=None):
        return {'loss': self.hparams['mmd_gamma']}


class Duck(nn.Module):
    """Extends no class of dgbench."""
    hparams = {'scale': 2.0}

    def __init__(self, input_shape, num_classes, num_domains, hparams):
        super().__init__()
        features = int(np.prod(input_shape))
        self.layer = nn.Sequential(nn.BatchNorm1d(features), nn.Linear(features, num_classes))
        self.optimizers_by_name = {'all': [torch.optim.SGD(self.parameters(), lr=hparams['lr'])]}

    def update(self, minibatches, unlabeled=None):
        x, y = minibatches[0]
        loss = F.cross_entropy(self.predict(x), y)
        self.zero_grad()
        loss.backward()
        self.optimizers_by_name['all'][0].step()
        return {'loss': loss.item()}

    def predict(self, x):
        return self.layer(x.flatten(1))


class AbstractWithOneMore(ERM):
    """Not a method: its constructor wants more."""
    def __init__(self, input_shape, num_classes, num_domains, hparams, kernel):
        super().__init__(input_shape, num_classes, num_domains, hparams)
'''

NAMES = ("PlainERM", "Adversary", "Unlabeled", "Annealed", "Meta", "Context", "Duck")
DOMAINS, ROWS, CLASSES = 3, 8, 4
PROBLEM = Problem((1, 8, 8), CLASSES, DOMAINS, 100, 10, (50,) * DOMAINS, (50,) * 2, "digits_cnn")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "mine.py"
    path.write_text(PLUGIN)
    return path


def build(plugin: Path, name: str, **chosen: Any) -> Algorithm:
    registry.load_plugin(f"{plugin}:{name}")
    method = registry.find("algorithms", name)
    torch.manual_seed(0)
    return method(PROBLEM, hparams.resolve(method, Dataset, chosen)).train()  # type: ignore[call-arg]


def make_batch(step: int) -> Batch:
    r = torch.Generator().manual_seed(step)
    n = DOMAINS * ROWS
    return Batch(
        x=torch.rand(n, 1, 8, 8, generator=r),
        y=torch.randint(CLASSES, (n,), generator=r),
        d=torch.arange(DOMAINS).repeat_interleave(ROWS),
        idx=torch.arange(n),
        num_domains=DOMAINS,
        u=torch.rand(12, 1, 8, 8, generator=r),
        ud=torch.arange(2).repeat_interleave(6),
        num_unlabelled=2,
    )


def updates(algorithm: Algorithm, steps: range) -> list[dict[str, torch.Tensor]]:
    logs = []
    for algorithm.step in steps:
        torch.manual_seed(algorithm.step)
        logs.append(algorithm.update(make_batch(algorithm.step)))
    return logs


def test_a_constructor_that_draws_is_the_same_in_every_process(plugin: Path) -> None:
    drawn = []
    for other in (1, 2):
        random.seed(other)
        np.random.seed(other)
        drawn.append(cast(domainbed.Adapted, build(plugin, "Annealed")).module.drawn)
    assert drawn[0] == drawn[1]


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_is_the_same_run_as_ours(plugin: Path, tmp_path: Path) -> None:
    """DomainBed's ERM and dgbench's: every number of the records, bit for bit."""
    registry.load_plugin(plugin)
    records = [
        run(RunSpec("RotatedDigits", name, test_envs=("0",), steps=4), tmp_path / name)
        for name in ("PlainERM", "ERM")
    ]
    assert records[0]["metrics"] == records[1]["metrics"]
    assert records[0]["losses"] == records[1]["losses"]


@pytest.mark.parametrize("name", NAMES)
def test_logs_are_finite_detached_scalars(plugin: Path, name: str) -> None:
    for logs in updates(build(plugin, name), range(3)):
        assert "loss" in logs
        for value in logs.values():
            assert value.shape == () and not value.requires_grad and torch.isfinite(value)


@pytest.mark.parametrize("name", NAMES)
def test_trains_and_predicts(plugin: Path, name: str) -> None:
    algorithm = build(plugin, name)
    before = copy.deepcopy(dict(algorithm.named_parameters()))
    updates(algorithm, range(2))
    now = dict(algorithm.named_parameters())
    assert now.keys() == before.keys()  # averages rely on it
    assert not any(torch.equal(now[key], before[key]) for key in now)
    x = make_batch(0).x
    assert algorithm.eval()(x).shape == (len(x), CLASSES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [2, 4])
def test_goes_on_from_its_checkpoint(plugin: Path, name: str, at: int) -> None:
    whole, half, resumed = (build(plugin, name) for _ in range(3))
    updates(whole, range(6))
    updates(half, range(at))
    resumed.load_state_dict(through_a_file(half.state_dict()))
    for optim, saved in zip(resumed.optims, half.optims, strict=True):
        optim.load_state_dict(through_a_file(saved.state_dict()))
    updates(resumed, range(at, 6))
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))
    assert all(isinstance(value, torch.Tensor) for value in whole.state_dict().values())


@pytest.mark.parametrize(
    "name, count", [("PlainERM", 1), ("Adversary", 2), ("Annealed", 1), ("Meta", 1), ("Duck", 1)]
)
def test_finds_the_optimizers(plugin: Path, name: str, count: int) -> None:
    algorithm = build(plugin, name)
    for step in range(5):
        assert len(algorithm.optims) == len(set(map(id, algorithm.optims))) == count
        updates(algorithm, range(step, step + 1))
    if name == "Annealed":  # the one in use, not the one from the constructor
        assert algorithm.optims[0].param_groups[0]["lr"] == pytest.approx(algorithm.hp["lr"] / 10)


def test_unlabelled_images(plugin: Path) -> None:
    algorithm: Any = build(plugin, "Unlabeled")
    assert algorithm.needs == ("unlabelled",) and "domain_adaptation" in algorithm.tasks
    (logs,) = updates(algorithm, range(1))
    assert algorithm.module.seen == [6, 6] and logs["images"] == 12 and logs["share"] == 0.5


def test_values_without_the_key_loss(plugin: Path) -> None:
    first, second = updates(build(plugin, "Adversary"), range(2))
    assert first["loss"] == first["disc_loss"] and second["loss"] == second["gen_loss"]


def test_the_contract_takes_what_domainbeds_own_classes_do(tmp_path: Path) -> None:
    """Fish has no featurizer; parts of DANN and ARM never train, which a class may declare."""
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\n"
        "from dgbench.domainbed import ERM\n\n\n"
        "class NoFeatures(ERM):\n"
        "    quirks = {'unmoved': r'module\\.unused\\..*'}\n\n"
        "    def __init__(self, *arguments):\n"
        "        super().__init__(*arguments)\n"
        "        self.unused = torch.nn.Embedding(2, 2)\n"
        "        del self.featurizer\n"
    )
    (method,) = cast(list[type[Algorithm]], registry.load_plugin(path))
    reason = contract.features_and_logits_have_their_shapes(method)
    assert reason == "NoFeatures has no attribute featurizer, so it gives no features"
    assert contract.every_parameter_moves(method) is None
    assert contract.keeps_to_its_device(method) == domainbed.Adapted.quirks["device"]


def test_pretrained_weights_are_hashed(plugin: Path) -> None:
    """The record names them by the featurizer, or by the whole class if it has none of that name."""
    for name in ("PlainERM", "Duck"):
        algorithm: Any = build(plugin, name)
        assert algorithm.featurizer is getattr(algorithm.module, "featurizer", algorithm.module)


def test_features(plugin: Path) -> None:
    x = make_batch(0).x
    algorithm: Any = build(plugin, "PlainERM")
    assert torch.equal(algorithm.features(x), algorithm.module.featurizer(x))
    with pytest.raises(UsageError, match="Duck has no attribute featurizer"):
        build(plugin, "Duck").features(x)


def test_hyper_parameters(plugin: Path) -> None:
    registry.load_plugin(plugin)
    method = registry.find("algorithms", "Adversary")
    assert hparams.resolve(method, Dataset, {})["adv_lambda"] == 0.5
    assert hparams.resolve(method, Dataset, {"mlp_width": 8})["mlp_width"] == 8
    with pytest.raises(UsageError, match="unknown hyper-parameter of Adversary 'mlp_widht'; did you mean"):
        hparams.resolve(method, Dataset, {"mlp_widht": 8})
    algorithm: Any = build(plugin, "Adversary", mlp_width=8)
    assert algorithm.module.discriminator[0].out_features == 8
    assert algorithm.module.hparams["resnet18"] is False and algorithm.module.hparams["batch_size"] == 32


def test_hyper_parameters_on_a_data_set_have_the_same_form() -> None:
    class Method(domainbed.ERM):
        hparams = {"gamma": 1.0, "beta": 1.0}
        hparams_on = {"RotatedDigits": {"gamma": 2.0, "beta": (3.0, lambda r: 10.0)}}

    method = domainbed.adapt(Method)
    dataset = registry.find("datasets", "RotatedDigits")
    assert hparams.resolve(method, Dataset, {})["gamma"] == 1
    assert hparams.resolve(method, dataset, {})["gamma"] == 2
    assert hparams.resolve(method, dataset, {}, hparams_seed=1)["beta"] == 10


def test_a_function_draws_what_domainbed_draws() -> None:
    """IRM's two, as its registry writes them, against its own draws."""

    class Method(domainbed.ERM):
        hparams = {
            "irm_lambda": (1e2, lambda r: 10 ** r.uniform(-1, 5)),
            "irm_penalty_anneal_iters": (500, lambda r: int(10 ** r.uniform(0, 4))),
        }

    drawn = json.loads((Path(__file__).parent / "golden" / "domainbed" / "hparams.json").read_text())
    for seeds in ((0, 0), (1, 0), (2, 1)):
        ours = hparams.resolve(domainbed.adapt(Method), Dataset, {}, *seeds)
        expected = drawn[f"IRM|PACS|{seeds[0]}|{seeds[1]}"]
        assert {name: ours[name] for name in Method.hparams} == {
            name: expected[name] for name in Method.hparams
        }


def test_an_undeclared_hyper_parameter_is_explained(plugin: Path) -> None:
    with pytest.raises(
        UsageError, match=r"Undeclared reads the hyper-parameter 'mmd_gamma' .* choose from: .*lr"
    ):
        updates(build(plugin, "Undeclared"), range(1))


def test_a_file_registers_all_its_methods(plugin: Path) -> None:
    found = {cls.__name__ for cls in registry.load_plugin(plugin)}
    assert found == {*NAMES, "Undeclared"}
    assert found <= set(registry.names("algorithms"))
    assert registry.source("algorithms", "PlainERM") == plugin


def test_one_class_of_a_file(plugin: Path) -> None:
    assert [cls.__name__ for cls in registry.load_plugin(f"{plugin}:Duck")] == ["Duck"]
    assert "PlainERM" not in registry.names("algorithms")
    with pytest.raises(UsageError, match=r"unknown class of the plugin .*'Dcuk'; did you mean Duck"):
        registry.load_plugin(f"{plugin}:Dcuk")
    with pytest.raises(UsageError, match="no plugin file"):
        registry.load_plugin(f"{plugin.parent / 'other.py'}:Duck")


def test_a_copied_base_class_needs_no_registration(tmp_path: Path) -> None:
    """A file that also holds DomainBed's own ERM: naming the class leaves the rest alone."""
    path = tmp_path / "copied.py"
    path.write_text(PLUGIN.replace("class Duck", "class PCL"))
    with pytest.raises(UsageError, match=r"redefines the algorithm PCL; .*FILE\.py:Class"):
        registry.load_plugin(path)
    registry.load_plugin(f"{path}:Adversary")


def test_a_constructor_of_any_form_that_takes_the_four_arguments(tmp_path: Path) -> None:
    """A base class that needs more of its subclasses is no method."""
    path = tmp_path / "forms.py"
    path.write_text(
        "from dgbench.domainbed import ERM\n"
        "class Stars(ERM):\n    def __init__(self, *a, **k): super().__init__(*a, **k)\n"
        "class Base(ERM):\n    def __init__(self, i, c, d, h, gaussian): super().__init__(i, c, d, h)\n"
        "class Named(Base):\n    def __init__(self, *a, gaussian=True): super().__init__(*a, gaussian)\n"
    )
    assert [cls.__name__ for cls in registry.load_plugin(path)] == ["Stars", "Named"]
    updates(build(path, "Stars"), range(1))
    with pytest.raises(UsageError, match=r"unknown class .*'Base'"):
        registry.load_plugin(f"{path}:Base")


@pytest.mark.parametrize("name", ["Adversary", "Meta", "Duck"])
def test_command(plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """With averages, which hold every parameter of the class."""
    flags = f"--dataset RotatedDigits --algorithm {name} --test_envs 0 --steps 5 --checkpoint_freq 2"
    arguments = ["--plugin", f"{plugin}:{name}", "--output_dir", str(tmp_path / "run"), "--averaging", "swad"]
    train.main([*flags.split(), *arguments])
    assert "step 4" in capsys.readouterr().out
    weights = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)
    assert set(weights) == {"raw", "swad"}
