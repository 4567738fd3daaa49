import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from torch.nn.functional import cross_entropy

from dgbench.losses.adversarial import certainty_weights, domain_loss, reverse_gradient, warm_start

torch.set_num_threads(1)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "adversarial"))
def test_coefficient_and_weights(case: Case) -> None:
    p = torch.cat((case.x("g_s"), case.x("g_t"))).softmax(1)
    close(certainty_weights(p), case.outputs["entropy_weights"], rtol=1e-9)
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
