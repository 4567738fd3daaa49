"""The campaign of ``make chaos``, short."""

from pathlib import Path

import pytest
from chaos import campaign


@pytest.mark.slow
def test_a_sweep_under_faults_ends_as_one_left_alone(tmp_path: Path) -> None:
    counts = campaign(tmp_path, kills=20, trials=1, seed=0)
    print(counts)
    assert counts["kill -9"] >= 20 and counts["other faults"] >= 3
