"""Methods on the style and the content of features: Mixup, MixStyle, DSU, SagNet, RSC; stages of networks."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from linear_models import Draws, batch_of, build, image_batch, linear, on_linear
from torch import nn
from torch.distributions import Beta
from torch.nn.functional import cross_entropy

from dgbench.algorithm import Problem
from dgbench.errors import UsageError
from dgbench.networks import featurizer, style
from dgbench.networks.backbones import ResNet
from dgbench.networks.layers import Featurizer, Tail

torch.set_num_threads(1)


# Golden vectors


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "mixup"))
def test_mixup_official(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, batch = on_linear("Mixup", case, len(case.domains())), batch_of(case)
    x, y, lam = batch.per_domain(batch.x), batch.per_domain(batch.y), case.x("lam")
    order, losses = case.inputs["domain_perm"].tolist(), []
    for k, (i, j) in enumerate(zip(order, order[1:] + order[:1], strict=True)):
        n = min(len(y[i]), len(y[j]))
        pair = (x[i][None, :n], y[i][None, :n], x[j][None, :n], y[j][None, :n])
        losses.append(algorithm.mixed_risk(*pair, lam[k, None]))
    found = [sum(losses) / len(losses)]
    if isinstance(x, torch.Tensor):  # all of one length, as a run's are
        monkeypatch.setattr(torch, "randperm", Draws(order))
        monkeypatch.setattr(Beta, "sample", Draws(lam))
        found.append(algorithm.loss(batch)[0])
    for loss in found:
        g_x, g_w, g_b = torch.autograd.grad(loss, [batch.x, *algorithm.classifier.parameters()])
        close(loss, case.outputs["loss"])
        close(g_x, np.concatenate([case.outputs[f"g_{name}"] for name in case.domains()]))
        close(g_w, case.outputs["g_W"])
        close(g_b, case.outputs["g_b"])


@pytest.mark.golden
@pytest.mark.parametrize("case", [c for c in cases("dg", "mixstyle") if "pairs" not in c.id])
def test_mixstyle_official(case: Case) -> None:
    x, eps = case.x("x", grad=True), case.hp["eps"]
    y = style.mix_style(x, case.x("perm"), case.x("lam"), eps)
    (y * case.x("upstream")).sum().backward()
    close(y, case.outputs["y"])
    close(x.grad, case.outputs["g_x"])
    single = style.mix_style(x.detach().float(), case.x("perm"), case.x("lam").float(), eps)
    close(single, case.outputs["y_f32"], 1e-4, 1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "mixstyle2_pairs"))
def test_mixstyle2_official(case: Case) -> None:
    ids = [case.x(name) for name in case.domains()]
    for k, rows in enumerate(style.half_pairs([len(x) for x in ids])):
        assert torch.cat(ids)[rows].tolist() == case.outputs[f"pair{k}"].tolist()


SAGNET = [*cases("dg", "sagnet_domainbed"), *cases("dg", "sagnet_official")]


@pytest.mark.golden
@pytest.mark.parametrize("what", ["style", "content"])
@pytest.mark.parametrize("case", SAGNET)
def test_sagnet_randomisation_official(case: Case, what: str) -> None:
    x, partner, alpha, eps = case.x("x", grad=True), case.x("perm"), case.x("alpha"), case.hp["eps"]

    def randomized(x: torch.Tensor) -> torch.Tensor:
        if what == "style":
            return style.randomize_style(x, partner, alpha.to(x.dtype), eps)
        return style.randomize_content(x, partner, eps)

    y = randomized(x)
    (y * case.x("upstream")).sum().backward()
    close(y, case.outputs[what])
    close(x.grad, case.outputs[f"g_{what}"])
    if f"{what}_f32" in case.outputs:
        close(randomized(x.detach().float()), case.outputs[f"{what}_f32"], 1e-4, 1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "sagnet_official"))
def test_sagnet_adversary_official(case: Case) -> None:
    logits = case.x("logits", grad=True)
    algorithm = build("SagNet", sag_variant="official", sag_w_adv=1.0)
    loss = algorithm.adversarial_loss(logits)
    loss.backward()
    close(loss, case.outputs["adv_loss"])
    close(logits.grad, case.outputs["g_adv"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "sagnet_update"))
def test_sagnet_update_official(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(
        case.name, case.inputs | {"W": case.inputs["Wc"], "b": case.inputs["bc"]}, case.outputs, case.hp
    )
    algorithm = on_linear("SagNet", case, len(case.domains()), sag_w_adv=case.hp["w_adv"])
    algorithm.featurizer = linear(case.inputs["F0"])
    algorithm.style = linear(case.inputs["Ws"], case.inputs["bs"])
    modules = (algorithm.featurizer, algorithm.classifier, algorithm.style)
    algorithm._optims = [torch.optim.SGD(m.parameters(), lr=case.hp["sgd_lr"]) for m in modules]
    monkeypatch.setattr(torch, "randperm", Draws(*case.inputs["perm"]))
    monkeypatch.setattr(torch, "rand", Draws(case.inputs["alpha"][0]))
    logs = algorithm.update(batch_of(case))
    for name, value in (("c", "loss"), ("s", "style"), ("adv", "adversary")):
        close(logs[value], case.outputs[f"loss_{name}"])
    f, c, s = modules
    for name, value in (
        ("F1", f.weight),
        ("Wc1", c.weight),
        ("bc1", c.bias),
        ("Ws1", s.weight),
        ("bs1", s.bias),
    ):
        close(value, case.outputs[name])


def recorded(algorithm: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What RSC's two rules give while it runs."""
    found: dict[str, torch.Tensor] = {}
    for name in ("candidates", "spared"):
        rule = getattr(algorithm, name)

        def spy(*args: Any, name: str = name, rule: Any = rule) -> torch.Tensor:
            found[name] = rule(*args)
            return found[name]

        monkeypatch.setattr(algorithm, name, spy)
    return found


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "rsc_domainbed"))
def test_rsc_domainbed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    hp = {f"rsc_{name}_factor": case.hp[name] for name in ("f_drop", "b_drop")}
    algorithm, batch = on_linear("RSC", case, len(case.domains()), **hp), batch_of(case)
    found = recorded(algorithm, monkeypatch)
    loss, _ = algorithm.loss(batch)
    loss.backward()
    close(loss, case.outputs["loss"])
    close(found["candidates"].double(), case.outputs["mask_feature"])
    mask = found["candidates"] | found["spared"][:, None]
    close(mask.double(), case.outputs["mask_final"])
    close(batch.x * mask, case.outputs["muted_features"])
    close(batch.x.grad, np.concatenate([case.outputs[f"g_{name}"] for name in case.domains()]))
    close(algorithm.classifier.weight.grad, case.outputs["g_W"])
    close(algorithm.classifier.bias.grad, case.outputs["g_b"])


