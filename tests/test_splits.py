import hashlib
import re

import numpy as np
import pytest
from golden_vectors import documents

from dgbench.hparams import seed_hash
from dgbench.splits import split

PROTOCOL = documents("dg", "domainbed_protocol")
SPLITS = documents("domainbed", "splits")


def _sha256(indices: np.ndarray) -> str:
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()


@pytest.mark.golden
@pytest.mark.parametrize("document", SPLITS)
def test_splits_are_domainbeds(document: dict) -> None:
    for name, expected in document["splits"].items():
        trial, env, n = map(int, re.findall(r"\d+", name))
        inside, outside = split(n, document["holdout_fraction"], trial, env)
        assert (len(outside), len(inside)) == (expected["out_size"], expected["in_size"]), name
        assert outside[:10].tolist() == expected["out_first10"], name
        assert inside[:10].tolist() == expected["in_first10"], name
        assert _sha256(outside) == expected["out_sha256"], name
        assert _sha256(inside) == expected["in_sha256"], name


@pytest.mark.golden
@pytest.mark.parametrize("document", PROTOCOL)
def test_protocol(document: dict) -> None:
    for text, expected in document["seed_hash"].items():
        assert seed_hash(*map(int, re.findall(r"-?\d+", text))) == expected, text
    for name, expected in document["split"].items():
        trial, env, n, holdout = re.findall(r"\d+(?:\.\d+)?", name)
        inside, outside = split(int(n), float(holdout), int(trial), int(env))
        assert (outside.tolist(), inside.tolist()) == (expected["out"], expected["in"]), name


@pytest.mark.parametrize("n, fraction", [(0, 0.2), (1, 0.2), (4, 0.2), (5, 0.2), (10, 0.5), (7, 0.99)])
def test_parts_are_a_partition(n: int, fraction: float) -> None:
    inside, outside = split(n, fraction, 0, 0)
    assert len(outside) == int(n * fraction)
    assert sorted([*inside, *outside]) == list(range(n))
    assert inside.dtype == outside.dtype == np.int64


def test_same_as_shuffling_a_list() -> None:
    keys = list(range(1000))
    np.random.RandomState(seed_hash(3, 1)).shuffle(keys)
    inside, outside = split(1000, 0.25, 3, 1)
    assert [*outside, *inside] == keys


def test_trial_and_domain_change_it() -> None:
    first = split(50, 0.2, 0, 0)[1].tolist()
    assert first == split(50, 0.2, 0, 0)[1].tolist()
    assert first != split(50, 0.2, 1, 0)[1].tolist()
    assert first != split(50, 0.2, 0, 1)[1].tolist()
