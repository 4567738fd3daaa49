"""StyleMatch: recorded vectors, limit cases, and the style transfer."""

from pathlib import Path

import pytest
import torch
from golden_vectors import Case, cases, close
from linear_models import Draws
from semi_models import batch, build, seen

from dgbench.algorithms.stylematch import another
from dgbench.errors import UsageError
from dgbench.networks.adain import FILES, StyleTransfer, adain

torch.set_num_threads(1)
MEAN_STD = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "stylematch"))
def test_objective(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    domains, out = len(case.inputs["y"]), case.outputs
    chosen = {"threshold": case.hp["threshold"], "temperature": case.hp["temp"]}
    algorithm = build("StyleMatch", domains, len(case.inputs["mu"]), **chosen)
    classifier = algorithm.classifier
    classifier.mu, classifier.sigma = (torch.nn.Parameter(case.x(name)) for name in ("mu", "sigma"))
    x, strong, styled = (case.x(f"feat_{name}").flatten(0, 1) for name in ("x", "aug", "sty"))
    both = torch.cat([case.x("feat_x"), case.x("feat_u")], 1).flatten(0, 1)
    close(classifier(x).unflatten(0, (domains, -1))[0], out["logits_det"][0])

    monkeypatch.setattr(torch, "randn", Draws(*case.inputs["eps"]))
    labelled, strong, styled = (algorithm.logits(z) for z in (x, strong, styled))
    monkeypatch.undo()
    given = seen(classifier(both).detach(), strong, labelled, y=case.x("y").flatten())
    total, logs, targets = algorithm.objective(given._replace(styled=styled))
    total.backward()
    close(targets.labels, out["pseudo"].flatten())
    close(targets.weights, out["mask"].flatten())
    close(domains * logs["labelled"], out["loss_x"])
    close(domains * logs["unlabelled"], out["loss_aug"] + out["loss_sty"])
    close(total, out["total"])
    close(classifier.mu.grad, out["grad_mu"])
    close(classifier.sigma.grad, out["grad_sigma"])
    close(torch.nn.functional.softplus(classifier.sigma - 4), out["std"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "stylematch"))
def test_predictions(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = len(case.inputs["eps"])
    chosen = {"temperature": case.hp["temp"], "ensemble": draws}
    algorithm = build("StyleMatch", 3, len(case.inputs["mu"]), **chosen).eval()
    algorithm.featurizer = torch.nn.Identity()
    classifier = algorithm.classifier
    classifier.mu, classifier.sigma = (torch.nn.Parameter(case.x(name)) for name in ("mu", "sigma"))
    monkeypatch.setattr(torch, "randn", Draws(case.inputs["eps"][:, 0]))
    close(algorithm(case.x("feat_x")[0]), case.outputs["ens_logits"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "stylematch"))
def test_adain(case: Case) -> None:
    result = adain(case.x("adain_content"), case.x("adain_style"), case.hp["adain_alpha"])
    close(result, case.outputs["adain"])


def test_adain_at_its_limits() -> None:
    f, g = torch.randn(2, 3, 5, 6).double(), 4 + 3 * torch.randn(2, 3, 7, 4).double()
    close(adain(f, g, 0.0), f)
    close(adain(f, f), f)
    full = adain(f, g)
    torch.testing.assert_close(full.mean((2, 3)), g.mean((2, 3)))
    torch.testing.assert_close(full.var((2, 3)), g.var((2, 3)), rtol=1e-4, atol=0)


def test_another_domain_is_never_its_own() -> None:
    torch.manual_seed(0)
    drawn = torch.stack([another(4, torch.device("cpu")) for _ in range(300)])
    assert not (drawn == torch.arange(4)).any()
    for own in range(4):
        counts = torch.bincount(drawn[:, own], minlength=4)
        assert counts[own] == 0 and (counts[counts > 0] > 60).all()


def test_a_linear_classifier_and_no_style_is_fixmatch() -> None:
    torch.manual_seed(0)
    ours, theirs, rows = build("StyleMatch", stochastic=False), build("FixMatch", variant="ssdg"), batch()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.loss(rows)[0], theirs.loss(rows)[0])


def test_classifier_is_random_in_training_only() -> None:
    algorithm, rows = build("StyleMatch"), batch()
    assert not torch.equal(algorithm.loss(rows)[0], algorithm.loss(rows)[0])
    algorithm.eval()
    assert torch.equal(algorithm(rows.x), algorithm(rows.x))


# the style transfer, with random weights in place of the published ones


def random_weights(folder: Path) -> StyleTransfer:
    torch.manual_seed(0)
    transfer = StyleTransfer(MEAN_STD)
    encoder = transfer.encoder.state_dict() | {"99.weight": torch.zeros(1)}  # the file's network is longer
    for name, state in zip(FILES, (encoder, transfer.decoder.state_dict()), strict=True):
        torch.save(state, folder / name)
    return transfer


def test_layers_are_those_of_the_published_weights() -> None:
    """VGG-19 up to relu4_1 behind a 1 x 1 convolution, by the indices of their ``Sequential``."""
    transfer = StyleTransfer(MEAN_STD)
    shapes = {name: tuple(v.shape[:2]) for name, v in transfer.encoder.state_dict().items() if v.ndim == 4}
    pairs = [(3, 3), (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), *[(256, 256)] * 3, (512, 256)]
    indices = (0, 2, 5, 9, 12, 16, 19, 22, 25, 29)
    assert shapes == {f"{i}.weight": pair for i, pair in zip(indices, pairs, strict=True)}
    assert len(transfer.encoder) == 31
    last = list(transfer.decoder.state_dict())[-1]
    assert last == "28.bias" and transfer.decoder[28].weight.shape == (3, 64, 3, 3)
    assert transfer(torch.rand(2, 3, 20, 24), torch.rand(2, 3, 20, 24)).shape == (2, 3, 20, 24)


def test_weights_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"decoder.pth.*style=none"):
        StyleTransfer(MEAN_STD).load(tmp_path, "")
    transfer = random_weights(tmp_path)
    with pytest.raises(UsageError, match="style_hash=") as error:
        StyleTransfer(MEAN_STD).load(tmp_path, "00000000")
    torch.manual_seed(1)
    loaded = StyleTransfer(MEAN_STD).load(tmp_path, str(error.value).rpartition("=")[2])
    content, style = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(content, style), transfer(content, style))


@pytest.mark.slow
def test_stylised_views_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    random_weights(tmp_path / "checkpoints")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    shape = (3, 32, 32)
    with pytest.raises(UsageError, match="RGB"):
        build("StyleMatch", style="adain")
    with pytest.raises(UsageError, match="style_hash=") as error:
        build("StyleMatch", shape=shape, style="adain")
    chosen = {"style": "adain", "style_hash": str(error.value).rpartition("=")[2]}
    algorithm = build("StyleMatch", shape=shape, threshold=0.0, **chosen)
    rows = batch(shape=shape)
    before = {k: v.clone() for k, v in algorithm.style.state_dict().items()}
    found = algorithm.see(rows)
    assert found.styled.shape == found.strong.shape and not algorithm.warnings
    torch.manual_seed(0)
    with_style = algorithm.update(rows)
    assert torch.isfinite(with_style["loss"])
    assert all(torch.equal(v, before[k]) for k, v in algorithm.style.state_dict().items())
    assert build("StyleMatch").warnings  # says that it runs without
