"""Hugging Face's parquet files to image files: ``domain/class/image``."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError, extra

LABELS = ("label", "labels", "class", "category")
DOMAINS = ("domain", "domains", "env", "style")
ROWS = 256  # in memory at once
_SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"BM": ".bmp", b"GIF8": ".gif", b"RIFF": ".webp"}


def is_parquet(path: Path) -> bool:
    """Whether ``path`` is a parquet file, by its content."""
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def extract(paths: Sequence[Path], into: Path) -> None:
    """Write the images of parquet files, as they are encoded, to ``into/domain/class/NUMBER.ext``.

    Columns: an image as {bytes, path}; a label and a domain, each a text or a number that the files' metadata
    name. ``UsageError`` where one is missing, or pyarrow is.
    """
    number = itertools.count()
    for path in paths:
        for image, domain, label in _rows(path):
            folder = into / _part(domain) / _part(label)
            folder.mkdir(parents=True, exist_ok=True)
            suffix = next((s for magic, s in _SUFFIXES.items() if image.startswith(magic)), ".img")
            (folder / f"{next(number):06}{suffix}").write_bytes(image)


def _rows(path: Path) -> Iterator[tuple[bytes, str, str]]:
    extra("pyarrow", path.name, "download")
    from pyarrow import ArrowException, parquet

    try:
        yield from _read(parquet, path)
    except ArrowException as error:
        raise UsageError(f"{path.name} is broken: {error}") from error


def _read(parquet: Any, path: Path) -> Iterator[tuple[bytes, str, str]]:
    with parquet.ParquetFile(path) as file:
        schema = file.schema_arrow
        named = _class_names(schema.metadata or {})
        types = {name: str(schema.field(name).type) for name in schema.names}
        image = next(
            (name for name, kind in types.items() if kind.startswith("struct") and "bytes" in kind), None
        )
        label = next((name for name in LABELS if name in types), None)
        domain = next((name for name in DOMAINS if name in types), None)
        if image is None or label is None or domain is None:
            raise UsageError(
                f"{path.name} has the columns {', '.join(schema.names)}; it needs an image, a label (one of "
                f"{', '.join(LABELS)}) and a domain (one of {', '.join(DOMAINS)})"
            )
        for batch in file.iter_batches(ROWS, columns=[image, domain, label]):
            columns = [
                batch.column(batch.schema.get_field_index(c)).to_pylist() for c in (image, domain, label)
            ]
            for pixels, of_domain, of_label in zip(*columns, strict=True):
                yield pixels["bytes"], _name(domain, of_domain, named), _name(label, of_label, named)


def _class_names(metadata: Any) -> dict[str, list[str]]:
    """{column: names of its numbers}, from what the package datasets writes into a file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError):
        return {}
    return {
        column: kind["names"]
        for column, kind in features.items()
        if isinstance(kind, dict) and "names" in kind
    }


def _name(column: str, value: Any, named: dict[str, list[str]]) -> str:
    return named[column][value] if isinstance(value, int) and column in named else str(value)


def _part(name: str) -> str:
    """A name as one folder; a file from elsewhere must not choose where it is written."""
    cleaned = name.replace("/", "_").replace("\\", "_").strip()
    if cleaned in ("", ".", ".."):
        raise UsageError(f"{name!r} is no name of a domain or a class")
    return cleaned
