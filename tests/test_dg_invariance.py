"""Methods that compare risks, gradients or features between domains, against DomainBed's numbers."""

import copy
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close, documents
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgbench import hparams, registry
from dgbench.algorithm import Algorithm, Batch, Problem
from dgbench.algorithms.eqrm import quantile
from dgbench.algorithms.transfer import Transfer
from dgbench.algorithms.trm import TRM, fit
from dgbench.dataset import Dataset
from dgbench.losses.alignment import coral, mmd, pair_mean
from dgbench.losses.contrastive import proxy_contrastive
from dgbench.losses.penalties import domain_risks, irm_penalty
from dgbench.losses.sets import set_means, set_variances

torch.set_num_threads(1)

METHODS = ["CORAL", "CausIRL_CORAL", "CausIRL_MMD", "EQRM", "GroupDRO", "IB_ERM", "IB_IRM", "IRM", "MMD"]
METHODS += ["RDM", "SD", "TRM", "Transfer", "VREx"]


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0]).double()
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def build(name: str, classifier: nn.Linear, domains: int, **chosen: Any) -> Algorithm:
    """The method on features: no featurizer, a linear classifier, float64, weights that do not move."""
    method = registry.find("algorithms", name)
    hp = hparams.resolve(method, Dataset, {"lr": 0.0, **chosen})
    problem = Problem((1, 8, 8), classifier.out_features, domains, 100, 10, backbone="digits_cnn")
    algorithm = method(problem, hp).double()
    algorithm.featurizer, algorithm.classifier = nn.Identity(), classifier
    return algorithm


def make_batch(x: list[Tensor], y: list[Tensor]) -> Batch:
    sizes = torch.tensor([len(rows) for rows in x])
    d = torch.arange(len(x)).repeat_interleave(sizes)
    return Batch(torch.cat(x), torch.cat(y), d, torch.arange(len(d)), len(x))


