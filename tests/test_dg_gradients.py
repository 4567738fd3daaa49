"""Methods on gradients or domain by domain: Fish, MLDG, ANDMask, SANDMask, IGA, Fishr, ARM, MTL."""

import copy
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from linear_models import Draws, batch_of, build, image_batch, linear, on_linear
from torch import nn
from torch.nn.functional import cross_entropy

from dgbench.algorithms import fishr
from dgbench.losses.gradients import by_domain, classifier_gradient_variance, separate_risks

torch.set_num_threads(1)


def grads(algorithm: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in algorithm.parameters()]


def literal_grads(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    cross_entropy(model(x), y).backward()
    return grads(model)


# Golden vectors


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "fish"))
def test_fish_official(case: Case) -> None:
    hp = {"meta_lr": case.hp["meta_lr"], "lr": case.hp["inner_adam_lr"]}
    algorithm, step = on_linear("Fish", case, len(case.domains("t0_x")), **hp), 0
    while f"t{step}_W" in case.outputs:
        logs = algorithm.update(batch_of(case, f"t{step}_"))
        close(logs["last_domain"], case.outputs[f"t{step}_loss_last_domain"])
        close(algorithm.classifier.weight, case.outputs[f"t{step}_W"])
        close(algorithm.classifier.bias, case.outputs[f"t{step}_b"])
        step += 1
    assert step >= 2


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "mldg"))
def test_mldg_official(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    hp = {name: case.hp[name] for name in ("mldg_beta", "n_meta_test", "weight_decay")}
    algorithm = on_linear("MLDG", case, len(case.domains()), lr=case.hp["inner_adam_lr"], **hp)
    monkeypatch.setattr(torch, "randperm", Draws(*[case.inputs["domain_perm"]] * 2))
    batch = batch_of(case)
    x, y = batch.per_domain(batch.x), batch.per_domain(batch.y)
    pairs = []
    for i, j in algorithm.pairs(len(x)):  # the vectors cut both domains to the shorter
        n = min(len(y[i]), len(y[j]))
        pairs.append((x[i][:n], y[i][:n], x[j][:n], y[j][:n]))
    loss, (g_w, g_b) = algorithm.outer_gradient(pairs, len(x))
    close(loss, case.outputs["reported_loss"])
    close(g_w, case.outputs["g_W"])
    close(g_b, case.outputs["g_b"])
    if isinstance(x, torch.Tensor):  # all of one length, as a run's are
        logs = algorithm.update(batch)
        close(logs["loss"], case.outputs["reported_loss"])
        close(algorithm.classifier.weight.grad, case.outputs["g_W"])
        close(algorithm.classifier.bias.grad, case.outputs["g_b"])


@pytest.mark.golden
@pytest.mark.parametrize("name, case", [
    pytest.param(name, *param.values, id=param.id)
    for name in ("ANDMask", "SANDMask", "IGA")
    for param in cases("dg", name.lower())
])  # fmt: skip
def test_gradient_given_to_adam(name: str, case: Case) -> None:
    hp = {key: float(case.hp[key]) for key in ("tau", "k", "penalty") if key in case.hp}
    algorithm = on_linear(name, case, len(case.domains()), **hp)
    logs = algorithm.update(batch_of(case))
    rtol = 1e-6 if name == "SANDMask" else 1e-8
    close(logs["ce"] if name == "IGA" else logs["loss"], case.outputs["loss"], rtol)
    if name == "IGA":
        close(logs["penalty"], case.outputs["penalty"])
    close(algorithm.classifier.weight.grad, case.outputs["g_W"], rtol)
    close(algorithm.classifier.bias.grad, case.outputs["g_b"], rtol)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "fishr"))