class Pooled(Featurizer):
    """A feature map as it comes, then global average pooling."""

    def stages(self) -> list[nn.Module]:
        return [nn.Identity(), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())]


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "rsc_official"))
def test_rsc_official(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = on_linear("RSC", case, 1, rsc_variant="official")
    algorithm.featurizer = Pooled()
    algorithm.step = case.hp["epoch"] * algorithm.problem.num_steps // 20
    close(algorithm.batch_fraction(), case.outputs["batch_fraction"])
    found = recorded(algorithm, monkeypatch)
    monkeypatch.setattr(torch, "rand", Draws(0.49 if case.hp["kind"] == "spatial" else 0.51))
    batch = batch_of(Case(case.name, {"x0": case.inputs["x"], "y0": case.inputs["y"]}))
    loss, _ = algorithm.loss(batch)
    loss.backward()
    close(loss, case.outputs["loss"])
    close(batch.x.grad, case.outputs["g_x"])
    mask = found["candidates"] | found["spared"][:, None, None, None]
    close(mask.double(), case.outputs["mask"])
    close(batch.x * mask, case.outputs["x_masked"])
    assert found["spared"].nonzero().ravel().tolist() == case.outputs["kept_rows"].tolist()


# Where a layer can be put


def network(backbone: str, channels: int = 1, freeze_bn: bool = False) -> Featurizer:
    problem = Problem((channels, 28, 28), 4, 3, 100, 10, backbone=backbone, freeze_bn=freeze_bn)
    torch.manual_seed(0)
    return featurizer(problem, {"resnet_dropout": 0.0})


@pytest.mark.parametrize("backbone, maps", [
    ("digits_cnn", [(1, 28), (32, 28), (64, 28)]),
    ("mnist_cnn", [(1, 28), (64, 28), (128, 14), (128, 14), (128, 14)]),
    ("two_conv", [(1, 28), (64, 12), (128, 4)]),
    ("resnet18", [(64, 7), (64, 7), (128, 4), (256, 2), (512, 1)]),
])  # fmt: skip
def test_stages_are_the_network(backbone: str, maps: list[tuple[int, int]]) -> None:
    net, x = network(backbone).eval(), torch.rand(2, 1, 28, 28)
    *stages, head = net.stages()
    z = x
    for stage, (channels, side) in zip(stages, maps, strict=True):
        z = stage(z)
        assert z.shape == (2, channels, side, side)
    assert torch.equal(head(z), net(x)) and head(z).shape == (2, net.n_outputs)
    parts = {id(p) for stage in net.stages() for p in stage.parameters()}
    assert parts == {id(p) for p in net.parameters()}


@pytest.mark.parametrize(
    "after, places", [("123", {1, 2, 3}), ("01234", {0, 1, 2, 3, 4}), ("9", None), ("", None)]
)
def test_layers_between_stages_of_resnet(after: str, places: set[int] | None) -> None:
    net = network("resnet18", freeze_bn=True)
    if places is None:
        with pytest.raises(UsageError, match=f"after stages '{after}'; give digits of: 01234"):
            style.Between(net, nn.Identity(), after)
        return
    layer = nn.Hardtanh(-0.1, 0.1)
    between, x = style.Between(net, layer, after), torch.rand(2, 1, 28, 28)
    assert between.after == places and not between.network.net.bn1.training
    between.train()
    assert not between.network.net.bn1.training and between.layer.training
    torch.testing.assert_close(style.Between(net, nn.Identity(), after)(x), net(x))
    z = x
    for k, stage in enumerate(net.stages()):
        z = layer(stage(z)) if k in places else stage(z)
    torch.testing.assert_close(between(x), z)


def test_small_networks_have_the_layer_after_convolutions() -> None:
    assert style.Between(network("digits_cnn"), nn.Identity(), "01234").after == {1, 2}
    assert style.Between(network("mnist_cnn"), nn.Identity(), "123").after == {1, 2, 3}


def test_a_backbone_without_feature_maps() -> None:
    with pytest.raises(UsageError, match="choose from: --backbone resnet18"):
        Featurizer().stages()


def test_tail_is_a_copy() -> None:
    net, z = network("resnet18", freeze_bn=True), torch.rand(2, 128, 4, 4)
    tail = Tail(net, 3).train()
    expected = z
    for stage in net.stages()[3:]:
        expected = stage(expected)
    torch.testing.assert_close(tail(z), expected)
    assert not any(m.training for m in tail.modules() if isinstance(m, nn.BatchNorm2d))
    assert {id(p) for p in tail.parameters()}.isdisjoint(id(p) for p in net.parameters())


def test_resnet_of_other_channels() -> None:
    torch.manual_seed(0)
    three = ResNet("resnet18", "none", True, 0.0).net.conv1.weight
    torch.manual_seed(0)
    five = ResNet("resnet18", "none", True, 0.0, 5).net.conv1.weight
    assert five.shape == (64, 5, 7, 7) and five.requires_grad
    assert all(torch.equal(five[:, i], three[:, i % 3]) for i in range(5))


# MixStyle, DSU and Mixup: literal loops, and limits


def literal_stats(row: np.ndarray, eps: float = 1e-6) -> tuple[float, float]:
    values = row.ravel()
    mean = values.sum() / len(values)
    return mean, math.sqrt(((values - mean) ** 2).sum() / (len(values) - 1) + eps)


def test_dsu_by_loop() -> None:
    torch.manual_seed(0)
    x, (e_mean, e_std) = torch.randn(5, 3, 4, 2).double(), torch.randn(2, 5, 3, 1, 1).double()
    ours, maps = style.perturb_style(x, e_mean, e_std).numpy(), x.numpy()
    for c in range(3):
        stats = np.array([literal_stats(maps[i, c]) for i in range(5)])
        spread = [math.sqrt(((s - s.sum() / 5) ** 2).sum() / 4 + 1e-6) for s in stats.T]
        for i in range(5):
            mean, std = stats[i]
            new_mean = mean + float(e_mean[i, c]) * spread[0]
            new_std = std + float(e_std[i, c]) * spread[1]
            close(ours[i, c], (maps[i, c] - mean) / std * new_std + new_mean)


def test_dsu_limits() -> None:
    x, noise = torch.randn(4, 3, 5, 5).double(), torch.zeros(4, 3, 1, 1).double()
    torch.testing.assert_close(style.perturb_style(x, noise, noise), x)
    same = x[:1].expand(4, -1, -1, -1)
    moved = style.perturb_style(same, noise + 1, noise)
    torch.testing.assert_close(moved, same + 1e-3)  # no uncertainty: only the root of eps is left
    assert style.perturb_style(x[:1], noise[:1] + 1, noise[:1]).isfinite().all()
    assert style.perturb_style(x[..., :1, :1], noise + 1, noise + 1).isfinite().all()
    x.requires_grad_()
    style.perturb_style(x, noise + 1, noise + 1).sum().backward()
    assert (x.grad - 1).abs().max() > 1e-3  # through the statistics of the batch


def test_mixstyle_limits() -> None:
    x, swap = torch.randn(4, 3, 5, 5).double(), torch.tensor([1, 0, 3, 2])
    ones = torch.ones(4).double()
    torch.testing.assert_close(style.mix_style(x, swap, ones), x)
    torch.testing.assert_close(style.mix_style(x, torch.arange(4), ones * 0.3), x)
    theirs = style.mix_style(x, swap, 0 * ones)
    torch.testing.assert_close(theirs.mean((2, 3)), x[swap].mean((2, 3)))
    for own in (style.randomize_style(x, swap, ones), style.randomize_content(x, torch.arange(4))):
        torch.testing.assert_close(own, x)


@pytest.mark.parametrize("domains, rows", [(2, 4), (3, 5), (5, 1)])
def test_partners_of_other_domains(domains: int, rows: int) -> None:
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        partner = style.cross_domain(domains, rows)
        assert sorted(partner.tolist()) == list(range(domains * rows))
        own, other = torch.arange(domains * rows) // rows, (partner // rows).view(domains, rows)
        assert (own != partner // rows).all() and (other == other[:, :1]).all()
        seen.add(tuple(partner.tolist()))
    assert len(seen) > (3 if rows == 1 else 20)


@pytest.mark.parametrize("rows", [2, 5, 8])
def test_partners_of_the_other_half(rows: int) -> None:
    torch.manual_seed(0)
    first, half = rows - rows // 2, rows // 2
    for _ in range(10):
        partner = style.swapped_halves(3, rows).view(3, rows) - rows * torch.arange(3)[:, None]
        assert (partner.sort(1).values == torch.arange(rows)).all()
        assert (partner[:, :first] >= half).all() and (partner[:, first:] < half).all()


@pytest.mark.parametrize("mix", ["random", "crossdomain", "pairs"])
def test_style_mixing_layer(mix: str) -> None:
    x = torch.randn(12, 3, 4, 4)
    assert style.StyleMixing(1.0, 0.1, mix, 3).eval()(x) is x
    assert style.StyleMixing(0.0, 0.1, mix, 3)(x) is x
    torch.manual_seed(1)
    y = style.StyleMixing(1.0, 5.0, mix, 3)(x)
    assert ((y - x).abs().amax((1, 2, 3)) > 1e-4).sum() >= 10
    layer, changed = style.StyleMixing(0.5, 5.0, mix, 3), []
    for _ in range(60):
        changed.append(((layer(x) - x).abs().amax((1, 2, 3)) > 1e-6).view(3, 4).any(1))
    groups = torch.stack(changed).float()
    assert 0.3 < groups.mean() < 0.7
    together = (groups == groups[:, :1]).all(1)
    assert not together.all() if mix == "pairs" else together.all()


def test_mixstyle_pairs_stay_in_their_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward over all groups is the official one forward per group."""
    x, rows = torch.randn(12, 3, 4, 4).double(), 4
    partner, lam = style.swapped_halves(3, rows), torch.rand(12)
    monkeypatch.setattr(style, "swapped_halves", Draws(partner))
    layer = style.StyleMixing(1.0, 0.1, "pairs", 3)
    monkeypatch.setattr(layer, "beta", type("Fixed", (), {"sample": staticmethod(lambda shape: lam)}))
    ours = layer(x)
    for g in range(3):
        own = slice(g * rows, (g + 1) * rows)
        expected = style.mix_style(x[own], partner[own] - g * rows, lam[own].double())
        torch.testing.assert_close(ours[own], expected)


def test_mixstyle_pairs_regroup_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, batch = build("MixStyle", mixstyle_mix="pairs", mixstyle_p=0.0), image_batch(rows=5)
    seen: list[torch.Tensor] = []
    original = algorithm.featurizer.forward
    monkeypatch.setattr(algorithm.featurizer, "forward", lambda x: (seen.append(x), original(x))[1])
    loss, _ = algorithm.loss(batch)
    rows = [0, 1, 2, 8, 9, 5, 6, 7, 13, 14, 10, 11, 12, 3, 4]
    assert torch.equal(seen[0], batch.x[rows])
    torch.testing.assert_close(
        loss, cross_entropy(algorithm(batch.x), batch.y)
    )  # nothing mixed: the same rows


def test_mixstyle_across_domains_needs_two() -> None:
    for mix in ("crossdomain", "pairs"):
        with pytest.raises(UsageError, match="choose from: random"):
            build("MixStyle", domains=1, mixstyle_mix=mix)


@pytest.mark.parametrize("name", ["MixStyle", "DSU"])
def test_layers_work_in_training_only(name: str) -> None:
    always, never = (build(name, **{f"{name.lower()}_p": p}) for p in (1.0, 0.0))
    x, plain = image_batch().x, never(image_batch().x)
    assert not torch.allclose(always(x), plain, rtol=1e-3)
    assert torch.equal(always.eval()(x), plain) and torch.equal(never.eval()(x), plain)


def test_dsu_layer_tosses_a_coin_and_perturbs_each_channel() -> None:
    torch.manual_seed(0)
    layer, x = style.StyleNoise(0.5), torch.randn(6, 3, 4, 4)
    outputs = [layer(x) for _ in range(100)]
    assert 30 < sum(y is x for y in outputs) < 70
    y = next(y for y in outputs if y is not x)
    assert ((y.mean((2, 3)) - x.mean((2, 3))).abs() > 1e-6).all()
    assert ((y.std((2, 3)) - x.std((2, 3))).abs() > 1e-6).all()


def test_mixup_by_loop() -> None:
    algorithm, batch = build("Mixup", domains=4).double(), image_batch(4, dtype=torch.float64)
    torch.manual_seed(2)
    order, lam = torch.randperm(4).tolist(), Beta(0.2, 0.2).sample((4,)).double()
    risks = []
    for k, (i, j) in enumerate(zip(order, order[1:] + order[:1], strict=True)):
        for b in range(6):
            p, q = 6 * i + b, 6 * j + b
            logits = algorithm((lam[k] * batch.x[p] + (1 - lam[k]) * batch.x[q])[None])
            first, second = (cross_entropy(logits, batch.y[row, None]) for row in (p, q))
            risks.append(lam[k] * first + (1 - lam[k]) * second)
    torch.manual_seed(2)
    torch.testing.assert_close(algorithm.loss(batch)[0], sum(risks) / 24)


# SagNet and RSC


@pytest.mark.parametrize("backbone", ["digits_cnn", "mnist_cnn"])
def test_sagnet_official_update(backbone: str) -> None:
    """Who is trained by what: gradients taken one by one from the equations."""
    algorithm = build("SagNet", backbone=backbone, sag_variant="official", sag_w_adv=50.0).double()
    front, back = algorithm.featurizer.stages()[:3], algorithm.featurizer.stages()[3:]
    style_back = algorithm.style[0].layers
    for p, q in zip(nn.Sequential(*back).parameters(), style_back.parameters(), strict=True):
        assert torch.equal(p, q) and p is not q
    batch = image_batch(dtype=torch.float64)
    torch.manual_seed(4)
    partners, alpha = torch.randperm(18), torch.rand(18, dtype=torch.float64)
    others = torch.randperm(18)
    maps = nn.Sequential(*front)(batch.x)
    content = algorithm.classifier(nn.Sequential(*back)(style.randomize_style(maps, partners, alpha)))
    logits = algorithm.style(style.randomize_content(maps, others))
    adversary = 50.0 * -torch.log(logits.softmax(1) + 1e-5).mean()
    norms = [p for m in front for n in m.modules() if isinstance(n, nn.GroupNorm) for p in n.parameters()]
    norms = norms or [p for stage in front for p in stage.parameters()]
    assert len(norms) == 4  # two group norms, or two convolutions
    own = [*algorithm.featurizer.parameters(), *algorithm.classifier.parameters()]
    wanted = [
        torch.autograd.grad(loss, params, retain_graph=True)
        for loss, params in (
            (cross_entropy(logits, batch.y), list(algorithm.style.parameters())),
            (adversary, norms),
            (cross_entropy(content, batch.y), own),
        )
    ]
    norm = float(torch.cat([g.ravel() for g in wanted[1]]).norm())
    assert norm > 0.2
    before = copy.deepcopy(algorithm)
    algorithm._optims = [
        torch.optim.SGD([p for g in o.param_groups for p in g["params"]], lr=1.0) for o in algorithm.optims
    ]
    torch.manual_seed(4)
    logs = algorithm.update(batch)
    torch.testing.assert_close(logs["adversary"], adversary.detach())
    clipped = [g * min(1.0, 0.1 / (norm + 1e-6)) for g in wanted[1]]
    moves = {
        id(p): -g
        for p, g in zip([*algorithm.style.parameters(), *own], [*wanted[0], *wanted[2]], strict=True)
    }
    for p, g in zip(norms, clipped, strict=True):
        moves[id(p)] = moves[id(p)] - g
    for (name, p), q in zip(algorithm.named_parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p - q, moves[id(p)], rtol=1e-7, atol=1e-9, msg=name)


def test_sagnet_predicts_without_randomisation() -> None:
    for variant in ("domainbed", "official"):
        algorithm, x = build("SagNet", sag_variant=variant), image_batch().x
        assert torch.equal(algorithm(x), algorithm.classifier(algorithm.featurizer(x)))


@pytest.mark.parametrize("backbone", ["digits_cnn", "mnist_cnn"])
@pytest.mark.parametrize("kind", ["spatial", "channel"])
def test_rsc_official_by_loop(backbone: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = build("RSC", backbone=backbone, rsc_variant="official").double()
    batch = image_batch(dtype=torch.float64)
    *stages, head = algorithm.featurizer.stages()
    z = nn.Sequential(*stages)(batch.x).detach()
    masks, falls = [], []
    for i in range(18):
        own = z[i, None].clone().requires_grad_()
        logits = algorithm.classifier(head(own))[0]
        logits[batch.y[i]].backward()
        importance = own.grad[0].mean((1, 2))
        score = (z[i] * importance[:, None, None]).sum(0).ravel() if kind == "spatial" else importance
        n = math.ceil(len(score) / (3 if kind == "spatial" else 3.2))
        threshold = sorted(score.tolist(), reverse=True)[n]
        kept = (score <= threshold).double()
        mask = kept.view(1, *z.shape[2:]) if kind == "spatial" else kept.view(-1, 1, 1)
        after = algorithm.classifier(head((z[i] * mask)[None]))[0]
        fall = (logits.softmax(0) - after.softmax(0))[batch.y[i]]
        falls.append(max(0.0, float(fall.detach()) - 1e-4))
        masks.append(mask)
    limit = sorted(falls, reverse=True)[round(18 * 0.3)]
    expected = [m if fall > limit else torch.ones_like(m) for m, fall in zip(masks, falls, strict=True)]
    found = recorded(algorithm, monkeypatch)
    monkeypatch.setattr(torch, "rand", Draws(0.49 if kind == "spatial" else 0.51))
    loss, _ = algorithm.loss(batch)
    ours = (found["candidates"] | found["spared"][:, None, None, None]).double()
    torch.testing.assert_close(ours, torch.stack(expected))
    torch.testing.assert_close(loss, cross_entropy(algorithm.classifier(head(z * ours)), batch.y))
    assert 0 < (ours.flatten(1).mean(1) < 1).sum() <= round(18 * 0.3)


def test_rsc_makes_masks_without_dropout() -> None:
    algorithm = build("RSC", backbone="resnet18", resnet_dropout=0.5, rsc_variant="official")
    seen: list[bool] = []
    dropout = algorithm.featurizer.dropout
    dropout.forward = lambda x: (seen.append(dropout.training), x)[1]
    algorithm.loss(image_batch())
    assert seen == [False, False, True] and algorithm.classifier.training


def test_rsc_official_spares_small_falls() -> None:
    algorithm = build("RSC", rsc_variant="official")
    assert algorithm.spared(torch.tensor([9e-5, 5e-5, 0.0, -1.0]), "channel").all()
    spared = algorithm.spared(torch.tensor([0.3, 0.2, 2e-4, -1.0]), "channel")
    assert spared.tolist() == [False, True, True, True]  # round(4 * 0.3) = 1 is challenged


def test_rsc_batch_fraction_of_the_run() -> None:
    algorithm, found = build("RSC"), []
    for algorithm.step in (0, 49, 50, 99):
        found.append(algorithm.batch_fraction())
    assert found == pytest.approx([0.3, 0.3, 0.5, 0.5])


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("MixStyle", {"mixstyle_mix": "crossdomain"}),
    ("MixStyle", {"mixstyle_mix": "pairs"}),
    ("DSU", {"dsu_p": 1.0}),
    ("SagNet", {"sag_variant": "official"}),
    ("SagNet", {"sag_variant": "official", "backbone": "mnist_cnn"}),
    ("SagNet", {"sag_variant": "official", "backbone": "two_conv", "size": 28, "nonlinear_classifier": True}),
    ("RSC", {"rsc_variant": "official"}),
    ("RSC", {"nonlinear_classifier": True}),
    ("MixStyle", {"backbone": "resnet18"}),
    ("DSU", {"backbone": "resnet18"}),
]


@pytest.mark.parametrize("name, hp", VARIANTS)
def test_variants_train(name: str, hp: dict[str, Any]) -> None:
    algorithm = build(name, **({"backbone": "digits_cnn"} | hp))
    before = copy.deepcopy(dict(algorithm.named_parameters()))
    for algorithm.step in range(2):
        if hp.get("backbone") == "two_conv":
            batch = image_batch(rows=2)
            batch.x = nn.functional.interpolate(batch.x, 28)
        else:
            batch = image_batch(rows=8 if "resnet18" not in hp.values() else 2, seed=algorithm.step)
        logs = algorithm.update(batch)
        assert all(torch.isfinite(value) and not value.requires_grad for value in logs.values())
    assert all(not torch.equal(p, before[key]) for key, p in algorithm.named_parameters())