class Inputs:
    """The domains of a case as leaves, and its classifier: logits pass through the identity."""

    def __init__(self, case: Case, prefix: str = "") -> None:
        self.case, self.prefix = case, prefix
        self.x = [case.x(name, grad=True) for name in case.domains(f"{prefix}x")]
        self.batch = make_batch(self.x, [case.x(name) for name in case.domains(f"{prefix}y")])
        width = self.x[0].shape[1]
        eye = torch.eye(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
        self.classifier = linear(*((case.x("W"), case.x("b")) if "W" in case.inputs else eye))

    def build(self, name: str, **chosen: Any) -> Algorithm:
        return build(name, self.classifier, len(self.x), **chosen)

    def check_gradients(self, rtol: float = 1e-8) -> None:
        out = self.case.outputs
        for i, x in enumerate(self.x):
            close(x.grad, out[f"{self.prefix}g_x{i}"], rtol)
        for name, param in (("g_W", self.classifier.weight), ("g_b", self.classifier.bias)):
            if name in out:
                close(param.grad, out[name], rtol)


def toy(sizes: tuple[int, ...] = (6, 4, 5), width: int = 7, classes: int = 3, seed: int = 0) -> Batch:
    r = torch.Generator().manual_seed(seed)
    x = [torch.randn(n, width, generator=r, dtype=torch.float64) * (i + 1) + i for i, n in enumerate(sizes)]
    return make_batch(x, [torch.randint(classes, (n,), generator=r) for n in sizes])


def toy_linear(width: int = 7, classes: int = 3, seed: int = 1) -> nn.Linear:
    r = torch.Generator().manual_seed(seed)
    return linear(
        torch.randn(classes, width, generator=r, dtype=torch.float64),
        torch.randn(classes, generator=r, dtype=torch.float64),
    )


# hyper-parameters

SMALL = ("RotatedMNIST", "ColoredMNIST")


@pytest.mark.golden
@pytest.mark.parametrize("draws", documents("domainbed", "hparams"))
@pytest.mark.parametrize("name", METHODS)
def test_hyper_parameters_are_domainbeds(name: str, draws: dict[str, dict[str, Any]]) -> None:
    shared = set(draws["ERM|PACS|0|0"])
    method = registry.find("algorithms", name)
    for key, expected in draws.items():
        if key.split("|")[0] != name:
            continue
        _, where, hparams_seed, trial_seed = key.split("|")
        small = hparams.SMALL_IMAGES if where in SMALL else {}
        known = where in registry.names("datasets")
        dataset = registry.find("datasets", where) if known else type(where, (Dataset,), {"hparams": small})
        ours = hparams.resolve(method, dataset, {}, int(hparams_seed), int(trial_seed))
        both = set(ours) & set(expected)
        assert {n: ours[n] for n in both} == {n: expected[n] for n in both}, key
        assert not set(expected) - shared - set(ours)


# values and gradients of DomainBed


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "irm"))
def test_irm(case: Case) -> None:
    inputs, hp, out = Inputs(case), case.hp, case.outputs
    algorithm = inputs.build("IRM", irm_lambda=hp["lambda"], irm_penalty_anneal_iters=hp["anneal"])
    algorithm.step = hp["update_count"]
    logs, batch = algorithm.update(inputs.batch), inputs.batch
    close(logs["loss"], out["loss"])
    close(logs["penalty"], out["penalty"])
    close(logs["nll"], out["nll_mean"])
    close(domain_risks(batch.x, batch.y, batch.members), out["env_nll"])
    for i in range(batch.num_domains):
        close(irm_penalty(batch.x, batch.y, batch.members[i : i + 1]), out[f"pen_env{i}"])
    inputs.check_gradients()


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "vrex"))
def test_vrex(case: Case) -> None:
    inputs, hp, out = Inputs(case), case.hp, case.outputs
    algorithm = inputs.build("VREx", vrex_lambda=hp["lambda"], vrex_penalty_anneal_iters=hp["anneal"])
    algorithm.step = hp["update_count"]
    logs = algorithm.update(inputs.batch)
    close(logs["loss"], out["loss"])
    close(logs["penalty"], out["penalty"])
    close(logs["nll"], out["nll_mean"])
    inputs.check_gradients()


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "sd"))
def test_sd(case: Case) -> None:
    inputs, out = Inputs(case), case.outputs
    logs = inputs.build("SD", sd_reg=case.hp["sd_reg"]).update(inputs.batch)
    close(logs["loss"], out["objective"])
    close(logs["penalty"], out["penalty"])
    close(logs["nll"], out["nll"])
    inputs.check_gradients()


def check_groupdro(case: Case, divide: bool) -> None:
    first = Inputs(case, "t0_")
    chosen = {"groupdro_eta": case.hp["eta"], "groupdro_divide": divide}
    algorithm = first.build("GroupDRO", **chosen)
    for k in range(len({name.split("_")[0] for name in case.inputs})):
        prefix = f"t{k}_"
        inputs = Inputs(case, prefix)
        logs = algorithm.update(inputs.batch)
        close(logs["loss"], case.outputs[f"{prefix}loss"])
        close(algorithm.q, case.outputs[f"{prefix}q"])
        inputs.check_gradients()


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "groupdro"))
def test_groupdro(case: Case) -> None:
    check_groupdro(case, divide=False)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "groupdro_swadrepo"))
def test_groupdro_divided_by_the_number_of_domains(case: Case) -> None:
    check_groupdro(case, divide=True)


ALIGNMENT = [pytest.param("CORAL", *p.values, id=p.id) for p in cases("dg", "coral")]
ALIGNMENT += [pytest.param("MMD", *p.values, id=p.id) for p in cases("dg", "mmd")]


@pytest.mark.golden
@pytest.mark.parametrize(("name", "case"), ALIGNMENT)
def test_alignment(name: str, case: Case) -> None:
    inputs, out = Inputs(case), case.outputs
    algorithm = inputs.build(name, mmd_gamma=case.hp["mmd_gamma"])
    gaps = algorithm.distance(inputs.batch.x, inputs.batch.members)
    for i in range(len(inputs.x)):
        for j in range(i + 1, len(inputs.x)):
            close(gaps[i, j], out[f"pair_{i}_{j}"])
    for i, grad in enumerate(torch.autograd.grad(pair_mean(gaps), inputs.x, retain_graph=True)):
        close(grad, out[f"gpen_x{i}"])
    single = pair_mean(algorithm.distance(inputs.batch.x.float(), inputs.batch.members))
    close(single, out["penalty_f32"], *((1e-4, 1e-5) if name == "CORAL" else (1e-3, 1e-5)))
    logs = algorithm.update(inputs.batch)
    close(logs["penalty"], out["penalty"])
    close(logs["nll"], out["nll"])
    close(logs["loss"], out["total"])
    inputs.check_gradients()


