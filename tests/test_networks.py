"""Backbones: shapes, frozen statistics, normalisation."""

from pathlib import Path

import pytest
import torch

from dgbench import networks
from dgbench.algorithm import Problem
from dgbench.errors import UsageError
from dgbench.spec import RunSpec

HP = {"resnet_dropout": 0.5}


def build(name: str, shape: tuple[int, int, int], **settings: object) -> networks.Featurizer:
    return networks.featurizer(Problem(shape, 7, 3, 1, 1, backbone=name, **settings), HP)


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("digits_cnn", (1, 8, 8), 64),
        ("mnist_cnn", (2, 28, 28), 128),
        ("two_conv", (3, 28, 28), 1024),
        ("two_conv", (3, 32, 32), 1024),
        ("resnet18", (3, 64, 64), 512),
        ("resnet50", (3, 32, 32), 2048),
    ],
)
def test_features(name: str, shape: tuple[int, int, int], width: int) -> None:
    net = build(name, shape)
    assert net.n_outputs == width
    assert net(torch.rand(2, *shape)).shape == (2, width)


def test_two_conv_maps_are_what_the_paper_describes() -> None:
    assert build("two_conv", (3, 28, 28)).maps(torch.rand(1, 3, 28, 28)).shape == (1, 128, 4, 4)


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_statistics_stay_and_affine_weights_train(freeze: bool) -> None:
    net = build("resnet18", (3, 32, 32), freeze_bn=freeze).train()
    before = net.net.bn1.running_mean.clone()
    net(torch.rand(4, 3, 32, 32)).sum().backward()
    assert torch.equal(before, net.net.bn1.running_mean) == freeze
    assert net.net.bn1.weight.grad is not None
    assert net.dropout.training, "only the statistics are frozen"


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match=r"unknown backbone 'resnet5'; did you mean resnet50\?"):
        build("resnet5", (3, 32, 32))
    with pytest.raises(UsageError, match=r"choose from: .*, moco_v2_800ep, none"):
        build("resnet50", (3, 32, 32), pretrained="V3")


def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens
    with pytest.raises(UsageError, match=r"cannot get the weights IMAGENET1K_V1 of resnet18: .*or give"):
        build("resnet18", (3, 32, 32), pretrained="IMAGENET1K_V1")


def test_timm_models_bring_their_own_size_and_normalisation() -> None:
    timm = pytest.importorskip("timm", reason="timm is an extra")
    name = "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    config = timm.get_pretrained_cfg(name.removeprefix("timm:"))
    assert networks.mean_and_std(name) == (config.mean, config.std) == ((0.5,) * 3, (0.5,) * 3)
    assert RunSpec("PACS", "ERM", test_envs=("sketch",), backbone=name).resolved().image_size == 224
    net = build("timm:resnet10t", (3, 32, 32))
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, net.n_outputs)
    with pytest.raises(UsageError, match="unknown timm model 'resnet9999'"):
        build("timm:resnet9999", (3, 32, 32))


def test_defaults_of_the_published_comparisons() -> None:
    spec = RunSpec("PACS", "ERM", test_envs=("sketch",)).resolved()
    assert (spec.backbone, spec.pretrained, spec.freeze_bn, spec.image_size) == (
        "resnet50",
        "IMAGENET1K_V1",
        True,
        224,
    )
    spec = RunSpec("PACS", "ERM", test_envs=("sketch",), pretrained="none").resolved()
    assert spec.freeze_bn is False
