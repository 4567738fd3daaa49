"""Adversarial and contrastive methods, flat minima, and what goes with ERM++: values and gradients."""

import math
from typing import Any

import pytest
import torch
from golden_vectors import Case, cases, close
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgbench import hparams, registry
from dgbench.algorithm import Algorithm, Batch, Problem
from dgbench.averager import estimate_batch_norm
from dgbench.dataset import Dataset
from dgbench.errors import UsageError

torch.set_num_threads(1)

DOUBLE = torch.float64


def build(name: str, features: int, classes: int, domains: int, **chosen: Any) -> Any:
    """The method in float64 on vectors: its featurizer is the identity, its classifier linear."""
    problem = Problem((1, 8, 8), classes, domains, 100, 10, backbone="digits_cnn")
    method = registry.find("algorithms", name)
    assert issubclass(method, Algorithm)
    torch.manual_seed(0)

    class Vectors(nn.Identity):
        n_outputs = features

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgbench.networks.featurizer", lambda problem, hp: Vectors())
        algorithm = method(problem, hparams.resolve(method, Dataset, chosen))
    return algorithm.double().train()


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=DOUBLE)
    layer.weight.data.copy_(weight)
    if bias is not None:
        layer.bias.data.copy_(bias)
    return layer


def flat(case: Case, grad: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(x, y, d) of all domains, one after the other."""
    x = [case.x(name) for name in case.domains("x")]
    d = torch.cat([torch.full((len(part),), i) for i, part in enumerate(x)])
    y = torch.cat([case.x(name) for name in case.domains("y")])
    return torch.cat(x).requires_grad_(grad), y, d


def make_batch(x: Tensor, y: Tensor, d: Tensor) -> Batch:
    return Batch(x, y, d, torch.arange(len(y)), int(d.max()) + 1)


def toy(domains: int = 3, rows: int = 6, features: int = 5, classes: int = 3, seed: int = 0) -> Batch:
    r = torch.Generator().manual_seed(seed)
    d = torch.arange(domains).repeat_interleave(rows)
    x = torch.randn(len(d), features, generator=r, dtype=DOUBLE)
    return make_batch(x, torch.randint(classes, (len(d),), generator=r), d)


def grads(algorithm: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in algorithm.named_parameters()
    }


def check_players(case: Case, name: str, **chosen: Any) -> None:
    """One update of the player whose turn it is: its loss, and the gradients of all that it touches."""
    classes, features = case.inputs["W"].shape
    algorithm = build(name, features, classes, len(case.domains("x")), **chosen)
    algorithm.classifier = linear(case.x("W"), case.x("b"))
    algorithm.discriminator = nn.Sequential(linear(case.x("H1")), nn.Tanh(), linear(case.x("H2")))
    if name == "CDANN":
        algorithm.class_embeddings.weight.data.copy_(case.x("E"))
    x, y, d = flat(case, grad=True)
    discriminators, turns = case.hp["turn"] == "disc", algorithm.hp["d_steps_per_g_step"]
    algorithm.step = next(t for t in range(99) if ((t + 1) % (1 + turns) < turns) == discriminators)
    logs, out = algorithm.update(make_batch(x, y, d)), case.outputs
    close(logs["loss"], out["disc_loss" if discriminators else "gen_loss"], 1e-6)
    assert x.grad is not None
    parts = x.grad.split([len(case.inputs[domain]) for domain in case.domains("x")])
    found = {f"g_{domain}": part for domain, part in zip(case.domains("x"), parts, strict=True)}
    found |= {f"g_H{i + 1}": algorithm.discriminator[2 * i].weight.grad for i in range(2)}
    found |= {"g_W": algorithm.classifier.weight.grad}
    expected = [key for key in out if key.startswith("g_")]
    for key in expected:
        close(found[key], out[key], 1e-6)
    assert expected


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "dann"))
def test_dann(case: Case) -> None:
    check_players(case, "DANN", **dann_hparams(case))


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "cdann"))
def test_cdann(case: Case) -> None:
    check_players(case, "CDANN", **dann_hparams(case))


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "dann_swadrepo"))
def test_dann_with_the_penalty_of_the_swad_repository(case: Case) -> None:
    name = "CDANN" if case.hp["conditional"] else "DANN"
    check_players(case, name, grad_penalty_form="softmax", **dann_hparams(case))


def dann_hparams(case: Case) -> dict[str, Any]:
    names = {"lam": "lambda", "d_steps": "d_steps_per_g_step", "grad_penalty": "grad_penalty"}
    return {ours: case.hp[theirs] for theirs, ours in names.items() if theirs in case.hp}


@pytest.mark.parametrize("name", ["DANN", "CDANN"])
@pytest.mark.parametrize("turns", [1, 3])
def test_players_take_turns(name: str, turns: int) -> None:
    """With k: update 1, 2, ... is the discriminator's if its number mod (1 + k) is below k."""
    algorithm, batch = build(name, 5, 3, 3, d_steps_per_g_step=turns), toy()
    for step in range(8):
        algorithm.step = step
        before = {key: p.detach().clone() for key, p in algorithm.named_parameters()}
        algorithm.update(batch)
        moved = {
            key.split(".")[0] for key, p in algorithm.named_parameters() if not torch.equal(p, before[key])
        }
        theirs = {"discriminator"} | ({"class_embeddings"} if name == "CDANN" else set())
        assert moved == (theirs if (step + 1) % (1 + turns) < turns else {"classifier"})


def test_softmax_penalty_is_zero_with_equal_rows() -> None:
    """The sum over all rows' labels is then a constant; with unequal rows it is not."""
    batch, values = toy(), []
    for chosen in ({}, {"grad_penalty": 5.0, "grad_penalty_form": "softmax"}, {"grad_penalty": 5.0}):
        algorithm = build("DANN", 5, 3, 3, **chosen)
        values.append(
            [
                algorithm.discriminator_loss(batch.x[:n].clone(), batch.y[:n], batch.d[:n]).detach()
                for n in (18, 15)
            ]
        )
    torch.testing.assert_close(values[0][0], values[1][0])
    assert values[1][1] > values[0][1] + 1e-6 and values[2][0] > values[0][0] + 1e-6


def test_cdann_weighs_classes_alike() -> None:
    """Slow: each class's mean, divided by the largest class present + 1."""
    algorithm, batch = build("CDANN", 5, 6, 3), toy(classes=4)
    logits = torch.randn(18, 3, dtype=DOUBLE)
    total = 0.0
    for c in range(4):
        rows = [i for i in range(18) if batch.y[i] == c]
        total += sum(float(-logits[i].log_softmax(0)[batch.d[i]]) for i in rows) / max(len(rows), 1) / 4
    close(algorithm.domain_risk(logits, batch.y, batch.d), total, 1e-6)


# SelfReg


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "selfreg"))
def test_selfreg(case: Case) -> None:
    x, y, _ = flat(case)
    first, classifier = linear(case.x("F0")), linear(case.x("W"), case.x("b"))
    z, order = first(x), case.x("order")
    partners = []
    for name in ("shuffle1", "shuffle2"):  # positions in the sorted batch -> rows
        partner = torch.empty_like(order)
        partner[order] = order[case.x(name)]
        partners.append(partner)
    selfreg = registry.find("algorithms", "SelfReg")
    h = z @ case.x("P").T
    ce, penalty = selfreg.terms(classifier(z), z, h, y, *partners, case.x("lam"))  # type: ignore[attr-defined]
    close(ce + penalty, case.outputs["loss"])
    (ce + penalty).backward()
    for key, value in (("g_F", first.weight), ("g_W", classifier.weight), ("g_b", classifier.bias)):
        close(value.grad, case.outputs[key])


