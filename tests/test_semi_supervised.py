"""FixMatch and the methods that choose, weigh or use its pseudo-labels in other ways."""

import copy

import pytest
import torch
from golden_vectors import Case, cases, close
from semi_models import batch, build, seen
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dgbench.algorithm import Batch, Problem
from dgbench.algorithms.fixmatch import with_labelled
from dgbench.errors import UsageError
from dgbench.losses.pseudo_labels import class_balance, confident, consistency, pseudo_label_loss

torch.set_num_threads(1)


def on_case(name: str, case: Case, pool: int = 50, **chosen: object) -> nn.Module:
    classes = next(v.shape[-1] for k, v in case.inputs.items() if "logits" in k)
    return build(name, 1, classes, pool, **chosen)


# recorded vectors


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "fixmatch"))
def test_fixmatch(case: Case) -> None:
    algorithm = on_case("FixMatch", case, threshold=float(case.hp["threshold"]))
    strong, weak = case.x("logits_u_strong", True), case.x("logits_u_weak")
    labelled = case.x("logits_l_weak")
    total, logs, targets = algorithm.objective(seen(weak, strong, labelled, y=case.x("y")))
    close(targets.labels, case.outputs["pseudo"])
    close(targets.weights, case.outputs["mask"])
    close(logs["unlabelled"], case.outputs["unsup"])
    close(logs["labelled"], case.outputs["sup"])
    close(logs["kept"], case.outputs["util"])
    close(total, case.outputs["total"])
    logs["unlabelled"].backward()
    close(strong.grad, case.outputs["grad_strong"])
    close(confident(weak, case.hp["threshold"], strict=True)[1], case.outputs["tll_mask"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "fixmatch"))
def test_fixmatch_of_the_benchmark(case: Case) -> None:
    """The labelled images stand among the unlabelled ones; here their logits are given."""
    algorithm = on_case("FixMatch", case, threshold=float(case.hp["threshold"]), variant="ssdg")
    weak, strong = (
        torch.cat([case.x(f"logits_l_{view}"), case.x(f"logits_u_{view}")]) for view in ("weak", "strong")
    )
    _, logs, _ = algorithm.objective(seen(weak, strong, case.x("logits_l_weak"), y=case.x("y")))
    close(logs["unlabelled"], case.outputs["dassl"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "fixmatch"))
def test_defixmatch(case: Case) -> None:
    chosen = {"threshold": float(case.hp["threshold"]), "unlabelled_weight": case.hp["defix_lam"]}
    names = ("u_weak", "u_strong", "l_weak", "l_strong")
    total, logs, _ = on_case("DeFixMatch", case, **chosen).objective(
        seen(*(case.x(f"logits_{name}") for name in names), y=case.x("y"))
    )
    close(logs["labelled"], case.outputs["defix_sup"])
    close(logs["unlabelled"], case.outputs["unsup"] - case.outputs["defix_anti"])
    close(total, case.outputs["defix_total"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "flexmatch"))
def test_flexmatch(case: Case) -> None:
    chosen = {"threshold": case.hp["tau"], "warmup": case.hp["warmup"]}
    algorithm = on_case("FlexMatch", case, case.hp["N"], **chosen)
    weak, strong, idx = (case.x(name) for name in ("logits_weak", "logits_strong", "idx"))
    for t in range(len(weak)):
        before = algorithm.keep(weak[t])
        beta = algorithm.beta[weak[t].argmax(1)]
        close(case.hp["tau"] * beta / (2 - beta), case.outputs["threshold"][t])
        _, logs, targets = algorithm.objective(seen(weak[t], strong[t], idx=idx[t]))
        close(targets.weights, case.outputs["mask"][t])
        assert torch.equal(before, targets.weights)
        close(algorithm.beta, case.outputs["beta"][t])
        close(algorithm.selected, case.outputs["selected"][t])
        close(logs["unlabelled"], case.outputs["unsup"][t])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "freematch"))
