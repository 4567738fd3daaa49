"""Pictures of trained runs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dgbench import course, plots, pseudo_curves, train
from dgbench.collect import load, rules, tables
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.report import drawings
from dgbench.spec import RunSpec

pytest.importorskip("matplotlib", reason="matplotlib is an extra")
CPU = Machine(device="cpu", threads=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "rcl"
    spec = RunSpec("Digits_MP", "RCL", task="single_source", steps=40, averaging=("ema",))
    train.run(spec, folder, CPU)
    return folder


def test_the_loaded_run_is_the_trained_one(finished: Path) -> None:
    run = plots.load(finished, CPU)
    record = json.loads((finished / "results.jsonl").read_text().splitlines()[-2])
    assert record["weights"] == "raw"
    assert course.evaluate(run) == pytest.approx(record["metrics"])
    shown = plots.latent(run, "validation/all", images=10**6)
    assert shown.z.shape == (450, 64) and not run.algorithm.training
    assert shown.right.mean() == pytest.approx(record["metrics"]["validation/all/acc"])
    with torch.inference_mode():
        x, y = next(iter(run.loader.evaluation(run.split.evaluated["validation/all"])))
        np.testing.assert_allclose(shown.z[: len(x)], run.algorithm.features(x), atol=1e-5)
    assert (shown.labels[: len(y)] == y.numpy()).all()
    assert plots.latent(run, "test/all", "maps", images=20).z.shape == (20, 64 * 8 * 8)


def test_weights_are_a_choice(finished: Path) -> None:
    raw, ema = (plots.load(finished, CPU, kind).algorithm.state_dict() for kind in ("raw", "ema"))
    assert any(not torch.equal(raw[key], ema[key]) for key in raw)
    with pytest.raises(UsageError, match=r"unknown weights 'swad'.*choose from: raw, ema"):
        plots.load(finished, CPU, "swad")


def test_colour_is_the_class_and_a_cross_is_an_error() -> None:
    points = np.arange(10.0).reshape(5, 2)
    labels, right = np.array([0, 0, 1, 1, 1]), np.array([True, False, True, True, False])
    axes = plots.draw(points, plots.Latent(points, labels, right), "title").axes[0]
    shown = [c for c in axes.collections if len(c.get_offsets()) and not np.isnan(c.get_offsets()).any()]
    found = {}
    for collection in shown:
        closed = bool((collection.get_paths()[0].codes == 79).any())  # a circle is closed, a cross is not
        for offset in np.asarray(collection.get_offsets()):
            found[tuple(offset)] = (closed, tuple(collection.get_edgecolor()[0][:3]))
    assert [found[tuple(point)][0] for point in points] == right.tolist()
    colours = [found[tuple(point)][1] for point in points]
    assert colours[0] == colours[1] != colours[2] == colours[3] == colours[4]


def test_retrieval_classifies_nothing(tmp_path: Path) -> None:
    spec = RunSpec("RotatedDigits", "ID", task="retrieval", test_envs=("0", "60"), steps=2)
    train.run(spec, tmp_path / "run", CPU)
    shown = plots.latent(plots.load(tmp_path / "run", CPU), "0/all", images=40)
    assert shown.right is None
    told = [text.get_text() for text in plots.draw(shown.z[:, :2], shown, "title").legends[0].get_texts()]
    assert told == [str(label) for label in range(10)]
    plots.main(["latent", str(tmp_path / "run"), "--parts", "0/all", "--images", "40", "--device", "cpu"])
    picture = (tmp_path / "run" / "latent-features-0-all.svg").read_text()
    assert "0/all: 40 images -->" in picture and "right" not in picture


@pytest.mark.parametrize("classes", [2, 10, 20, 65])
def test_any_number_of_classes(classes: int) -> None:
    labels = np.arange(130) % classes
    points = np.random.RandomState(0).rand(130, 2)
    figure = plots.draw(points, plots.Latent(points, labels, labels > 0), "title")
    drawn = [c for c in figure.axes[0].collections if len(c.get_offsets()) > 0]
    assert len({tuple(c.get_edgecolor()[0]) for c in drawn if len(c.get_edgecolor())}) >= classes


def test_the_command(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["latent", str(finished), "--device", "cpu", "--images", "40"]
    assert plots.main(command) == 0
    names = [
        f"latent-features-{part}-all.{kind}" for part in ("validation", "test") for kind in ("png", "svg")
    ]
    assert [Path(line).name for line in capsys.readouterr().out.split()] == names
    one = ["--parts", "test/all", "--output_dir", str(tmp_path)]
    assert plots.main([*command, *one]) == 0
    (svg,) = (tmp_path / "rcl").glob("*.svg")
    assert svg.read_bytes() == (finished / svg.name).read_bytes(), "the same picture each time"
    assert (finished / names[0]).read_bytes()[1:4] == b"PNG"


def test_pictures_of_other_weights_are_files_of_their_own(finished: Path, tmp_path: Path) -> None:
    command = ["latent", str(finished), "--device", "cpu", "--images", "40", "--parts", "test/all"]
    for weights in ("raw", "ema"):
        assert plots.main([*command, "--weights", weights, "--output_dir", str(tmp_path)]) == 0
    assert sorted(path.name for path in (tmp_path / "rcl").glob("*.png")) == [
        "latent-ema-features-test-all.png",
        "latent-features-test-all.png",
    ]
    assert plots.named("gallery", "swad:tolerance_ratio=0.2") == "gallery-swad_tolerance_ratio_0.2"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--parts", "art/out"], "unknown part 'art/out'.*choose from: validation/all, test/all"),
        (["--images", "2"], "--images 2 are too few"),
    ],
)
def test_bad_input_is_one_line(finished: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plots.main(["latent", str(finished), "--device", "cpu", *flags])


def test_a_folder_without_a_trained_run(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(UsageError, match="no run in"):
        plots.main(["latent", str(tmp_path)])
    (tmp_path / "spec.json").write_text((finished / "spec.json").read_text())
    with pytest.raises(UsageError, match=r"has no weights.pt: it is not done, or ran with --skip_model_save"):
        plots.main(["latent", str(tmp_path)])


def test_a_run_that_diverged_is_one_line(tmp_path: Path) -> None:
    spec = RunSpec("RotatedDigits", "ERM", test_envs=("0",), steps=3, hparams={"lr": 1e10})
    train.run(spec, tmp_path / "run", CPU)
    with pytest.raises(UsageError, match=r"features of 15/out are not finite: the run diverged"):
        plots.main(["latent", str(tmp_path / "run"), "--device", "cpu"])


def test_few_images_are_enough_for_tsne() -> None:
    z = np.random.RandomState(0).rand(5, 3).astype(np.float32)
    assert plots.in_two_dimensions(z).shape == (5, 2)
    assert (plots.in_two_dimensions(z) == plots.in_two_dimensions(z)).all()


# pseudo-labels


@pytest.fixture(scope="module")
def labelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for algorithm in ("FixMatch", "ERM"):
        spec = RunSpec("RotatedDigits", algorithm, "semi_supervised", ("75",), averaging=("ema",))
        spec = replace(spec, steps=9, checkpoint_freq=4, hparams={"batch_size": 8})
        train.run(spec, folder / algorithm, CPU)
    return folder


def test_the_curves_are_those_of_the_records(labelling: Path, capsys: pytest.CaptureFixture[str]) -> None:
    curves = pseudo_curves.read(labelling / "FixMatch")
    lines = [json.loads(t) for t in (labelling / "FixMatch" / "results.jsonl").read_text().splitlines()]
    raw = [line for line in lines if line["weights"] == "raw"]
    assert list(curves) == ["0", "15", "30", "45", "60"] and len(raw) == 3 < len(lines)
    for name in ("keep", "pseudo_acc"):
        steps, values = curves["15"][name]
        assert steps == [line["step"] for line in raw]
        assert values == pytest.approx([100 * line["metrics"][f"15/unlabelled/{name}"] for line in raw])
    left, right = pseudo_curves.draw(curves, "title").axes
    assert [len(line.get_xdata()) for line in right.lines] == [3] * 5
    assert list(left.lines[0].get_ydata()) == pytest.approx(curves["0"]["pseudo_acc"][1])

    assert plots.main(["pseudo", str(labelling / "FixMatch")]) == 0
    assert all(Path(path).stat().st_size > 1000 for path in capsys.readouterr().out.split())
    assert {p.name for p in (labelling / "FixMatch").glob("pseudo.*")} == {"pseudo.png", "pseudo.svg"}


def test_the_report_draws_pseudo_labels(labelling: Path) -> None:
    def data(folder: Path) -> list[dict]:
        (table,) = tables.build(load.load(folder), rules.make(rules.DEFAULT))
        return [row for d in drawings.of_table(table) if d.title == "Pseudo-labels." for row in d.data]

    curves = pseudo_curves.read(labelling / "FixMatch")
    told = [(row["method"], row["part"], row["accuracy"]) for row in data(labelling)]
    assert {method for method, _, _ in told} == {"FixMatch", "FixMatch + EMA"}
    shown = [value for method, part, value in told if (method, part) == ("FixMatch", "keep")]
    expected = np.mean([own["keep"][1] for own in curves.values()], axis=0)
    assert shown == pytest.approx(expected, abs=1e-4)


def test_a_run_without_pseudo_labels(labelling: Path) -> None:
    with pytest.raises(UsageError, match="records no pseudo-labels"):
        plots.main(["pseudo", str(labelling / "ERM")])
    with pytest.raises(UsageError, match="no records in"):
        plots.main(["pseudo", str(labelling / "nothing")])