def test_selfreg_partners_are_uniform_within_the_class() -> None:
    from dgbench.algorithms.selfreg import same_class_partners

    y = torch.tensor([2, 0, 2, 0, 2, 5])
    torch.manual_seed(0)
    drawn = torch.stack([same_class_partners(y) for _ in range(3000)])
    assert (y[drawn] == y).all() and (drawn.sort(1).values == torch.arange(6)).all()
    share = (drawn[:, 0] == torch.tensor([[0], [2], [4]])).float().mean(1)
    assert (share - 1 / 3).abs().max() < 0.04


@pytest.mark.parametrize("train", [False, True])
def test_selfreg_head(train: bool) -> None:
    algorithm = build("SelfReg", 5, 3, 3, train_head=train)
    before = [p.detach().clone() for p in algorithm.head.parameters()]
    algorithm.update(toy())
    same = [torch.equal(p, q) for p, q in zip(algorithm.head.parameters(), before, strict=True)]
    assert not any(same[-4:]) if train else all(same)
    assert algorithm.head[0].out_features == 10


@pytest.mark.parametrize("right", [3.0, -3.0])
def test_selfreg_scale_is_a_constant_of_at_most_one(right: float) -> None:
    selfreg: Any = registry.find("algorithms", "SelfReg")
    batch, lam, a = toy(), torch.tensor(0.3, dtype=DOUBLE), torch.arange(18).flip(0)
    o = torch.eye(3, dtype=DOUBLE)[batch.y] * right + batch.x[:, :3]
    ce, penalty = selfreg.terms(o.requires_grad_(), batch.x, batch.x, batch.y, a, a, lam)
    assert (ce < 1) == (right > 0)
    scale, away = min(ce.item(), 1.0), o.detach() - o.detach()[a]
    mse = (away**2).mean() + 0.3 * ((batch.x - batch.x[a]) ** 2).mean()
    close(penalty, (scale * mse).item())
    penalty.backward()
    close(o.grad, (scale * 4 * away / away.numel()).numpy())


