"""What is known of a data set that can be downloaded. The facts themselves are in ``recipes.py``.

An address is ``https://...``, ``gdrive:ID`` (Google Drive), ``hf:OWNER/NAME[:PATTERN]`` (a data set on
Hugging Face, its parquet files or those that match the pattern) or ``wilds:NAME``. Links rot, so every data
set has several; counts and checksums decide whether what came is the data set.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RESEARCH = "no open licence is known: research use only, not to be redistributed; the authors keep all rights"


@dataclass(frozen=True)
class File:
    """One thing to fetch.

    name: its name on disk. size: bytes. md5, sha256: hexadecimal, or the first digits of it. None where no
    trustworthy value is known.
    """

    address: str
    name: str
    size: int | None = None
    md5: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """One place that has a whole data set."""

    title: str
    files: Sequence[File]


@dataclass(frozen=True)
class Content:
    """What a whole data set holds, below its folder.

    domains: folders, possibly nested ("0/beach"), that hold one folder per class. counts: {domain: images},
    where known. class_counts: {domain: images of each class, classes sorted by name}, where known.
    files: {path: (bytes, SHA-256)} of a data set that is no folder of images.
    """

    folder: str
    domains: Sequence[str] = ()
    num_classes: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    class_counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    files: Mapping[str, tuple[int, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """How to get one data set.

    page: where a person finds it. steps: what a person does there, where it is not obvious. convert: a name
    in ``convert.CONVERTERS``. aliases: {folder in some copies: domain}. class_counts: see ``Content``.
    content: given where no ``FolderDataset`` of the same name declares it. users: the data sets that use
    these files, where they are named otherwise. unpacked: the most bytes that the files may unpack to.
    totals: {wrong number of images: what it means}. flawed: {image: what is wrong with it}.
    """

    sources: Sequence[Source]
    page: str
    steps: str = ""
    licence: str = RESEARCH
    convert: str = "folders"
    aliases: Mapping[str, str] = field(default_factory=dict)
    class_counts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    content: Content | None = None
    users: Sequence[str] = ()
    unpacked: int | None = None
    totals: Mapping[int, str] = field(default_factory=dict)
    flawed: Mapping[str, str] = field(default_factory=dict)


def plain(name: str) -> str:
    """A name without its case and punctuation."""
    return re.sub("[^a-z0-9]", "", name.lower())
