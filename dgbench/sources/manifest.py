"""What a data set's folder holds: counted, and compared with what it should hold."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..decode import parallel
from ..folders import subfolders
from .convert import is_image
from .fetch import digest
from .source import Content

NAME = ".dgbench-manifest.json"


def write(root: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a folder: ``facts``, and {path: [bytes, SHA-256]} of every file."""
    names = _files(root)
    hashes = parallel(digest, [root / name for name in names], "checksums")
    listed = {name: [(root / name).stat().st_size, h] for name, h in zip(names, hashes, strict=True)}
    files.replace_text(root / NAME, json.dumps({**facts, "files": listed}, indent=0))


def read(root: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None where there is none that can be read."""
    try:
        return json.loads((root / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def count(root: Path, domains: Sequence[str]) -> dict[str, dict[str, int]]:
    """{domain: {class: images}} of a folder, with 0 classes for a domain that is missing."""
    return {
        domain: {
            cls: sum(is_image(name) for _, _, names in os.walk(root / domain / cls) for name in names)
            for cls in subfolders(root / domain)
        }
        for domain in domains
    }


def incomplete(found: Mapping[str, Mapping[str, int]], content: Content) -> list[str]:
    """What makes a folder unusable: a domain that is missing, a wrong number of classes."""
    lines = [f"the domain {domain} is missing" for domain, classes in found.items() if not classes]
    classes = {cls for domain in found.values() for cls in domain}
    if found and len(classes) != content.num_classes:
        lines.append(f"{len(classes)} classes instead of {content.num_classes}")
    return lines


def miscounted(found: Mapping[str, Mapping[str, int]], content: Content) -> list[str]:
    """One line for each class, or each domain where the classes' numbers are not known, that differs."""
    lines = []
    for domain, classes in found.items():
        expected = content.class_counts.get(domain, ())
        wrong = [
            f"{domain}/{cls} has {n} images instead of {m}"
            for (cls, n), m in zip(classes.items(), expected, strict=False)
            if n != m
        ]
        total = sum(classes.values())
        if total != content.counts.get(domain, total) and not wrong:
            wrong = [f"{domain} has {total} images instead of {content.counts[domain]}"]
        lines += wrong
    return lines


def differences(root: Path, content: Content) -> list[str]:
    """What is wrong with a folder as far as names and sizes tell: "missing ...", "extra ...", "damaged ...".

    Compared with the manifest, or with the known files or numbers of images where there is none.
    """
    known = _known(root, content)
    if known is None:
        found = count(root, content.domains)
        return incomplete(found, content) + miscounted(found, content)
    names = set(_files(root))
    lines = [f"missing {name}" for name in known if name not in names]
    if known is not content.files:  # beside those, users have others, compressed ones for example
        lines += [f"extra {name}" for name in sorted(names - set(known))]
    for name in sorted(names & set(known)):
        size = (root / name).stat().st_size
        if size != known[name][0]:
            lines.append(f"damaged {name}: {size} bytes instead of {known[name][0]}")
    return lines


def check(root: Path, content: Content) -> list[str]:
    """``differences``, and every file whose content is not the known one or, where none is, not an image."""
    known = _known(root, content)
    if known is None:
        names = [name for name in _files(root) if is_image(name)]
        reasons = parallel(undecodable, [root / name for name in names], "decoding")
    else:
        names = [n for n in _files(root) if n in known and (root / n).stat().st_size == known[n][0]]
        hashes = parallel(digest, [root / name for name in names], "checksums")
        reasons = (
            "" if h == known[n][1] else "its content has changed" for n, h in zip(names, hashes, strict=True)
        )
    damaged = [f"damaged {name}: {reason}" for name, reason in zip(names, reasons, strict=True) if reason]
    return differences(root, content) + damaged


def undecodable(path: Path) -> str:
    """Why an image cannot be decoded, or an empty text."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise many types
        return str(error) or type(error).__name__
    return ""


def _known(root: Path, content: Content) -> Mapping[str, Sequence[Any]] | None:
    listed = read(root)
    return listed["files"] if listed else content.files or None


def _files(root: Path) -> list[str]:
    """Relative paths of all files that are not hidden, sorted."""
    return sorted(
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
        if not name.startswith(".")
    )
