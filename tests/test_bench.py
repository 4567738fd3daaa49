"""The bench's own rules; its figures are never asserted."""

import json
from pathlib import Path

import pytest

from dgbench.bench import __main__ as bench
from dgbench.bench.methods import _batch, _made, _operations
from dgbench.bench.ratio import Ratio
from dgbench.errors import UsageError


def call(monkeypatch: pytest.MonkeyPatch, ratio: float, unit: str, *flags: str) -> int:
    monkeypatch.setattr(bench, "BENCHMARKS", {"one": lambda turns: [Ratio("it", ratio, 1.0, ratio, unit)]})
    return bench.main(list(flags))


@pytest.mark.parametrize(
    ("unit", "ratio", "change"),
    [
        ("ms", 1.05, "same"),
        ("ms", 1.15, "worse"),
        ("ms", 0.85, "better"),
        ("MiB", 2.0, "worse"),
        ("images/s", 1.15, "better"),
        ("images/s", 0.85, "worse"),
        ("images/s", 0.95, "same"),
    ],
)
def test_a_baseline_marks_what_got_worse(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    unit: str,
    ratio: float,
    change: str,
) -> None:
    before, now = str(tmp_path / "before.json"), tmp_path / "now.json"
    assert call(monkeypatch, 1.0, unit, "--output", before) == 0
    assert call(monkeypatch, ratio, unit, "--baseline", before, "--output", str(now)) == (change == "worse")
    assert json.loads(now.read_text())[0]["change"] == change
    assert change in capsys.readouterr().out
    if change == "worse":
        assert call(monkeypatch, ratio, unit, "--baseline", before, "--tolerance", "1.5") == 0


def test_what_the_baseline_lacks_is_not_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "before.json").write_text("[]")
    assert call(monkeypatch, 9.0, "ms", "--baseline", str(tmp_path / "before.json")) == 0


def test_bad_names_and_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown bench 'stap'; did you mean step\?"):
        bench.main(["stap"])
    with pytest.raises(UsageError, match="holds no ratios"):
        bench.main(["step", "--baseline", str(tmp_path / "none.json")])


def test_operations_of_a_method() -> None:
    """SAM has two passes; ERM's are counted by hand."""
    erm = _operations(_made("ERM"), _batch())
    widths, sides = (1, 64, 128, 128, 128), (28, 14, 14, 14)
    forward = [80 * s * s * 9 * a * b for a, b, s in zip(widths, widths[1:], sides, strict=False)]
    linear = 80 * 128 * 10
    assert erm == 2 * (3 * (sum(forward) + linear) - forward[0])  # no gradient of the images
    assert _operations(_made("SAM"), _batch()) == 2 * erm