CAUSIRL = [pytest.param("CausIRL_CORAL", *p.values, id=p.id) for p in cases("dg", "causirl_coral")]
CAUSIRL += [pytest.param("CausIRL_MMD", *p.values, id=p.id) for p in cases("dg", "causirl_mmd")]


@pytest.mark.golden
@pytest.mark.parametrize(("name", "case"), CAUSIRL)
def test_causirl(name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, out = Inputs(case), case.outputs
    algorithm = inputs.build(name, mmd_gamma=case.hp["mmd_gamma"])
    monkeypatch.setattr(algorithm, "cuts", lambda batch: case.x("cut"))
    logs = algorithm.update(inputs.batch)
    close(logs["nll"], out["nll"])
    close(logs["penalty"], out["penalty"])
    close(logs["loss"], out["nll"] + case.hp["mmd_gamma"] * out["penalty"])
    inputs.check_gradients()


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "ib_erm"))
def test_ib_erm(case: Case) -> None:
    inputs, hp, out = Inputs(case), case.hp, case.outputs
    names = ("ib_lambda", "ib_penalty_anneal_iters")
    algorithm = inputs.build("IB_ERM", **{name: hp[name] for name in names})
    algorithm.step = hp["update_count"]
    logs = algorithm.update(inputs.batch)
    close(logs["loss"], out["loss"])
    close(logs["ib_penalty"], out["IB_penalty"])
    inputs.check_gradients()


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "ib_irm"))
def test_ib_irm(case: Case) -> None:
    inputs, hp, out = Inputs(case), case.hp, case.outputs
    names = ("ib_lambda", "ib_penalty_anneal_iters", "irm_lambda", "irm_penalty_anneal_iters")
    algorithm = inputs.build("IB_IRM", **{name: hp[name] for name in names})
    algorithm.step = hp["update_count"]
    logs = algorithm.update(inputs.batch)
    close(logs["loss"], out["loss"])
    close(logs["ib_penalty"], out["IB_penalty"])
    close(logs["irm_penalty"], out["IRM_penalty"])
    inputs.check_gradients()


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "eqrm"))
def test_eqrm(case: Case) -> None:
    inputs, hp, out = Inputs(case), case.hp, case.outputs
    batch, late = inputs.batch, hp["update_count"] >= hp["burnin"]
    algorithm = inputs.build(
        "EQRM", eqrm_quantile=hp["quantile"], eqrm_burnin_iters=hp["burnin"], eqrm_lr=0.0
    )
    algorithm.step = hp["update_count"]
    logs = algorithm.update(batch)
    close(domain_risks(batch.x, batch.y, batch.members), out["env_risks"])
    close(logs["loss"], out["loss"], 1e-6 if late else 1e-8)
    inputs.check_gradients(1e-6 if late else 1e-8)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "rdm"))
def test_rdm(case: Case) -> None:
    inputs, hp, out = Inputs(case), case.hp, case.outputs
    algorithm = inputs.build(
        "RDM",
        rdm_lambda=hp["rdm_lambda"],
        rdm_penalty_anneal_iters=hp["anneal"],
        variance_weight=hp["variance_weight"],
        rdm_lr=0.0,
    )
    algorithm.step = hp["update_count"]
    logs = algorithm.update(inputs.batch)
    close(logs["loss"], out["total_loss"], 1e-6)
    close(logs["nll"], out["erm_loss"], 1e-6)
    close(logs["matching_penalty"], out["matching_penalty"], 1e-6)
    close(logs["variance_penalty"], out["variance_penalty"], 1e-6)
    inputs.check_gradients(1e-6)


# the shared functions, one set and one pair at a time


