"""Which images are labelled: ``python -m dgbench.label_split --dataset PACS --test_envs 3 --output FILE``.

The command writes the choice that a run of ``semi_supervised`` makes; ``dgbench.train --label_split FILE``
trains on a written choice. The file is that of the semi-supervised domain generalization benchmark in Dassl,
so its published files can be read: {"train_x": [[image, class, domain], ...], "train_u": the same}, the
labelled and the unlabelled images. They are called as in ``Dataset.image_names``: paths below the data set's
folder, or hashes of pixels where a data set has no files. A suffix counts only where the data set has two
images that differ in nothing else (3.ppm and 3.pgm). Imports no torch.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from . import files, flags, registry, tasks
from .dataset import Dataset
from .errors import UsageError, exit_on_usage_error
from .spec import RunSpec
from .tasks import Pool, Split

PARTS = ("train_x", "train_u")


@dataclass(frozen=True)
class LabelSplit:
    """A file's content. labelled, unlabelled: {image: class}; None where it does not tell."""

    path: Path
    labelled: Mapping[str, int]
    unlabelled: Mapping[str, int] | None

    @property
    def identity(self) -> str:
        """8 hex digits that stand for the content, order included, in a run's spec.

        Suffixes count where the file has two images that differ in nothing else.
        """
        parts = (self.labelled, self.unlabelled)
        stems = Counter(_stem(name) for name in {name for part in parts for name in part or ()})
        told = [
            None
            if part is None
            else [(name if stems[_stem(name)] > 1 else _stem(name), label) for name, label in part.items()]
            for part in parts
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]


def read(path: Path) -> LabelSplit:
    """The file's content; ``UsageError`` if it is no such file."""
    if path.is_dir():  # which of its files would name a new run?
        raise UsageError(f"--label_split {path} is a folder, which only planned runs search; give one file")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        labelled, unlabelled = _images(told["train_x"]), None
        if "train_u" in told:
            unlabelled = _images(told["train_u"])
    except OSError as error:
        raise UsageError(f"cannot read --label_split {path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError):
        raise UsageError(
            f'--label_split {path} is not {{"train_x": [[image, class, domain], ...], "train_u": [...]}}'
        ) from None
    if both := sorted(labelled.keys() & (unlabelled or {}).keys()):
        raise UsageError(f"--label_split {path} has {both[0]} in both train_x and train_u")
    return LabelSplit(path, labelled, unlabelled)


def find(path: Path | None, identity: str) -> LabelSplit:
    """The file of a run: ``path``, or the one in that folder, whose content the run's spec names."""
    if path is None:
        raise UsageError(
            f"the labelled images of this run are in a file ({identity}); give --label_split FILE"
        )
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        if (found := read(file)).identity == identity:
            return found
    raise UsageError(f"--label_split {path} holds other images than the run was made with ({identity})")


def _images(items: Sequence[Sequence[Any]]) -> dict[str, int]:
    return {str(item[0]): int(item[1]) for item in items}


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def apply(given: LabelSplit, split: Split, dataset: Dataset) -> Split:
    """A split of ``semi_supervised`` whose labelled and unlabelled images are those of a file.

    What the file leaves out of a source is its "out" part; where it tells no unlabelled images, these are the
    other ones of the "in" part.
    """
    labelled, rest, evaluated = [], [], dict(split.evaluated)
    for mine, other in zip(split.labelled, split.pseudo.values(), strict=True):
        domain = mine.domain
        whole = (mine, other, split.evaluated[f"{domain.name}/out"])
        order = np.concatenate([pool.indices for pool in whole])
        names = dataset.image_names(domain)
        x = _rows(given, given.labelled, names, domain.name, domain.labels)
        if given.unlabelled is None:
            inside = order[: len(mine) + len(other)]
            u = inside[~np.isin(inside, x)]
        else:
            u = _rows(given, given.unlabelled, names, domain.name, domain.labels)
        if twice := [names[row] for row, count in Counter([*x, *u]).items() if count > 1]:
            raise UsageError(f"--label_split {given.path} names {twice[0]} twice")
        out = order[~np.isin(order, [*x, *u])]
        for what, found in (("labelled", x), ("unlabelled", u), ("other", out)):
            if not len(found):
                raise UsageError(f"--label_split {given.path} leaves no {what} image of {domain.name}")
        x_pool, u_pool, out_pool = (Pool(domain, mine.env, i, domain.labels[i]) for i in (x, u, out))
        labelled.append(x_pool)
        rest.append(u_pool)
        evaluated[f"{domain.name}/out"] = out_pool
    return replace(
        split,
        labelled=tuple(labelled),
        unlabelled=tuple(pool.without_labels() for pool in rest),
        pseudo=dict(zip(split.pseudo, rest, strict=True)),
        evaluated=evaluated,
    )


def _rows(
    given: LabelSplit, images: Mapping[str, int], names: Sequence[str], domain: str, labels: np.ndarray
) -> np.ndarray:
    """Rows (n,) of the images of one domain, in the file's order; ``UsageError`` for what does not fit."""
    whole = {name: row for row, name in enumerate(names)}
    by_stem: dict[str, list[int]] = {}
    for name, row in whole.items():
        by_stem.setdefault(_stem(name), []).append(row)
    found = []
    for name, label in images.items():
        if PurePosixPath(name).parts[0] != domain:
            continue
        rows = [whole[name]] if name in whole else by_stem.get(_stem(name), [])
        if len(rows) != 1:
            any_of = ", ".join(names[row] for row in rows)
            why = f"is any of {any_of}" if rows else "the data set does not have"
            raise UsageError(f"--label_split {given.path} names {name}, which {why}")
        if labels[rows[0]] != label:
            told = f"gives {name} the class {label}, it has {labels[rows[0]]}"
            raise UsageError(f"--label_split {given.path} {told}")
        found += rows
    return np.array(found, np.int64)


def write(path: Path, split: Split, dataset: Dataset) -> LabelSplit:
    """Write the images of a split of ``semi_supervised``; gives what the file then holds."""
    pools = dict(zip(PARTS, (split.labelled, split.pseudo.values()), strict=True))
    told: dict[str, Any] = {name: [] for name in PARTS}
    for part, domains in pools.items():
        for pool in domains:
            assert pool.labels is not None
            names = dataset.image_names(pool.domain)
            told[part] += [
                [names[row], label, pool.domain.name]
                for row, label in zip(pool.indices.tolist(), pool.labels.tolist(), strict=True)
            ]
    files.write_output(path, json.dumps(told, indent=0))
    return read(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.label_split", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    flags.add_spec_flags(parser, skip=("algorithm", "task", "hparams"))
    parser.add_argument("--data_dir", type=Path, help="the folder that holds the data sets")
    args = parser.parse_args(argv)
    values = {**flags.spec_values(args), "algorithm": "ERM", "task": "semi_supervised"}
    spec = RunSpec(**values).resolved(args.data_dir)
    cls: Any = registry.find("datasets", spec.dataset)
    dataset: Dataset = cls(args.data_dir, spec.trial_seed, spec.image_size or None)
    split = tasks.TASKS[spec.task](spec, dataset, dataset.domain_names(args.data_dir))
    written = write(args.output, split, dataset)
    counts = f"{len(written.labelled)} labelled and {len(written.unlabelled or ())} unlabelled images"
    print(f"{args.output}: {counts}, content {written.identity}")
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
