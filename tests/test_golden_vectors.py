"""The reader of the golden vectors: a kind that silently had no case would test nothing."""

from pathlib import Path

import golden_vectors
import numpy as np
import pytest
from golden_vectors import BUNDLED, DG_KINDS, cases, close, documents, files


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_vectors, "FOLDER", BUNDLED)


def test_every_bundled_file_has_cases(bundled: None) -> None:
    assert len(DG_KINDS) > 40 and len(list((BUNDLED / "other").glob("*.npz"))) > 40
    for path in BUNDLED.glob("*/*.npz"):
        found = cases(path.parent.name, path.stem)
        assert found and all(param.values[0].inputs and param.values[0].outputs for param in found), path
    for path in BUNDLED.glob("*/*.json"):
        assert documents(path.parent.name, path.stem), path


def test_a_kind_leaves_longer_kinds_alone(bundled: None) -> None:
    assert [path.stem for path in files("dg", "fish")] == ["fish"]
    assert [path.stem for path in files("dg", "dann")] == ["dann"]
    assert {path.stem for path in files("other", "fixmatch")} > {"fixmatch_a"}


def test_other_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_vectors, "FOLDER", tmp_path)
    (tmp_path / "dg").mkdir()
    assert cases("dg", "coral") == [] == documents("dg", "coral")
    arrays = {"n_cases": 2, "case0/in/x0": np.ones(2), "case1/in/x_1": np.ones(3), "case1/in/x_0": np.ones(1)}
    np.savez(tmp_path / "dg" / "coral_new.npz", **{"case1/hp": '{"tag": "t", "k": 3}', **arrays})
    first, second = (param.values[0] for param in cases("dg", "coral"))
    assert first.domains() == ["x0"] and second.domains() == ["x_0", "x_1"]
    assert second.tag == "t" and second.hp["k"] == 3 and first.tag == ""
    assert first.x("x0", grad=True).requires_grad
    with pytest.raises(AssertionError):
        close(first.x("x0"), np.ones(2) + 1e-6)
