"""From the layouts that data sets are passed around in to ``domain/class/image``.

A converter reads what was unpacked and returns what goes where; it moves nothing.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..folders import EXTENSIONS, subfolders
from .source import Content, Recipe, plain

PARTS = {"train", "val", "valid", "validation", "test", "crossval", "images"}
"""Folders between a domain and its classes in some copies; their images are put together again."""


class Place(NamedTuple):
    """The file ``source`` becomes ``target``, relative to the data set's folder."""

    source: Path
    target: str


def plan(recipe: Recipe, content: Content, root: Path) -> list[Place]:
    """What of ``root`` goes where; empty if the data set is not recognised in it."""
    return CONVERTERS[recipe.convert](recipe, content, root)


def folders(recipe: Recipe, content: Content, root: Path) -> list[Place]:
    """Every domain's folder, wherever it lies and however its name is punctuated, with its class folders.

    Covers ``kfold/DOMAIN``, ``OfficeHomeDataset_10072016/Real World``, ``amazon/images/CLASS``,
    ``mnist/train/CLASS`` and a domain spread over several places.
    """
    aliases = {(plain(name),): domain for name, domain in recipe.aliases.items()}
    wanted = aliases | {tuple(map(plain, domain.split("/"))): domain for domain in content.domains}
    taken: dict[str, Path] = {}
    for folder, domain in _domains(root, (), wanted):
        for cls, image in _images(folder):
            target, number = f"{domain}/{cls}/{image.name}", 0
            while target in taken and _differ(taken[target], image):
                number += 1
                target = f"{domain}/{cls}/{image.stem}_{number}{image.suffix}"
            taken.setdefault(target, image)
    return [Place(source, target) for target, source in taken.items()]


def _domains(
    folder: Path, above: tuple[str, ...], wanted: Mapping[tuple[str, ...], str]
) -> Iterator[tuple[Path, str]]:
    """(folder, domain) of the outermost folders that are named like a domain and hold folders."""
    for name in subfolders(folder):
        if name == "__MACOSX":
            continue
        path, words = folder / name, (*above, plain(name))
        match = next((wanted[words[-n:]] for n in (2, 1) if words[-n:] in wanted), None)
        if match is not None and subfolders(path):
            yield path, match
        else:
            yield from _domains(path, words, wanted)


def _images(domain: Path) -> Iterator[tuple[str, Path]]:
    """(class, image) of every image of a domain."""
    present = subfolders(domain)
    parts = present if present and {name.lower() for name in present} <= PARTS else [""]
    for part in parts:
        for cls in subfolders(domain / part):
            for folder, _, names in sorted(os.walk(domain / part / cls)):
                for name in sorted(names):
                    if is_image(name):
                        yield cls, Path(folder) / name


def is_image(name: str) -> bool:
    """Whether a file of this name is an image and not an operating system's remark on one."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _differ(a: Path, b: Path) -> bool:
    return a.stat().st_size != b.stat().st_size or a.read_bytes() != b.read_bytes()


def domain_net(recipe: Recipe, content: Content, root: Path) -> list[Place]:
    """DomainNet without what ``domain_net_duplicates.txt`` names, one domain/class/image a line."""
    drop = {
        line.strip().removeprefix("./")
        for path in root.rglob("domain_net_duplicates.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
    }
    return [place for place in folders(recipe, content, root) if place.target not in drop]


def terra_incognita(recipe: Recipe, content: Content, root: Path) -> list[Place]:
    """Images of ten categories at four locations, from the annotations of Caltech Camera Traps.

    An image with two categories lies in two class folders, as in DomainBed. The five files of ECCV 2018 win
    over caltech_images_20210113.json, which lacks 458 images. A copy in folders is taken as it is.
    """
    annotations = [path for path in sorted(root.rglob("*.json")) if not path.name.startswith(".")]
    older = [path for path in annotations if not path.name.startswith("caltech_images")]
    if not annotations:
        return folders(recipe, content, root)
    files = {
        name: Path(folder) / name for folder, _, names in os.walk(root) for name in names if is_image(name)
    }
    targets: dict[str, Path] = {}
    for path in older or annotations:
        for image, category in _annotated(json.loads(path.read_text(encoding="utf-8"))):
            domain, name = f"location_{image['location']}", Path(image["file_name"]).name
            if domain in content.domains and category in CATEGORIES and name in files:
                targets[f"{domain}/{category}/{name}"] = files[name]
    return [Place(source, target) for target, source in targets.items()]


CATEGORIES = frozenset(
    {"bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel"}
)


def _annotated(table: Any) -> Iterator[tuple[Any, str]]:
    """(image, name of a category) of every annotation; images are looked up, not searched."""
    if not isinstance(table, dict) or not {"images", "categories", "annotations"} <= set(table):
        return  # some other file
    images = {image["id"]: image for image in table["images"]}
    names = {category["id"]: category["name"] for category in table["categories"]}
    for annotation in table["annotations"]:
        if annotation["image_id"] in images:
            yield images[annotation["image_id"]], names[annotation["category_id"]]


def mnist(recipe: Recipe, content: Content, root: Path) -> list[Place]:
    """MNIST's four files, uncompressed, wherever they lie."""
    targets = {Path(target).name: target for target in content.files}
    targets |= {name.replace("-idx", ".idx"): target for name, target in targets.items()}
    paths = [path for path in sorted(root.rglob("*")) if path.name in targets and path.is_file()]
    found = {targets[path.name]: path for path in paths}
    return [Place(source, target) for target, source in found.items()]


def camelyon17(recipe: Recipe, content: Content, root: Path) -> list[Place]:
    """WILDS's Camelyon17: ``metadata.csv`` says the hospital and the label of every patch."""
    places = []
    for table in root.rglob("metadata.csv"):
        for row in _csv(table):
            patient = f"patient_{int(row['patient']):03}_node_{int(row['node'])}"
            name = f"patch_{patient}_x_{int(row['x_coord'])}_y_{int(row['y_coord'])}.png"
            cls = ("normal", "tumor")[int(row["tumor"])]
            source = table.parent / "patches" / patient / name
            places.append(Place(source, f"hospital_{row['center']}/{cls}/{name}"))
    return [place for place in places if place.source.exists()] or folders(recipe, content, root)


def fmow(recipe: Recipe, content: Content, root: Path) -> list[Place]:
    """WILDS's FMoW: ``rgb_metadata.csv`` says the country and the category; the row is the image's number."""
    places = []
    for table in root.rglob("rgb_metadata.csv"):
        regions = {row["alpha-3"]: row["region"] for row in _csv(table.with_name("country_code_mapping.csv"))}
        for i, row in enumerate(_csv(table)):
            if row["split"] == "seq":  # not a part of the benchmark
                continue
            region = regions.get(row["country_code"]) or "Other"
            source = table.parent / "images" / f"rgb_img_{i}.png"
            places.append(Place(source, f"{region}/{row['category']}/{source.name}"))
    return [place for place in places if place.source.exists()] or folders(recipe, content, root)


def _csv(path: Path) -> Iterator[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


CONVERTERS: dict[str, Callable[[Recipe, Content, Path], list[Place]]] = {
    "folders": folders,
    "domain_net": domain_net,
    "terra_incognita": terra_incognita,
    "mnist": mnist,
    "camelyon17": camelyon17,
    "fmow": fmow,
}