def test_means_and_variances_of_sets_that_overlap() -> None:
    z = toy().x
    members = torch.rand(4, len(z), generator=torch.Generator().manual_seed(3)) < 0.5
    members[3] = torch.arange(len(z)) == 2
    for s in range(3):
        close(set_means(z, members)[s], z[members[s]].mean(0))
        close(set_variances(z, members)[s], z[members[s]].var(0))
    close(set_means(z[:, 0], members)[3], z[2, 0])
    assert set_variances(z, members)[3].eq(0).all()
    assert set_means(z, members & False).eq(0).all()


def test_coral_is_the_gap_of_means_and_covariances() -> None:
    batch = toy()
    domains = [batch.x[batch.d == e].numpy() for e in range(3)]
    gaps = coral(batch.x, batch.members)
    for a in range(3):
        for b in range(3):
            means = domains[a].mean(0) - domains[b].mean(0)
            covariances = np.cov(domains[a].T) - np.cov(domains[b].T)
            close(gaps[a, b], (means**2).mean() + (covariances**2).mean())
    close(pair_mean(gaps), (gaps[0, 1] + gaps[0, 2] + gaps[1, 2]) / 3)
    assert pair_mean(coral(batch.x, torch.ones(1, len(batch.x), dtype=torch.bool))) == 0


def test_mmd_is_the_gap_of_kernel_means() -> None:
    batch, gammas = toy(), (0.01, 0.5)
    gaps = mmd(batch.x, batch.members, gammas)

    def kernel(a: int, b: int) -> float:
        values = [
            sum(math.exp(-gamma * float((x - y).square().sum())) for gamma in gammas)
            for x in batch.x[batch.d == a]
            for y in batch.x[batch.d == b]
        ]
        return sum(values) / len(values)

    for a in range(3):
        for b in range(3):
            close(gaps[a, b], kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))


@pytest.mark.parametrize("distance", [coral, mmd])
def test_distance_of_equal_domains_is_zero_with_zero_gradient(distance: Any) -> None:
    x = toy((5,)).x
    batch = make_batch([x, x.flip(0)], [torch.zeros(5, dtype=torch.long)] * 2)
    z = batch.x.requires_grad_()
    gap = pair_mean(distance(z, batch.members))
    (grad,) = torch.autograd.grad(gap, z)
    close(gap, 0, atol=1e-12)
    close(grad, np.zeros(grad.shape), atol=1e-9)


