"""FixCLR: recorded vectors, slow loops, and its composition with every method that makes pseudo-labels."""

import inspect
import math

import pytest
import torch
from golden_vectors import Case, cases, close
from semi_models import batch, build
from test_semi_supervised import gradients, median_confidence, same_gradients

from dgbench import contract, hparams, registry
from dgbench.algorithm import Batch
from dgbench.algorithms import fixclr
from dgbench.algorithms.fixclr import BASES, OWN, FixCLR
from dgbench.algorithms.fixmatch import FixMatch
from dgbench.dataset import Dataset
from dgbench.errors import UsageError
from dgbench.losses.repelling import NEGATIVES, repelling

torch.set_num_threads(1)


@pytest.mark.golden
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("case", cases("other", "fixclr_inferred"))
def test_repelling(case: Case, negatives: str) -> None:
    feat = case.x("feat", True)
    given = feat, case.x("label"), case.x("domain"), case.x("mask"), case.hp["tau"], negatives
    loss = repelling(*given)
    loss.backward()
    close(loss, case.outputs[negatives], 1e-9)
    close(feat.grad, case.outputs[f"{negatives}_grad"], 1e-9)
    close(repelling(*given, mean=True), case.outputs[f"{negatives}_meanexp"], 1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("case", cases("other", "fixclr_inferred"))
def test_the_method_repels_the_rows_that_it_keeps(case: Case, negatives: str) -> None:
    """The whole ``loss``: the strong features and the pseudo-labels are what the vectors give."""
    label, mask = case.x("label"), case.x("mask")
    classes = max(4, int(label.max()) + 1)
    chosen = {"fixclr_negatives": negatives, "fixclr_temperature": case.hp["tau"], "fixclr_labelled": False}
    chosen["fixclr_features"] = "backbone"
    algorithm = build("FixCLR", 3, classes, **chosen)
    feat, rows = case.x("feat", True), batch(domains=3)
    seen = algorithm.see(rows)
    sure = 20.0 * torch.nn.functional.one_hot(label, classes) * mask[:, None]
    given = Batch(rows.x, rows.y, rows.d, rows.idx, 3, ud=case.x("domain"))
    fixed = seen._replace(batch=given, z2=feat, weak=sure.double(), strong=torch.zeros_like(sure.double()))
    algorithm.see = lambda _: fixed
    _, logs = algorithm.loss(given)
    logs["repelling"].backward()
    close(logs["repelling"], case.outputs[negatives], 1e-9)
    close(feat.grad, case.outputs[f"{negatives}_grad"], 1e-9)


@pytest.mark.parametrize(
    ("features", "variant"), [("backbone", "general"), ("projection", "general"), ("projection", "ssdg")]
)
def test_by_loops_over_images(features: str, variant: str) -> None:
    rows, threshold = batch(), median_confidence(batch())
    chosen = {
        "variant": variant,
        "threshold": threshold,
        "fixclr_weight": 0.3,
        "fixclr_temperature": 0.2,
        "fixclr_negatives": "cross",
    }
    algorithm = build("FixCLR", fixclr_features=features, **chosen)
    p = algorithm(rows.u).detach().softmax(1)
    kept = [i for i in range(len(p)) if p[i].max() >= threshold]
    known = [(x, int(y), int(d)) for x, y, d in zip(rows.x, rows.y, rows.d, strict=True)]
    known += [(rows.u2[i], int(p[i].argmax()), int(rows.ud[i])) for i in kept]
    z = [algorithm.head(algorithm.features(x[None]))[0] for x, _, _ in known]
    terms = []
    for i, (_, y, d) in enumerate(known):
        others = [j for j, (_, y2, d2) in enumerate(known) if y2 != y and d2 != d]
        if others:
            cosines = [torch.dot(z[i] / z[i].norm(), z[j] / z[j].norm()) for j in others]
            terms.append(sum((c / 0.2).exp() for c in cosines).log())
    assert 0 < len(kept) < len(p) and terms
    base = FixMatch.loss(algorithm, rows)[0]  # the same network without the term
    weight = 0.3 * (rows.num_domains if variant == "ssdg" else 1)
    same_gradients(algorithm, algorithm.loss(rows)[0], base + weight * sum(terms) / len(terms))


def test_limits() -> None:
    z, y, d = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 3, torch.arange(6) // 3
    everyone = torch.ones(6, dtype=torch.bool)
    one_class = z.clone().requires_grad_()
    loss = repelling(one_class, torch.zeros(6), d, everyone, 0.5)
    loss.backward()
    assert loss == 0 and not one_class.grad.any()
    close(repelling(7 * z, y, d, everyone, 0.5), repelling(z, y, d, everyone, 0.5))
    same = repelling(torch.ones(6, 3).double(), y, d, everyone, 0.5)
    close(same, 2 + math.log(4))  # four negatives at cosine 1
    opposite = torch.tensor([[1.0, 0], [-1, 0]]).double()
    close(repelling(opposite, torch.tensor([0, 1]), d[:2], everyone[:2], 0.5), -2.0)


@pytest.mark.parametrize("base", BASES)
def test_on_top_of_any_base(base: str) -> None:
    """Without its weight the composition is the base, in values, gradients and states; with it, it is not."""
    alone, on_top = build(base), build("FixCLR", base=base, fixclr_weight=0.0, fixclr_features="backbone")
    assert isinstance(on_top, FixCLR) and isinstance(on_top, type(alone))
    assert on_top.state_dict().keys() == alone.state_dict().keys()
    on_top.load_state_dict(alone.state_dict())
    rows = batch()
    losses = []
    for algorithm in (alone, on_top):
        torch.manual_seed(0)
        losses.append(algorithm.loss(rows)[0])
    close(losses[0], losses[1].detach())
    expected, ours = (gradients(a, loss) for a, loss in zip((alone, on_top), losses, strict=True))
    for name, value in expected.items():
        assert torch.equal(value, ours[name]), name
    for algorithm in (alone, on_top):
        torch.manual_seed(1)
        algorithm.update(rows)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, on_top.state_dict()[name]), name

    assert not OWN.keys() & type(alone).hparams.keys()
    choices = hparams.resolve(type(on_top), Dataset, {})
    assert choices["base"] == base and choices.keys() >= type(alone).hparams.keys()


@pytest.mark.parametrize("promise", contract.PROMISES)
@pytest.mark.parametrize("base", BASES[1:])
def test_every_composition_keeps_the_contract(base: str, promise: str) -> None:
    if reason := contract.PROMISES[promise](FixCLR.specialised({"base": base})):
        pytest.skip(reason)


def test_no_code_of_a_base_is_repeated() -> None:
    assert set(BASES) == {
        name
        for name in registry.names("algorithms")
        if issubclass(registry.find("algorithms", name), FixMatch) and name != "FixCLR"
    }
    assert "cross_entropy" not in inspect.getsource(fixclr)


def test_mistakes() -> None:
    with pytest.raises(UsageError, match=r"FixMatch \| FlexMatch"):
        build("FixCLR", base="ERM")
    with pytest.raises(UsageError, match="unknown hyper-parameter"):
        build("FixCLR", ema=0.9)  # FreeMatch's
