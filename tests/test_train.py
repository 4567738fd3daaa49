"""A run: its folder, its records, its mistakes."""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dgbench import records, registry, train
from dgbench.algorithms.erm import ERM
from dgbench.build import build
from dgbench.dataset import Domain
from dgbench.datasets.rotateddigits import RotatedDigits
from dgbench.errors import UsageError, exit_on_usage_error
from dgbench.machine import Machine
from dgbench.spec import RunSpec

FLAGS = ["--dataset", "RotatedDigits", "--algorithm", "ERM", "--test_envs", "0", "--steps", "3"]


def call(tmp_path: Path, *extra: str) -> int:
    return train.main([*FLAGS, "--output_dir", str(tmp_path / "run"), *extra])


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two domains, two classes, three images each."""
    root = tmp_path / "images"
    for domain in ("a", "b"):
        for label in ("cat", "dog"):
            (root / domain / label).mkdir(parents=True)
            for i in range(3):
                pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / domain / label / f"{i}.png")
    return root


def image_flags(root: Path, out: Path) -> list[str]:
    return (
        f"--dataset ImageFolders --algorithm ERM --test_envs a --backbone resnet18 --pretrained none "
        f"--image_size 16 --steps 2 --holdout_fraction 0.4 --cache none --data_dir {root} --output_dir {out}"
    ).split()


def test_a_run_leaves_its_records(tmp_path: Path) -> None:
    assert call(tmp_path, "--checkpoint_freq", "1") == 0
    folder = tmp_path / "run"
    assert {f.name for f in folder.iterdir()} == {
        "spec.json",
        "results.jsonl",
        "log.txt",
        "weights.pt",
        "done",
        "lock",
    }
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    last = lines[-1]
    assert last["parts"] == {
        "validation": [f"{d}/out" for d in ("15", "30", "45", "60", "75")],
        "test": ["0/in"],
        "oracle": ["0/out"],
    }
    assert {key.rsplit("/", 1)[0] for key in last["metrics"]} == {
        p for parts in last["parts"].values() for p in parts
    }
    assert last["spec"]["test_envs"] == ["0"] and last["hparams"]["lr"] == 1e-3
    assert sum(domain["images"] for domain in last["fingerprint"].values()) == 1797
    assert call(tmp_path, "--checkpoint_freq", "1") == 0, "done already: nothing happens"
    assert len((folder / "results.jsonl").read_text().splitlines()) == 3


def test_a_run_is_a_plain_loop_over_its_batches(tmp_path: Path) -> None:
    """The same weights and rows, in torch's default memory layout, images read from the data set itself."""
    spec = RunSpec("RotatedDigits", "ERM", test_envs=("0",), steps=40, hparams={"lr": 3e-3}).resolved()
    record = train.run(spec, tmp_path / "run")
    trained = torch.load(tmp_path / "run" / "weights.pt", weights_only=True)["raw"]

    built = build(spec, Machine())
    network = nn.Sequential(built.algorithm.featurizer, built.algorithm.classifier)
    for p in network.parameters():
        p.data = p.data.contiguous()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    turned = {domain.name: domain for domain in RotatedDigits(None).load(RotatedDigits.domains)}

    def rows(name: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(turned[name].images[indices]).permute(0, 3, 1, 2)
        return images.contiguous() / 255, torch.from_numpy(turned[name].labels[indices])

    for step in range(40):
        batch = built.loader.batch(step)
        pools = zip(built.split.labelled, batch.per_domain(batch.idx), strict=True)
        drawn = [rows(pool.domain.name, pool.indices[idx]) for pool, idx in pools]
        x, y = (torch.cat(columns) for columns in zip(*drawn, strict=True))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    for name, value in built.algorithm.state_dict().items():
        torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-4)
    network.eval()
    for key, pool in built.split.evaluated.items():
        x, y = rows(pool.domain.name, pool.indices)
        logits = network(x)
        right = (logits.argmax(1) == y).double().mean().item()
        assert record["metrics"][f"{key}/acc"] == pytest.approx(right, abs=1 / len(y)), "one image near a tie"
        loss = nn.functional.cross_entropy(logits, y).item()
        assert record["metrics"][f"{key}/loss"] == pytest.approx(loss, rel=1e-3)


def test_image_folders_end_to_end(folders: Path, tmp_path: Path) -> None:
    assert train.main(image_flags(folders, tmp_path / "run")) == 0


