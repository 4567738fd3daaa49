"""The command against a real server on loopback: what fails, what goes on, what is found on the disk."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from loopback import Server
from PIL import Image

from dgbench import download
from dgbench.errors import UsageError
from dgbench.sources import convert, manifest, manual, recipes
from dgbench.sources.source import Content, File, Recipe, Source

CONTENT = Content(
    "PACS",
    domains=("photo", "sketch"),
    num_classes=2,
    counts={"photo": 3, "sketch": 2},
    class_counts={"photo": (2, 1)},
)
NAMES = ("photo/dog/a.png", "photo/dog/b.png", "photo/horse/c.png", "sketch/dog/d.png", "sketch/horse/e.png")


def _image(seed: int) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (8, 8), random.Random(seed).randbytes(192)).save(file, "png")
    return file.getvalue()


IMAGES = {name: _image(i) for i, name in enumerate(NAMES)}


def _zip(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


GOOD = _zip({f"kfold/{name}": data for name, data in IMAGES.items()})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """PACS shrunk to five images, without sources."""
    _sources(monkeypatch)


def _sources(monkeypatch: pytest.MonkeyPatch, *addresses: str, **known: Any) -> None:
    listed = [Source(f"source {i}", [File(a, f"{i}.zip", **known)]) for i, a in enumerate(addresses)]
    recipe = Recipe(listed, "https://example.org/pacs", content=CONTENT, totals={4: "the old version"})
    monkeypatch.setitem(recipes.RECIPES, "PACS", recipe)


def _run(tmp_path: Path, *arguments: object) -> int:
    return download.main(["--dataset", "PACS", "--data_dir", str(tmp_path / "data"), *map(str, arguments)])


def _whole(tmp_path: Path) -> None:
    root = tmp_path / "data" / "PACS"
    assert {p.relative_to(root).as_posix(): p.read_bytes() for p in root.glob("*/*/*")} == IMAGES
    assert not [p for p in (tmp_path / "data/.dgbench-download").iterdir() if p.is_dir()]


# download


def test_a_good_source(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _sources(monkeypatch, server.add("good.zip", GOOD), size=len(GOOD))
    assert _run(tmp_path) == 0
    _whole(tmp_path)
    out = capsys.readouterr().out
    assert "licence: no open licence" in out and "5 images" in out
    facts = json.loads((tmp_path / "data/PACS/.dgbench-manifest.json").read_text())
    assert facts["source"] == "source 0" and facts["counts"]["photo"] == {"dog": 2, "horse": 1}
    assert set(facts["files"]) == set(NAMES)
    assert _run(tmp_path) == 0
    assert "already" in capsys.readouterr().out and len(server.requests) == 1


def test_the_next_source_after_each_kind_of_failure(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "truncated.zip": GOOD[: len(GOOD) // 2],
        "page.zip": b"<html>quota exceeded</html>",
        "climbs.zip": _zip({"../../climbed.png": b"x", **IMAGES}),
        "other.zip": _zip({"amazon/mug/a.png": b"x"}),
        "fewer.zip": _zip({name: IMAGES[name] for name in NAMES[1:]}),
        "class.zip": _zip({name: IMAGES[name] for name in NAMES if "horse" not in name}),
    }
    links = io.BytesIO()
    with tarfile.open(fileobj=links, mode="w") as archive:
        info = tarfile.TarInfo("photo")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(info)
    bad["link.tar"] = links.getvalue()
    bad["bomb.zip"] = _bomb()
    addresses = [server.add(name, data) for name, data in bad.items()]
    absent = f"http://127.0.0.1:{server.server_port}/absent.zip"
    _sources(monkeypatch, absent, *addresses, server.add("good.zip", GOOD))
    assert _run(tmp_path) == 0
    _whole(tmp_path)
    assert not (tmp_path / "climbed.png").exists()
    reasons = [line for line in capsys.readouterr().err.splitlines() if "failed:" in line]
    words = [
        "404",
        "broken",
        "web page",
        "outside",
        "no folders",
        "the old version",
        "1 classes",
        "link",
        "bomb",
    ]
    assert len(reasons) == len(words)
    for reason, word in zip(reasons, words, strict=True):
        assert word in reason
    assert "photo/dog has 1 images instead of 2" in reasons[5]


def _bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photo/dog/a.png", bytes(70_000_000))
    return file.getvalue()


def test_a_wrong_checksum_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _sources(monkeypatch, server.add("good.zip", GOOD), sha256="0" * 64)
    with pytest.raises(UsageError):
        _run(tmp_path)
    assert "wrong sha256" in capsys.readouterr().err
    assert not (tmp_path / "data/PACS").exists()


def test_manual_steps_when_everything_fails(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    absent = f"http://127.0.0.1:{server.server_port}/absent.zip"
    _sources(monkeypatch, absent, "gdrive:ABC")
    with pytest.raises(UsageError, match="no source has PACS"):
        _run(tmp_path)
    err = capsys.readouterr().err
    for words in (
        "https://example.org/pacs",
        absent,
        "uc?id=ABC",
        "--source FILE_OR_FOLDER",
        "photo, sketch",
    ):
        assert words in err
    assert "pip install 'dgbench[download]'" in err


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_data_set_has_manual_steps(name: str, tmp_path: Path) -> None:
    key, recipe, content = recipes.find(name)
    text = manual.steps(key, recipe, content, tmp_path)
    assert recipe.page in text and str(tmp_path / content.folder) in text


def _digits() -> bytes:
    """An archive that the real DigitsDG accepts with a warning, and that takes a while to send."""
    domains = ("mnist", "mnist_m", "svhn", "syn")
    files = {
        f"{d}/train/{c}/1.png": random.Random(d + c).randbytes(1 << 16) for d in domains for c in "0123456789"
    }
    return _zip(files)


def test_a_killed_download_goes_on(server: Server, tmp_path: Path) -> None:
    data = _digits()
    address = server.add("digits.zip", data, slow=0.1)
    command = [
        sys.executable,
        "-m",
        "dgbench.download",
        "--dataset",
        "Digits-DG",
        "--data_dir",
        str(tmp_path),
    ]
    command += ["--source", address]
    environment = os.environ | {"no_proxy": "*"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 30
    while (
        not any(p.stat().st_size > 300_000 for p in tmp_path.rglob("*.part")) and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    [part] = tmp_path.rglob("*.part")
    came = part.stat().st_size
    assert 300_000 < came < len(data) and not (tmp_path / "digits_dg").exists()
    server.routes["/digits.zip"].slow = 0.0
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert server.ranges("digits.zip") == [None, f"bytes={came}-"]
    assert "mnist has 10 images instead of 6000" in second.stderr
    assert len(list(tmp_path.glob("digits_dg/*/*/1.png"))) == 40


def test_a_kill_while_placing_leaves_no_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sources(monkeypatch, server.add("good.zip", GOOD))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", killed)
        assert _run(tmp_path) == 130
    assert not (tmp_path / "data/PACS").exists()
    assert _run(tmp_path) == 0
    _whole(tmp_path)
    assert len(server.requests) == 1  # the archive was whole


def test_the_folder_is_renamed_when_it_is_whole(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def write(root: Path, facts: Any) -> None:
        original(root, facts)
        made.append(root.stat().st_ino)
        assert not (tmp_path / "data/PACS").exists()

    original = manifest.write
    monkeypatch.setattr(manifest, "write", write)
    _run(tmp_path, "--source", _folder(tmp_path / "mine"))
    assert made == [(tmp_path / "data/PACS").stat().st_ino]


def test_what_came_with_other_numbers_is_kept_and_can_be_imported(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _sources(monkeypatch, server.add("fewer.zip", _zip({name: IMAGES[name] for name in NAMES[1:]})))
    with pytest.raises(UsageError):
        _run(tmp_path)
    kept = capsys.readouterr().err.partition("--source ")[2].partition(")")[0]
    assert _run(tmp_path, "--source", kept) == 0
    assert len(list(tmp_path.glob("data/PACS/*/*/*.png"))) == 4


def test_a_table_that_names_a_place_outside_is_refused(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = convert.Place(_folder(tmp_path / "mine") / NAMES[0], "photo/../../evil.png")
    monkeypatch.setattr(convert, "plan", lambda *_: [place])
    with pytest.raises(UsageError, match="outside the data set's folder"):
        _run(tmp_path, "--source", tmp_path / "mine")


def test_two_at_once(small: None, tmp_path: Path) -> None:
    from dgbench import files

    (tmp_path / "data/.dgbench-download").mkdir(parents=True)
    with (
        files.lock(tmp_path / "data/.dgbench-download/PACS.lock"),
        pytest.raises(UsageError, match="another process"),
    ):
        _run(tmp_path)


# --source


def _folder(root: Path) -> Path:
    for name, data in IMAGES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_import_of_a_folder_copies_it(small: None, tmp_path: Path) -> None:
    source = _folder(tmp_path / "mine/kfold")
    assert _run(tmp_path, "--source", tmp_path / "mine") == 0
    _whole(tmp_path)
    assert (source / NAMES[0]).exists()
    assert (source / NAMES[0]).stat().st_ino != (tmp_path / "data/PACS" / NAMES[0]).stat().st_ino


@pytest.mark.parametrize("pack", [_zip, _tar])
@pytest.mark.parametrize("inside", [False, True])
def test_import_of_an_archive(pack: Any, inside: bool, small: None, tmp_path: Path) -> None:
    path = tmp_path / "mine" / "archive"
    path.parent.mkdir()
    path.write_bytes(pack(IMAGES))
    assert _run(tmp_path, "--source", path.parent if inside else path) == 0
    _whole(tmp_path)
    assert path.exists()


def test_import_of_an_address(small: None, server: Server, tmp_path: Path) -> None:
    assert _run(tmp_path, "--source", server.add("mine.zip?dl=1", GOOD)) == 0
    _whole(tmp_path)


def test_import_of_parquet(small: None, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    rows = [
        {"image": {"bytes": data, "path": None}, "domain": name.split("/")[0], "label": int("horse" in name)}
        for name, data in IMAGES.items()
    ]
    features = {"label": {"names": ["dog", "horse"], "_type": "ClassLabel"}}
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "mine/data").mkdir(parents=True)
    for i in range(2):
        parquet.write_table(table.slice(i * 3, 3), tmp_path / f"mine/data/train-{i}.parquet")
    assert _run(tmp_path, "--source", tmp_path / "mine") == 0
    root = tmp_path / "data/PACS"
    assert {p.read_bytes() for p in root.glob("*/*/*.png")} == set(IMAGES.values())
    assert {"/".join(p.parts[-3:-1]) for p in root.glob("*/*/*")} == {n.rpartition("/")[0] for n in NAMES}


def test_other_numbers_of_images_are_a_warning(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (_folder(tmp_path / "mine") / NAMES[1]).unlink()
    assert _run(tmp_path, "--source", tmp_path / "mine") == 0
    err = capsys.readouterr().err
    assert "warning: photo/dog has 1 images instead of 2" in err and "the old version" in err
    assert _run(tmp_path) == 0 and _run(tmp_path, "--verify") == 0


@pytest.mark.parametrize(
    ("drop", "words"), [("sketch", "domain sketch is missing"), ("horse", "1 classes instead of 2")]
)
def test_a_missing_domain_or_class_is_an_error(drop: str, words: str, small: None, tmp_path: Path) -> None:
    _folder(tmp_path / "mine")
    for name in NAMES:
        if drop in name:
            shutil.rmtree((tmp_path / "mine" / name).parent)
    with pytest.raises(UsageError, match=words):
        _run(tmp_path, "--source", tmp_path / "mine")
    assert not (tmp_path / "data/PACS").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_another_disk_stays_a_link(small: None, tmp_path: Path, there: bool) -> None:
    """All work is done beside the folder that the link leads to, so that a rename shows it at once."""
    disk, link = tmp_path / "disk" / "images", tmp_path / "data" / "PACS"
    (disk if there else disk.parent).mkdir(parents=True)
    link.parent.mkdir()
    link.symlink_to(disk)
    assert _run(tmp_path, "--source", _folder(tmp_path / "mine")) == 0
    assert link.is_symlink() and [p.name for p in link.parent.iterdir()] == ["PACS"]
    assert {p.relative_to(disk).as_posix(): p.read_bytes() for p in disk.glob("*/*/*")} == IMAGES
    assert _run(tmp_path, "--verify") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "/no/such/file"], "no file or folder"),
        (["--source", __file__], "no archive"),
        (["--source", "x", "--verify"], "choose one of"),
        (["--verify"], "there is no"),
    ],
)
def test_mistakes(arguments: list[str], words: str, small: None, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        _run(tmp_path, *arguments)


def test_an_unknown_data_set_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean PACS\? choose from: .*VLCS"):
        download.main(["--dataset", "PACSS", "--data_dir", str(tmp_path)])


@pytest.mark.parametrize("name", ["Digits-DG", "digits_dg", "office-31", "MNIST-MP", "spawriouso2o_easy"])
def test_names_with_other_punctuation(name: str) -> None:
    assert recipes.find(name)[0] in ("DigitsDG", "Office31", "MNIST", "Spawrious")


def test_exit_status_two_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dgbench.download", "--dataset", "VLCS", "--data_dir", str(tmp_path)]
    done = subprocess.run([*command, "--verify"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


# --verify


def test_verify_names_what_is_missing_extra_and_damaged(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(tmp_path, "--source", _folder(tmp_path / "mine"))
    root = tmp_path / "data/PACS"
    capsys.readouterr()
    assert _run(tmp_path, "--verify") == 0
    assert "its manifest: whole" in capsys.readouterr().out
    (root / NAMES[0]).unlink()
    (root / NAMES[1]).write_bytes(IMAGES[NAMES[1]][:-1] + b"!")  # the same size
    (root / NAMES[3]).write_bytes(b"short")
    (root / "photo/dog/new.png").write_bytes(IMAGES[NAMES[0]])
    assert _run(tmp_path, "--verify") == 1
    out = capsys.readouterr().out
    assert f"missing {NAMES[0]}\n" in out
    assert "extra photo/dog/new.png\n" in out
    assert f"damaged {NAMES[1]}: its content has changed\n" in out
    assert f"damaged {NAMES[3]}: 5 bytes instead of" in out
    assert "4 problems" in out
    with pytest.raises(UsageError, match="not whole"):
        _run(tmp_path)


def test_verify_without_a_manifest_counts_and_decodes(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = _folder(tmp_path / "data/PACS")
    assert _run(tmp_path, "--verify") == 0
    (root / NAMES[0]).unlink()
    (root / NAMES[3]).write_bytes(IMAGES[NAMES[3]][:-40])
    assert _run(tmp_path, "--verify") == 1
    out = capsys.readouterr().out
    assert "photo/dog has 1 images instead of 2\n" in out
    assert f"damaged {NAMES[3]}: " in out and "2 problems" in out


def test_the_known_files_of_mnist_are_accepted_and_damage_is_found(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "RotatedMNIST", "--data_dir", str(tmp_path)]
    assert download.main([*arguments, "--source", str(real_data / "MNIST")]) == 0
    assert download.main([*arguments, "--verify"]) == 0
    labels = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\n")
    (tmp_path / "MNIST/.dgbench-manifest.json").unlink()
    assert download.main([*arguments, "--verify"]) == 1
    assert "damaged raw/t10k-labels-idx1-ubyte" in capsys.readouterr().out


def test_another_file_than_the_known_one_is_refused(real_data: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(real_data / "MNIST", mine / "MNIST")
    labels = mine / "MNIST/raw/t10k-labels-idx1-ubyte"
    labels.chmod(0o644)
    labels.write_bytes(labels.read_bytes()[:-1] + b"\n")
    arguments = ["--dataset", "RotatedMNIST", "--data_dir", str(tmp_path / "data"), "--source", str(mine)]
    with pytest.raises(UsageError, match="t10k-labels-idx1-ubyte is missing or not the known file"):
        download.main(arguments)
    assert not (tmp_path / "data/MNIST/raw").exists()


def test_torchvision_agrees_on_mnist() -> None:
    from torchvision.datasets import MNIST

    _, recipe, _ = recipes.find("MNIST")
    for source in recipe.sources:
        assert [(file.name, file.md5) for file in source.files] == MNIST.resources


def test_the_command_imports_no_torch_and_no_network_library() -> None:
    code = (
        "import sys, dgbench.download\n"
        "assert not {'torch', 'gdown', 'huggingface_hub', 'pyarrow', 'wilds', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_the_table_agrees_with_itself(name: str) -> None:
    _, recipe, content = recipes.find(name)
    assert recipe.sources and content.folder
    assert set(recipe.aliases.values()) <= set(content.domains)
    for domain, numbers in content.class_counts.items():
        assert len(numbers) == content.num_classes and sum(numbers) == content.counts[domain]
    names = [[file.name for file in source.files] for source in recipe.sources]
    assert all(len(set(listed)) == len(listed) for listed in names)