# CAD, CondCAD


def check_bottleneck(case: Case, name: str) -> None:
    hp = {"temperature": "temperature", "flipped": "is_flipped", "normalized": "is_normalized"}
    chosen = {ours: case.hp[theirs] for theirs, ours in hp.items() if theirs in case.hp}
    z = case.x("z", grad=True)
    loss = build(name, z.shape[1], 3, 3, **chosen).bottleneck(z, case.x("y"), case.x("d"))
    close(loss, case.outputs["bn_loss"])
    loss.backward()
    close(z.grad, case.outputs["g_z"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "cad"))
def test_cad(case: Case) -> None:
    check_bottleneck(case, "CAD")


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "condcad"))
def test_condcad(case: Case) -> None:
    check_bottleneck(case, "CondCAD")


@pytest.mark.parametrize("name", ["CAD", "CondCAD"])
@pytest.mark.parametrize("flipped", [True, False])
@pytest.mark.parametrize("normalized", [True, False])
def test_cad_slowly(name: str, flipped: bool, normalized: bool) -> None:
    batch, tau = toy(classes=6, rows=4), 0.5
    batch.y[0] = 7  # a class of its own: its row counts nowhere
    algorithm = build(name, 5, 8, 3, is_flipped=flipped, is_normalized=normalized, temperature=tau)
    z = batch.x.requires_grad_()
    unit = [row / row.norm() if normalized else row for row in z]
    terms = []
    for i, (y_i, d_i) in enumerate(zip(batch.y, batch.d, strict=True)):
        others = [j for j in range(12) if j != i]
        mates = [j for j in others if batch.y[j] == y_i]
        below = mates if name == "CondCAD" else others
        above = [j for j in below if (batch.d[j] != d_i) == flipped]
        if not mates or not above:
            continue
        top = sum(((unit[i] @ unit[j]) / tau).exp() for j in above)
        top = top + (1 if name == "CAD" and not flipped else 0)  # the row itself, with similarity 0
        bottom = sum(((unit[i] @ unit[j]) / tau).exp() for j in below)
        terms.append((-1 if flipped else 1) * torch.log(top / bottom) * tau / 0.07)
    expected = torch.stack(terms).mean()
    loss = algorithm.bottleneck(z, batch.y, batch.d)
    close(loss, expected.detach().numpy())
    ours, theirs = (torch.autograd.grad(value, z)[0] for value in (loss, expected))
    close(ours, theirs.numpy())


