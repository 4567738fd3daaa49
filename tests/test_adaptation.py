"""The methods of domain adaptation: the recorded vectors through their own code, and by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.flop_counter import FlopCounterMode

from dgbench import registry
from dgbench.algorithm import Algorithm, Batch, Problem
from dgbench.algorithms.scale import CONTRASTS
from dgbench.dataset import Dataset
from dgbench.hparams import resolve
from dgbench.losses.alignment import multi_kernel_mmd
from dgbench.losses.class_statistics import ClassStatistics
from dgbench.losses.precision import backward
from dgbench.losses.semantic_contrast import class_contrast

torch.set_num_threads(1)
PROBLEM = Problem((1, 8, 8), 4, 1, 100, 10, (50,), (50,), "digits_cnn")
METHODS = ("DAN", "DANN_UDA", "CDAN", "MCC", "MDD", "SCALE")


def make(name: str, **chosen) -> Algorithm:
    torch.manual_seed(0)
    method = registry.find("algorithms", name)
    return method(PROBLEM, resolve(method, Dataset, chosen))


def batch(n: int = 12, m: int = 12, seed: int = 0) -> Batch:
    r = torch.Generator().manual_seed(seed)
    x, u = (torch.rand(k, 1, 8, 8, generator=r) for k in (n, m))
    return Batch(
        x=x,
        y=torch.arange(n) % 4,
        d=torch.zeros(n, dtype=torch.int64),
        idx=torch.arange(n),
        num_domains=1,
        u=u,
        u2=u + 0.1 * torch.randn(u.shape, generator=r),
        ud=torch.zeros(m, dtype=torch.int64),
        uidx=torch.arange(m),
    )


class Linear(nn.Module):
    """A discriminator with given weights: (N, H) -> (N, 1)."""

    def __init__(self, weight: Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias

    def forward(self, h: Tensor) -> Tensor:
        self.h = h
        return (h @ self.weight + self.bias)[:, None]


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "adversarial"))
@pytest.mark.parametrize("name", ["dann", "cdan", "cdane", "cdan_rand"])
def test_adversarial_transfer(case: Case, name: str) -> None:
    f_s, f_t = case.x("f_s", grad=True), case.x("f_t", grad=True)
    logits, n = torch.cat((case.x("g_s"), case.x("g_t"))), len(f_s)
    chosen = {"entropy_conditioning": True} if name == "cdane" else {}
    algorithm = make("DANN_UDA" if name == "dann" else "CDAN", **chosen)
    algorithm.step = int(case.hp["it"])
    weight = {"dann": "w_dann", "cdan_rand": "w_rand"}.get(name, "w")
    algorithm.discriminator = judge = Linear(case.x(weight), case.hp["b"])
    if name == "cdan_rand":
        algorithm.hp["randomised_dim"] = len(judge.weight)
        algorithm.of_z, algorithm.of_p = case.x("Rf"), case.x("Rg")
    loss = algorithm.transfer(torch.cat((f_s, f_t)), logits.requires_grad_(), n)
    loss.backward()
    close(loss, case.outputs[name], rtol=1e-9)
    close(f_s.grad, case.outputs[f"{name}_grad_fs"], rtol=1e-9)
    close(f_t.grad, case.outputs[f"{name}_grad_ft"], rtol=1e-9)
    assert logits.grad is None or name == "dann"
    if name.startswith("cdan"):
        close(judge.h[:n], case.outputs["map_rand" if name == "cdan_rand" else "map"], rtol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "mkmmd"))
@pytest.mark.parametrize("estimator, name", [("linear", "linear"), ("quadratic", "quad")])
def test_dan_transfer(case: Case, estimator: str, name: str) -> None:
    s, t = case.x("s", grad=True), case.x("t", grad=True)
    loss = make("DAN", mmd_estimator=estimator).transfer(torch.cat((s, t)), torch.empty(0), len(s))
    loss.backward()
    close(loss, case.outputs[name], rtol=1e-9)
    close(s.grad, case.outputs[f"{name}_grad_s"], rtol=1e-9)
    close(t.grad, case.outputs[f"{name}_grad_t"], rtol=1e-9)


def test_mmd_of_unequal_batches_by_literal_loops() -> None:
    s, t = torch.randn(3, 2).double(), torch.randn(5, 2).double()
    z = torch.cat((s, t)).numpy()
    v = np.mean([np.sum((a - b) ** 2) for a in z for b in z])

    def k(a, b) -> float:
        return sum(math.exp(-np.sum((a - b) ** 2) / (2 * 2.0**e * v)) for e in range(-3, 2))

    ss = np.mean([k(z[i], z[j]) for i in range(3) for j in range(3) if i != j])
    tt = np.mean([k(z[i], z[j]) for i in range(3, 8) for j in range(3, 8) if i != j])
    st = np.mean([k(z[i], z[j]) for i in range(3) for j in range(3, 8)])
    close(multi_kernel_mmd(s, t, "quadratic"), ss + tt - 2 * st + 1 / 2 + 1 / 4, rtol=1e-6)
    linear = 0.0
    for i in range(5):
        s1, s2, t1, t2 = z[i % 3], z[(i + 1) % 3], z[3 + i], z[3 + (i + 1) % 5]
        linear += (k(s1, s2) + k(t1, t2) - k(s1, t2) - k(s2, t1)) / 5
    close(multi_kernel_mmd(s, t), linear + 1 / 2 + 1 / 4, rtol=1e-6)


def test_class_confusion_by_literal_loops() -> None:
    logits = torch.randn(9, 4).double()
    ours = make("MCC").transfer(torch.empty(0), torch.cat((torch.randn(5, 4).double(), logits)), 5)
    p = (logits / 2.5).softmax(1).numpy()
    w = np.array([1 + math.exp(sum(v * math.log(v + 1e-5) for v in row)) for row in p])
    w = w / w.mean()
    q = [[sum(p[j, k] * w[j] * p[j, m] for j in range(9)) for m in range(4)] for k in range(4)]
    close(ours, sum(q[k][m] / sum(q[k]) for k in range(4) for m in range(4) if k != m) / 4)


def test_autocast_does_not_round_the_class_confusion() -> None:
    logits, algorithm, grads = 20 * torch.randn(64, 65), make("MCC"), []
    for autocast in (False, True):
        given = logits.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            backward(algorithm.transfer(given, given, 32))
        grads.append(given.grad)
    assert (grads[1] - grads[0]).norm() < 1e-4 * grads[0].norm()


def test_margin_disparity_by_literal_loops() -> None:
    algorithm = make("MDD").eval().double()
    algorithm.step = 700
    z = torch.randn(9, 256).double().requires_grad_()
    logits = algorithm.classifier(z)
    ours = algorithm.transfer(z, logits, 4)
    q, c = algorithm.adversary(z).softmax(1).tolist(), logits.argmax(1)
    source = -sum(math.log(q[i][c[i]]) for i in range(4)) / 4
    target = -sum(math.log(1 - q[i][c[i]] + 1e-6) for i in range(4, 9)) / 5
    close(ours, 4 * source + target, rtol=1e-6)  # the network's softmax is in float32
    (through,) = torch.autograd.grad(ours, z, retain_graph=True)
    plain = 4 * cross_entropy(algorithm.adversary(z)[:4], c[:4])
    plain = plain - (1 - algorithm.adversary(z)[4:].softmax(1).gather(1, c[4:, None]) + 1e-6).log().mean()
    (straight,) = torch.autograd.grad(plain, z)
    close(through, -0.1 * (2 / (1 + math.exp(-0.7)) - 1) * straight, rtol=1e-5, atol=1e-9)
    grads = torch.autograd.grad(ours, algorithm.classifier.parameters(), allow_unused=True)
    assert all(grad is None for grad in grads)  # the classifier learns from the source alone


# SCALE


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "sepico"))
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_scale_contrast(case: Case, contrast: str) -> None:
    t, q = float(case.hp["tau"]), case.x("q", grad=True)
    algorithm = make("SCALE", contrast=contrast, temperature=t, reg_temperature=t).double()
    algorithm.statistics.mean = case.x("mu")
    algorithm.statistics.covariance = case.x("cov_full" if contrast == "dist_full" else "cov_diag")
    if contrast == "bank":
        algorithm.bank.centroids = case.x("bank")
    each = algorithm.contrast(q, case.x("y"))
    if contrast != "bank":
        close(each, case.outputs[f"{contrast}_each"], rtol=1e-9)
    close(each.mean(), case.outputs["bank_loss" if contrast == "bank" else contrast], rtol=1e-9)
    each.mean().backward()
    close(q.grad, case.outputs[f"grad_{contrast}"], rtol=1e-9)
    for form in ("scale", "sepico"):
        q = case.x("q", grad=True)
        algorithm.hp["reg_form"] = form
        value = algorithm.spread(q)
        value.backward()
        close(value, case.outputs[f"reg_{form}"], rtol=1e-9)
        close(q.grad, case.outputs[f"grad_reg_{form}"], rtol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "meanteacher"))
def test_scale_self_training(case: Case) -> None:
    """The term on the target, with the student's and the teacher's logits that the vectors fix."""
    student, teacher = case.x("student", grad=True), case.x("teacher")
    classes = student.shape[1]
    algorithm = make("SCALE", threshold=float(case.hp["threshold"]))
    algorithm.problem = Problem(**{**vars(PROBLEM), "num_classes": classes})
    algorithm.featurizer, algorithm.classifier = nn.Identity(), nn.Identity()
    algorithm.projection = nn.Linear(classes, 128).double()
    algorithm.statistics = type(algorithm.statistics)(classes, 128).double()
    algorithm.teacher.net = copy.deepcopy(algorithm.student)
    source = torch.randn(3, classes).double()
    rows = torch.zeros(3, dtype=torch.int64)
    pseudo, kept = algorithm.teach(Batch(source, rows, rows, rows, 1, u=teacher))
    close(pseudo, case.outputs["pseudo"])
    close(kept, case.outputs["mask"])
    _, logs = algorithm.loss(Batch(source, rows, rows, rows, 1, u=teacher, u2=student))
    logs["ssl"].backward()
    close(logs["ssl"], case.outputs["self_train"], rtol=1e-9)
    close(student.grad, case.outputs["grad_self_train"], rtol=1e-9)
    close(logs["kept"], case.outputs["mask"].mean())


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ema_teacher"))
def test_scale_teacher(case: Case) -> None:
    """Moved as ``update`` moves it: before the student's step, with the ramp."""
    theta, algorithm = case.x("theta"), make("SCALE", teacher_rate=float(case.hp["alpha"])).double()
    width = theta.shape[1]
    for step, value in enumerate(theta):
        algorithm.projection[2].bias.data[:width] = value
        algorithm.teacher.move(algorithm.student, step)
        close(algorithm.teacher.alpha(step), case.outputs["alpha"][step], rtol=1e-12)
        teacher = algorithm.teacher.net.projection[2].bias[:width]
        close(teacher, case.outputs["teacher"][step], rtol=1e-12)