def pcl(z: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """The domains as classes, their first rows as proxies."""
    labels = members.int().argmax(0)
    return proxy_contrastive(z, labels, z[members.int().argmax(1)])


@pytest.mark.parametrize("function", [coral, mmd, set_variances, pcl])
def test_autocast_does_not_round(function: Any) -> None:
    batch = toy()
    z = batch.x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        under = function(z, batch.members)
    assert under.dtype == torch.float32
    close(under, function(z.double(), batch.members), rtol=1e-4, atol=1e-5)


def test_group_dros_weights_are_not_rounded_under_autocast() -> None:
    batch = toy()
    algorithm = build("GroupDRO", toy_linear(), 3).float()
    batch.x = batch.x.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert algorithm.loss(batch)[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["CORAL", "MMD", "GroupDRO", "EQRM", "MTL"])
def test_batch_norm_that_trains_sees_one_domain_at_a_time(name: str) -> None:
    """As in DomainBed: the running statistics are those of a pass for each domain."""
    method = registry.find("algorithms", name)
    problem = Problem((3, 32, 32), 3, 2, 10, 10, backbone="resnet18")
    algorithm: Any = method(problem, hparams.resolve(method, Dataset, {}))
    x = torch.rand(8, 3, 32, 32) * torch.tensor([1.0] * 4 + [9.0] * 4)[:, None, None, None]
    batch = make_batch([x[:4], x[4:]], [torch.tensor([0, 1, 2, 0])] * 2)
    alone = copy.deepcopy(algorithm.featurizer)
    for rows in (x[:4], x[4:]):
        alone(rows)
    algorithm.loss(batch)
    for (key, found), wanted in zip(algorithm.featurizer.named_buffers(), alone.buffers(), strict=True):
        assert torch.allclose(found.float(), wanted.float(), rtol=1e-5), key


def test_irm_penalty_is_the_product_of_gradients_in_the_scale() -> None:
    batch = toy((6, 5, 2), classes=7)
    total = 0.0
    for e in range(3):
        logits, y = batch.x[batch.d == e], batch.y[batch.d == e]
        halves = []
        for start in (0, 1):
            scale = torch.ones((), dtype=torch.float64, requires_grad=True)
            risk = cross_entropy(logits[start::2] * scale, y[start::2])
            halves.append(torch.autograd.grad(risk, scale)[0])
        total += float(halves[0] * halves[1]) / 3
    close(irm_penalty(batch.x, batch.y, batch.members), total)


def test_irm_penalty_of_domains_of_one_row_is_zero() -> None:
    batch = toy((1, 1))
    assert irm_penalty(batch.x, batch.y % 2, batch.members) == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_an_update_waits_for_no_device(name: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device a tensor has no value to wait for, and one left on the CPU is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())  # not known to meta
    algorithm, batch = build(name, toy_linear(), 3), toy((4, 4, 4))
    if name in ("TRM", "Transfer"):
        batch, featurizer = features_case((4, 4, 4))
        algorithm = {"TRM": trm, "Transfer": transfer}[name](batch, featurizer)
    algorithm = algorithm.to("meta")
    for field in ("x", "y", "d", "idx"):
        setattr(batch, field, getattr(batch, field).to("meta"))
    algorithm.step = 10000 if late else 0
    logs = algorithm.update(batch)
    assert all(value.device.type == "meta" for value in logs.values())


# annealing

ANNEALED = {
    "IRM": {"irm_penalty_anneal_iters": 2},
    "VREx": {"vrex_penalty_anneal_iters": 2},
    "IB_ERM": {"ib_penalty_anneal_iters": 2},
    "IB_IRM": {"ib_penalty_anneal_iters": 2, "irm_penalty_anneal_iters": 4},
    "EQRM": {"eqrm_burnin_iters": 2.0},
    "RDM": {"rdm_penalty_anneal_iters": 2},
}
LATE_LR = {"EQRM": "eqrm_lr", "RDM": "rdm_lr"}


@pytest.mark.parametrize("name", ANNEALED)
def test_adam_starts_anew_when_the_penalty_does(name: str) -> None:
    algorithm = build(name, toy_linear(), 3, lr=1e-3, **ANNEALED[name])
    starts, late = [], algorithm.hp[LATE_LR.get(name, "lr")]
    for step in range(6):
        algorithm.step = step
        algorithm.update(toy(seed=step))
        (optim,) = algorithm.optims
        starts.append(float(optim.state[algorithm.classifier.weight]["step"]))
        assert optim.param_groups[0]["lr"] == (late if step >= 2 else 1e-3)
    assert starts == ([1, 2, 1, 2, 1, 2] if name == "IB_IRM" else [1, 2, 1, 2, 3, 4])


@pytest.mark.parametrize("name", ANNEALED)
def test_resumes_around_the_start_of_the_penalty(name: str) -> None:
    def make() -> Algorithm:
        return build(name, toy_linear(), 3, lr=1e-3, **ANNEALED[name])

    def train(algorithm: Algorithm, steps: range) -> None:
        for step in steps:
            algorithm.step = step
            algorithm.update(toy(seed=step))

    train(whole := make(), range(6))
    for cut in (1, 2, 3, 4):
        train(half := make(), range(cut))
        resumed = make()
        resumed.load_state_dict(copy.deepcopy(half.state_dict()))
        resumed.optims[0].load_state_dict(copy.deepcopy(half.optims[0].state_dict()))
        train(resumed, range(cut, 6))
        assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values())), cut


def test_eqrm_never_resets_after_a_fractional_burn_in() -> None:
    algorithm = build("EQRM", toy_linear(), 3, lr=1e-3, eqrm_burnin_iters=1.5)
    for step in range(4):
        algorithm.step = step
        logs = algorithm.update(toy(seed=step))
        assert (logs["loss"] == logs["nll"]) == (step < 2)
    assert algorithm.optims[0].param_groups[0]["lr"] == 1e-3
    assert algorithm.optims[0].state[algorithm.classifier.weight]["step"] == 4