def test_fishr_official(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights stay as they are: the vectors hold three losses and their gradients."""
    variances: list[torch.Tensor] = []

    def variance(z: Any, logits: Any, y: Any) -> torch.Tensor:
        """Of domains with different numbers of rows too."""
        if not isinstance(z, torch.Tensor):
            found = torch.stack(
                [classifier_gradient_variance(*rows) for rows in zip(z, logits, y, strict=True)]
            )
        else:
            found = classifier_gradient_variance(z, logits, y)
        variances.append(found)
        return found

    monkeypatch.setattr(fishr, "classifier_gradient_variance", variance)
    hp = {name: case.hp[name] for name in ("lambda", "penalty_anneal_iters", "ema")}
    algorithm = on_linear("Fishr", case, domains := len(case.domains("t0_x")), **hp)
    algorithm.featurizer = linear(case.inputs["F0"])
    algorithm.average = torch.zeros(domains, algorithm.classifier.weight.numel() + len(case.inputs["b"]))
    algorithm.double()
    while f"t{algorithm.step}_loss" in case.outputs:
        t = f"t{algorithm.step}"
        loss, logs = algorithm.loss(batch_of(case, f"{t}_"))
        algorithm.zero_grad()
        loss.backward()
        for name, value in (("nll", logs["ce"]), ("penalty", logs["penalty"]), ("loss", loss)):
            close(value, case.outputs[f"{t}_{name}"])
        close(algorithm.featurizer.weight.grad, case.outputs[f"{t}_g_F"])
        close(algorithm.classifier.weight.grad, case.outputs[f"{t}_g_W"])
        close(algorithm.classifier.bias.grad, case.outputs[f"{t}_g_b"])
        algorithm.step += 1
    close(variances[0], case.outputs["t0_var_per_domain"])
    assert algorithm.step >= 3


# Literal loops, and limits


def test_separate_risks_and_gradients() -> None:
    algorithm, batch = build("ANDMask"), image_batch()
    risks, found = by_domain(separate_risks(algorithm, batch), list(algorithm.parameters()))
    for d in range(3):
        rows = batch.d == d
        torch.testing.assert_close(risks[d], cross_entropy(algorithm(batch.x[rows]), batch.y[rows]))
        expected = literal_grads(algorithm, batch.x[rows], batch.y[rows])
        for g, e in zip(found, expected, strict=True):
            torch.testing.assert_close(g[d], e)


def test_fish_is_reptile_over_the_domains() -> None:
    algorithm = build("Fish", meta_lr=0.1, lr=1e-3, weight_decay=0.1).double()
    inner, batch = copy.deepcopy(algorithm), image_batch(dtype=torch.float64)
    optim = torch.optim.Adam(inner.parameters(), lr=1e-3, weight_decay=0.1)
    before = [p.detach().clone() for p in algorithm.parameters()]
    for _ in range(2):
        for d in range(3):
            optim.zero_grad()
            cross_entropy(inner(batch.x[6 * d : 6 * d + 6]), batch.y[6 * d : 6 * d + 6]).backward()
            optim.step()
        for p, start in zip(inner.parameters(), before, strict=True):
            p.data = start + 0.1 * (p.data - start)
        algorithm.update(batch)
        for p, q, start in zip(inner.parameters(), algorithm.parameters(), before, strict=True):
            close(q, p.detach().numpy(), 1e-9)
            start.copy_(p.detach())


def test_fish_interpolates_buffers_too() -> None:
    algorithm = build("Fish", meta_lr=0.5)
    algorithm.featurizer = nn.Sequential(nn.BatchNorm2d(1, momentum=1.0), nn.Flatten())
    algorithm.classifier = nn.Linear(64, 4)
    batch = image_batch()
    algorithm.update(batch)
    last = batch.x[12:].mean()
    close(algorithm.featurizer[0].running_mean, [last / 2], 1e-5)


@pytest.mark.parametrize("n_meta_test", [0, 1, 2])
@pytest.mark.parametrize("domains", [2, 3, 4])
def test_mldg_by_clones_and_adam(domains: int, n_meta_test: int) -> None:
    hp = {"mldg_beta": 0.7, "n_meta_test": n_meta_test, "lr": 1e-2, "weight_decay": 0.3}
    algorithm = build("MLDG", domains, **hp).double()
    batch, net = image_batch(domains, dtype=torch.float64), copy.deepcopy(algorithm)
    torch.manual_seed(5)
    order = torch.randperm(domains).tolist()
    if n_meta_test == 0:
        pairs = [(order[k], order[(k + 1) % domains]) for k in range(domains)]
    else:
        cut = max(1, domains - n_meta_test)
        pairs = list(zip(order[:cut], cycle(order[cut:]), strict=False))
    total = [torch.zeros_like(p) for p in net.parameters()]
    for i, j in pairs:
        clone = copy.deepcopy(net)
        x, y = batch.per_domain(batch.x), batch.per_domain(batch.y)
        first = literal_grads(clone, x[i], y[i])
        torch.optim.Adam(clone.parameters(), lr=1e-2, weight_decay=0.3).step()
        second = literal_grads(clone, x[j], y[j])
        total = [t + (a + 0.7 * b) / domains for t, a, b in zip(total, first, second, strict=True)]
    torch.manual_seed(5)
    algorithm.update(batch)
    for ours, expected in zip(grads(algorithm), total, strict=True):
        close(ours, expected.numpy(), 1e-6)


def test_mldgs_inner_steps_leave_batch_norm_alone() -> None:
    algorithm = build("MLDG", 3, n_meta_test=0)
    algorithm.featurizer = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten())
    algorithm.classifier = nn.Linear(64, 4)
    algorithm.update(image_batch(3))
    assert algorithm.featurizer[0].num_batches_tracked == 3  # each domain once, at the weights of the run


@pytest.mark.parametrize("name", ["ANDMask", "SANDMask"])
def test_masks_entry_by_entry(name: str) -> None:
    soft = {} if name == "ANDMask" else {"k": 1e-4}  # neither all nor nothing
    algorithm = build(name, domains=4, tau=0.4, **soft).double()
    batch = image_batch(4, dtype=torch.float64)
    x, y = batch.per_domain(batch.x), batch.per_domain(batch.y)
    by_hand = [literal_grads(algorithm, x[d], y[d]) for d in range(4)]
    algorithm.update(batch)
    partial = 0
    for k, ours in enumerate(grads(algorithm)):
        g = np.stack([by_hand[d][k].numpy().ravel() for d in range(4)])  # (4, entries)
        mask = np.zeros(g.shape[1])
        for entry, column in enumerate(g.T):
            agreement = abs(np.sign(column).sum() / 4)
            if name == "ANDMask":
                mask[entry] = float(agreement >= 0.4)
            elif (var := ((column - column.mean()) ** 2).sum() / 3) > 0:
                mask[entry] = max(0.0, np.tanh(1e-4 / var * (agreement - 0.4)))
        partial += ((mask > 0.05) & (mask < 0.95)).sum()
        expected = mask * g.mean(0) / (1e-10 + mask.mean())
        close(ours.ravel(), expected, 1e-6, 1e-12)
    assert (partial > 100) == (name == "SANDMask")


def test_masks_of_domains_that_agree_or_oppose() -> None:
    for name, tau in (("ANDMask", 1.0), ("SANDMask", 0.5)):
        algorithm = build(name, tau=tau)
        agree = torch.tensor([[1.0], [2.0], [1.5]])
        assert algorithm.mask(agree).tolist() == [1.0]
        assert algorithm.mask(agree * torch.tensor([[1.0], [-1.0], [1.0]])).tolist() == [0.0]
        assert algorithm.mask(torch.zeros(3, 2)).tolist() == [0.0, 0.0]


def test_sandmask_at_domainbeds_default_trains_nothing() -> None:
    algorithm = build("SANDMask")
    algorithm.update(image_batch())
    assert all((p.grad == 0).all() for p in algorithm.parameters())


def test_iga_by_finite_differences() -> None:
    """The mean gradient is not differentiated; as the deviations sum to zero, its derivative would vanish."""
    algorithm = build("IGA", penalty=7.0).double()
    algorithm.featurizer, algorithm.classifier = (
        nn.Flatten(),
        linear(torch.randn(4, 64) * 0.1, torch.zeros(4)),
    )
    batch = image_batch(dtype=torch.float64)
    x, y = batch.per_domain(batch.x), batch.per_domain(batch.y)

    def objective(model: nn.Module) -> torch.Tensor:
        rows = [torch.cat([g.ravel() for g in literal_grads(model, x[d], y[d])]) for d in range(3)]
        mean = sum(rows) / 3
        spread = sum(((row - mean) ** 2).sum() for row in rows)
        risk = sum(cross_entropy(model(x[d]), y[d]) for d in range(3)) / 3
        return (risk + 7.0 * spread).detach()

    moved, h = copy.deepcopy(algorithm), 1e-5
    loss, _ = algorithm.loss(batch)
    close(loss, objective(moved).numpy())
    algorithm.zero_grad()
    loss.backward()
    for entry in ((0, 0), (1, 30), (3, 63)):
        values = []
        for sign in (1, -1):
            moved.load_state_dict(algorithm.state_dict())
            moved.classifier.weight.data[entry] += sign * h
            values.append(objective(moved))
        close(algorithm.classifier.weight.grad[entry], (values[0] - values[1]) / (2 * h), 1e-6)


def per_sample_variance(layer: nn.Linear, z: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    rows = [
        torch.cat([g.ravel() for g in literal_grads(layer, z[i, None], y[i, None])]) for i in range(len(z))
    ]
    return torch.stack(rows).numpy().var(0)


def test_variance_of_per_sample_gradients() -> None:
    torch.manual_seed(1)
    layer, z, y = nn.Linear(5, 3).double(), torch.randn(2, 7, 5).double(), torch.randint(3, (2, 7))
    expected = np.stack([per_sample_variance(layer, z[d], y[d]) for d in range(2)])
    close(classifier_gradient_variance(z, layer(z), y), expected)
    close(classifier_gradient_variance(z[0], layer(z[0]), y[0]), expected[0])
    single = classifier_gradient_variance(z.float(), layer(z).float(), y)
    close(single, expected, 1e-4, 1e-6)
    close(classifier_gradient_variance(z[:, :1], layer(z[:, :1]), y[:, :1]), np.zeros((2, 18)))


def test_fishr_average() -> None:
    """The same batch each time: the official value grows to 1 / (1 - ema), a true average stays."""
    official, repaired = (build("Fishr", fishr_average=name, ema=0.9) for name in ("domainbed", "normalized"))
    batch, ratios = image_batch(), []
    for step in range(200):
        official.step = repaired.step = step
        first, second = (a.loss(batch)[1]["penalty"] for a in (official, repaired))
        ratios.append(float((first / second).detach()) ** 0.5)
    assert ratios[0] == pytest.approx(1) and ratios[1] == pytest.approx(1.9, rel=1e-3)
    assert ratios[-1] == pytest.approx(10, rel=1e-3)


def test_fishr_normalized_gradient_is_that_of_one_update() -> None:
    algorithm = build("Fishr", fishr_average="normalized", penalty_anneal_iters=0)
    first, batch, found = build("Fishr", penalty_anneal_iters=0), image_batch(), []
    for algorithm.step in range(3):
        penalty = algorithm.loss(batch)[1]["penalty"]
        found.append(torch.autograd.grad(penalty, algorithm.classifier.weight)[0])
    expected = torch.autograd.grad(first.loss(batch)[1]["penalty"], first.classifier.weight)[0]
    assert expected.abs().sum() > 0
    for gradient in found:
        torch.testing.assert_close(gradient / expected.norm(), expected / expected.norm())


def test_fishr_anneals_and_makes_adam_anew() -> None:
    algorithm, batch = build("Fishr", penalty_anneal_iters=2), image_batch()
    for algorithm.step in range(4):
        before = algorithm.optims[0]
        loss, logs = algorithm.loss(batch)
        assert (algorithm.optims[0] is before) == (algorithm.step != 2)
        assert logs["penalty"] > 0 and (loss > logs["ce"]) == (algorithm.step >= 2)
        assert algorithm.average.abs().sum() > 0 and not algorithm.average.requires_grad


@pytest.mark.parametrize("rows", [16, 19, 5])
def test_arm_by_loop(rows: int) -> None:
    algorithm, x = build("ARM", batch_size=8).eval(), torch.rand(rows, 1, 8, 8)
    for start in range(0, rows, 8):
        group = x[start : start + 8]
        context = sum(algorithm.context(image[None])[0] for image in group) / len(group)
        seen = torch.stack([torch.cat([image, context]) for image in group])
        expected = algorithm.classifier(algorithm.featurizer(seen))
        torch.testing.assert_close(algorithm(x)[start : start + 8], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", [False, True])
def test_arm_context_network(trained: bool) -> None:
    algorithm = build("ARM", arm_train_context=trained)
    before = copy.deepcopy(dict(algorithm.context.named_parameters()))
    algorithm.update(image_batch(rows=8))
    moved = {name for name, p in algorithm.context.named_parameters() if not torch.equal(p, before[name])}
    assert ("0.weight" in moved) == trained and (trained or not moved)


def test_mtl_embeds_by_moving_average() -> None:
    algorithm = build("MTL", mtl_embedding="ema", mtl_ema=0.9).double()
    means = torch.zeros(3, algorithm.featurizer.n_outputs, dtype=torch.float64)
    for seed in range(2):
        batch, risk = image_batch(seed=seed, dtype=torch.float64), 0.0
        for d in range(3):
            z = algorithm.featurizer(batch.x[6 * d : 6 * d + 6])
            means[d] = 0.9 * z.mean(0) + 0.1 * means[d]
            logits = algorithm.classifier(torch.cat([z, means[d].expand_as(z)], 1))
            risk += cross_entropy(logits, batch.y[6 * d : 6 * d + 6])
        expected = torch.autograd.grad(risk, list(algorithm.parameters()), retain_graph=True)
        means = means.detach()
        loss, _ = algorithm.loss(batch)
        close(loss, risk.detach().numpy())
        for ours, wanted in zip(
            torch.autograd.grad(loss, list(algorithm.parameters())), expected, strict=True
        ):
            close(ours, wanted.numpy())
        close(algorithm.embeddings, means.numpy())
    x = batch.x[:5]
    z = algorithm.featurizer(x)
    close(algorithm(x), algorithm.classifier(torch.cat([z, z.mean(0).expand_as(z)], 1)).detach().numpy())


def test_mtl_as_published_is_noise() -> None:
    algorithm, batch = build("MTL"), image_batch()
    torch.manual_seed(3)
    ours, _ = algorithm.loss(batch)
    torch.manual_seed(3)
    z = algorithm.featurizer(batch.x)
    logits = algorithm.classifier(torch.cat([z, torch.randn(18, 64)], 1))
    expected = sum(cross_entropy(logits[6 * d : 6 * d + 6], batch.y[6 * d : 6 * d + 6]) for d in range(3))
    torch.testing.assert_close(ours, expected)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("MLDG", {"n_meta_test": 0}),
    ("MLDG", {"n_meta_test": 1}),
    ("SANDMask", {"tau": 0.2}),
    ("Fishr", {"fishr_average": "normalized", "penalty_anneal_iters": 1}),
    ("ARM", {"arm_train_context": True}),
    ("MTL", {"mtl_embedding": "ema"}),
    ("MTL", {"nonlinear_classifier": True}),
    ("ANDMask", {"nonlinear_classifier": True}),
]


@pytest.mark.parametrize("name, hp", VARIANTS)
def test_variants_train(name: str, hp: dict[str, Any]) -> None:
    algorithm = build(name, **hp)
    before = copy.deepcopy(dict(algorithm.named_parameters()))
    for algorithm.step in range(4):
        logs = algorithm.update(image_batch(rows=8, seed=algorithm.step))
        assert all(torch.isfinite(value) and not value.requires_grad for value in logs.values())
    assert all(not torch.equal(p, before[key]) for key, p in algorithm.named_parameters())
