import math

import torch
from golden_vectors import close

from dgbench.losses.semantic_contrast import bank_contrast, class_contrast, quadratic, spread

torch.set_num_threads(1)


def test_the_bound_holds_and_is_tight_without_covariance() -> None:
    """DistCL is at least the contrast with very many samples, and equal to ProtoCL at zero covariance."""
    torch.manual_seed(0)
    t, d, classes, samples = 0.5, 3, 4, 200_000
    mean = torch.randn(classes, d).double() / 3
    root = torch.randn(classes, d, d).double() / 4
    covariance = root @ root.mT
    q = torch.nn.functional.normalize(torch.randn(5, d).double(), dim=1)
    y = torch.tensor([0, 1, 2, 3, 0])
    drawn = mean[:, None] + torch.randn(classes, samples, d).double() @ root.mT  # (K, M, d)
    s = torch.einsum("nd,kmd->nkm", q, drawn) / t
    for i, k in enumerate(y):
        rest = torch.cat((s[i, :k], s[i, k + 1 :])).exp().mean(1).sum()
        limit = -(s[i, k] - (s[i, k].exp() + rest).log()).mean()
        bound = class_contrast(q[i : i + 1], y[i : i + 1], mean, covariance, t)
        assert limit - 1e-2 < bound < limit + 1.5
    close(class_contrast(q, y, mean, 0 * covariance, t), class_contrast(q, y, mean, None, t))


def test_a_diagonal_is_a_full_matrix() -> None:
    q, diagonal = torch.randn(6, 5).double(), torch.rand(3, 5).double()
    close(quadratic(q, diagonal), quadratic(q, torch.diag_embed(diagonal)))


def test_spread_is_least_where_all_classes_are_equally_near() -> None:
    mean = torch.eye(4).double()
    even, uneven = torch.eye(4).double(), torch.eye(4).double()[:2]
    close(spread(even, mean), math.log(4))
    assert spread(uneven, mean) > spread(even, mean)
    assert spread(uneven, mean, form="sepico") < spread(even, mean, form="sepico") == -1


def test_a_bank_of_equal_centroids_is_a_prototype() -> None:
    q, y, mean = torch.randn(6, 5).double(), torch.arange(6) % 3, torch.randn(3, 5).double()
    close(bank_contrast(q, y, mean[:, None].expand(3, 7, 5)), class_contrast(q, y, mean))