def test_scale_objective_by_hand() -> None:
    """All terms of the docstring in two updates, by loops; target rows below the threshold are left out."""
    algorithm = make("SCALE", warmup=0.0, contrast="dist_full", reg_weight=0.5, teacher_rate=0.5)
    algorithm.classifier[2].weight.data *= 55
    seen: list[tuple[Tensor, Tensor]] = []
    for step in range(2):
        data = batch(seed=step, n=8, m=6)
        data.u *= torch.linspace(-6, 6, 6)[:, None, None, None]  # some predictions are confident, others not
        net = copy.deepcopy(algorithm).teacher
        net.move(algorithm.student, step)
        with torch.no_grad():
            seen.append((normalize(net.net.projection(net.net.featurizer(data.x))), data.y))
            p = net.net.classifier(net.net.featurizer(data.u)).softmax(1)
        student = copy.deepcopy(algorithm)
        z, z2 = student.featurizer(data.x), student.featurizer(data.u2)
        q, q2 = (normalize(student.projection(each)).double() for each in (z, z2))
        rows, labels = torch.cat([q for q, _ in seen]).double(), torch.cat([y for _, y in seen])
        mu = torch.stack([rows[labels == k].mean(0) for k in range(4)])
        cov = [torch.from_numpy(np.cov(rows[labels == k].numpy(), rowvar=False, bias=True)) for k in range(4)]

        def contrast(v, k: int, mu=mu, cov=cov) -> Tensor:
            terms = [(v @ m / 0.1 + v @ s @ v / 0.02) for m, s in zip(mu, cov, strict=True)]
            return torch.stack(terms).logsumexp(0) - v @ mu[k] / 0.1

        def spread(v, mu=mu) -> Tensor:
            return -torch.log_softmax(mu @ v.mean(0) / 0.1, 0).mean()

        kept = [j for j in range(6) if p[j].max() > 0.8]
        assert 0 < len(kept) < 6
        pseudo = p.argmax(1).tolist()
        ce = cross_entropy(student.classifier(z), data.y)
        ssl = sum(cross_entropy(student.classifier(z2)[j], p[j].argmax()) for j in kept) / 6
        cl = sum(contrast(q[i], int(data.y[i])) for i in range(8))
        cl = (cl + sum(contrast(q2[j], pseudo[j]) for j in kept)) / (8 + len(kept))
        expected = ce + ssl + cl + 0.5 * (spread(q) + spread(q2)) / 2
        algorithm.step = step
        logs = algorithm.update(data)
        close(logs["loss"], expected.detach(), rtol=1e-4)
        close(logs["kept"], len(kept) / 6, rtol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_without_its_terms_it_never_looks_at_the_target(name: str) -> None:
    algorithm = make(name, **registry.find("algorithms", name).erm_when)
    other, data = copy.deepcopy(algorithm), batch()
    for each, target in ((algorithm, data.u), (other, data.u + 1)):
        for step in range(2):
            each.step = step
            torch.manual_seed(step)
            each.update(Batch(**{**vars(data), "u": target, "u2": target}))
    for key, value in algorithm.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_scale_begins_its_contrast_after_the_warm_up() -> None:
    algorithm = make("SCALE", warmup=0.1)
    gradients = []
    for step in (9, 10):
        algorithm.step = step
        algorithm.update(batch())
        gradients.append(sum(float(p.grad.abs().sum()) for p in algorithm.projection.parameters()))
    assert gradients[0] == 0 < gradients[1]


def test_the_contrast_is_cheap_beside_a_resnet50() -> None:
    """DistCL with full covariances, 65 classes x 128 dimensions, 32 + 32 images: operations of an update."""
    statistics, y = ClassStatistics(65, 128, full=True), torch.arange(64)
    q = torch.randn(64, 128, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        statistics.update(q.detach()[:32], y[:32])
        class_contrast(q, y, statistics.mean, statistics.covariance).mean().backward()
    resnet50 = 64 * 3 * 2 * 4.1e9  # 4.1e9 multiply-adds an image forwards, twice that backwards
    assert 65 * 64 * 128**2 < counter.get_total_flops() < 0.001 * resnet50


@pytest.mark.parametrize("name", METHODS)
def test_learns(name: str) -> None:
    algorithm, data = make(name, lr=3e-3), batch()
    losses = []
    for step in range(40):
        algorithm.step = step
        losses.append(float(algorithm.update(data)["ce"]))
    assert losses[-1] < 0.7 * losses[0]
