"""RCL and the methods that its paper compares it with: vectors, slow loops and limit cases."""

import itertools
import math
from typing import Any

import pytest
import torch
from golden_vectors import Case, cases, close
from linear_models import Draws, build, image_batch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgbench import hparams, registry
from dgbench.algorithm import Problem
from dgbench.algorithms.jigsaw import shuffled
from dgbench.dataset import Dataset
from dgbench.errors import UsageError
from dgbench.losses import redundancy
from dgbench.losses import reversed as rcl
from dgbench.networks.layers import Featurizer

torch.set_num_threads(1)

VARIANTS = {
    "": ("scalar", "sum", True),
    "_detminmax": ("scalar", "sum", False),
    "_mean": ("scalar", "mean", True),
    "_perdim": ("per_dimension", "sum", True),
}  # suffix: rescale, distance, through


@pytest.mark.golden
@pytest.mark.parametrize("suffix", VARIANTS)
@pytest.mark.parametrize("case", cases("dg", "rcl"))
def test_reversed_contrastive(case: Case, suffix: str) -> None:
    rescale, distance, through = VARIANTS[suffix]
    f, margin = case.x("feat", grad=True), float(case.hp["margin"])
    h = rcl.unit_range(f, rescale, through)
    found = rcl.neighbours(h, case.x("y"), distance)
    terms = rcl.reversed_contrastive(h, found, margin, distance)
    terms.mean().backward()
    close(terms.mean(), case.outputs[f"loss{suffix}"])
    close(f.grad, case.outputs[f"g_feat{suffix}"])
    close(found.active(margin), case.outputs[f"active{suffix}"])
    if not suffix:
        close(terms, case.outputs["terms"])
        close(found.positive, case.outputs["pos"])
        close(found.negative, case.outputs["neg"])
        for ours, theirs in ((found.d_positive, "d_pos"), (found.d_negative, "d_neg")):
            close(ours.where(ours < math.inf, torch.nan), case.outputs[theirs])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "dso"))
def test_double_soft_orthogonality(case: Case) -> None:
    w = case.x("W", grad=True)
    rows, columns = redundancy.soft_orthogonality(w)
    (rows + columns).backward()
    close(rows, case.outputs["rows_term"])
    close(columns, case.outputs["cols_term"])
    close(rows + columns, case.outputs["dso"])
    close(w.grad, case.outputs["g_W"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "srip_official"))
def test_spectral_isometry(case: Case) -> None:
    w = case.x("W", grad=True)
    loss = redundancy.spectral_isometry(w, case.x("b_k"))
    loss.backward()
    close(loss, case.outputs["loss"])
    close(w.grad, case.outputs["g_W"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "decov"))
def test_covariance(case: Case) -> None:
    variants = {"_channelmean": "channel_means", "_positions": "positions", "_flat": "flat"}
    for suffix, samples in variants.items() if case.inputs["h"].ndim == 4 else {"": "flat"}.items():
        h = case.x("h", grad=True)
        loss = redundancy.covariance(h, samples)
        loss.backward()
        close(loss, case.outputs[f"loss{suffix}"])
        close(h.grad, case.outputs[f"g{suffix or '_h'}"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "jigsaw2x2"))
def test_jigsaw_tiles(case: Case) -> None:
    orders = build("Jigsaw").orders
    close(orders, case.outputs["perms"])
    for order, expected in zip(orders, case.outputs["shuffled"], strict=True):
        close(shuffled(case.x("x"), order.expand(len(case.inputs["x"]), -1)), expected)


# whole methods by slow loops, in float64


def run(name: str, monkeypatch: pytest.MonkeyPatch, draws: dict[str, Any], **chosen: Any) -> tuple[Any, ...]:
    """A method, a batch and its loss in float64; ``draws`` are given for the random numbers of torch."""
    algorithm, batch = build(name, **chosen).double(), image_batch(dtype=torch.float64)
    noise = torch.linspace(0.1, 1, len(batch.y)).view(-1, 1, 1, 1)  # the classes are near and far
    batch.x = noise * batch.x + image_batch(seed=1, dtype=torch.float64).x[batch.y]
    for function, values in draws.items():
        monkeypatch.setattr(torch, function, Draws(*values))
    loss, logs = algorithm.loss(batch)
    monkeypatch.undo()
    return algorithm, batch, loss, logs


