"""The layouts that copies of the data sets come in, each on a handful of files."""

import json
from pathlib import Path
from typing import Any

import pytest

from dgbench.sources import convert, recipes


def _make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def _plan(dataset: str, root: Path) -> dict[str, str]:
    """{target: source}, both relative."""
    _, recipe, content = recipes.find(dataset)
    places = convert.plan(recipe, content, root)
    assert len({place.target for place in places}) == len(places)
    return {place.target: place.source.relative_to(root).as_posix() for place in places}


@pytest.mark.parametrize(
    ("dataset", "source", "target"),
    [
        ("PACS", "kfold/art_painting/dog/pic_1.jpg", "art_painting/dog/pic_1.jpg"),
        ("PACS", "PACS/Art Painting/dog/pic_1.jpg", "art_painting/dog/pic_1.jpg"),
        ("PACS", "a/b/photo/dog/x.png", "photo/dog/x.png"),
        (
            "OfficeHome",
            "OfficeHomeDataset_10072016/Real World/Bed/1.jpg",
            "Real World/Bed/1.jpg",
        ),
        ("OfficeHome", "OfficeHome/RealWorld/Bed/1.jpg", "Real World/Bed/1.jpg"),
        ("OfficeHome", "office_home_dg/art/train/Bed/1.jpg", "Art/Bed/1.jpg"),
        ("Office31", "office31/amazon/images/back_pack/f1.jpg", "amazon/back_pack/f1.jpg"),
        ("Office31", "amazon/back_pack/f1.jpg", "amazon/back_pack/f1.jpg"),
        ("VLCS", "VLCS/CALTECH/crossval/bird/1.jpg", "Caltech101/bird/1.jpg"),
        ("DigitsDG", "digits_dg/mnist_m/val/3/1.jpg", "mnist_m/3/1.jpg"),
        ("SVIRO", "SVIRO_DOMAINBED/x5/0/a.png", "x5/0/a.png"),
        ("Spawrious", "spawrious224/1/beach/corgi/a.png", "1/beach/corgi/a.png"),
        ("TerraIncognita", "terra_incognita/location_38/dog/a.jpg", "location_38/dog/a.jpg"),
        ("DomainNet", "sketch/sketch/dog/sketch_1.jpg", "sketch/dog/sketch_1.jpg"),
        ("FMoW", "Asia/airport/1.png", "Asia/airport/1.png"),
    ],
)
def test_layouts(dataset: str, source: str, target: str, tmp_path: Path) -> None:
    if source.startswith("sketch/sketch"):  # a zip that unpacks into a folder of its own name
        source = source.removeprefix("sketch/")
    _make(tmp_path, source, "__MACOSX/photo/dog/._x.jpg", "README.txt")
    assert _plan(dataset, tmp_path) == {target: source}


def test_what_is_no_image_stays_out(tmp_path: Path) -> None:
    _make(tmp_path, "photo/dog/a.jpg", "photo/dog/Thumbs.db", "photo/dog/._a.jpg", "photo/list.txt")
    assert list(_plan("PACS", tmp_path)) == ["photo/dog/a.jpg"]


def test_a_domain_in_several_places_is_put_together(tmp_path: Path) -> None:
    _make(tmp_path, "easy/PACS/photo/dog/a.jpg", "hard/PACS/photo/dog/b.jpg")
    assert set(_plan("PACS", tmp_path)) == {"photo/dog/a.jpg", "photo/dog/b.jpg"}


def test_equal_names_in_train_and_val_keep_both_images(tmp_path: Path) -> None:
    _make(tmp_path, "mnist/train/3/1.jpg", "mnist/val/3/1.jpg")
    assert _plan("DigitsDG", tmp_path) == {
        "mnist/3/1.jpg": "mnist/train/3/1.jpg",
        "mnist/3/1_1.jpg": "mnist/val/3/1.jpg",
    }


def test_nothing_is_found_in_another_data_set(tmp_path: Path) -> None:
    _make(tmp_path, "amazon/images/mug/a.jpg")
    assert _plan("PACS", tmp_path) == {}


