"""The data report on tiny images with planted faults, and on the real PACS."""

import io
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgbench import data_report, duplicates
from dgbench.data_report import PLACES, Report
from dgbench.errors import UsageError
from dgbench.splits import split


def _picture(seed: int, size: int = 48) -> Image.Image:
    """Smooth noise: what hashes are made for."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def _save(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Two domains of two classes with ten images each, and one fault of each kind."""
    for i in range(40):
        domain, cls = ("art", "photo")[i // 20], ("cat", "dog")[i // 10 % 2]
        _save(tmp_path / domain / cls / f"{i % 10}.png", _picture(i))
    source = tmp_path / "art/cat/0.png"
    (tmp_path / "photo/cat/copy.png").write_bytes(source.read_bytes())  # between domains, the same file
    _save(
        tmp_path / "photo/dog/other.png", Image.open(source), compress_level=1
    )  # the same pixels, two labels
    _save(tmp_path / "art/dog/near.jpg", Image.open(tmp_path / "art/dog/3.png").resize((40, 40)), quality=70)
    broken = (tmp_path / "photo/dog/5.png").read_bytes()
    (tmp_path / "photo/dog/5.png").write_bytes(broken[: len(broken) // 2])
    return tmp_path


def _named(report: Report, kind: str) -> set[frozenset[str]]:
    return {frozenset({report.title(p.i), report.title(p.j)}) for p in report.pairs if p.kind == kind}


def test_every_planted_fault_is_found(planted: Path) -> None:
    report = data_report.build("ImageFolders", planted)
    assert _named(report, "files") == {frozenset({"art/cat/0.png", "photo/cat/copy.png"})}
    assert _named(report, "pixels") == {
        frozenset({"art/cat/0.png", "photo/dog/other.png"}),
        frozenset({"photo/cat/copy.png", "photo/dog/other.png"}),
    }
    assert _named(report, "near") == {frozenset({"art/dog/3.png", "art/dog/near.jpg"})}
    assert [report.title(i) for i in report.scan.damaged] == ["photo/dog/5.png"]
    labels = {frozenset({report.title(p.i), report.title(p.j)}) for p in report.pairs if report.two_labels(p)}
    assert labels == _named(report, "pixels")


def test_in_and_out_are_those_of_a_run(planted: Path) -> None:
    report = data_report.build("ImageFolders", planted, trial_seed=3, holdout_fraction=0.25)
    domains = np.array(report.domains)
    for index, domain in enumerate(("art", "photo")):
        own = np.flatnonzero(domains == domain)
        inside, out = split(len(own), 0.25, 3, index)
        assert set(np.flatnonzero(report.held[own])) == set(out) and len(inside) + len(out) == len(own)
    paths = sorted((planted / "art/cat").iterdir()) + sorted((planted / "art/dog").iterdir())
    assert report.paths[: len(paths)] == paths  # the order of FolderDataset
    [pair] = [pair for pair in report.pairs if pair.kind == "near"]
    places = {data_report.build("ImageFolders", planted, trial_seed=seed).place(pair) for seed in range(12)}
    assert places == set(PLACES[1:])


def test_the_text_and_the_page(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert (
        data_report.main(["--dataset", "ImageFolders", "--data_dir", str(planted), "--output", str(page)])
        == 0
    )
    out = capsys.readouterr().out
    assert "43 images" in out and "damaged: photo/dog/5.png: " in out
    assert "pixels: art/cat/0.png = photo/dog/other.png (between domains, two labels)" in out
    rows = {
        line.rpartition("  ")[0].split("  ")[0]: line.split()[-3:]
        for line in out.splitlines()
        if "  " in line
    }
    assert rows["between domains"] == ["1", "1", "0"] and rows["of these with two labels"] == ["0", "2", "0"]
    written = page.read_text()
    assert written.count("<img") == 8 and "http" not in written and "photo/dog/other.png" in written


def test_wrong_numbers_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domains = ("art_painting", "cartoon", "photo", "sketch")
    classes = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    for seed, (domain, cls) in enumerate(product(domains, classes)):
        _save(tmp_path / "PACS" / domain / cls / "n02103406_4068-1.png", _picture(seed))
    data_report.main(["--dataset", "PACS", "--data_dir", str(tmp_path)])
    out = capsys.readouterr().out
    assert "note: photo/house has 1 images instead of 280" in out
    assert "note: sketch/dog/n02103406_4068-1.png: Dassl leaves it out" in out


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no data set of image files; choose from: .*PACS"):
        data_report.main(["--dataset", "RotatedMNIST", "--data_dir", str(tmp_path)])
    with pytest.raises(UsageError, match=r"python -m dgbench\.download"):
        data_report.main(["--dataset", "PACS", "--data_dir", str(tmp_path)])
    with pytest.raises(UsageError, match="there is no folder"):
        data_report.main(["--dataset", "PACS", "--output", str(tmp_path / "none" / "page.html")])


# hashes and pairs


def test_the_hash_is_that_of_a_slow_transform() -> None:
    from scipy.fft import dctn

    grey = np.random.default_rng(0).integers(0, 256, (5, 32, 32), np.uint8)
    for image, value in zip(grey, duplicates.perceptual(grey), strict=True):
        low = dctn(image.astype(float), norm=None)[:8, :8].ravel()
        bits = (low > np.median(low)).astype(np.uint8)
        assert int(value) == int(np.packbits(bits).view(np.uint64)[0])


def test_counting_ones_with_and_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 63, (3, 50), np.uint64)
    slow = [[bin(int(v)).count("1") for v in row] for row in values]
    assert duplicates._ones(values).tolist() == slow
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert duplicates._ones(values).tolist() == slow


@pytest.mark.parametrize("block", [1, 100, 1 << 24])
def test_pairs_do_not_depend_on_the_block(block: int, monkeypatch: pytest.MonkeyPatch, planted: Path) -> None:
    wanted = data_report.build("ImageFolders", planted).pairs
    monkeypatch.setattr(duplicates, "BLOCK", block)
    assert data_report.build("ImageFolders", planted).pairs == wanted


def test_unlike_pictures_and_plain_ones_are_no_pairs(tmp_path: Path) -> None:
    paths = [_save(tmp_path / f"{i}.png", _picture(i)) for i in range(60)]
    paths += [_save(tmp_path / f"grey{i}.png", Image.new("RGB", (48, 48), (i, i, i))) for i in (0, 128, 255)]
    assert duplicates.pairs(duplicates.scan(paths, "")) == []


def test_an_equal_hash_alone_makes_no_pair() -> None:
    from scipy.fft import idctn

    draw = np.random.default_rng(0)
    signs = np.where(draw.permutation(64) < 32, 1, -1).reshape(8, 8)
    strong = draw.integers(0, 2, (8, 8)) * 9 + 1
    grey = np.zeros((2, 32, 32), np.uint8)
    for i, size in enumerate((strong, 11 - strong)):  # each strong where the other is weak
        frequencies = np.zeros((32, 32))
        frequencies[:8, :8] = signs * size * 100
        frequencies[0, 0] = 128 * 4 * 32 * 32
        grey[i] = idctn(frequencies).round().clip(0, 255)
    first, second = duplicates.perceptual(grey)
    assert duplicates._ones(np.array([first ^ second]))[0] <= duplicates.DISTANCE
    assert list(duplicates._near(np.array([first, second]), grey)) == []
    assert list(duplicates._near(np.array([first, first]), grey[[0, 0]])) == [(0, 1)]


def test_a_large_group_is_listed_from_its_first(tmp_path: Path) -> None:
    file = io.BytesIO()
    _picture(0, 8).save(file, "png")
    for i in range(duplicates.LARGE + 20):
        (tmp_path / f"{i:03}.png").write_bytes(file.getvalue())
    pairs = duplicates.pairs(duplicates.scan(sorted(tmp_path.iterdir()), ""))
    assert len(pairs) == duplicates.LARGE + 19 and {pair.i for pair in pairs} == {0}


@pytest.mark.slow
def test_the_real_pacs(real_data: Path) -> None:
    report = data_report.build("PACS", real_data)
    assert {domain: sum(classes.values()) for domain, classes in report.counts().items()} == {
        "art_painting": 2048,
        "cartoon": 2344,
        "photo": 1670,
        "sketch": 3929,
    }
    assert not report.scan.damaged and not any(report.two_labels(pair) for pair in report.pairs)
    assert not [pair for pair in report.pairs if report.place(pair) == PLACES[0]]
    near = _named(report, "near")
    assert len(near) == len(report.pairs) == 31
    assert frozenset({"cartoon/house/pic_107.jpg", "cartoon/house/pic_296.jpg"}) in near
