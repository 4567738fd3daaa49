import math

import numpy as np
import pytest
import torch
from golden_vectors import close

from dgbench import label_free
from dgbench.collect.evidence import LABEL_FREE
from dgbench.label_free import density, validators

torch.set_num_threads(1)


def by_hand(p: np.ndarray) -> dict[str, float]:
    def entropy(row: np.ndarray) -> float:
        return -sum(v * math.log(v) for v in row if v > 0)

    z = p / np.linalg.norm(p, axis=1, keepdims=True)
    rows = []
    for i in range(len(z)):
        e = np.array([math.exp((-1 if i == j else z[i] @ z[j]) / 0.05) for j in range(len(z))])
        rows.append(entropy(e / e.sum()))
    mean = np.mean([entropy(row) for row in p])
    return {
        "entropy": float(mean),
        "im": entropy(p.mean(0)) - mean,
        "confidence": float(np.mean([row.max() for row in p])),
        "snd": float(np.mean(rows)),
    }


@pytest.mark.parametrize("rows", [2, 7, 600])
def test_values_by_literal_loops(rows: int) -> None:
    logits = 2 * torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows)).double()
    ours, expected = validators(logits), by_hand(logits.softmax(1).numpy())
    assert set(ours) == set(expected) == set(LABEL_FREE)
    for name, value in expected.items():
        close(ours[name], value)


def test_limits() -> None:
    even = validators(torch.zeros(30, 5).double())
    close([even["entropy"], even["im"], even["confidence"]], [math.log(5), 0, 0.2])
    sure = validators(1e4 * torch.eye(5).double().repeat(6, 1))  # certain, and every class as often
    close([sure["entropy"], sure["im"], sure["confidence"]], [0, math.log(5), 1])
    one = validators(torch.tensor([[1e4, 0, 0]] * 30))  # collapsed: confident, and im sees it
    assert one["confidence"] == 1 and abs(one["im"]) < 1e-6


def test_many_images_are_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.randn(101, 3).double().softmax(1)
    whole = density(p)
    monkeypatch.setattr(label_free, "NEIGHBOURHOOD", 11)
    close(density(p), by_hand(p[::10].numpy())["snd"])
    assert density(p) != whole