def same_gradients(algorithm: Any, loss: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    parameters = dict(algorithm.named_parameters())
    ours, wanted = (torch.autograd.grad(value, list(parameters.values())) for value in (loss, expected))
    for name, a, b in zip(parameters, ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11, msg=name)


def cut(algorithm: Any, x: Tensor) -> tuple[Tensor, nn.Module]:
    *stages, head = algorithm.featurizer.stages()
    for stage in stages:
        x = stage(x)
    return x, nn.Sequential(head, algorithm.classifier)


@pytest.mark.parametrize("margin", [0.0, 0.5, 0.7])
@pytest.mark.parametrize("rescale", rcl.RESCALES)
@pytest.mark.parametrize("distance", rcl.DISTANCES)
@pytest.mark.parametrize("through", [True, False])
def test_rcl_by_loop(
    margin: float, rescale: str, distance: str, through: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    hp = {"rcl_margin": margin, "rcl_rescale": rescale, "rcl_distance": distance}
    algorithm, batch, loss, logs = run(
        "RCL", monkeypatch, {}, **hp, rcl_through_range=through, rcl_weight=0.3
    )
    f, model = cut(algorithm, batch.x)
    flat = f.reshape(len(f), -1)
    if rescale == "scalar":
        low, high = flat.min(), flat.max()
    elif rescale == "per_channel":
        each = f.transpose(0, 1).flatten(1)  # (C, all rows and positions)
        low, high = (extreme.repeat_interleave(f[0, 0].numel()) for extreme in (each.amin(1), each.amax(1)))
    else:
        low, high = flat.min(0)[0], flat.max(0)[0]
    if not through:
        low, high = low.detach(), high.detach()
    h = (flat - low) / torch.where(high > low, high - low, torch.ones_like(high))
    terms, active = torch.zeros((), dtype=torch.float64), 0
    for i in range(len(h)):
        distances = [(h[i] - h[j].detach()).abs() for j in range(len(h))]
        distances = [d.sum() if distance == "sum" else d.mean() for d in distances]
        same = [d for j, d in enumerate(distances) if j != i and batch.y[j] == batch.y[i]]
        other = [d for j, d in enumerate(distances) if batch.y[j] != batch.y[i]]
        if same and (margin == 0 or min(same) < margin * min(other)):
            terms, active = terms - min(same), active + 1
    expected = cross_entropy(model(f), batch.y) + 0.3 * terms / len(h)
    same_gradients(algorithm, loss, expected)
    assert float(logs["active"]) == pytest.approx(active / len(h))
    accompanied = int((batch.y.bincount()[batch.y] > 1).sum())
    assert 0 < active < accompanied if margin else active == accompanied


def test_rcl_limits() -> None:
    r = torch.Generator().manual_seed(0)
    h = torch.rand(6, 5, generator=r)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    found = rcl.neighbours(h, labels)
    assert found.positive[5] == -1 and found.d_positive[5] == math.inf
    assert found.active(math.inf).tolist() == [True] * 5 + [False]
    equal = rcl.neighbours(torch.tensor([[0.0], [1.0], [0.0]]), torch.tensor([0, 0, 1]))
    assert equal.d_negative[0] == 0 and equal.active(math.inf).tolist() == [True, True, False]
    assert not found.active(0.0).any()
    terms = rcl.reversed_contrastive(h, found)
    assert (terms[:5] < 0).all() and terms[5] == 0
    one_class = rcl.neighbours(h, torch.zeros(6, dtype=torch.long))
    assert (one_class.negative == -1).all() and one_class.active(0.2).all()
    alone = rcl.neighbours(h[:1], labels[:1])
    assert not alone.active(math.inf).any() and rcl.reversed_contrastive(h[:1], alone).tolist() == [0.0]
    constant = rcl.unit_range(torch.full((3, 4), 2.0, requires_grad=True))
    assert (constant == 0).all()
    equal = rcl.neighbours(torch.ones(4, 3), torch.tensor([0, 0, 0, 1]))
    assert equal.positive.tolist() == [1, 0, 0, -1], "the lowest index among equals"


def test_rcl_moves_the_anchor_only_and_not_the_classifier() -> None:
    h = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]], requires_grad=True)
    found = rcl.neighbours(h, torch.tensor([0, 0, 1]))
    rcl.reversed_contrastive(h, found)[0].backward()
    assert h.grad is not None and h.grad.tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("rescale", [True, False])
