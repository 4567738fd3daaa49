import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from torch.nn.functional import cross_entropy

from dgbench.losses.adversarial import (
    certainty_weights,
    domain_loss,
    multilinear_map,
    random_map,
    reverse_gradient,
    warm_start,
)

torch.set_num_threads(1)


def inputs(case: Case) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]:
    f_s, f_t = case.x("f_s", grad=True), case.x("f_t", grad=True)
    p = torch.cat((case.x("g_s"), case.x("g_t"))).softmax(1)
    return f_s, f_t, p, warm_start(int(case.hp["it"]))


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "adversarial"))
@pytest.mark.parametrize("name", ["dann", "cdan", "cdane", "cdan_rand"])
def test_losses_and_gradients(case: Case, name: str) -> None:
    """As DANN_UDA and CDAN put them together, with the linear discriminator that the vectors fix."""
    f_s, f_t, p, coefficient = inputs(case)
    z, n = torch.cat((f_s, f_t)), len(f_s)
    weights = None if name == "dann" else torch.ones(2 * n, dtype=z.dtype)
    if name == "dann":
        h, w = z, case.x("w_dann")
    elif name == "cdan_rand":
        h, w = random_map(z, p, case.x("Rf"), case.x("Rg")), case.x("w_rand")
        close(h[:n], case.outputs["map_rand"], rtol=1e-9)
    else:
        h, w = multilinear_map(z, p), case.x("w")
        close(h[:n], case.outputs["map"], rtol=1e-9)
    if name == "cdane":
        weights = certainty_weights(p)
        close(weights, case.outputs["entropy_weights"], rtol=1e-9)
    loss = domain_loss(reverse_gradient(h, coefficient) @ w + case.hp["b"], n, weights)
    loss.backward()
    close(loss, case.outputs[name], rtol=1e-9)
    close(f_s.grad, case.outputs[f"{name}_grad_fs"], rtol=1e-9)
    close(f_t.grad, case.outputs[f"{name}_grad_ft"], rtol=1e-9)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "adversarial"))
def test_coefficient(case: Case) -> None:
    close([warm_start(i) for i in case.inputs["coeff_iters"].tolist()], case.outputs["coeff"], rtol=1e-12)


def test_unequal_domains() -> None:
    logits = torch.randn(7).double()
    each = [float(torch.nn.functional.softplus(-v if i < 5 else v)) for i, v in enumerate(logits)]
    close(domain_loss(logits, 5), (np.mean(each[:5]) + np.mean(each[5:])) / 2)
    close(domain_loss(logits, 5, torch.ones(7).double()), np.mean(each))


def test_the_reversed_gradient_goes_through_a_network() -> None:
    net, x, y = torch.nn.Linear(3, 2), torch.randn(4, 3), torch.arange(4) % 2
    cross_entropy(net(x), y).backward()
    plain = net.weight.grad.clone()
    net.zero_grad()
    cross_entropy(reverse_gradient(net(x), 0.5), y).backward()
    close(net.weight.grad, -0.5 * plain)
