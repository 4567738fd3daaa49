"""The data sets: counts, shapes, constructions, file order, and every error of image folders."""

import hashlib
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from literal_mnist import write_mnist
from PIL import Image
from torchvision.datasets import ImageFolder

from dgbench import registry
from dgbench.dataset import Dataset, DataWarning
from dgbench.datasets import _digits
from dgbench.datasets.coloreddigits import ColoredDigits
from dgbench.datasets.coloredmnist import ColoredMNIST
from dgbench.datasets.domainnet import DomainNet
from dgbench.datasets.imagefolders import ImageFolders
from dgbench.datasets.noisydigits import NoisyDigits
from dgbench.datasets.noisymnist import NoisyMNIST
from dgbench.datasets.pacs import PACS
from dgbench.datasets.rotateddigits import RotatedDigits
from dgbench.datasets.rotatedmnist import RotatedMNIST
from dgbench.errors import UsageError

FOLDERS = ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")


# every data set


@pytest.mark.parametrize("name", registry.names("datasets"))
def test_declarations_agree(name: str) -> None:
    cls = registry.find("datasets", name)
    assert issubclass(cls, Dataset) and cls.__doc__
    if cls is ImageFolders:
        return
    assert len(set(cls.domains)) == len(cls.domains) > 1
    assert cls.domain_names(None) == cls.domains
    assert cls.count_classes(None) == cls.num_classes > 1
    assert set(cls.columns) <= set(cls.domains)
    assert (cls.steps - 1) % cls.checkpoint_freq in (0, 200)  # 5001 steps, every 300: the last is extra


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("PACS", 9991),
        ("VLCS", 10729),
        ("OfficeHome", 15588),
        ("TerraIncognita", 24788),
        ("DomainNet", 586575),
    ],
)
def test_declared_counts_are_the_published_ones(name: str, images: int) -> None:
    cls = registry.find("datasets", name)
    assert list(cls.domains) == sorted(cls.domains) == sorted(cls.counts) == sorted(cls.columns)  # type: ignore[attr-defined]
    assert sum(cls.counts.values()) == images  # type: ignore[attr-defined]


def test_domainnet_draws_smaller_batches() -> None:
    draws = {DomainNet.hparams["batch_size"][1].draw(np.random.RandomState(seed)) for seed in range(200)}  # type: ignore[union-attr]
    assert min(draws) == 8 and max(draws) == 31