def test_freematch(case: Case) -> None:
    chosen = {"ema": case.hp["m"], "quantile": case.hp["quantile"], "clip": case.hp["clip"]}
    plain, fair = (on_case("FreeMatch", case, fairness_weight=w, **chosen) for w in (0.0, 1.0))
    for t, (weak, strong) in enumerate(zip(case.x("logits_weak"), case.x("logits_strong"), strict=True)):
        total, without, targets = plain.objective(seen(weak, strong))
        more, with_term, _ = fair.objective(seen(weak, strong))
        close(more - total, with_term["fairness"].detach())
        out = {name: values[t] for name, values in case.outputs.items()}
        close(targets.weights, out["mask"])
        for name, value in (
            ("p_model", plain.prediction),
            ("label_hist", plain.histogram),
            ("time_p", plain.confidence),
            ("class_thresholds", plain.thresholds()),
            ("unsup", without["unlabelled"]),
            ("ent", with_term["fairness"]),
        ):
            close(value, out[name])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "softmatch"))
def test_softmatch(case: Case) -> None:
    algorithm = on_case(
        "SoftMatch",
        case,
        ema=case.hp["m"],
        n_sigma=case.hp["n_sigma"],
        align_to=("uniform", "labelled")[case.hp["target"]],
    )
    names = ("logits_weak", "logits_strong", "logits_labelled")
    for t, (weak, strong, labelled) in enumerate(zip(*map(case.x, names), strict=True)):
        _, logs, targets = algorithm.objective(seen(weak, strong, labelled))
        out = {name: values[t] for name, values in case.outputs.items()}
        close(algorithm.aligned(weak), out["aligned"])
        close(algorithm.prediction, out["p_model"])
        close(algorithm.goal, out["p_target"])
        close(algorithm.mean, out["mu"])
        close(algorithm.variance, out["var"])
        close(targets.weights, out["weight"])
        close(logs["unlabelled"], out["unsup"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "debiaspl"))
def test_debiaspl(case: Case) -> None:
    chosen = {"ema": case.hp["m"], "debias": case.hp["tau"], "threshold": case.hp["threshold"]}
    algorithm = on_case("DebiasPL", case, **chosen)
    algorithm.q.fill_(1 / len(algorithm.q))  # in float64; the other methods' vectors start in float32
    for t, (weak, strong) in enumerate(zip(case.x("logits_weak"), case.x("logits_strong"), strict=True)):
        out = {name: values[t] for name, values in case.outputs.items()}
        close(algorithm.debiased(weak).softmax(1), out["probs"])
        _, logs, targets = algorithm.objective(seen(weak, strong))
        close(targets.labels, out["pseudo"])
        close(targets.weights, out["mask"])
        close(algorithm.q, out["q_hat"])
        close(logs["unlabelled"], out["unsup"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "meanteacher"))
def test_meanteacher(case: Case) -> None:
    student, teacher, out = case.x("student", True), case.x("teacher"), case.outputs
    algorithm = on_case_of_teacher(case, balance_weight=0.0)
    _, logs, targets = algorithm.objective(seen(teacher, student))
    logs["unlabelled"].backward()
    close(targets.weights, out["mask"])
    close(targets.labels, out["pseudo"])
    close(logs["unlabelled"], out["l2"])
    close(student.grad, out["grad_l2"])
    _, both, _ = on_case_of_teacher(case, balance_weight=1.0).objective(seen(teacher, student))
    close(both["unlabelled"] - logs["unlabelled"], out["balance"])

    student.grad = None
    labels, kept = confident(teacher, case.hp["threshold"], strict=True)
    loss = pseudo_label_loss(student, labels, kept)
    loss.backward()
    close(loss, out["self_train"])
    close(student.grad, out["grad_self_train"])


def on_case_of_teacher(case: Case, **chosen: float) -> nn.Module:
    classes = case.inputs["teacher"].shape[1]
    return build("MeanTeacher", 1, classes, threshold=case.hp["threshold"], **chosen)


# gradients and limits that the vectors do not hold