def test_single_source_scores_every_other_domain(tmp_path: Path) -> None:
    spec = RunSpec("RotatedDigits", "ERM", task="single_source", source_envs=("30",), steps=2)
    record = train.run(spec, tmp_path / "run")
    assert record["parts"]["validation"] == ["30/out"]
    assert record["parts"]["test"] == [f"{d}/all" for d in ("0", "15", "45", "60", "75")]


BAD_FLAGS = {
    "unknown algorithm": (
        ["--algorithm", "EMR"],
        r"unknown algorithm 'EMR'; did you mean ERM\? choose from: .*PCL",
    ),
    "unknown data set": (["--dataset", "RotatedDigit"], r"did you mean RotatedDigits\? choose from: .*PACS"),
    "unknown domain": (["--test_envs", "16"], r"unknown domain '16'.*choose from: 0=0, 1=15"),
    "unknown task": (["--task", "retrieve"], r"unknown task 'retrieve'.*domain_generalization"),
    "unknown hparam": (
        ["--hparams", '{"lrr": 1}'],
        r"hyper-parameter of ERM 'lrr'; did you mean lr\?.*weight_decay",
    ),
    "hparam of a wrong type": (["--hparams", '{"lr": "big"}'], r"lr='big' has the wrong type; give .*float"),
    "hparam outside its options": (
        ["--algorithm", "PCL", "--hparams", '{"variant": "new"}'],
        r"variant='new' is not a choice; choose from: .*aligned",
    ),
    "malformed JSON": (["--hparams", "{lr: 1}"], r"--hparams is not JSON .*write it like"),
    "no object": (["--hparams", "3"], r"must be a JSON object"),
    "all domains are targets": (["--test_envs", "0", "1", "2", "3", "4", "5"], r"no source is left.*0=0"),
    "no target": (["--test_envs"], r"names no target domain; choose from: 0=0"),
    "source is target": (["--source_envs", "0", "1"], r"0 cannot be source and target at once"),
    "no steps": (["--steps", "-1"], r"--steps .* at least 1"),
    "zero steps": (["--steps", "0"], r"--steps .* at least 1"),
    "a domain in superscript": (["--test_envs", "²"], r"unknown domain '²'"),
    "negative threads": (["--threads", "-1"], r"--threads -1 must be at least 0"),
    "bad holdout": (["--holdout_fraction", "1.5"], r"not between 0 and 1"),
    "unknown averaging": (["--averaging", "swadd"], r"did you mean swad\? choose from: ema, swa, swad"),
    "unknown backbone": (["--backbone", "resnet19"], r"unknown backbone 'resnet19'; did you mean resnet18"),
    "no weights for a small network": (
        ["--pretrained", "IMAGENET1K_V1"],
        r"digits_cnn has no pretrained weights",
    ),
    "image size of fixed images": (["--image_size", "64"], r"has no meaning for RotatedDigits"),
    "unknown flag": (["--speed", "9"], r"unrecognized arguments: --speed 9"),
    "unknown device": (["--device", "cuda:99"], r"--device cuda:99 does not work .*choose from: auto, cpu"),
    "missing data": (["--dataset", "PACS"], r"data_dir"),
    "few labels of another task": (["--labels_per_class", "5"], r"no meaning here; .*--task semi_supervised"),
    "a split of another task": (["--split", "held_out"], r"no meaning here; choose from: --task retrieval"),
    "two sources": (["--task", "single_source"], r"trains on one domain"),
}


@pytest.mark.parametrize(("extra", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, extra: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        call(tmp_path, *extra)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def drop_domain(root: Path) -> None:
    for path in sorted((root / "b").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / "b").rmdir()


def drop_class(root: Path) -> None:
    for path in (root / "b" / "dog").iterdir():
        path.unlink()


def truncate_image(root: Path) -> None:
    path = root / "b" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:60])


