"""Which images are labelled, as a file: written, read back, and read from Dassl's format."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench import build, label_split, sweep, train
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.plan import plan
from dgbench.spec import RunSpec
from dgbench.tasks import Split

CPU = {"device": "cpu", "threads": 1}


def spec(**given) -> RunSpec:
    given = {"dataset": "RotatedDigits", "test_envs": ("0",), "labels_per_class": 3, "steps": 2, **given}
    return RunSpec(algorithm="FixMatch", task="semi_supervised", **given)


def split_of(spec: RunSpec, **machine) -> Split:
    machine = Machine(**CPU, **machine)
    return build.build(spec.resolved(machine.data_dir), machine).split


def same(a: Split, b: Split) -> bool:
    pools = [
        zip(x, y, strict=True)
        for x, y in (
            (a.labelled, b.labelled),
            (a.unlabelled, b.unlabelled),
            (a.pseudo.values(), b.pseudo.values()),
            (a.evaluated.values(), b.evaluated.values()),
        )
    ]
    return all(p.indices.tolist() == q.indices.tolist() for pairs in pools for p, q in pairs)


def export(path: Path, *more: str) -> str:
    flags = "--dataset RotatedDigits --test_envs 0 --labels_per_class 3 --output"
    assert label_split.main([*flags.split(), str(path), *more]) == 0
    return label_split.read(path).identity


def test_a_written_choice_is_the_runs_own(tmp_path: Path) -> None:
    identity = export(tmp_path / "a.json")
    own, other = split_of(spec()), split_of(spec(labels_per_class=4))
    given = {"label_split": identity, "labels_per_class": 4}  # the file decides
    read = split_of(spec(**given), label_split=tmp_path / "a.json")
    assert same(own, read) and not same(own, other)
    assert all(pool.labels is None for pool in read.unlabelled)
    assert read.parts == own.parts
    export(tmp_path / "b.json", "--labels_per_class", "4")
    assert same(own, split_of(spec(**given), label_split=tmp_path))  # found in a folder, by its content


def test_the_content_names_the_choice(tmp_path: Path) -> None:
    first, again = export(tmp_path / "a.json"), export(tmp_path / "b.json")
    assert first == again != export(tmp_path / "c.json", "--trial_seed", "1")
    told = json.loads((tmp_path / "a.json").read_text())
    told["train_x"].reverse()
    (tmp_path / "d.json").write_text(json.dumps(told))
    assert label_split.read(tmp_path / "d.json").identity != first  # other batches


def test_the_command_trains_on_a_file(tmp_path: Path) -> None:
    identity = export(tmp_path / "a.json")
    flags = (
        "--dataset RotatedDigits --algorithm ERM --task semi_supervised --test_envs 0 --steps 1 --device cpu"
    )
    command = [
        *flags.split(),
        "--label_split",
        str(tmp_path / "a.json"),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    assert train.main(command) == 0
    assert json.loads((tmp_path / "run" / "spec.json").read_text())["label_split"] == identity


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """An image-folder data set: 3 domains x 2 classes x 6 images."""
    r = np.random.default_rng(0)
    for domain in ("art", "photo", "sketch"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / domain / name
            folder.mkdir(parents=True)
            for i in range(6):
                Image.fromarray(r.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "data"


def dassl(path: Path, data: Path, unlabelled: bool = True) -> str:
    """A file as Dassl writes it: paths that may end in .jpg, classes from 0, domain names."""
    told: dict[str, list] = {"train_x": [], "train_u": []}
    for domain in ("art", "photo"):
        for label, name in enumerate(("cat", "dog")):
            for i in range(5):
                part = "train_x" if i in (1, 3) else "train_u"
                told[part].append([f"{domain}/{name}/{i}.jpg", label, domain])
    if not unlabelled:
        del told["train_u"]
    path.write_text(json.dumps(told))
    return label_split.read(path).identity


IMAGES = {"dataset": "ImageFolders", "test_envs": ("sketch",), "image_size": 8, "labels_per_class": 1}
SMALL = {"backbone": "digits_cnn", "pretrained": "none", "holdout_fraction": 0.3}


def test_dassls_files(folders: Path, tmp_path: Path) -> None:
    path = tmp_path / "dassl.json"
    given = spec(**IMAGES, **SMALL, label_split=dassl(path, folders))
    split = split_of(given, data_dir=folders, label_split=path)
    for labelled, unlabelled in zip(split.labelled, split.unlabelled, strict=True):
        name = labelled.domain.name  # 6 cats, then 6 dogs
        assert labelled.indices.tolist() == [1, 3, 7, 9] and labelled.labels.tolist() == [0, 0, 1, 1]
        assert unlabelled.indices.tolist() == [0, 2, 4, 6, 8, 10] and unlabelled.labels is None
        assert sorted(split.evaluated[f"{name}/out"].indices) == [5, 11]
    assert [pool.domain.name for pool in split.labelled] == ["art", "photo"]

    given = spec(**IMAGES, **SMALL, label_split=dassl(path, folders, unlabelled=False))
    few = split_of(given, data_dir=folders, label_split=path)
    for a, b in zip(few.labelled, split.labelled, strict=True):
        out = few.evaluated[f"{a.domain.name}/out"]
        assert sorted(a.indices) == sorted(b.indices)
        assert not set(out.indices) & set(a.indices)
    parts = (few.labelled, few.unlabelled, [few.evaluated[f"{d}/out"] for d in ("art", "photo")])
    assert all(sum(map(len, pools)) == 12 for pools in zip(*parts, strict=True))


def test_a_file_decides_where_the_default_would_label_everything(folders: Path, tmp_path: Path) -> None:
    path = tmp_path / "dassl.json"
    given = {**IMAGES, **SMALL, "label_split": dassl(path, folders)}
    few = split_of(spec(**given), data_dir=folders, label_split=path)
    assert same(few, split_of(spec(**{**given, "labels_per_class": 10}), data_dir=folders, label_split=path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_x": [["art/cat/9.jpg", 0, "art"]]}, "names art/cat/9.jpg, which the data set does not have"),
        ({"train_x": [["art/cat/1.jpg", 1, "art"]]}, "gives art/cat/1.jpg the class 1, it has 0"),
        ({"train_x": [["art/cat/1.jpg", 0, "art"]]}, "no labelled image of photo"),
        ({"train_u": [["art/cat/1.jpg", 0, "art"]]}, "art/cat/1.jpg in both"),
        ({"train_x": [["art/cat/1.jpg", 0, "art"], ["art/cat/1.png", 0, "art"]]}, "art/cat/1.png twice"),
        ({"train_x": [["art/cat/1.jpg"]]}, "is not {"),
        ({"train_x": 3}, "is not {"),
    ],
)
def test_a_bad_file_is_one_line(folders: Path, tmp_path: Path, change: dict, said: str) -> None:
    path = tmp_path / "dassl.json"
    dassl(path, folders)
    told = {**json.loads(path.read_text()), **change}
    if "both" not in said:
        told["train_u"] = [["photo/cat/0.jpg", 0, "photo"], ["art/cat/0.jpg", 0, "art"]]
    path.write_text(json.dumps(told))
    with pytest.raises(UsageError, match=said) as error:
        given = spec(**IMAGES, **SMALL, label_split=label_split.read(path).identity)
        split_of(given, data_dir=folders, label_split=path)
    assert "\n" not in str(error.value)


def test_mistakes(tmp_path: Path) -> None:
    identity = export(tmp_path / "a.json")
    with pytest.raises(UsageError, match="give --label_split FILE"):
        split_of(spec(label_split=identity))
    with pytest.raises(UsageError, match="other images"):
        split_of(spec(label_split="12345678"), label_split=tmp_path / "a.json")
    with pytest.raises(UsageError, match="cannot read"):
        label_split.read(tmp_path / "b.json")
    with pytest.raises(UsageError, match=r"cannot write '.*/none/a\.json': No such file"):
        export(tmp_path / "none" / "a.json")
    with pytest.raises(UsageError, match="--task semi_supervised"):
        build.check(RunSpec("RotatedDigits", "ERM", test_envs=("0",), label_split=identity).resolved())


def test_a_planned_run_finds_its_file_again(tmp_path: Path) -> None:
    """The plan names the content: retry and status take the flag as the place of the file, or a folder."""
    export(tmp_path / "few.json")
    export(tmp_path / "a_other.json", "--labels_per_class", "4")
    out, given = ["--output_dir", str(tmp_path / "out")], ["--label_split", str(tmp_path / "few.json")]
    grid = "--algorithms FixMatch --datasets RotatedDigits --envs 0 --task semi_supervised --n_trials 1"
    rest = "--steps 1 --device cpu --launcher serial --skip_model_save"
    launch = ["launch", *grid.split(), *rest.split(), *out]
    assert sweep.main([*launch, *given]) == 0
    (done,) = (tmp_path / "out").glob("*/done")
    for place in (given, ["--label_split", str(tmp_path)]):
        for path in done.parent.iterdir():
            path.unlink()
        (done.parent / "error.txt").write_text("as if it had failed")
        assert sweep.main(["retry", "--device", "cpu", "--launcher", "serial", *out, *place]) == 0
        assert done.exists() and sweep.main(["status", *out, *place]) == 0
    with pytest.raises(UsageError, match=r"is a folder.*give one file"):
        sweep.main([*launch, "--label_split", str(tmp_path)])


def test_where_a_folder_or_a_file_says_nothing(tmp_path: Path) -> None:
    export(tmp_path / "few.json")
    flags = "--dataset RotatedDigits --algorithm ERM --task semi_supervised --test_envs 0 --steps 1"
    where = ["--output_dir", str(tmp_path / "out")]
    with pytest.raises(UsageError, match=r"is a folder.*give one file"):
        train.main([*flags.split(), *where, "--label_split", str(tmp_path)])
    plan(tmp_path / "out", [RunSpec("RotatedDigits", "ERM", test_envs=("0",)).resolved()])
    with pytest.raises(UsageError, match=r"--label_split .* none of the runs names one"):
        sweep.main(["retry", *where, "--label_split", str(tmp_path / "few.json")])


def test_images_that_differ_in_their_suffix_alone_are_two(folders: Path, tmp_path: Path) -> None:
    for path in list(folders.glob("*/*/*.png")):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".ppm"))
    path = tmp_path / "few.json"
    words = "--dataset ImageFolders --test_envs sketch --image_size 8 --labels_per_class 2"
    words += " --backbone digits_cnn --pretrained none --holdout_fraction 0.3"
    assert label_split.main([*words.split(), "--data_dir", str(folders), "--output", str(path)]) == 0
    same_flags = {**IMAGES, **SMALL, "labels_per_class": 2}
    read = spec(**same_flags, label_split=label_split.read(path).identity)
    own = split_of(spec(**same_flags), data_dir=folders)
    assert same(own, split_of(read, data_dir=folders, label_split=path))
    told = json.loads(path.read_text())
    told["train_x"][0][0] = str(Path(told["train_x"][0][0]).with_suffix(".jpg"))
    path.write_text(json.dumps(told))
    given = spec(**same_flags, label_split=label_split.read(path).identity)
    with pytest.raises(UsageError, match=r"\.jpg, which is any of .*\.png, .*\.ppm"):
        split_of(given, data_dir=folders, label_split=path)


def test_a_suffix_leaves_the_name_of_a_run_as_it_is(folders: Path, tmp_path: Path) -> None:
    """Where the file has each image once: the same choice from a copy in another format."""
    path = tmp_path / "dassl.json"
    first = dassl(path, folders)
    path.write_text(path.read_text().replace(".jpg", ".png"))
    assert label_split.read(path).identity == first == "edefe543"