# limits


def test_vrex_penalty_of_equal_domains_is_zero() -> None:
    x, y = toy((5,)).x, torch.tensor([0, 1, 2, 0, 1])
    logs = build("VREx", toy_linear(), 3).update(make_batch([x, x, x], [y, y, y]))
    close(logs["penalty"], 0, atol=1e-12)


def test_groupdro_with_a_large_rate_trains_the_worst_domain_alone() -> None:
    batch = toy()
    algorithm = build("GroupDRO", toy_linear(), 3, groupdro_eta=1e3)
    logs = algorithm.update(batch)
    risks = domain_risks(algorithm(batch.x), batch.y, batch.members)
    close(logs["loss"], risks.max().detach())
    assert algorithm.q.argmax() == risks.argmax()


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.75, 0.99])
def test_quantile_by_bisection(alpha: float) -> None:
    risks = torch.tensor([0.3, 1.7, 0.9, 1.1], dtype=torch.float64)
    width = 1.06 * float(risks.std()) * 4**-0.2
    low, high = -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        normal = [0.5 * (1 + math.erf((middle - float(r)) / width / math.sqrt(2))) for r in risks]
        low, high = (middle, high) if sum(normal) / 4 < alpha else (low, middle)
    close(quantile(risks, alpha), low, rtol=1e-8)
    close(quantile(risks + 2, alpha), low + 2, rtol=1e-8)
    close(quantile(risks.flip(0) * 3, alpha), low * 3, rtol=1e-8)


def test_rdm_of_equal_domains_has_no_distance() -> None:
    x, y = toy((5,)).x, torch.tensor([0, 1, 2, 0, 1])
    algorithm = build("RDM", toy_linear(), 3)
    logs = algorithm.update(make_batch([x, x, x], [y, y, y]))
    close(logs["matching_penalty"], 0, atol=1e-9)
    losses = cross_entropy(algorithm(x), y, reduction="none")
    close(logs["variance_penalty"], losses.repeat(3).var().detach() + losses.var().detach())


@pytest.mark.parametrize("name", ["CausIRL_CORAL", "CausIRL_MMD"])
def test_causirl_mixtures_of_less_than_two_rows_count_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm, batch = build(name, toy_linear(), 3), toy()
    for cut, zero in (([0, 0, 0], True), ([1, 0, 0], True), ([1, 1, 0], False)):
        monkeypatch.setattr(algorithm, "cuts", lambda batch, cut=cut: torch.tensor(cut))
        batch.x.grad = None
        logs = algorithm.update(batch)
        assert (logs["penalty"] == 0) == zero
        assert algorithm.classifier.weight.grad.isfinite().all()


def test_causirl_cuts_every_domain_anywhere() -> None:
    algorithm, batch = build("CausIRL_CORAL", toy_linear(), 3), toy((2, 4, 3))
    torch.manual_seed(0)
    drawn = torch.stack([algorithm.cuts(batch) for _ in range(200)])
    for e, size in enumerate((2, 4, 3)):
        assert set(drawn[:, e].tolist()) == set(range(size))


# TRM and Transfer, from their equations


def features_case(sizes: tuple[int, ...], width: int = 4, scale: float = 0.3) -> tuple[Batch, nn.Linear]:
    """A batch of inputs, and a linear featurizer."""
    batch = toy(sizes, width)
    batch.x = batch.x * scale
    return batch, toy_linear(width, 5, seed=7)


def trm(batch: Batch, featurizer: nn.Linear, **chosen: Any) -> TRM:
    algorithm = build("TRM", toy_linear(5, 3), batch.num_domains, **{"iters": 0, **chosen})
    assert isinstance(algorithm, TRM)
    algorithm.featurizer = featurizer
    r = torch.Generator().manual_seed(5)
    algorithm.weights = torch.randn(batch.num_domains, 3, 5, generator=r, dtype=torch.float64) * 0.3
    algorithm.biases = torch.randn(batch.num_domains, 3, generator=r, dtype=torch.float64) * 0.3
    return algorithm


