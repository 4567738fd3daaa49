"""What is in a data set: numbers of images, duplicates, two labels for one image, damaged files.

    python -m dgbench.data_report --dataset PACS --data_dir DIR [--output page.html]

"in" and "out" are the parts that a trial trains on and selects with: --trial_seed, --holdout_fraction.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import duplicates, flags, registry
from .duplicates import Pair, Scan
from .errors import UsageError, exit_on_usage_error
from .files import replace_text
from .folders import FolderDataset, image_files, subfolders
from .sources import recipes
from .sources.manifest import miscounted
from .sources.source import Content
from .splits import split

KINDS = ("files", "pixels", "near")
PLACES = ("between domains", "between in and out", "within a part")
SHOWN = 20  # pairs of a kind in the text
WIDE = 12  # classes beyond which they are no columns


@dataclass
class Report:
    """A data set on disk. domains, classes, held: of every path; held: whether it is in the "out" part."""

    name: str
    root: Path
    content: Content
    paths: list[Path]
    domains: list[str]
    classes: list[str]
    held: np.ndarray
    scan: Scan
    pairs: list[Pair]

    def title(self, i: int) -> str:
        """The path of an image below the data set's folder."""
        return self.paths[i].relative_to(self.root).as_posix()

    def place(self, pair: Pair) -> str:
        """One of ``PLACES``."""
        if self.domains[pair.i] != self.domains[pair.j]:
            return PLACES[0]
        return PLACES[1] if self.held[pair.i] != self.held[pair.j] else PLACES[2]

    def two_labels(self, pair: Pair) -> bool:
        """Whether the images of a pair are in different classes."""
        return self.classes[pair.i] != self.classes[pair.j]

    def counts(self) -> dict[str, dict[str, int]]:
        """{domain: {class: images}}, every domain with every class."""
        number = Counter(zip(self.domains, self.classes, strict=True))
        classes = sorted(set(self.classes))
        return {domain: {cls: number[domain, cls] for cls in classes} for domain in self.content.domains}


def build(name: str, data_dir: Path | None, trial_seed: int = 0, holdout_fraction: float = 0.2) -> Report:
    """Read every image of a data set of image files; ``UsageError`` for another one."""
    cls: Any = registry.find("datasets", name)
    if not issubclass(cls, FolderDataset):
        folders = [
            n for n in registry.names("datasets") if issubclass(registry.find("datasets", n), FolderDataset)
        ]
        raise UsageError(f"{cls.__name__} is no data set of image files; choose from: {', '.join(folders)}")
    root, content = cls.root(data_dir), _content(cls, data_dir)
    paths, domains, classes, held = [], [], [], []
    every = sorted({c for domain in content.domains for c in subfolders(root / domain)})
    for index, domain in enumerate(content.domains):
        listed = [(path, c) for c in every for path in image_files(root / domain / c)]
        out = np.zeros(len(listed), bool)
        if cls.domains in ((), content.domains):  # else a run makes its domains of these folders
            out[split(len(listed), holdout_fraction, trial_seed, index)[1]] = True
        paths += [path for path, _ in listed]
        classes += [c for _, c in listed]
        domains += [domain] * len(listed)
        held.append(out)
    found = duplicates.scan(paths, cls.__name__)
    pairs = duplicates.pairs(found)
    return Report(cls.__name__, root, content, paths, domains, classes, np.concatenate(held), found, pairs)


def _content(cls: type[FolderDataset], data_dir: Path | None) -> Content:
    """What the folder should hold: by the recipe for its download, or by the data set's class."""
    try:
        return recipes.find(cls.__name__)[2]
    except UsageError:  # the user's own images
        return Content("", cls.domain_names(data_dir), cls.count_classes(data_dir))