def test_domainnet_without_its_duplicates(tmp_path: Path) -> None:
    _make(tmp_path, "0/clipart/dog/1.jpg", "0/clipart/dog/2.jpg", "1/real/cat/1.jpg")
    (tmp_path / "domain_net_duplicates.txt").write_text("clipart/dog/2.jpg\nreal/cat/9.jpg\n")
    assert set(_plan("DomainNet", tmp_path)) == {"clipart/dog/1.jpg", "real/cat/1.jpg"}


def _annotations(*rows: tuple[int, int, int]) -> dict[str, Any]:
    """rows: (image, location, category)."""
    return {
        "images": [{"id": f"i{i}", "file_name": f"i{i}.jpg", "location": at} for i, at, _ in rows],
        "annotations": [{"image_id": f"i{i}", "category_id": category} for i, _, category in rows],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "empty"}, {"id": 3, "name": "car"}],
    }


def test_terra_incognita_from_its_annotations(tmp_path: Path) -> None:
    _make(tmp_path, *(f"0/eccv_18_all_images_sm/i{i}.jpg" for i in range(6)))
    (tmp_path / "1").mkdir()
    files = {
        "train_annotations": _annotations((0, 38, 1), (1, 100, 2), (1, 100, 1)),  # 1 has two categories
        "cis_val_annotations": _annotations((0, 38, 1), (2, 7, 1), (3, 43, 3)),  # another place, another kind
        "trans_test_annotations": _annotations((4, 46, 1), (99, 46, 1)),  # 99 has no image
        "caltech_images_20210113": _annotations((5, 38, 1)),  # the other annotations, which lack images
    }
    for name, table in files.items():
        (tmp_path / "1" / f"{name}.json").write_text(json.dumps(table))
    wanted = ["location_38/dog/i0", "location_100/empty/i1", "location_100/dog/i1", "location_46/dog/i4"]
    assert set(_plan("TerraIncognita", tmp_path)) == {f"{path}.jpg" for path in wanted}
    for path in tmp_path.glob("1/*_annotations.json"):
        path.unlink()
    assert set(_plan("TerraIncognita", tmp_path)) == {"location_38/dog/i5.jpg"}


def test_camelyon17_from_its_table(tmp_path: Path) -> None:
    (tmp_path / "camelyon17_v1.0").mkdir()
    (tmp_path / "camelyon17_v1.0/metadata.csv").write_text(
        ",patient,node,x_coord,y_coord,tumor,slide,center,split\n"
        "0,004,4,3328,21792,1,0,0,0\n"
        "1,020,2,10,20,0,0,1,0\n"
        "2,021,2,10,20,0,0,1,0\n"
    )
    patches = "camelyon17_v1.0/patches/"
    first = "patient_004_node_4/patch_patient_004_node_4_x_3328_y_21792.png"
    second = "patient_020_node_2/patch_patient_020_node_2_x_10_y_20.png"
    _make(tmp_path, patches + first, patches + second)
    assert _plan("Camelyon17", tmp_path) == {
        f"hospital_0/tumor/{Path(first).name}": patches + first,
        f"hospital_1/normal/{Path(second).name}": patches + second,
    }


def test_fmow_from_its_tables(tmp_path: Path) -> None:
    (tmp_path / "country_code_mapping.csv").write_text("name,alpha-3,region\nChad,TCD,Africa\nNowhere,XXX,\n")
    (tmp_path / "rgb_metadata.csv").write_text(
        "split,country_code,category\ntrain,TCD,zoo\nseq,TCD,zoo\ntest,XXX,airport\nval,???,zoo\n"
    )
    _make(tmp_path, *(f"images/rgb_img_{i}.png" for i in range(4)))
    assert _plan("FMoW", tmp_path) == {
        "Africa/zoo/rgb_img_0.png": "images/rgb_img_0.png",
        "Other/airport/rgb_img_2.png": "images/rgb_img_2.png",
        "Other/zoo/rgb_img_3.png": "images/rgb_img_3.png",
    }


def test_mnist_wherever_its_files_lie(tmp_path: Path) -> None:
    names = ("train-images", "train-labels", "t10k-images", "t10k-labels")
    kinds = ("idx3", "idx1", "idx3", "idx1")
    _make(tmp_path, *(f"{i}/{n}-{k}-ubyte" for i, (n, k) in enumerate(zip(names, kinds, strict=True))))
    assert set(_plan("MNIST_MP", tmp_path)) == {
        f"raw/{n}-{k}-ubyte" for n, k in zip(names, kinds, strict=True)
    }