@pytest.mark.parametrize("name", ["CAD", "CondCAD"])
def test_cad_without_pairs_is_zero_with_a_zero_gradient(name: str) -> None:
    z = torch.randn(4, 5, dtype=DOUBLE, requires_grad=True)
    algorithm = build(name, 5, 4, 2)
    loss = algorithm.bottleneck(z, torch.arange(4), torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss == 0 and z.grad is not None and (z.grad == 0).all()


def test_cad_projects() -> None:
    algorithm, batch = build("CAD", 5, 3, 3, is_project=True), toy()
    algorithm.update(batch)
    assert algorithm.project[2].out_features == 128
    assert all(p.grad.abs().sum() > 0 for p in algorithm.project.parameters())


# SupCon, ADRMX


def test_supcon_slowly() -> None:
    from dgbench.losses.supcon import supcon

    batch, tau = toy(classes=6, rows=4), 0.3
    batch.y[0] = 7  # without a partner
    z = batch.x.requires_grad_()
    unit = [row / row.norm() for row in z]
    rows = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        partners = [j for j in others if batch.y[j] == batch.y[i]]
        bottom = sum(((unit[i] @ unit[j]) / tau).exp() for j in others)
        terms = [torch.log(((unit[i] @ unit[p]) / tau).exp() / bottom) for p in partners]
        if terms:
            rows.append(-sum(terms) / len(terms))
    expected, loss = sum(rows) / len(rows), supcon(z, batch.y, tau)
    close(loss, expected.detach().numpy())
    ours, theirs = (torch.autograd.grad(value, z)[0] for value in (loss, expected))
    close(ours, theirs.numpy())


def test_supcon_limits() -> None:
    from dgbench.losses.supcon import supcon

    z = torch.randn(4, 5, dtype=DOUBLE, requires_grad=True)
    alone = supcon(z, torch.arange(4), 0.1)
    alone.backward()
    assert alone == 0 and (z.grad == 0).all()
    same = supcon(torch.ones(4, 5, dtype=DOUBLE), torch.zeros(4, dtype=torch.int64), 0.1)
    close(same, math.log(3))  # all alike: a uniform choice among three


def test_supcon_update_is_the_documented_objective() -> None:
    algorithm, batch = build("SupCon", 5, 3, 3, supcon_weight=0.7, temperature=0.2), toy()
    from dgbench.losses.supcon import supcon

    o, r = algorithm.classifier(batch.x), algorithm.head(batch.x)
    close(algorithm.loss(batch)[0], (cross_entropy(o, batch.y) + 0.7 * supcon(r, batch.y, 0.2)).item())


def slow_domain_supcon(features: Tensor, y: Tensor, d: Tensor) -> Tensor:
    unit, n, total, used = [row / row.norm() for row in features], len(y), torch.zeros((), dtype=DOUBLE), 0
    for i in range(n):
        e = {j: ((unit[i] @ unit[j]) / 0.07).exp() * 0.5 for j in range(n) if j != i}
        partners = [j for j in e if y[j] == y[i]]
        if partners:
            used += 1
            bottom = sum(e.values()) + 1e-5
            total = total - sum(torch.log(e[j] / bottom + 1e-5) for j in partners) / len(partners)
    return total / (used + 1)


def test_domain_weights_of_supcon() -> None:
    """With all weight inside domains, rows of other domains count as if they were far away."""
    from dgbench.losses.supcon import domain_weighted_supcon

    batch = toy(domains=2, rows=4, classes=2)
    inside = domain_weighted_supcon(batch.x, batch.y, batch.d, same_domain=1.0)
    total, used = torch.zeros((), dtype=DOUBLE), 0
    unit = batch.x / batch.x.norm(dim=1, keepdim=True)
    for i in range(8):
        partners = [j for j in range(8) if j != i and batch.y[j] == batch.y[i]]
        e = [(float(batch.d[j] == batch.d[i])) * ((unit[i] @ unit[j]) / 0.07).exp() for j in range(8)]
        bottom = sum(e[j] for j in range(8) if j != i) + 1e-5
        if partners:
            used += 1
            total -= sum(torch.log(e[j] / bottom + 1e-5) for j in partners) / len(partners)
    close(inside, (total / (used + 1)).item())


@pytest.mark.parametrize("remix", ["domainbed", "same_class"])
def test_adrmx_turns(remix: str) -> None:
    chosen = {"remix": remix, "mlp_depth": 3, "cnt_lambda": 0.7, "dclf_lambda": 0.3, "rmxd_lambda": 0.9}
    algorithm, batch = build("ADRMX", 6, 4, 3, **chosen), toy(features=6, classes=3)  # class 3 is absent
    algorithm.domain_featurizer = nn.Linear(6, 6, dtype=DOUBLE)  # u - v would be zero otherwise
    initial = {name: p.detach().clone() for name, p in algorithm.named_parameters()}
    g, c1, c2, c3 = (
        algorithm.get_submodule(name)
        for name in ("discriminator", "classifier", "invariant_classifier", "domain_classifier")
    )
    for step, discriminators in enumerate([True, False, True, True, False, True]):
        algorithm.load_state_dict(initial)
        algorithm.step = step
        u, v = batch.x, algorithm.domain_featurizer(batch.x)
        w = u - v
        loss_d = cross_entropy(g(w), batch.d)
        torch.manual_seed(step)
        i, j, there = algorithm.pairs(batch.y)
        assert there.tolist() == [True, True, True, False]
        remixed = sum(cross_entropy(c1((w[i[c]] + v[j[c]])[None]), batch.y[i[c]][None]) for c in range(3))
        contrast = sum(slow_domain_supcon(f, batch.y, batch.d) for f in (u, w))
        loss_g = cross_entropy(c1(u), batch.y) + cross_entropy(c2(w), batch.y) + 0.7 * contrast
        loss_g = loss_g + 0.3 * cross_entropy(c3(v), batch.d) + 0.9 * remixed / 4 - 0.75 * loss_d
        expected = loss_d if discriminators else loss_g
        params = [
            p
            for name, p in algorithm.named_parameters()
            if name.startswith("discriminator") == discriminators
        ]
        wanted = torch.autograd.grad(expected, params)
        torch.manual_seed(step)
        logs = algorithm.update(batch)
        close(logs["loss"], expected.detach().numpy())
        for p, grad in zip(params, wanted, strict=True):
            close(p.grad, grad.numpy())
        moved = {
            name.split(".")[0]
            for name, p in algorithm.named_parameters()
            if not torch.equal(p, initial[name])
        }
        others = {"classifier", "invariant_classifier", "domain_classifier", "domain_featurizer"}
        assert moved == ({"discriminator"} if discriminators else others)


def test_adrmx_pairs() -> None:
    y = torch.tensor([3, 1, 3, 1, 1, 0, 3])
    for remix in ("same_class", "domainbed"):
        algorithm, seen = build("ADRMX", 5, 5, 3, remix=remix), set()
        for seed in range(200):
            torch.manual_seed(seed)
            i, j, there = algorithm.pairs(y)
            assert there.tolist() == [False, True, False, True, False] and (i != j)[there].all()
            seen |= {(c, int(k)) for c in (1, 3) for k in (i[c], j[c])}
        rows = {1: (1, 3, 4), 3: (0, 2, 6)} if remix == "same_class" else {1: (0, 1, 2), 3: (0, 1, 2)}
        assert seen == {(c, k) for c in rows for k in rows[c]}


# URM


@pytest.mark.parametrize("output", ["tanh", "relu", "sigmoid"])
def test_urm_update(output: str) -> None:
    chosen = {"urm_generator_output": output, "urm_adv_lambda": 0.3, "urm_discriminator_hidden_layers": 2}
    algorithm, batch = build("URM", 5, 3, 3, **chosen), toy()
    algorithm.featurizer = nn.Linear(5, 5, dtype=DOUBLE)
    g, lowest = algorithm.discriminator, {"tanh": -1.0}.get(output, 0.0)
    assert [m.out_features for m in g if isinstance(m, nn.Linear)] == [100, 100, 100, 1]
    z = getattr(torch, output)(algorithm.featurizer(batch.x))
    close(algorithm.features(batch.x), z.detach().numpy())
    minus_log = [-torch.log(torch.sigmoid(value)) for value in g(z)[:, 0]]
    loss = cross_entropy(algorithm.classifier(z), batch.y) + 0.3 * sum(minus_log) / 18
    mine = [*algorithm.featurizer.parameters(), *algorithm.classifier.parameters()]
    wanted = torch.autograd.grad(loss, mine)

    torch.manual_seed(5)
    noise = torch.rand(18, 5, dtype=DOUBLE) * (1 - lowest) + lowest
    real = sum(-torch.log(torch.sigmoid(value)) for value in g(noise)[:, 0]) / 18
    fake = sum(-torch.log(1 - torch.sigmoid(value)) for value in g(z.detach())[:, 0]) / 18
    loss_d = real + 0.3 * fake
    wanted_d = torch.autograd.grad(loss_d, list(g.parameters()))

    seen: list[list[Tensor]] = []
    for optim in algorithm.optims:
        params = [p for group in optim.param_groups for p in group["params"]]
        optim.register_step_pre_hook(lambda *_, params=params: seen.append([p.grad.clone() for p in params]))
    torch.manual_seed(5)
    logs = algorithm.update(batch)
    close(logs["loss"], loss.item())
    close(logs["discriminator"], loss_d.item())
    for ours, theirs in zip(seen, (wanted, wanted_d), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            close(a, b.numpy())


def test_urm_options() -> None:
    algorithm = build(
        "URM", 5, 3, 3, urm_discriminator_optimizer="sgd", urm_discriminator_label_smoothing=0.2
    )
    first, second = algorithm.optims
    assert isinstance(first, torch.optim.Adam) and isinstance(second, torch.optim.SGD)
    assert second.defaults["momentum"] == 0.9
    z = torch.zeros(4000, 5, dtype=DOUBLE)
    logit = algorithm.discriminator(z[:1]).squeeze()
    p = torch.sigmoid(logit)
    loss = algorithm.judged(z, 0.8, 1.0)  # targets have mean 0.9
    torch.testing.assert_close(loss, -(0.9 * p.log() + 0.1 * (1 - p).log()), atol=2e-3, rtol=0)
    with pytest.raises(UsageError, match="urm_generator_output 'tan'; did you mean tanh"):
        build("URM", 5, 3, 3, urm_generator_output="tan")


def test_urm_at_weight_zero_is_plain_training_of_squashed_features() -> None:
    algorithm, batch = build("URM", 5, 3, 3, urm_adv_lambda=0.0), toy()
    cross_entropy(algorithm.classifier(batch.x.tanh()), batch.y).backward()
    wanted = algorithm.classifier.weight.grad.clone()
    seen: list[Tensor] = []
    algorithm.optims[0].register_step_pre_hook(
        lambda *_: seen.append(algorithm.classifier.weight.grad.clone())
    )
    algorithm.update(batch)
    close(seen[0], wanted.numpy())


# ERMPlusPlus


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "ermpp_sma"))
def test_ermplusplus_average(case: Case) -> None:
    weights = case.x("weights")
    algorithm = build("ERMPlusPlus", weights.shape[1], 1, 1, sma_start_iter=case.hp["sma_start_iter"])
    for algorithm.step, row in enumerate(weights):
        algorithm.classifier.weight.data.copy_(row[None])
        algorithm.move_average()
        close(algorithm.average["classifier"].weight[0], case.outputs["sma"][algorithm.step])


