import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close

from dgbench.losses.class_statistics import ClassBank, ClassStatistics

torch.set_num_threads(1)


def seen(z: torch.Tensor, y: torch.Tensor, sizes: list[int], classes: int, full: bool) -> ClassStatistics:
    statistics = ClassStatistics(classes, z.shape[1], full).double()
    for part, labels in zip(z.split(sizes), y.split(sizes), strict=True):
        statistics.update(part, labels)
    return statistics


@pytest.mark.golden
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("case", cases("other", "classstats"))
def test_after_every_batch(case: Case, full: bool) -> None:
    features, labels = case.x("feat"), case.x("label")
    statistics = ClassStatistics(int(case.hp["C"]), features.shape[2], full).double()
    covariance = case.outputs["cov_full" if full else "cov_diag"]
    for i, (z, y) in enumerate(zip(features, labels, strict=True)):
        statistics.update(z, y)
        close(statistics.mean, case.outputs["mean"][i], rtol=1e-9)
        close(statistics.covariance, covariance[i], rtol=1e-9)
        close(statistics.count, case.outputs["count"][i])
    close(statistics.mean, case.outputs["batch_mean"], rtol=1e-9)
    whole = case.outputs["batch_cov"]
    close(statistics.covariance, whole if full else np.diagonal(whole, axis1=1, axis2=2), rtol=1e-9)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_any_order_and_batching_give_numpys_numbers(full: bool, seed: int) -> None:
    r = np.random.RandomState(seed)
    y = torch.from_numpy(r.permutation([0] * 1 + [1] * 40 + [3] * 19))  # class 2 has no row, class 0 one
    z = torch.from_numpy(r.randn(60, 3) * (1 + y.numpy()[:, None]) + 10 * y.numpy()[:, None])
    order = torch.from_numpy(r.permutation(60))
    one = seen(z, y, [60], 4, full)
    many = seen(z[order], y[order], [1, 7, 2, 30, 20], 4, full)
    for name, expected in one.state_dict().items():
        close(many.state_dict()[name], expected)
    for k in (0, 1, 3):
        own = z[y == k].numpy()
        covariance = np.cov(own, rowvar=False, bias=True) if len(own) > 1 else np.zeros((3, 3))
        close(many.mean[k], own.mean(0))
        close(many.covariance[k], covariance if full else np.diagonal(covariance))
    assert not many.mean[2].any() and not many.covariance[2].any() and many.count.tolist() == [1, 40, 0, 19]


def test_no_gradient_and_float32_under_autocast() -> None:
    statistics = ClassStatistics(2, 4, full=True)
    z = torch.randn(8, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        statistics.update(z.bfloat16(), torch.arange(8) % 2)
    assert statistics.mean.dtype == torch.float32 and not statistics.mean.requires_grad
    close(statistics.mean[0], z[::2].detach().bfloat16().float().mean(0), rtol=1e-6, atol=1e-6)


def test_a_bank_keeps_the_last_centroids() -> None:
    bank = ClassBank(3, 2, size=4)
    batches = [(torch.randn(5, 2), torch.tensor([0, 0, 1, 0, 1] if i != 3 else [0] * 5)) for i in range(7)]
    expected: dict[int, list[torch.Tensor]] = {0: [], 1: []}
    for z, y in batches:
        bank.update(z, y)
        for k in expected:
            if (y == k).any():
                expected[k] = [*(expected[k] or [z[y == k].mean(0)] * 3)[-3:], z[y == k].mean(0)]
    for k, means in expected.items():
        close(bank.centroids[k].sort(0).values, torch.stack(means).sort(0).values, rtol=1e-6, atol=1e-6)
    assert not bank.centroids[2].any() and bank.count.tolist() == [7, 6, 0]