@pytest.mark.parametrize(
    "name", ["FixMatch", "FlexMatch", "FreeMatch", "SoftMatch", "DebiasPL", "DeFixMatch", "MeanTeacher"]
)
def test_gradients_are_those_of_slow_loops(name: str) -> None:
    torch.manual_seed(0)
    weak, strong, labelled, x2 = (3 * torch.randn(8, 4, dtype=torch.float64) for _ in range(4))
    for values in (strong, labelled, x2):
        values.requires_grad_()
    y = torch.randint(4, (8,))
    algorithm = build(name, 1)
    total, _, targets = algorithm.objective(seen(weak, strong, labelled, x2, y))
    total.backward()
    expected = torch.zeros(8, 4, dtype=torch.float64)
    logits = strong.detach() + (algorithm.hp["debias"] * algorithm.q.log() if name == "DebiasPL" else 0)
    for i in range(8):
        p = logits[i].softmax(0)
        if name == "MeanTeacher":
            gap = 2 * targets.weights[i] * (p - weak[i].detach().softmax(0))
            slope = p * (gap - (gap * p).sum())
        else:
            onehot = torch.eye(4, dtype=torch.float64)[targets.labels[i]]
            slope = targets.weights[i] * (p - onehot)
        expected[i] = algorithm.hp["unlabelled_weight"] * slope / 8
    if name == "FreeMatch":  # its fairness term by automatic differentiation of another way to write it
        leaf = strong.detach().requires_grad_()
        kept = targets.weights
        q = leaf[kept].softmax(1)
        g = torch.bincount(q.argmax(1), minlength=4) / len(q)
        a, b = (
            algorithm.prediction / algorithm.histogram,
            torch.where(g > 0, q.mean(0) / g.clamp(min=0.01), 0),
        )
        term = (a / a.sum() * (b / b.sum() + 1e-12).log()).sum()
        expected += algorithm.hp["fairness_weight"] * torch.autograd.grad(term, leaf)[0]
    torch.testing.assert_close(strong.grad, expected, rtol=1e-9, atol=1e-12)


def test_flexmatch_counts_the_last_of_an_image_that_is_twice_in_a_batch() -> None:
    algorithm = build("FlexMatch", 1, 3, pool=4)
    sure = 20 * torch.eye(3, dtype=torch.float64)
    weak = torch.stack([sure[0], sure[1], sure[2], torch.zeros(3, dtype=torch.float64)])
    algorithm.objective(seen(weak, weak, idx=torch.tensor([2, 0, 2, 2])))
    assert algorithm.selected.tolist() == [1, -1, 2, -1]  # the unsure row counts for nothing
    close(algorithm.beta, [0, 0.5, 0.5])


def test_flexmatch_tells_the_images_of_pools_apart() -> None:
    algorithm, rows = build("FlexMatch", 3, pool=50, variant="ssdg"), with_labelled(batch())
    slots = algorithm._slots(rows)
    assert len(algorithm.selected) == 3 * (50 + 50)
    keys = set(zip(rows.ud.tolist(), rows.uidx.tolist(), strict=True))
    assert len(set(slots.tolist())) == len(keys)
    assert all(100 * d <= slot < 100 * (d + 1) for d, slot in zip(rows.ud, slots, strict=True))


def test_freematch_without_a_kept_row_has_no_fairness() -> None:
    strong = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    algorithm = build("FreeMatch", 1, fairness_weight=1.0)
    algorithm.keep = lambda logits: torch.zeros(len(logits), dtype=torch.bool)
    _, logs, _ = algorithm.objective(seen(torch.randn(5, 4).double(), strong))
    (logs["unlabelled"] + logs["fairness"]).backward()
    assert logs["unlabelled"] == logs["fairness"] == 0 and not strong.grad.any()


@pytest.mark.parametrize("variant", ["general", "ssdg"])
def test_freematch_weighs_its_fairness_alone(variant: str) -> None:
    algorithm = build("FreeMatch", unlabelled_weight=0.1, fairness_weight=20.0, variant=variant)
    total, logs = algorithm.loss(batch())
    expected = logs["labelled"] + 0.1 * logs["unlabelled"] + 20.0 * logs["fairness"]
    assert logs["fairness"] != 0
    torch.testing.assert_close(total, (3 if variant == "ssdg" else 1) * expected)


def test_softmatch_takes_a_batch_of_one_row() -> None:
    algorithm = build("SoftMatch", 1)
    algorithm.loss(batch(1, 1, 1))
    assert algorithm.variance.isfinite()


def test_consistency_and_balance_at_their_limits() -> None:
    logits, kept = torch.randn(6, 3), torch.tensor([True, False] * 3)
    assert consistency(logits, logits, kept) == 0
    far = 50 * torch.eye(3)[:2]
    close(consistency(far[:1], far[1:], torch.tensor([1.0])), 2.0)
    uniform = torch.full((), 1 / 3)
    entropy = -(uniform * uniform.log() + (1 - uniform) * (1 - uniform).log())
    close(class_balance(torch.zeros(6, 3), kept), 0.5 * entropy, 1e-6)


# whole methods


def gradients(algorithm: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = {name: p for name, p in algorithm.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, found, strict=True))


