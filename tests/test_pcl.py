import math

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from torch import nn
from torch.nn.functional import cross_entropy

from dgbench import registry
from dgbench.algorithm import Batch, Problem
from dgbench.algorithms.pcl import PCL
from dgbench.errors import UsageError
from dgbench.hparams import resolve
from dgbench.losses.contrastive import PROXY_VARIANTS, proxy_contrastive

torch.set_num_threads(1)

Problem_ = Problem(input_shape=(1, 8, 8), num_classes=5, num_domains=3, num_steps=10, steps_per_epoch=5)


def make(data: str = "RotatedMNIST", backbone: str = "digits_cnn", **chosen) -> PCL:
    torch.manual_seed(0)
    problem = Problem(**{**vars(Problem_), "backbone": backbone})
    return PCL(problem, resolve(PCL, registry.find("datasets", data), chosen))


def batch(rows: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    n = 3 * rows
    return Batch(
        x=torch.randn(n, 1, 8, 8, generator=generator),
        y=torch.randint(5, (n,), generator=generator),
        d=torch.arange(3).repeat_interleave(rows),
        idx=torch.arange(n),
        num_domains=3,
    )


@pytest.mark.golden
@pytest.mark.parametrize("variant", PROXY_VARIANTS)
@pytest.mark.parametrize("case", cases("dg", "pcl_loss"))
def test_loss_and_gradients(case: Case, variant: str) -> None:
    for suffix, dtype, tolerance in (
        ("", torch.float64, (1e-8, 1e-10)),
        ("_f32", torch.float32, (1e-4, 1e-5)),
    ):
        out = {name: case.outputs.get(f"{name}_{variant}{suffix}") for name in ("loss", "gfeat", "gproxy")}
        if out["loss"] is None:
            continue
        feature, proxy = case.x("feature", True, dtype), case.x("proxy", True, dtype)
        loss = proxy_contrastive(
            feature,
            case.x("target"),
            proxy,
            case.x("domain"),
            case.hp["scale"],
            variant,
            case.hp.get("neg_min", 1e-6),
        )
        close(loss, out["loss"], *tolerance)
        if (case.inputs["feature"] == 0).all(1).any():
            continue  # the gradient of a zero row is about 1/eps
        loss.backward()
        for grad, name in ((feature.grad, "gfeat"), (proxy.grad, "gproxy")):
            if out[name] is not None:
                close(grad, out[name], *tolerance)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "pcl_objective"))
def test_objective(case: Case) -> None:
    """The method's own ``loss``, with the modules before and after replaced by what the vectors fix."""
    algorithm = make(
        variant="official", pcl_weight=float(case.hp["pcl_weight"]), alpha=float(case.hp["scale"])
    )
    emb, rep = case.x("emb", True), case.x("rep", True)
    algorithm.featurizer, algorithm.encoder = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    algorithm.projection = _Constant(rep)  # type: ignore[assignment]
    algorithm.classifier.weight = nn.Parameter(case.x("classifier"))
    algorithm.proxy_map = nn.Parameter(case.x("fc_proj"))
    n = len(emb)
    loss, logs = algorithm.loss(Batch(emb, case.x("target"), torch.zeros(n).long(), torch.arange(n), 1))
    loss.backward()
    out = case.outputs
    close(logs["ce"], out["loss_cls"])
    close(logs["pcl"], out["loss_pcl_official"])
    close(loss, out["loss"])
    close(algorithm.classifier.weight @ algorithm.proxy_map.T, out["proxies"])
    close(emb.grad, out["g_emb"])
    close(rep.grad, out["g_rep"])
    close(algorithm.classifier.weight.grad, out["g_classifier"])
    close(algorithm.proxy_map.grad, out["g_fc_proj"])