def trm_slowly(algorithm: TRM, batch: Batch, alpha: Tensor) -> Tensor:
    """The loss by loops over domains, autograd's gradients and Hessians; ``alpha`` is changed in place."""
    domains = range(batch.num_domains)
    z = [algorithm.features(batch.x[batch.d == e]) for e in domains]
    y = [batch.y[batch.d == e] for e in domains]
    heads = [linear(algorithm.weights[e], algorithm.biases[e]) for e in domains]
    for e in domains:
        optim = torch.optim.SGD(heads[e].parameters(), lr=0.1)
        for _ in range(30):
            optim.zero_grad()
            cross_entropy(heads[e](z[e].detach()), y[e]).backward()
            optim.step()
    total = cross_entropy(algorithm.classifier(torch.cat(z)), batch.y)
    for q in domains:
        weight, bias = heads[q].weight, heads[q].bias
        alpha[q] /= sum(alpha[q])

        def risk(features: Tensor, target: Tensor, at: Tensor = weight, bias: Tensor = bias) -> Tensor:
            return cross_entropy(features @ at.T + bias, target)

        others = [e for e in domains if e != q]
        weighted = {e: alpha[q, e].clone() * risk(z[e], y[e]) for e in others}
        swapped = sum(weighted.values(), torch.zeros((), dtype=torch.float64))
        (v,) = torch.autograd.grad(swapped, weight, retain_graph=True)
        own_risk = partial(risk, z[q].detach(), y[q])
        hessian = torch.autograd.functional.hessian(own_risk, weight.detach())
        h = torch.zeros_like(v)
        for k in range(1, 11):
            v = v - torch.einsum("abcd,cd->ab", hessian, v)
            h = h + v * (2 if k == 1 else 1)
            if h.abs().max() > 10:
                break
        (own,) = torch.autograd.grad(risk(z[q], y[q]), weight, create_graph=True)
        total = total + (swapped - algorithm.hp["cos_lambda"] * (h.detach() * own).sum()) / len(domains)
        for e in others:
            alpha[q, e] *= math.exp(algorithm.hp["groupdro_eta"] * weighted[e].item())
    return total


@pytest.mark.parametrize(("sizes", "scale"), [((6, 6, 6), 0.3), ((4, 4), 0.3), ((5, 5, 5), 3.0)])
def test_trm_is_its_equation_over_two_updates(sizes: tuple[int, ...], scale: float) -> None:
    batch, featurizer = features_case(sizes, scale=scale)
    algorithm = trm(batch, featurizer, cos_lambda=0.7, groupdro_eta=0.4)
    alpha = 1 - torch.eye(len(sizes), dtype=torch.float64)
    for _ in range(2):
        expected = trm_slowly(algorithm, batch, alpha)
        grads = torch.autograd.grad(expected, [*featurizer.parameters(), *algorithm.classifier.parameters()])
        logs = algorithm.update(batch)
        close(logs["loss"], expected.detach())
        close(logs["loss"] - logs["nll"], logs["trm"])
        close(algorithm.alpha, alpha)
        for param, grad in zip(
            [*featurizer.parameters(), *algorithm.classifier.parameters()], grads, strict=True
        ):
            close(param.grad, grad)


def test_trm_is_plain_training_first_and_keeps_its_heads() -> None:
    batch, featurizer = features_case((4, 4))
    algorithm = trm(batch, featurizer, iters=1)
    before = algorithm.weights.clone()
    logs = algorithm.update(batch)
    assert logs["loss"] == logs["nll"] and torch.equal(algorithm.weights, before)
    algorithm.step = 1
    assert "trm" in algorithm.update(batch)
    assert not torch.equal(algorithm.weights, before)
    assert {"weights", "biases", "alpha"} <= set(algorithm.state_dict())


def test_trm_heads_start_from_the_classifier_with_balanced_classes() -> None:
    batch, featurizer = features_case((4, 4))
    algorithm = trm(batch, featurizer, class_balanced=True)
    z, y = batch.per_domain(algorithm.features(batch.x)).detach(), batch.per_domain(batch.y)
    weights, _ = fit(algorithm.classifier.weight.detach().expand(2, -1, -1), algorithm.biases, z, y)
    algorithm.update(batch)
    close(algorithm.weights, weights)