def test_dropout_by_loop(rescale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chances = torch.rand(18, 64, generator=torch.Generator().manual_seed(1))
    draws = {"rand": (torch.tensor(0.8), chances)}
    hp = {"dropout_max": 0.5, "dropout_rescale": rescale}
    algorithm, batch, loss, logs = run("Dropout", monkeypatch, draws, **hp)
    f, model = cut(algorithm, batch.x)
    kept = f.clone()
    for i in range(18):
        for c in range(64):
            kept[i, c] = f[i, c] * ((1 / (1 - 0.4) if rescale else 1) if chances[i, c] >= 0.4 else 0)
    assert float(logs["rate"]) == pytest.approx(0.4) and float(logs["penalty"]) == 0
    torch.testing.assert_close(loss, cross_entropy(model(kept), batch.y), rtol=1e-6, atol=0)


def test_dropout_rates_are_uniform_and_masks_follow_them() -> None:
    algorithm, batch = build("Dropout"), image_batch(rows=40)
    rates = []
    for step in range(200):
        torch.manual_seed(step)
        rate = torch.rand(())
        dropped = (algorithm.drop(torch.ones(120, 64, 4, 4), rate) == 0).float()
        assert (dropped.flatten(2).var(2) == 0).all(), "whole channels"
        assert abs(float(dropped.mean() - rate)) < 0.03
        rates.append(float(rate))
    logged = [float(algorithm.loss(batch)[1]["rate"]) for _ in range(50)]
    assert 0.4 < sum(logged) / 50 < 0.6 and max(logged) > 0.9 and min(logged) < 0.1
    assert torch.equal(algorithm.drop(torch.ones(2, 3, 1, 1), torch.tensor(0.0)), torch.ones(2, 3, 1, 1))


def test_dropout_is_for_training_only() -> None:
    for name in ("Dropout", "DropoutOrthogonality", "DropoutCovariance"):
        algorithm, x = build(name).eval(), image_batch().x
        assert torch.equal(algorithm(x), algorithm.classifier(algorithm.featurizer(x)))


@pytest.mark.parametrize("kind", ["double_soft", "soft", "spectral"])
def test_orthogonality_is_that_of_the_last_convolution(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = torch.rand(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    draws = {"rand": (torch.tensor(0.0), torch.ones(18, 64), *([start] if kind == "spectral" else []))}
    hp = {"orthogonality": kind, "orthogonality_weight": 0.2}
    algorithm, batch, loss, _ = run("DropoutOrthogonality", monkeypatch, draws, **hp)
    w = algorithm.featurizer.layers[2].weight.reshape(64, 32 * 9)
    rows, columns = w @ w.T - torch.eye(64), w.T @ w - torch.eye(32 * 9)
    if kind == "spectral":
        v = rows @ start
        penalty = (rows @ v / v.norm()).norm() ** 2
    else:
        penalty = (rows**2).sum() + ((columns**2).sum() if kind == "double_soft" else 0)
    f, model = cut(algorithm, batch.x)
    same_gradients(algorithm, loss, cross_entropy(model(f), batch.y) + 0.2 * penalty)


@pytest.mark.parametrize("samples", redundancy.SAMPLES)
def test_covariance_is_that_before_the_dropout(samples: str, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = {"rand": (torch.tensor(0.5), torch.arange(18 * 64).view(18, 64) % 2)}
    hp = {"covariance_samples": samples, "covariance_weight": 0.2}
    algorithm, batch, loss, _ = run("DropoutCovariance", monkeypatch, draws, **hp)
    f, model = cut(algorithm, batch.x)
    rows = {
        "channel_means": f.mean((2, 3)),
        "positions": torch.stack([f[i, :, y, x] for i in range(18) for y in range(8) for x in range(8)]),
        "flat": f.reshape(18, -1),
    }[samples]
    c = torch.cov(rows.T, correction=0)
    off = c - torch.diag(torch.diag(c))
    kept = f * ((torch.arange(18 * 64).view(18, 64) % 2) * 2)[:, :, None, None]
    same_gradients(algorithm, loss, cross_entropy(model(kept), batch.y) + 0.1 * (off**2).sum())


def test_jigsaw_by_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    k = torch.arange(18) + 3
    algorithm, batch, loss, _ = run("Jigsaw", monkeypatch, {"randint": (k,)}, jigsaw_weight=0.7)
    expected = cross_entropy(algorithm(batch.x), batch.y)
    for i, order in enumerate(itertools.islice(itertools.permutations(range(4)), 3, 21)):
        corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
        image = torch.zeros_like(batch.x[i])
        for (y, x), source in zip(corners, order, strict=True):
            v, u = corners[source]
            image[:, y : y + 4, x : x + 4] = batch.x[i, :, v : v + 4, u : u + 4]
        z = algorithm.features(image[None])
        expected = expected + 0.7 * cross_entropy(algorithm.order(z), k[i, None]) / 18
    same_gradients(algorithm, loss, expected)


def test_jigsaw_needs_even_sides() -> None:
    problem = Problem((1, 9, 8), 3, 1, 1, 1, backbone="digits_cnn")
    with pytest.raises(UsageError, match="Jigsaw halves images, which 9 x 8 pixels do not allow"):
        registry.find("algorithms", "Jigsaw")(problem, build("Jigsaw").hp)


def test_reconstruction_by_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm, batch, loss, _ = run("Reconstruction", monkeypatch, {}, reconstruction_weight=0.7)
    f, model = cut(algorithm, batch.x)
    squares = [((algorithm.decoder(f[i, None])[0] - batch.x[i]) ** 2).sum() / 64 for i in range(18)]
    same_gradients(algorithm, loss, cross_entropy(model(f), batch.y) + 0.7 * torch.stack(squares).mean())


@pytest.mark.parametrize(
    ("backbone", "shape"),
    [
        ("two_conv", (3, 28, 28)),
        ("two_conv", (3, 32, 32)),
        ("mnist_cnn", (2, 28, 28)),
        ("resnet18", (3, 96, 96)),
    ],
)
def test_the_decoder_gives_the_image_back(backbone: str, shape: tuple[int, int, int]) -> None:
    method = registry.find("algorithms", "Reconstruction")
    problem = Problem(shape, 3, 1, 1, 1, backbone=backbone)
    algorithm = method(problem, hparams.resolve(method, Dataset, {}))
    maps, _ = algorithm.featurizer.maps_and_head()
    x = torch.rand(2, *shape)
    out = algorithm.decoder(maps(x))
    assert out.shape == x.shape and out.abs().max() <= 1
    kinds = [type(m) for m in algorithm.decoder if not isinstance(m, nn.ReLU)]
    assert kinds == [nn.ConvTranspose2d] * 4 + [nn.Tanh]
    if backbone == "resnet18":
        assert int(algorithm.featurizer.net.bn1.num_batches_tracked) == 1, "finding the size leaves no trace"


def test_rsc_with_a_random_rate_by_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = {"rand": (0.9, 0.31)}  # a coin that is not used, the rate
    algorithm, batch, loss, logs = run("RSC", monkeypatch, draws, rsc_variant="random_rate")
    z, model = cut(algorithm, batch.x)
    dropped = int(0.31 * 64)
    rows = []
    for i in range(18):
        own = z[i, None].detach().requires_grad_()
        model(own)[0, batch.y[i]].backward()
        importance = own.grad[0].mean((1, 2))  # type: ignore[index]
        muted = sorted(range(64), key=lambda c, s=importance: -float(s[c]))[:dropped]
        rows.append(torch.tensor([c not in muted for c in range(64)]))
    algorithm.zero_grad()
    kept = torch.stack(rows)[:, :, None, None]
    same_gradients(algorithm, loss, cross_entropy(model(z * kept), batch.y))
    assert float(logs["muted"]) == pytest.approx(dropped / 64)
    assert algorithm.classifier.training


METHODS = ("Dropout", "DropoutCovariance", "DropoutOrthogonality", "RCL", "Reconstruction")


@pytest.mark.parametrize("name", METHODS)
def test_a_backbone_without_feature_maps(name: str) -> None:
    class Flat(Featurizer):
        n_outputs = 64

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    algorithm = build(name)
    algorithm.featurizer = Flat()
    with pytest.raises(UsageError, match="works on feature maps, which the backbone does not give"):
        algorithm.loss(image_batch())


def test_the_papers_weights() -> None:
    """Section 5.1; RSC with a random rate, SD's weight on this data only."""
    weights = {
        "DropoutOrthogonality": {"orthogonality_weight": 1.0, "dropout_max": 1.0},
        "DropoutCovariance": {"covariance_weight": 0.01, "dropout_max": 1.0},
        "Jigsaw": {"jigsaw_weight": 10.0},
        "Reconstruction": {"reconstruction_weight": 1.0},
        "SD": {"sd_reg": 5.0},
        "RSC": {"rsc_variant": "random_rate"},
        "RCL": {"rcl_weight": 1.0, "rcl_margin": 0.0},
    }
    for name, expected in weights.items():
        method = registry.find("algorithms", name)
        for data in hparams.MISSING_PATTERNS:
            values = hparams.resolve(method, registry.find("datasets", data), {})
            assert {key: values[key] for key in expected} == expected
    assert hparams.resolve(registry.find("algorithms", "SD"), Dataset, {})["sd_reg"] == 0.1
