import glob
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dgbench import live, train
from dgbench.errors import UsageError

RECORD = {
    "step": 5,
    "weights": "raw",
    "losses": {"loss": 1.5},
    "metrics": {"0/out/acc": 0.5},
    "images_per_second": 10.0,
    "memory_gb": 1.0,
}
SETTINGS = {"dataset": "RotatedDigits", "algorithm": "ERM", "test_envs": "0", "steps": "2"}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", value)]
FLAGS += ["--checkpoint_freq", "1", "--device", "cpu"]


def test_off_by_default_and_no_package_is_imported():
    code = (
        "import sys; from dgbench import live\n"
        "log = live.start('none', None, '', {}); log.write({}); log.close()\n"
        "print({'wandb', 'tensorboard', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_scalars_are_named_by_what_they_are():
    assert live.scalars(RECORD) == {
        "loss/loss": 1.5,
        "0/out/acc": 0.5,
        "images_per_second": 10.0,
        "memory_gb": 1.0,
    }
    assert live.scalars({**RECORD, "weights": "swad"}) == {"swad/0/out/acc": 0.5}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_not_there_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=rf"pip install 'dgbench\[{name}\]'"):
        live.start(name, tmp_path, "run", {})


def test_an_unknown_log_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="choose from: none, tensorboard, wandb"):
        live.start("tensorbord", tmp_path, "run", {})


@pytest.mark.slow  # its imports take seconds
def test_tensorboard_shows_every_record(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train.main([*FLAGS, "--output_dir", str(tmp_path / "run"), "--log", "tensorboard"])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss/loss")] == [0, 1]
    assert "15/out/acc" in events.Tags()["scalars"]


@pytest.mark.slow
def test_wandb_works_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train.main([*FLAGS, "--output_dir", str(tmp_path / "run"), "--log", "wandb"])
    (file,) = glob.glob(f"{tmp_path}/run/wandb/offline-run-*/run-*.wandb")
    train.main([*FLAGS, "--output_dir", str(tmp_path / "other"), "--log", "wandb"])
    (other,) = glob.glob(f"{tmp_path}/other/wandb/offline-run-*/run-*.wandb")
    assert Path(file).name != Path(other).name, "the same run in another folder has curves of its own"
    assert os.path.getsize(file) > 0
    assert b"15/out/acc" in Path(file).read_bytes()


@pytest.mark.slow
def test_wandb_without_a_login_is_one_line_and_leaves_no_folder(tmp_path):
    pytest.importorskip("wandb")
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    command = [*FLAGS, "--output_dir", str(tmp_path / "run"), "--log", "wandb"]
    told = subprocess.run(
        [sys.executable, "-m", "dgbench.train", *command], env=env, capture_output=True, text=True
    )
    assert told.returncode == 2 and not (tmp_path / "run").exists()
    assert re.search(r"^error: --log wandb does not begin: .*API key.* WANDB_MODE=offline", told.stderr, re.M)
    assert "Traceback" not in told.stderr