def transfer(batch: Batch, featurizer: nn.Module, **chosen: Any) -> Transfer:
    algorithm = build("Transfer", toy_linear(5, 3), batch.num_domains, **{"lr": 0.05, **chosen})
    assert isinstance(algorithm, Transfer)
    algorithm.featurizer, algorithm.adversary = featurizer, toy_linear(5, 3, seed=9)
    return algorithm


def transfer_slowly(algorithm: Transfer, batch: Batch) -> Transfer:
    """One update on a copy, by the three steps of the method, all gradient descent by hand."""
    other, hp = copy.deepcopy(algorithm), algorithm.hp
    g, h, a = other.featurizer, other.classifier, other.adversary

    def gap() -> Tensor:
        risks = [cross_entropy(a(g(batch.x[batch.d == e])), batch.y[batch.d == e]) for e in range(3)]
        return hp["t_lambda"] * (max(risks) - min(risks))

    def move(value: Tensor, modules: list[nn.Module], rate: float) -> None:
        params = [p for module in modules for p in module.parameters()]
        grads = torch.autograd.grad(value, params)
        for param, grad in zip(params, grads, strict=True):
            param.data -= rate * grad

    move(cross_entropy(h(g(batch.x)), batch.y), [g, h], hp["lr"])
    move(gap(), [g], hp["lr"])
    a.load_state_dict(h.state_dict())
    for _ in range(hp["d_steps_per_g"]):
        move(-gap(), [a], hp["lr_d"])
        pairs = list(zip(a.parameters(), h.parameters(), strict=True))
        distance = math.sqrt(sum((p - q).square().sum().item() for p, q in pairs))
        if distance > hp["delta"]:
            for p, q in pairs:
                p.data = q.data + hp["delta"] / distance * (p.data - q.data)
    return other


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("delta", [0.0, 0.05, 100.0])
def test_transfer_is_its_three_steps(delta: float, norm: bool) -> None:
    batch, featurizer = features_case((6, 6, 6), scale=1.0)
    if norm:  # whose statistics are each domain's own in the gaps
        featurizer = nn.Sequential(featurizer, nn.BatchNorm1d(5, dtype=torch.float64))
    algorithm = transfer(batch, featurizer, gda=True, lr_d=0.2, delta=delta, d_steps_per_g=4, t_lambda=0.8)
    for _ in range(3):
        expected = transfer_slowly(algorithm, batch)
        algorithm.update(batch)
        for ours, theirs in zip(algorithm.parameters(), expected.parameters(), strict=True):
            close(ours, theirs.detach())
        pairs = zip(algorithm.adversary.parameters(), algorithm.classifier.parameters(), strict=True)
        distance = math.sqrt(sum((p - q).square().sum().item() for p, q in pairs))
        assert distance <= delta + 1e-9
        assert delta != 0.05 or distance > 0.0499  # the ball binds


def test_transfer_without_weight_is_plain_descent() -> None:
    batch, featurizer = features_case((6, 6, 6))
    algorithm = transfer(batch, featurizer, gda=True, t_lambda=0.0)
    params = [*algorithm.featurizer.parameters(), *algorithm.classifier.parameters()]
    grads = torch.autograd.grad(cross_entropy(algorithm(batch.x), batch.y), params)
    expected = [(param - 0.05 * grad).detach() for param, grad in zip(params, grads, strict=True)]
    algorithm.update(batch)
    for param, value in zip(params, expected, strict=True):
        close(param, value)


def test_transfer_takes_two_steps_of_adam_with_the_features_and_one_with_the_classifier() -> None:
    batch, featurizer = features_case((6, 6, 6))
    algorithm = transfer(batch, featurizer)
    algorithm.update(batch)
    adam = algorithm.optims[0]
    assert isinstance(adam, torch.optim.Adam)
    assert adam.state[featurizer.weight]["step"] == 2
    assert adam.state[algorithm.classifier.weight]["step"] == 1