def test_ermplusplus_phases() -> None:
    algorithm, batch = build("ERMPlusPlus", 5, 3, 3, linear_steps=1, sma_start_iter=3, linear_lr=0.01), toy()
    algorithm.featurizer = nn.Linear(5, 5, dtype=DOUBLE)
    algorithm.average["featurizer"] = nn.Linear(5, 5, dtype=DOUBLE).requires_grad_(False)
    first, rows = algorithm.featurizer.weight.detach().clone(), []
    for algorithm.step in range(6):
        before = algorithm.classifier.weight.detach().clone()
        algorithm.update(batch)
        assert torch.equal(algorithm.featurizer.weight, first) == (algorithm.step <= 1)
        step = (algorithm.classifier.weight - before).abs().max()
        if algorithm.step == 0:  # Adam's first step has the size of its learning rate
            close(step.detach(), 0.01, 1e-4)
        rows.append(algorithm.featurizer.weight.detach().clone())
        wanted = rows[-1] if algorithm.step < 2 else sum(rows[1:]) / len(rows[1:])
        close(algorithm.average["featurizer"].weight, wanted.numpy())
    raw = algorithm(batch.x)
    algorithm.eval()
    averaged = algorithm.average["classifier"](algorithm.average["featurizer"](batch.x))
    assert torch.equal(algorithm(batch.x), averaged) and not torch.allclose(raw, averaged)
    assert torch.equal(algorithm.features(batch.x), algorithm.average["featurizer"](batch.x))


