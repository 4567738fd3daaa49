"""A run under way: what its averages are told, when it saves, and that its folder is its own."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dgbench import averaging, course, lease, meter, records
from dgbench.course import Course, opened
from dgbench.machine import Machine
from dgbench.meter import Meter
from dgbench.spec import RunSpec
from dgbench.swad import SWAD
from dgbench.train import run

SPEC = RunSpec("RotatedDigits", "ERM", test_envs=("0",), steps=4, checkpoint_freq=1)


def test_averages_are_told_the_mean_validation_loss_of_the_raw_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, float]] = []

    class Spy(SWAD):
        def evaluated(self, algorithm: Any, step: int, val_loss: float) -> None:
            told.append((step, val_loss))
            super().evaluated(algorithm, step, val_loss)

    monkeypatch.setitem(averaging.AVERAGERS, "swad", Spy)
    run(replace(SPEC, averaging=("swad", "ema")), tmp_path / "run")
    lines, _ = records.read_lines(tmp_path / "run" / "results.jsonl")
    raw = [line for line in lines if line["weights"] == "raw"]
    assert [step for step, _ in told] == [line["step"] for line in raw] == [0, 1, 2, 3]
    for (_, loss), line in zip(told, raw, strict=True):
        own = [line["metrics"][f"{source}/out/loss"] for source in ("15", "30", "45", "60", "75")]
        assert loss == pytest.approx(sum(own) / 5, rel=1e-12)


@pytest.mark.parametrize("write", [Course.evaluate, Course.save], ids=lambda f: f.__name__)
def test_a_run_that_was_taken_over_writes_nothing_more(
    tmp_path: Path, write: Callable[[Course, int], object]
) -> None:
    folder = tmp_path / "run"

    def contents() -> dict[str, bytes]:
        names = ("results.jsonl", "checkpoint.pt", "checkpoint.before.pt")
        return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}

    with pytest.raises(lease.Busy, match="taken over"), opened(SPEC, folder, Machine()) as own:
        assert own is not None
        own.evaluate(0)
        own.save(0)
        before = contents()
        (folder / lease.NAME).rename(folder / "ours")
        (folder / lease.NAME).write_bytes((folder / "ours").read_bytes())
        write(own, 1)
    assert contents() == before and len(before) == 2
    assert not (folder / "error.txt").exists(), "it is the other's run now"


@pytest.mark.parametrize(
    ("minutes", "age", "due"), [(1, 61, True), (1, 59, False), (0, 1e6, False), (10, 599, False)]
)
def test_a_checkpoint_is_as_old_as_the_machine_allows(
    tmp_path: Path, minutes: float, age: float, due: bool
) -> None:
    with opened(SPEC, tmp_path / "run", Machine(checkpoint_every_min=minutes)) as own:
        assert own is not None
        own.saved = time.monotonic() - age
        assert own.save_is_due() is due
        own.save(0)
        assert not own.save_is_due()


def test_weights_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    for skip in (False, True):
        folder = tmp_path / str(skip)
        run(SPEC, folder, Machine(skip_model_save=skip))
        assert (folder / "done").exists() and (folder / "weights.pt").exists() is not skip


def test_a_meter_gives_means_and_seconds_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    own = Meter(since=10.0)
    for value in (1.0, 2.0, 6.0):
        own.add({"loss": torch.tensor(value), **({"late": torch.tensor(value)} if value > 1 else {})}, 32)
    now[0] = 14.0
    assert own.read() == ({"loss": 3.0, "late": 4.0}, {"seconds": {"train": 4.0}, "images_per_second": 24.0})
    now[0] = 20.0
    own.start()  # six seconds of evaluation
    own.sharing = 2
    own.add({"loss": torch.tensor(5.0)}, 8)
    now[0] = 24.0
    assert own.read() == ({"loss": 5.0}, {"seconds": {"train": 2.0}, "images_per_second": 4.0})


def test_a_record_tells_its_time_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that a look moves by a millisecond, and an evaluation by a minute: it is no training."""
    now, evaluate = [time.perf_counter()], course.evaluate

    def moved(seconds: float) -> float:
        now[0] += seconds
        return now[0]

    monkeypatch.setattr(time, "perf_counter", lambda: moved(0.001))
    monkeypatch.setattr(course, "evaluate", lambda run: (moved(60.0), evaluate(run))[1])
    run(SPEC, tmp_path / "run")
    lines, _ = records.read_lines(tmp_path / "run" / "results.jsonl")
    assert len(lines) == 4
    for line in lines[1:]:
        assert line["seconds"]["train"] < 1 and 60 < line["seconds"]["evaluate"] < 61
        images = 5 * line["hparams"]["batch_size"]
        assert line["images_per_second"] == pytest.approx(images / line["seconds"]["train"])
        assert 0.05 < line["memory_gb"] < 24