class _Constant(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value


def _by_hand(feature, labels, proxies, domains, scale: float, variant: str) -> float:
    """The loss by literal loops over Python numbers."""

    def cosine(u, v) -> float:
        return float(u @ v / max(np.linalg.norm(u), 1e-12) / max(np.linalg.norm(v), 1e-12))

    n, total = len(labels), 0.0
    in_class_order = sorted(range(n), key=lambda i: (labels[i], i))
    for i in range(n):
        source = in_class_order[i] if variant == "official" else i
        positive = math.exp(scale * cosine(feature[source], proxies[labels[source]]))
        z = positive
        for j in range(n):
            s = cosine(feature[i], feature[j])
            if labels[i] == labels[j]:
                continue
            if variant in ("official", "aligned") and s < 1e-6:
                continue
            if variant == "paper_indomain" and domains[i] != domains[j]:
                continue
            z += math.exp(scale * s)
        if variant.startswith("paper"):
            for k in range(len(proxies)):
                if k != labels[i]:
                    z += math.exp(scale * cosine(feature[i], proxies[k]))
        total -= math.log(positive / z)
    return total / n


@pytest.mark.parametrize("variant", PROXY_VARIANTS)
@pytest.mark.parametrize(
    "n, classes, dim, scale", [(9, 4, 5, 12), (16, 3, 8, 4), (7, 10, 3, 1), (2, 2, 2, 12)]
)
def test_loss_by_literal_loops(variant: str, n: int, classes: int, dim: int, scale: float) -> None:
    rng = np.random.RandomState(n)
    feature, proxies = rng.randn(n, dim), rng.randn(classes, dim)
    labels, domains = rng.randint(classes, size=n), rng.randint(3, size=n)
    loss = proxy_contrastive(
        *(torch.tensor(value) for value in (feature, labels, proxies, domains)), scale, variant
    )
    close(loss, _by_hand(feature, labels, proxies, domains, scale, variant))


@pytest.mark.parametrize("variant", ["official", "aligned"])
@pytest.mark.parametrize("n", [1, 6])
def test_one_class_gives_zero(variant: str, n: int) -> None:
    feature = torch.randn(n, 4, requires_grad=True)
    proxies = torch.randn(3, 4, requires_grad=True)
    loss = proxy_contrastive(feature, torch.full((n,), 2), proxies, variant=variant)
    loss.backward()
    assert loss == 0
    assert not feature.grad.any() and not proxies.grad.any()


def test_sorted_batches_make_official_aligned() -> None:
    feature, proxies, labels = torch.randn(12, 4), torch.randn(3, 4), torch.arange(12) // 4
    values = [proxy_contrastive(feature, labels, proxies, variant=v) for v in ("official", "aligned")]
    assert values[0] == values[1]
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    values = [
        proxy_contrastive(feature[shuffled], labels[shuffled], proxies, variant=v)
        for v in ("official", "aligned")
    ]
    assert values[0] != values[1]


def test_scale_of_features_and_proxies_does_not_matter() -> None:
    feature, proxies, labels = torch.randn(12, 4).double(), torch.randn(3, 4).double(), torch.arange(12) % 3
    close(proxy_contrastive(feature * 7, labels, proxies * 0.1), proxy_contrastive(feature, labels, proxies))


@pytest.mark.parametrize("variant", PROXY_VARIANTS)
def test_zero_weight_is_erm(variant: str) -> None:
    data, algorithm = batch(), make(pcl_weight=0.0, variant=variant)
    torch.manual_seed(1)  # the same dropout
    loss, _ = algorithm.loss(data)
    parameters = dict(algorithm.named_parameters())
    ours = torch.autograd.grad(loss, parameters.values(), allow_unused=True, materialize_grads=True)
    torch.manual_seed(1)
    expected = torch.autograd.grad(
        cross_entropy(algorithm(data.x), data.y),
        parameters.values(),
        allow_unused=True,
        materialize_grads=True,
    )
    for name, a, b in zip(parameters, ours, expected, strict=True):
        assert torch.equal(a, b), name


def test_every_parameter_gets_a_gradient() -> None:
    algorithm = make(proj_layers=2, num_hidden=2)
    algorithm.update(batch())
    for name, p in algorithm.named_parameters():
        assert p.grad is not None and p.grad.any(), name


@pytest.mark.parametrize(
    "data, hidden, out_dim, proj_layers",
    [("PACS", 1, 256, 1), ("OfficeHome", 1, 512, 2), ("TerraIncognita", 2, 512, 1), ("VLCS", 1, 256, 1)],
)
def test_official_heads(data: str, hidden: int, out_dim: int, proj_layers: int) -> None:
    algorithm = make(data)
    linears = [layer for layer in algorithm.encoder if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linears] == [512] * hidden + [out_dim]
    kinds = [type(layer) for layer in algorithm.encoder]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout] * hidden + [nn.Linear]
    assert all(layer.p == 0.25 for layer in algorithm.encoder if isinstance(layer, nn.Dropout))
    kinds = [type(layer) for layer in algorithm.projection]
    assert kinds == [nn.Linear] + [nn.Dropout, nn.Linear] * (proj_layers - 1)
    assert algorithm.proxy_map.shape == (out_dim, out_dim)
    assert algorithm.classifier.weight.shape == (5, out_dim) and algorithm.classifier.bias is None
    assert algorithm.classifier.weight.abs().max() <= 1 / math.sqrt(5)
    assert algorithm.classifier.weight.abs().max() > 0.95 / math.sqrt(5)
    assert 0.95 / math.sqrt(out_dim) < algorithm.proxy_map.abs().max() <= 1 / math.sqrt(out_dim)
    for layer in linears:
        assert abs(layer.weight.std() - 0.01) < 1e-3 and not layer.bias.any()


def test_small_images_have_a_small_head() -> None:
    algorithm = make("RotatedDigits")
    assert algorithm.encoder[0].out_features == 128 and algorithm.classifier.in_features == 64


def test_forward_is_features_times_classifier() -> None:
    algorithm = make().eval()
    x = batch().x
    torch.testing.assert_close(algorithm(x), algorithm.features(x) @ algorithm.classifier.weight.T)


def test_learns() -> None:
    algorithm, data = make(lr=1e-2), batch(rows=16)
    first = algorithm.update(data)["ce"]
    for _ in range(30):
        logs = algorithm.update(data)
    assert logs["ce"] < 0.5 * first
    assert set(logs) == {"loss", "ce", "pcl"}


def test_mistakes() -> None:
    with pytest.raises(UsageError, match=r"official \| aligned"):
        make(variant="papers")