@pytest.mark.parametrize("frozen", [False, True])
def test_ermplusplus_statistics_of_the_average(frozen: bool) -> None:
    """After an update the average has the network's statistics, moved by one more forward pass."""
    problem = Problem((3, 32, 32), 3, 2, 10, 10, backbone="resnet18", freeze_bn=frozen)
    method = registry.find("algorithms", "ERMPlusPlus")
    torch.manual_seed(0)
    algorithm: Any = method(problem, hparams.resolve(method, Dataset, {}))
    algorithm.train()
    algorithm.update(make_batch(torch.randn(8, 3, 32, 32), torch.randint(3, (8,)), torch.arange(2).repeat(4)))
    own = algorithm.featurizer.net.bn1.running_mean
    mean = algorithm.average["featurizer"].net.bn1.running_mean
    # From 0 with momentum 0.1 on the same images: 0.1 m, then 0.9 * 0.1 m + 0.1 m.
    torch.testing.assert_close(mean, own if frozen else 1.9 * own, rtol=1e-4, atol=1e-6)
    assert (own.abs().sum() == 0) == frozen


def test_ermplusplus_statistics_estimated_anew_are_the_averages() -> None:
    problem = Problem((3, 32, 32), 3, 2, 10, 10, backbone="resnet18", freeze_bn=False)
    method = registry.find("algorithms", "ERMPlusPlus")
    algorithm: Any = method(problem, hparams.resolve(method, Dataset, {}))
    images = [torch.randn(8, 3, 32, 32) + 5 for _ in range(2)]
    estimate_batch_norm(algorithm, images)
    net = algorithm.average["featurizer"].net
    means = torch.stack([net.conv1(x).mean((0, 2, 3)) for x in images])
    torch.testing.assert_close(net.bn1.running_mean, means.mean(0), rtol=1e-4, atol=1e-5)