def text(report: Report) -> str:
    """The report as text."""
    lines = [f"{report.name} in {report.root}: {len(report.paths):,} images", "", _count_table(report), ""]
    lines += [f"note: {line}" for line in miscounted(report.counts(), report.content)]
    lines += [f"damaged: {report.title(i)}: {reason}" for i, reason in report.scan.damaged.items()]
    lines += [f"note: {report.title(i)}: {why}" for i, why in _flawed(report)]
    lines += ["", _pair_table(report), "", *_leaks(report)]
    for kind in KINDS:
        listed = [pair for pair in ordered(report) if pair.kind == kind]
        lines += ["", *(f"{kind}: {line(report, pair)}" for pair in listed[:SHOWN])] if listed else []
        if len(listed) > SHOWN:
            lines.append(f"{kind}: and {len(listed) - SHOWN:,} more pairs; --output shows them")
    return "\n".join(lines)


def ordered(report: Report) -> list[Pair]:
    """The pairs: two labels first, then between domains, then between in and out."""
    return sorted(
        report.pairs, key=lambda p: (not report.two_labels(p), PLACES.index(report.place(p)), p.i, p.j)
    )


def line(report: Report, pair: Pair) -> str:
    """One pair as a line."""
    labels = ", two labels" if report.two_labels(pair) else ""
    return f"{report.title(pair.i)} = {report.title(pair.j)} ({report.place(pair)}{labels})"


def _count_table(report: Report) -> str:
    from tabulate import tabulate

    counts = report.counts()
    rows = []
    for domain, classes in counts.items():
        total = sum(classes.values())
        declared = report.content.counts.get(domain)
        middle = (
            list(classes.values()) if len(classes) <= WIDE else [min(classes.values()), max(classes.values())]
        )
        rows.append([domain, *middle, total, "?" if declared is None else declared])
    classes = next(iter(counts.values()), {})
    heads = list(classes) if len(classes) <= WIDE else [f"fewest of {len(classes)} classes", "most"]
    return tabulate(rows, ["domain", *heads, "images", "declared"])


def _pair_table(report: Report) -> str:
    from tabulate import tabulate

    number = Counter((report.place(pair), pair.kind) for pair in report.pairs)
    labels = Counter(pair.kind for pair in report.pairs if report.two_labels(pair))
    rows = [[place, *(number[place, kind] for kind in KINDS)] for place in PLACES]
    rows.append(["of these with two labels", *(labels[kind] for kind in KINDS)])
    return tabulate(rows, ["pairs of images", "the same file", "the same pixels", "nearly the same"])


def _leaks(report: Report) -> list[str]:
    """For each domain, how many "out" images have a duplicate among the "in" images."""
    leaked: dict[str, set[int]] = {domain: set() for domain in report.content.domains}
    for pair in report.pairs:
        if report.place(pair) == PLACES[1]:
            leaked[report.domains[pair.i]].add(pair.i if report.held[pair.i] else pair.j)
    size = Counter(domain for domain, out in zip(report.domains, report.held, strict=True) if out)
    return [
        f"{d}: {len(i)} of {size[d]} out images have a duplicate among the in images"
        for d, i in leaked.items()
        if i
    ]


def _flawed(report: Report) -> list[tuple[int, str]]:
    """Images that are known to be faulty."""
    try:
        flawed = recipes.find(report.name)[1].flawed
    except UsageError:
        return []
    by_stem = (
        {str(Path(report.title(i)).with_suffix("")): i for i in range(len(report.paths))} if flawed else {}
    )
    return [(by_stem[stem], why) for stem, why in flawed.items() if stem in by_stem]


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.data_report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dataset", required=True, help="a data set of image files")
    parser.add_argument("--data_dir", type=Path, help="the folder that holds the data sets")
    parser.add_argument(
        "--output", type=Path, metavar="FILE.html", help="write a page with the pairs' pictures"
    )
    parser.add_argument("--trial_seed", type=int, default=0, help="of the split into in and out; default: 0")
    parser.add_argument("--holdout_fraction", type=float, default=0.2, help="the out part; default: 0.2")
    args = parser.parse_args(argv)
    if args.output is not None and not args.output.parent.is_dir():
        raise UsageError(f"--output {args.output}: there is no folder {args.output.parent}")
    report = build(args.dataset, args.data_dir, args.trial_seed, args.holdout_fraction)
    print(text(report))
    if args.output is not None:
        from .data_page import page

        replace_text(args.output, page(report))
        print(f"pictures: {args.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
