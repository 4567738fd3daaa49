"""The plugin with CLIP's zero-shot row: what it says where it cannot run; its logits with random weights."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dgbench import registry
from dgbench.build import build
from dgbench.datasets.rotateddigits import RotatedDigits
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.records import read_lines
from dgbench.spec import RunSpec
from dgbench.train import run

PLUGIN = Path(__file__).parents[1] / "plugins" / "clip.py"
NEEDS = pytest.mark.skipif(find_spec("open_clip") is None, reason="open_clip is not installed")
CLASSES = ("Alarm_Clock", "Bike")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two domains of two classes with five images each."""
    r = np.random.RandomState(0)
    for domain in ("art", "photo"):
        for name in CLASSES:
            folder = tmp_path / "data" / domain / name
            folder.mkdir(parents=True)
            for i in range(5):
                Image.fromarray(r.randint(0, 256, (32, 32, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


@pytest.mark.skipif(find_spec("open_clip") is not None, reason="open_clip is installed")
def test_without_open_clip_it_says_so_in_a_line(data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dgbench.train", "--plugin", str(PLUGIN), "--algorithm", "CLIP"]
    command += ["--dataset", "ImageFolders", "--data_dir", str(data), "--task", "domain_adaptation"]
    command += ["--test_envs", "photo", "--backbone", "clip:RN50", "--pretrained", "openai", "--steps", "1"]
    done = subprocess.run([*command, "--output_dir", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: CLIP needs an extra: pip install 'dgbench[clip]' (No module")
    assert done.stderr.count("\n") == 1


def spec_of(**fields: str) -> RunSpec:
    registry.load_plugin(PLUGIN)
    settings = {"backbone": "clip:RN50", "pretrained": "none", **fields}
    return RunSpec("ImageFolders", "CLIP", "domain_adaptation", ("photo",), ("art",), steps=1, **settings)


def test_a_method_is_told_the_names_of_the_folders(data: Path) -> None:
    spec = replace(spec_of(backbone="digits_cnn"), algorithm="ERM", image_size=8)
    built = build(spec.resolved(data), Machine(data_dir=data, cache="none"))
    assert built.algorithm.problem.class_names == CLASSES
    assert not RotatedDigits(None).class_names()


@NEEDS
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "resnet50"}, "unknown CLIP backbone"),
        ({"pretrained": "openia"}, "did you mean openai"),
        ({"pretrained": "openai"}, "cannot get CLIP's weights openai of RN50: "),
    ],
)
def test_weights_that_cannot_be_had_are_one_line(
    data: Path, fields: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):  # nothing answers there
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match=message) as told:
        build(spec_of(**fields).resolved(data), Machine(data_dir=data, cache="none"))
    assert "\n" not in str(told.value)


@NEEDS
@pytest.mark.slow
def test_logits_are_open_clips_own(data: Path, tmp_path: Path) -> None:
    import open_clip

    machine = Machine(data_dir=data, cache="none")
    built = build(spec_of().resolved(data), machine)
    (x,) = [x for x, _ in built.loader.evaluation(built.split.evaluated["photo/all"])]
    torch.manual_seed(0)
    net, _, preprocess = open_clip.create_model_and_transforms("RN50", pretrained=None)
    net.visual.load_state_dict(built.algorithm.featurizer.state_dict())
    paths, bilinear = sorted((data / "photo").glob("*/*.png")), Image.Resampling.BILINEAR
    images = [Image.open(path).resize((224, 224), bilinear) for path in paths]
    with torch.no_grad():
        theirs = net.eval().encode_image(torch.stack([*map(preprocess, images)]), normalize=True).double()
        ours = built.algorithm.eval()(x).double()
    text = built.algorithm.text.double()
    assert torch.allclose(text.norm(dim=1), torch.ones(2).double(), atol=1e-5)
    assert torch.allclose(ours, theirs @ text.T / 0.07, atol=1e-5)
    run(spec_of().resolved(data), tmp_path / "run", machine)
    (record,) = read_lines(tmp_path / "run" / "results.jsonl")[0]
    assert record["metrics"].keys() >= {"art/out/acc", "photo/all/acc", "photo/all/im"}