# SAM, SAGM


@pytest.mark.parametrize("name", ["SAM", "SAGM"])
def test_sam_gradient(name: str) -> None:
    rho, alpha = 0.3, 0.2
    chosen = {"rho": rho} | ({"alpha": alpha} if name == "SAGM" else {})
    algorithm, batch = build(name, 5, 3, 3, **chosen), toy()
    weights = [p.detach().clone() for p in algorithm.parameters()]

    def gradient(at: list[Tensor]) -> list[Tensor]:
        w, b = (value.clone().requires_grad_() for value in at)
        return list(torch.autograd.grad(cross_entropy(batch.x @ w.T + b, batch.y), (w, b)))

    g = gradient(weights)
    size = math.sqrt(sum(float(value**2) for part in g for value in part.flatten()))
    shift = rho / size - (alpha if name == "SAGM" else 0.0)
    there = gradient([w + shift * part for w, part in zip(weights, g, strict=True)])
    seen: list[Any] = []
    algorithm.optims[0].register_step_pre_hook(
        lambda *_: seen.extend((p.detach().clone(), p.grad.clone()) for p in algorithm.parameters())
    )
    algorithm.update(batch)
    for (own, grad), w, here, second in zip(seen, weights, g, there, strict=True):
        assert torch.equal(own, w)  # set back exactly
        close(grad, (second + here if name == "SAGM" else second).numpy())