def test_importing_data_sets_imports_no_torch() -> None:
    code = (
        "import sys; from dgbench import registry\n"
        "for name in registry.names('datasets'): registry.find('datasets', name)\n"
        "assert not {'torch', 'torchvision', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# rotated and coloured digits


def _hash(dataset: Dataset) -> list[str]:
    found = dataset.load(dataset.domains)
    return [hashlib.sha256(d.images.tobytes() + d.labels.tobytes()).hexdigest() for d in found]


@pytest.mark.parametrize("cls", [RotatedDigits, ColoredDigits])
def test_the_trial_seed_decides_the_images_and_nothing_else(cls: type[Dataset]) -> None:
    first, again, other = cls(None, 0), cls(None, 0), cls(None, 1)
    assert _hash(first) == _hash(again)
    assert not set(_hash(first)) & set(_hash(other))
    prints = [[d.fingerprint for d in x.load(x.domains)] for x in (first, other)]
    assert prints[0] == prints[1] and len(set(prints[0])) == len(cls.domains)


def test_other_digits_have_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RotatedDigits(None).load(["15"])[0].fingerprint
    images, labels, _ = _digits.scikit_digits()
    monkeypatch.setattr(_digits, "scikit_digits", lambda: _digits._digits(255 - images, labels))
    assert RotatedDigits(None).load(["15"])[0].fingerprint != before


@pytest.mark.parametrize("cls", [RotatedDigits, ColoredDigits, NoisyDigits])
def test_a_domain_does_not_depend_on_the_others_asked_for(cls: type[Dataset]) -> None:
    last = cls.domains[-1]
    alone, among = cls(None).load([last])[0], cls(None).load(cls.domains)[-1]
    assert alone.name == among.name == last
    assert (alone.images == among.images).all() and (alone.labels == among.labels).all()


def test_rotated_digits_shapes() -> None:
    found = RotatedDigits(None).load(RotatedDigits.domains)
    assert [len(d) for d in found] == [300, 300, 300, 299, 299, 299]
    for domain in found:
        assert domain.images.shape == (len(domain), 8, 8, 1)
        assert (domain.images.dtype, domain.labels.dtype) == (np.uint8, np.int64)
        assert set(domain.labels) == set(range(10))


def test_each_rotated_digit_is_in_one_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    numbered = np.zeros((1797, 8, 8), np.uint8)
    numbered[:, 3, 3], numbered[:, 3, 4] = np.divmod(np.arange(1797), 256)
    monkeypatch.setattr(_digits, "scikit_digits", lambda: _digits.Digits(numbered, np.arange(1797), ""))
    monkeypatch.setattr(_digits, "rotate", lambda images, degrees: images)
    found = RotatedDigits(None).load(RotatedDigits.domains)
    assert sorted(np.concatenate([d.labels for d in found])) == list(range(1797))
    for domain in found:
        images = domain.images.astype(int)
        assert (images[:, 3, 3, 0] * 256 + images[:, 3, 4, 0] == domain.labels).all()


def test_coloured_digits_have_one_colour_and_each_is_in_one_domain() -> None:
    found = ColoredDigits(None).load(ColoredDigits.domains)
    assert [d.images.shape for d in found] == [(599, 8, 8, 2)] * 3
    empty = np.concatenate([(d.images == 0).all((1, 2)) for d in found])  # (n, channel)
    assert (empty.sum(1) == 1).all()
    grey = np.concatenate([d.images.max(-1) for d in found]).reshape(1797, -1)
    original = _digits.scikit_digits().images.reshape(1797, -1)
    assert sorted(map(bytes, grey)) == sorted(map(bytes, original))


def test_coloured_digits_correlations() -> None:
    """Label noise 25 % everywhere; colour agrees with the label in 90, 80 and 10 %: within 4 sigma."""
    digits = _digits.scikit_digits()
    small = {bytes(image): label < 5 for image, label in zip(digits.images, digits.labels, strict=True)}
    for name, agreement in zip(ColoredDigits.domains, (0.9, 0.8, 0.1), strict=True):
        noise, agree = [], []
        for trial in range(5):
            domain = ColoredDigits(None, trial).load([name])[0]
            clean = np.array([small[bytes(image)] for image in domain.images.max(-1)])
            colour = (domain.images[..., 1] > 0).any((1, 2))
            noise += list(clean != domain.labels)
            agree += list(colour == domain.labels)
        for values, rate in ((noise, 0.25), (agree, agreement)):
            assert abs(np.mean(values) - rate) < 4 * np.sqrt(rate * (1 - rate) / len(values)), name
        assert abs(np.corrcoef(noise, agree)[0, 1]) < 0.08  # the two draws are independent


def test_noisy_digits_are_inverted_on_one_colour_of_noise() -> None:
    plain, noisy = NoisyDigits(None, 1).load(NoisyDigits.domains)
    assert [d.images.shape for d in (plain, noisy)] == [(899, 8, 8, 3), (898, 8, 8, 3)]
    assert (plain.images == plain.images[..., :1]).all()
    digits = _digits.scikit_digits()
    small = {bytes(image) for image in digits.images} - {bytes(image) for image in plain.images[..., 0]}
    order = [i for i, image in enumerate(digits.images) if bytes(image) in small]
    assert sorted(noisy.labels) == sorted(digits.labels[order])
    border = digits.images[order].astype(int).max(0) == 0  # where no digit has ink: pure background
    background = noisy.images[:, border].astype(float)  # (n, pixels, 3)
    colour = background.max(1)  # the brightest pixel's
    share = background / colour[:, None].clip(1)
    assert np.abs(share - share.mean(2, keepdims=True))[colour.min(1) > 100].max() < 0.03
    assert noisy.images[noisy.labels == 0].std() > 40 and len(np.unique(colour, axis=0)) > 800


def test_noise_hides_no_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A white digit on noise is the complement of the background, black is the background itself."""
    half = np.zeros((6, 8, 8), np.uint8)
    half[:, :4] = 255
    monkeypatch.setattr(_digits, "scikit_digits", lambda: _digits.Digits(half, np.arange(6), ""))
    plain, noisy = NoisyDigits(None).load(NoisyDigits.domains)
    assert sorted([*plain.labels, *noisy.labels]) == list(range(6))
    monkeypatch.setattr(_digits, "scikit_digits", lambda: _digits.Digits(half * 0, np.arange(6), ""))
    background = NoisyDigits(None).load(["noise"])[0].images.astype(int)
    assert np.abs(noisy.images[:, :4] + background[:, :4] - 255).max() <= 1
    assert (noisy.images[:, 4:] == background[:, 4:]).all()


@pytest.mark.parametrize("degrees", [0, 15, 30, 45, 60, 75, 90, -10, 200])
@pytest.mark.parametrize("shape", [(8, 8), (9, 6)])
def test_rotate_is_pillows(degrees: int, shape: tuple[int, int]) -> None:
    images = np.random.RandomState(0).randint(0, 256, (50, *shape)).astype(np.uint8)
    theirs = np.stack(
        [np.asarray(Image.fromarray(i).rotate(degrees, Image.Resampling.BILINEAR)) for i in images]
    )
    assert np.abs(_digits.rotate(images, degrees).astype(int) - theirs).max() <= 1


# MNIST


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_read_from_torchvisions_layout(tmp_path: Path, zipped: bool) -> None:
    images = write_mnist(tmp_path, zipped)
    digits = _digits.mnist(tmp_path, "RotatedMNIST")
    assert (digits.images == images).all() and list(digits.labels[:12]) == [*range(10), 0, 1]
    assert [d.images.shape for d in RotatedMNIST(tmp_path).load(["0", "75"])] == [(4, 28, 28, 1)] * 2
    assert [d.images.shape for d in ColoredMNIST(tmp_path).load(["-90%"])] == [(8, 28, 28, 2)]
    assert [d.images.shape for d in NoisyMNIST(tmp_path).load(["noise"])] == [(12, 28, 28, 3)]


def test_missing_or_damaged_mnist(tmp_path: Path) -> None:
    for data_dir in (None, tmp_path):
        with pytest.raises(
            UsageError, match=r"MNIST.raw; get them: python -m dgbench.download --dataset Rot"
        ):
            RotatedMNIST(data_dir).load(["0"])
    write_mnist(tmp_path, zipped=False)
    damaged = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    for data in (damaged.read_bytes()[:-5], b"<html>", b""):
        damaged.write_bytes(data)
        with pytest.raises(UsageError, match=r"t10k-images-idx3-ubyte is damaged"):
            ColoredMNIST(tmp_path).load(["+90%"])


def test_real_mnist(real_data: Path) -> None:
    found = RotatedMNIST(real_data).load(["0", "30"])
    assert [len(d) for d in found] == [11667, 11667]
    digits = _digits.mnist(real_data, "RotatedMNIST")
    assert digits.images.shape == (70000, 28, 28)
    assert list(digits.labels[:5]) == [5, 0, 4, 1, 9] and digits.labels[60000] == 7
    assert np.bincount(digits.labels).tolist() == [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    theirs = [
        np.asarray(Image.fromarray(i).rotate(30, Image.Resampling.BILINEAR)) for i in digits.images[:200]
    ]
    assert np.abs(_digits.rotate(digits.images[:200], 30).astype(int) - np.stack(theirs)).max() <= 1


# image folders


def _write_images(root: Path, domains: tuple[str, ...], classes: tuple[str, ...], each: int = 2) -> None:
    r = np.random.RandomState(0)
    for domain in domains:
        for name in classes:
            (root / domain / name).mkdir(parents=True)
            for i in range(each):
                pixels = r.randint(0, 256, (5, 7, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / domain / name / f"{i}.png")


PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def test_image_folders_finds_domains_and_classes(tmp_path: Path) -> None:
    _write_images(tmp_path, ("day", "night"), ("cat", "dog"))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("no domain")
    assert ImageFolders.domain_names(tmp_path) == ("day", "night")
    assert ImageFolders.count_classes(tmp_path) == 2
    night = ImageFolders(tmp_path, image_size=4).load(["night"])[0]
    assert night.images.shape == (4, 4, 4, 3) and night.images.dtype == np.uint8
    assert ImageFolders(tmp_path).num_classes == 2
    assert night.labels.tolist() == [0, 0, 1, 1] and night.sizes is not None
    assert night.sizes.tolist() == [[7, 5]] * 4


def test_files_are_in_torchvisions_order(tmp_path: Path) -> None:
    _write_images(tmp_path, ("day",), ("Z", "a", "b"), each=1)
    deep = [f"Z/{name}/1.png" for name in "gbafhdce"]
    for i, path in enumerate(("Z/10.png", "Z/9.JPG", *deep, "a/x.jpeg", "a/B.png", "a/b.png")):
        (tmp_path / "day" / path).parent.mkdir(exist_ok=True)
        Image.new("RGB", (i + 1, 5), "red").save(tmp_path / "day" / path)
    (tmp_path / "day" / "a" / "list.txt").write_text("no image")
    theirs = ImageFolder(str(tmp_path / "day"))
    day = ImageFolders(tmp_path, image_size=4).load(["day"])[0]
    assert day.labels.tolist() == theirs.targets and day.sizes is not None
    assert day.sizes.tolist() == [list(theirs[i][0].size) for i in range(len(theirs))]


@pytest.mark.parametrize("folder", ["office_home", "OfficeHome"])
def test_domainbeds_folder_name_and_the_classs(tmp_path: Path, folder: str) -> None:
    cls = registry.find("datasets", "OfficeHome")
    classes = tuple(f"class{i:02}" for i in range(65))
    _write_images(tmp_path / folder, ("Art",), classes, each=1)
    with pytest.warns(DataWarning, match="65 images, the complete domain has 2427"):
        dataset = cls(tmp_path, image_size=4)
        assert len(dataset.load(["Art"])[0]) == 65
    assert len(dataset.warnings) == 1 and "\n" not in dataset.warnings[0]


@pytest.mark.parametrize("name", FOLDERS)
def test_missing_or_empty_data_folder(tmp_path: Path, name: str) -> None:
    cls = registry.find("datasets", name)
    for data_dir in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            UsageError, match=rf"^no images of {name} in .*download --dataset {name} --data_dir"
        ):
            cls(data_dir).load(cls.domains)
    (tmp_path / cls.folder).mkdir()
    with pytest.raises(UsageError, match=f"^no images of {name}"):
        cls(tmp_path).load(cls.domains)
    with pytest.raises(UsageError, match=f"^{name} needs --data_dir"):
        cls(None).load(cls.domains)


def test_image_folders_without_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs --data_dir"):
        ImageFolders.domain_names(None)
    with pytest.raises(UsageError, match="must hold folders domain/class/image"):
        ImageFolders.count_classes(tmp_path)
    (tmp_path / "day").mkdir()
    with pytest.raises(UsageError, match="'day' has no class folders"):
        ImageFolders(tmp_path).load(["day"])


def test_missing_domain(tmp_path: Path) -> None:
    _write_images(tmp_path / "PACS", ("photo", "sketch"), PACS_CLASSES, each=1)
    with pytest.raises(UsageError, match=r"^no domain 'cartoon' in .*; present: photo, sketch$"):
        PACS(tmp_path).load(["photo", "cartoon"])


def test_missing_class(tmp_path: Path) -> None:
    _write_images(tmp_path / "PACS", ("photo", "sketch"), PACS_CLASSES, each=1)
    horse = tmp_path / "PACS" / "sketch" / "horse"
    (horse / "0.png").unlink()
    for _ in range(2):  # an empty folder, then none
        with pytest.raises(UsageError, match=r"^the domain 'sketch' has no images of the class 'horse'"):
            PACS(tmp_path).load(["sketch"])
        if horse.is_dir():
            horse.rmdir()
    (tmp_path / "PACS" / "photo" / "horse" / "0.png").unlink()
    (tmp_path / "PACS" / "photo" / "horse").rmdir()
    with pytest.raises(UsageError, match=r"has 6 classes \(dog, .* but PACS has 7"):
        PACS(tmp_path).load(["photo"])


@pytest.mark.parametrize("cache", ["disk", "ram", "none"])
@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_damaged_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, damage: str) -> None:
    monkeypatch.setenv("DGBENCH_CACHE", str(tmp_path / "cache"))
    _write_images(tmp_path / "data", ("day",), ("cat", "dog"))
    path = tmp_path / "data" / "day" / "dog" / "1.png"
    path.write_bytes({"truncated": path.read_bytes()[:-30], "text": b"<html>", "empty": b""}[damage])
    with pytest.raises(UsageError, match=r"^cannot decode the image .*day.dog.1\.png") as error:
        ImageFolders(tmp_path / "data", image_size=4, cache=cache).load(["day"])[0].images[:]
    assert "\n" not in str(error.value)
    assert [p for p in tmp_path.rglob("cache/**/*") if p.name != "images"] == []


def test_a_complete_data_set_gives_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_images(tmp_path / "PACS", ("photo",), PACS_CLASSES, each=1)
    monkeypatch.setattr(PACS, "counts", {"photo": 7})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PACS(tmp_path, image_size=4).load(["photo"])[0].name == "photo"


def test_real_pacs_photos(real_data: Path) -> None:
    photo = PACS(real_data, image_size=16).load(["photo"])[0]
    assert photo.images.shape == (1670, 16, 16, 3)
    assert np.bincount(photo.labels).tolist() == [189, 202, 182, 186, 199, 280, 432]


@pytest.mark.slow
def test_real_pacs(real_data: Path) -> None:
    found = PACS(real_data, image_size=16).load(PACS.domains)
    assert [d.images.shape for d in found] == [(n, 16, 16, 3) for n in (2048, 2344, 1670, 3929)]
    assert len({d.fingerprint for d in found}) == 4