def empty(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()


BAD_DATA: dict[str, tuple[Any, str]] = {
    "one domain": (drop_domain, "no source is left"),
    "a class missing in one domain": (drop_class, "dog"),
    "a truncated image": (truncate_image, r"b/dog/1\.png"),
    "no images": (empty, "image"),
}


@pytest.mark.parametrize(("damage", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_one_line_and_writes_nothing(
    folders: Path, tmp_path: Path, damage: Any, message: str
) -> None:
    damage(folders)
    with pytest.raises(UsageError, match=message) as caught:
        train.main(image_flags(folders, tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_another_run_is_left_alone(tmp_path: Path) -> None:
    call(tmp_path)
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    with pytest.raises(UsageError, match=r"holds another run \(.*trial_seed=0.*give another --output_dir"):
        call(tmp_path, "--trial_seed", "1")
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="holds no run"):
        train.main([*FLAGS, "--output_dir", str(other)])
    assert [f.name for f in other.iterdir()] == ["thesis.tex"]


def test_a_user_error_while_a_run_trains_loses_nothing(tmp_path: Path) -> None:
    class Unlucky(ERM):
        """Meets a broken image at the fourth update."""

        def loss(self, batch):
            if self.step == 3:
                raise UsageError("cannot decode x.jpg")
            return super().loss(batch)

    spec = RunSpec("RotatedDigits", "Unlucky", test_envs=("0",), steps=5, checkpoint_freq=1)
    with registry.registered(Unlucky), pytest.raises(UsageError, match="cannot decode"):
        train.run(spec, tmp_path / "run")
    assert [line["step"] for line in records.read_lines(tmp_path / "run" / "results.jsonl")[0]] == [0, 1, 2]
    assert "cannot decode x.jpg" in (tmp_path / "run" / "error.txt").read_text()
    assert (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("declared", "images"),
    [((1, 8, 16), (8, 16, 1)), ((1, 16, 8), (16, 8, 1)), ((1, 12, 12), (8, 8, 1)), ((3, 8, 8), (8, 8, 1))],
)
def test_images_of_another_shape_than_declared_or_not_square(
    declared: tuple[int, int, int],
    images: tuple[int, int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(self: RotatedDigits, names: Sequence[str]) -> list[Domain]:
        labels = np.arange(20) % 10
        return [Domain(name, np.zeros((20, *images), np.uint8), labels, name) for name in names]

    monkeypatch.setattr(RotatedDigits, "input_shape", declared)
    monkeypatch.setattr(RotatedDigits, "load", load)
    with pytest.raises(UsageError, match=r"RotatedDigits: images of .* its input_shape is .* with H = W"):
        call(tmp_path, "--backbone", "mnist_cnn")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (OSError(20, "Not a directory", "file/run"), 2, "error: file/run: Not a directory\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_command_ends_without_a_traceback(
    raised: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> int:
        raise raised

    with pytest.raises(SystemExit) as ended:
        exit_on_usage_error(main)
    assert ended.value.code == status and capsys.readouterr().err == told


def test_a_checkpoint_that_the_disk_does_not_take_is_one_line(
    tmp_path: Path, disk_takes: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    disk_takes(5000)
    with pytest.raises(SystemExit) as ended:
        exit_on_usage_error(lambda: call(tmp_path))
    path = tmp_path / "run" / "checkpoint.pt"
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {path}: File too large\n"
    assert f"{path}" in records.last_line(tmp_path / "run" / "error.txt")


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train.main([*FLAGS, "--output_dir", "~/run"]) == 0
    assert (tmp_path / "run" / "done").exists()


def test_the_command_prints_one_line_and_exits_2(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "dgbench.train",
        *FLAGS,
        "--output_dir",
        str(tmp_path / "run"),
        "--algorithm",
        "EMR",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: unknown algorithm 'EMR'") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("algorithm", "chosen", "message"),
    [
        ("ERM", {"lr": -1}, "hyper-parameter lr=-1 is out of range"),
        ("ERM", {"lr": math.inf}, "hyper-parameter lr=inf is not a finite number"),
        ("DANN", {"lr_d": -1.0}, "DANN cannot train with .*: Invalid learning rate: -1.0"),
        ("DANN", {"mlp_dropout": 1.5}, "DANN cannot train with .* dropout probability"),
    ],
)
def test_refused_hyper_parameters_leave_no_folder(
    tmp_path: Path, algorithm: str, chosen: dict[str, float], message: str
) -> None:
    """Its own declared limits or torch's: what the folder is for can be run in it afterwards."""
    given = RunSpec("RotatedDigits", algorithm, test_envs=("0",), steps=1, hparams=chosen)
    with pytest.raises(UsageError, match=message):
        train.run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_error_of_a_method_itself_is_no_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self, *args):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(ERM, "optimizers", broken)
    with pytest.raises(ValueError, match="unpack"):
        train.run(RunSpec("RotatedDigits", "ERM", test_envs=("0",), steps=1), tmp_path / "run")