def test_sagm_without_a_way_is_plain_training_twice() -> None:
    algorithm, batch = build("SAGM", 5, 3, 3, rho=0.0, alpha=0.0), toy()
    cross_entropy(algorithm(batch.x), batch.y).backward()
    wanted = 2 * algorithm.classifier.weight.grad
    algorithm.update(batch)
    close(algorithm.classifier.weight.grad, wanted.numpy())


# MIRO


def test_miro_penalty_slowly() -> None:
    problem = Problem((1, 8, 8), 3, 3, 10, 10, backbone="digits_cnn")
    method = registry.find("algorithms", "MIRO")
    torch.manual_seed(0)
    algorithm: Any = method(problem, hparams.resolve(method, Dataset, {"ld": 0.3})).double()
    batch = make_batch(torch.rand(6, 1, 8, 8, dtype=DOUBLE), torch.randint(3, (6,)), torch.arange(6) // 2)
    b = algorithm.variances[0].detach()
    torch.testing.assert_close(torch.log(1 + b.exp()) + 1e-5, torch.full((64,), 0.1, dtype=DOUBLE))
    b.copy_(torch.randn(64))
    for p in algorithm.featurizer.parameters():
        p.data.add_(0.1 * torch.randn(p.shape))
    f, f0 = algorithm.featurizer(batch.x).tolist(), algorithm.oracle(batch.x).tolist()
    penalty = 0.0
    for i in range(6):
        for k in range(64):
            v = math.log(1 + math.exp(float(b[k]))) + 1e-5
            penalty += ((f[i][k] - f0[i][k]) ** 2 / v + math.log(v)) / 2 / (6 * 64)
    loss, logs = algorithm.loss(batch)
    close(logs["penalty"], penalty)
    close(loss, (cross_entropy(algorithm(batch.x), batch.y) + 0.3 * penalty).item())


def test_miro_stages_of_a_resnet() -> None:
    problem = Problem((3, 32, 32), 3, 2, 10, 10, backbone="resnet18", freeze_bn=True)
    method = registry.find("algorithms", "MIRO")
    torch.manual_seed(0)
    algorithm: Any = method(problem, hparams.resolve(method, Dataset, {}))
    algorithm.train()
    assert [tuple(b.shape) for b in algorithm.variances] == [(n, 1, 1) for n in (64, 64, 128, 256, 512)]
    start = 5 * math.log(0.1) / 2  # at the start the features are the oracle's, whatever the images
    batch = make_batch(torch.randn(8, 3, 32, 32), torch.randint(3, (8,)), torch.arange(2).repeat(4))
    torch.testing.assert_close(algorithm.loss(batch)[1]["penalty"].item(), start, rtol=1e-4, atol=0)
    groups = algorithm.optims[0].param_groups
    assert groups[1]["lr"] == 10 * groups[0]["lr"] and len(groups[1]["params"]) == 5
    oracle = {name: value.clone() for name, value in algorithm.oracle.state_dict().items()}
    algorithm.update(batch)
    assert all(torch.equal(value, oracle[name]) for name, value in algorithm.oracle.state_dict().items())
    assert algorithm.loss(batch)[1]["penalty"] > start and not algorithm.oracle.training