def same_gradients(algorithm: nn.Module, loss: Tensor, expected: Tensor) -> None:
    close(loss, expected.detach())
    ours, theirs = gradients(algorithm, loss), gradients(algorithm, expected)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-12, msg=name)


def median_confidence(rows: Batch) -> float:
    return float(build("FixMatch").see(rows).weak.softmax(1).amax(1).median())


def test_fixmatch_by_loops_over_images() -> None:
    rows = batch()
    threshold = median_confidence(rows)
    algorithm = build("FixMatch", threshold=threshold)
    assert not algorithm.see(rows).weak.requires_grad
    expected = sum(cross_entropy(algorithm(x[None]), y[None]) for x, y in zip(rows.x, rows.y, strict=True))
    expected = expected / len(rows.x)
    kept = 0
    for u, u2 in zip(rows.u, rows.u2, strict=True):
        p = algorithm(u[None]).detach().softmax(1)[0]
        if p.max() >= threshold:
            kept += 1
            expected = expected + cross_entropy(algorithm(u2[None]), p.argmax()[None]) / len(rows.u)
    assert 0 < kept < len(rows.u)
    same_gradients(algorithm, algorithm.loss(rows)[0], expected)


def test_the_form_of_the_benchmark_by_a_loop_over_domains() -> None:
    """Its sums run over domains, and batch norm sees one domain at a time."""
    rows = batch()
    threshold = median_confidence(rows)
    algorithm = build("FixMatch", threshold=threshold, variant="ssdg")
    n = algorithm.featurizer.n_outputs
    algorithm.featurizer = nn.Sequential(algorithm.featurizer, nn.BatchNorm1d(n).double())
    reference, total = copy.deepcopy(algorithm), 0.0
    labels, kept = [], []
    split = {name: getattr(rows, name).chunk(3) for name in ("x", "x2", "u", "u2", "y")}
    for k in range(3):
        with torch.no_grad():
            p = reference(torch.cat([split["x"][k], split["u"][k]])).softmax(1)
        labels.append(p.argmax(1))
        kept.append(p.amax(1) >= threshold)
    for k in range(3):
        total = total + cross_entropy(reference(split["x"][k]), split["y"][k])
    for k in range(3):
        logits = reference(torch.cat([split["x2"][k], split["u2"][k]]))
        total = total + (cross_entropy(logits, labels[k], reduction="none") * kept[k]).mean()
    loss, _ = algorithm.loss(rows)
    close(loss, total.detach())
    ours, theirs = gradients(algorithm, loss), gradients(reference, total)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-12, msg=name)
    for name, value in algorithm.named_buffers():
        torch.testing.assert_close(value, dict(reference.named_buffers())[name], msg=name)


def test_the_benchmark_needs_unlabelled_images_of_every_source() -> None:
    problem = Problem((1, 8, 8), 4, 1, 100, 10, (50,), (50,), "digits_cnn", unlabelled_are_sources=False)
    method = type(build("FixMatch"))
    with pytest.raises(UsageError, match="variant=general"):
        method(problem, build("FixMatch", variant="ssdg").hp)


def test_with_labelled_keeps_each_row_together() -> None:
    rows = batch()
    joined = with_labelled(rows)
    assert joined.ud.tolist() == [d for d in range(3) for _ in range(12)]
    for k in range(3):
        own = joined.u.chunk(3)[k]
        assert torch.equal(own, torch.cat([rows.x.chunk(3)[k], rows.u.chunk(3)[k]]))
        assert torch.equal(joined.u2.chunk(3)[k], torch.cat([rows.x2.chunk(3)[k], rows.u2.chunk(3)[k]]))
        assert (joined.uidx.chunk(3)[k] < 0).tolist() == [True] * 4 + [False] * 8


def test_the_teacher_follows_and_predicts() -> None:
    algorithm, rows = build("MeanTeacher", teacher_rate=0.75, teacher_ramp=False, lr=0.1), batch()
    before = copy.deepcopy(algorithm.teacher.net.state_dict())
    algorithm.update(rows)
    for (name, mine), student in zip(
        algorithm.teacher.net.named_parameters(), algorithm.student.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, 0.75 * before[name] + 0.25 * student.data, msg=name)
    algorithm.eval()
    assert torch.equal(algorithm(rows.x), algorithm.teacher(rows.x))
    assert not torch.equal(algorithm(rows.x), algorithm.train()(rows.x))
    student = build("MeanTeacher", predict="student").eval()
    assert torch.equal(student(rows.x), student.classifier(student.features(rows.x)))
