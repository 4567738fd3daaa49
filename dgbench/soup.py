"""Soups: the mean of the weights of several finished runs, evaluated like a run.

``python -m dgbench.soup --input_dir OUT --output_dir SOUPS`` averages, per target and trial, the final raw
weights of all hyper-parameter draws: DiWA (Rame et al., NeurIPS 2022, arXiv 2205.09739), uniform, or with
``--greedy`` its restricted form: from the best run on, a run enters if the mean validation accuracy does not
fall. ``--over trials`` averages the trials of a draw instead. SOUPS is a sweep's folder: print its table with
``dgbench.collect_results``. It may be OUT itself, for a table of runs and soups.

Members must come from the same initial weights, as pretrained ones do; other means are near chance. The parts
are those of the first member: over trials, its validation images were training images of other members, so
only the target's numbers are held out.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import files, flags, records
from .averager import estimate_batch_norm
from .build import Built, build
from .course import evaluate
from .errors import UsageError, exit_on_usage_error
from .machine import Machine, machine_from, peak_memory_gb
from .plan import plan
from .spec import RunSpec, is_soup
from .status import finished
from .swad import OFFICIAL_BN_BATCHES

OVER = {"hparams": ("hparams_seed",), "trials": ("trial_seed",)}
Weights = dict[str, Tensor]


def groups(runs: Sequence[RunSpec], over: str) -> list[list[RunSpec]]:
    """The runs that differ in nothing but the draw, or the trial."""
    found: dict[str, list[RunSpec]] = {}
    for spec in runs:
        told = {name: value for name, value in spec.to_dict().items() if name not in OVER[over]}
        found.setdefault(json.dumps(told, sort_keys=True), []).append(spec)
    return list(found.values())


def mean(members: Sequence[Weights]) -> Weights:
    """The uniform mean of state dicts; integers (counters) are the first member's."""
    first, *others = members
    for other in others:
        if differing := _shapes(first) ^ _shapes(other):
            raise UsageError(
                f"{min(differing)[0]} has other shapes in other members; a soup has one architecture"
            )
    return {
        name: torch.stack([m[name] for m in members]).mean(0) if value.is_floating_point() else value
        for name, value in first.items()
    }


def _shapes(weights: Weights) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(value.shape)) for name, value in weights.items()}


def cook(built: Built, members: Sequence[Weights]) -> dict[str, float]:
    """Metrics of the mean; batch-norm statistics that train are estimated anew."""
    built.algorithm.load_state_dict(mean(members))
    with built.autocast():
        estimate_batch_norm(built.algorithm, islice(built.training_images(), OFFICIAL_BN_BATCHES))
    return evaluate(built)


def validation(metrics: dict[str, float], parts: dict[str, list[str]]) -> float:
    """The unweighted mean accuracy on the validation parts."""
    if not parts["validation"]:
        raise UsageError("--greedy reads validation accuracies, which retrieval lacks")
    return sum(metrics[f"{part}/acc"] for part in parts["validation"]) / len(parts["validation"])


def soup(folder: Path, specs: Sequence[RunSpec], name: str, greedy: bool, machine: Machine) -> dict[str, Any]:
    """The record of one soup. ``specs``: its members, whose folders are below ``folder``."""
    started = time.perf_counter()
    built = build(specs[0], machine)
    parts = built.split.parts
    raw = {run: _last_raw(folder / run) for run in (spec.run_id() for spec in specs)}
    order = sorted(raw, key=lambda run: -validation(raw[run]["metrics"], parts)) if greedy else list(raw)
    chosen: list[str] = []
    weights: list[Weights] = []
    metrics: dict[str, float] = {}
    for run in order:
        tried = [*weights, _weights(folder / run)]
        if greedy:
            seen = cook(built, tried)
            if metrics and validation(seen, parts) < validation(metrics, parts):
                continue
            metrics = seen
        chosen, weights = [*chosen, run], tried
    return {
        **built.head,
        "step": raw[chosen[0]]["step"],
        "epoch": raw[chosen[0]]["epoch"],
        "weights": name,
        "losses": {},
        "metrics": metrics or cook(built, weights),
        "seconds": {"train": 0.0, "evaluate": time.perf_counter() - started},
        "images_per_second": 0.0,
        "memory_gb": peak_memory_gb(built.device),
        "averaging": {"members": chosen, "of": list(raw)},
    }


def _last_raw(folder: Path) -> records.Record:
    lines, _ = records.read_lines(folder / "results.jsonl")
    return [record for record in lines if record["weights"] == "raw"][-1]


def _weights(folder: Path) -> Weights:
    path = folder / "weights.pt"
    if not path.exists():
        raise UsageError(
            f"{path} is missing: a soup needs runs that kept their weights (no --skip_model_save)"
        )
    return torch.load(path, map_location="cpu", weights_only=True)["raw"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = flags.Parser(prog="python -m dgbench.soup", description=__doc__.split("\n")[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="a finished sweep's folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder of the soups")
    parser.add_argument("--over", choices=tuple(OVER), default="hparams", help="what the members differ in")
    parser.add_argument("--greedy", action="store_true", help="DiWA's restricted selection")
    flags.add_machine_flags(parser)
    args = parser.parse_args(argv)
    runs = [spec for spec in finished(args.input_dir) if not is_soup(spec.averaging)]
    if not runs:
        raise UsageError(f"{args.input_dir} holds soups alone; give the folder of their members")
    name = f"soup:over={args.over}" + (",greedy" if args.greedy else "")
    made = []
    for specs in tqdm(groups(runs, args.over), unit="soup"):
        if len(specs) < 2:
            raise UsageError(
                f"{specs[0].run_id()} is the only run of its kind; nothing to average over {args.over}"
            )
        record = soup(args.input_dir, specs, name, args.greedy, machine_from(args))
        spec = replace(specs[0], averaging=(name,))
        folder = args.output_dir / spec.run_id()
        folder.mkdir(parents=True, exist_ok=True)
        record |= {"run": spec.run_id(), "spec": spec.to_dict()}
        files.replace_text(folder / "spec.json", json.dumps(spec.to_dict(), indent=1))
        files.replace_text(folder / "results.jsonl", json.dumps(record) + "\n")
        files.replace_text(folder / "done", "")
        made.append(spec)
    plan(args.output_dir, made)
    return 0


if __name__ == "__main__":
    exit_on_usage_error(main)
