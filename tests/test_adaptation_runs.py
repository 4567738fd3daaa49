"""Domain adaptation from run to table: what may select, the literature's columns, the plans of the sweeps."""

import csv
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from literal_runs import record, write

from dgbench import collect_results, sweep
from dgbench.collect.evidence import LABEL_FREE
from dgbench.dataset import Dataset, Domain
from dgbench.datasets.rotateddigits import RotatedDigits
from dgbench.plan import plan
from dgbench.records import read_lines
from dgbench.spec import RunSpec
from dgbench.sweep import grid
from dgbench.train import run

torch.set_num_threads(1)
VALIDATORS = [("--selection", "label_free", "--metric", f"target/all/{name}") for name in LABEL_FREE]
BLIND: list[tuple[str, ...]] = [(), ("--selection", "last"), *VALIDATORS]
"""Flags of the rules that read no label of the target."""
PAIRS = ["A>C", "A>P", "A>R", "C>A", "C>P", "C>R", "P>A", "P>C", "P>R", "R>A", "R>C", "R>P"]


def collected(folder: Path, *flags: str) -> list[dict[str, str]]:
    """The cells that the collector prints."""
    out = folder / "table.csv"
    collect_results.main(["--input_dir", str(folder), "--format", "csv", "--output", str(out), *flags])
    return list(csv.DictReader(out.read_text().splitlines()))


# What selects


@pytest.mark.parametrize(
    "name",
    [
        "SCALE",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("ERM", "CDAN", "MCC", "FixMatch", "MeanTeacher")),
    ],
)
def test_target_labels_change_neither_training_nor_selection(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two whole runs, one with other labels of the target: all but its accuracy and loss is the same."""
    spec = RunSpec(
        *("RotatedDigits", name, "domain_adaptation"),
        source_envs=("0",),
        test_envs=("45",),
        steps=13,
        checkpoint_freq=6,
    ).resolved()
    lines, weights, folders = [], [], [tmp_path / "clean", tmp_path / "poisoned"]
    for folder in folders:
        run(spec, folder / spec.run_id())
        lines.append(read_lines(folder / spec.run_id() / "results.jsonl")[0])
        weights.append(torch.load(folder / spec.run_id() / "weights.pt", weights_only=True)["raw"])
        monkeypatch.setattr(RotatedDigits, "load", _poisoned(RotatedDigits.load))
    hidden = ("45/all/acc", "45/all/loss")
    for clean, other in zip(*lines, strict=True):
        assert all(clean["metrics"][key] != other["metrics"][key] for key in hidden)
        for key in ("step", "losses", "fingerprint", "parts", "hparams"):
            assert clean[key] == other[key], key
        left = [{k: v for k, v in line["metrics"].items() if k not in hidden} for line in (clean, other)]
        assert left[0] == left[1] and {f"45/all/{key}" for key in LABEL_FREE} < set(left[0])
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    for flags in BLIND:
        assert _chosen(folders[0], *flags) == _chosen(folders[1], *flags)


def _poisoned(load: Callable[..., list[Domain]]) -> Callable[..., list[Domain]]:
    def loaded(self: Dataset, names: Sequence[str]) -> list[Domain]:
        found = load(self, names)
        return [replace(d, labels=(d.labels + 3) % 10) if d.name == "45" else d for d in found]

    return loaded


def _chosen(folder: Path, *flags: str) -> str:
    """What the collector tells of a rule's choice, without the target's accuracy."""
    out = folder / "top.txt"
    collect_results.main(["--input_dir", str(folder), "--top", "1", "--output", str(out), *flags])
    told, removed = re.subn(r"test [\d.]+ ", "", out.read_text())
    assert removed == 1 and re.search(r"step \d+  draw 0", told)
    return told


NUMBERS = {  # (draw, step): validation, entropy, im, confidence, snd; accuracy of the target in percent
    (0, 0): (0.50, 2.0, 0.1, 0.20, 8.0, 11),
    (0, 300): (0.70, 0.9, 0.9, 0.80, 5.0, 12),
    (0, 600): (0.60, 0.5, 0.3, 0.60, 6.0, 13),
    (1, 0): (0.55, 1.9, 0.2, 0.30, 9.0, 14),
    (1, 300): (0.90, 0.8, 0.7, 0.70, 4.0, 15),
    (1, 600): (0.65, 0.6, 0.4, 0.50, 7.0, 10),
}


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ((), (1, 300)),
        (("--selection", "last"), (1, 600)),  # 0.65 against 0.60 on the source
        (VALIDATORS[0], (0, 600)),  # entropy, the lower the better
        (VALIDATORS[1], (0, 300)),
        (VALIDATORS[2], (0, 300)),
        (VALIDATORS[3], (1, 0)),
        (("--selection", "oracle"), (0, 600)),  # 13 against 10 at the last checkpoints
        (("--selection", "oracle_epoch"), (1, 300)),
    ],
)
def test_rules_on_literal_records(tmp_path: Path, flags: tuple[str, ...], chosen: tuple[int, int]) -> None:
    for draw in (0, 1):
        spec = _pair("SCALE", "Art", "Clipart", hparams_seed=draw)
        lines = []
        for step in (0, 300, 600):
            validation, *found, test = NUMBERS[draw, step]
            line = _line(spec, step, validation, test / 100)
            line["metrics"] |= {f"Clipart/all/{n}": v for n, v in zip(LABEL_FREE, found, strict=True)}
            lines.append(line)
        write(tmp_path, spec, lines)
    cells = {cell["column"]: float(cell["mean"]) for cell in collected(tmp_path, *flags)}
    assert cells["A>C"] == NUMBERS[chosen][-1]


def test_only_an_oracle_is_called_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = _pair("ERM", "Art", "Clipart")
    write(tmp_path, spec, [_line(spec, 600, 0.5, 0.5)])
    for flags in ((), ("--selection", "last"), ("--selection", "oracle"), ("--selection", "oracle_epoch")):
        collect_results.main(["--input_dir", str(tmp_path), *flags])
        assert ("were used" in capsys.readouterr().out) == any("oracle" in flag for flag in flags)
    with pytest.raises(Exception, match=r"Clipart/all/acc .* may need hidden labels"):
        collected(tmp_path, "--selection", "label_free", "--metric", "target/all/acc")


def _pair(method: str, source: str, target: str, **fields) -> RunSpec:
    fields = {"steps": 601, "checkpoint_freq": 300, **fields}
    spec = RunSpec("OfficeHome", method, "domain_adaptation", (target,), (source,), **fields)
    return spec.resolved()


def _line(spec: RunSpec, step: int, validation: float, test: float) -> dict:
    """A record of a run from one source to one target."""
    ((source,), (target,)) = spec.source_envs, spec.test_envs
    line = record(spec, step, {f"{source}/out": validation, f"{target}/all": test})
    whole = [f"{target}/all"]
    line["parts"] = {"validation": [f"{source}/out"], "test": whole, "oracle": whole}
    line["hparams"] = spec.hparams
    return line


# The tables


def test_the_literatures_table(tmp_path: Path) -> None:
    """Columns source > target in the literature's order, their average, the published rows below."""
    specs = grid(["SCALE"], ["OfficeHome"], n_trials=1, task="domain_adaptation", pairs=True)
    plan(tmp_path, specs)
    for i, spec in enumerate(specs):
        write(tmp_path, spec, [_line(spec, 300, 0.9, i / 100)])
    lines = collected(tmp_path, "--published")
    ours = {
        line["column"]: float(line["mean"]) for line in lines if line["method"] == "SCALE" and line["mean"]
    }
    assert list(ours) == [*PAIRS, "Avg"]
    assert ours["C>A"] == 0 and ours["R>A"] == 2 and ours["P>R"] == 11 and ours["Avg"] == 5.5
    published = [line for line in lines if "published" in line["method"]]
    at = {(line["method"].split(",")[0], line["column"]): line["mean"] for line in published}
    assert at["SCALE", "R>P"] == "84.2400" and at["None", "Avg"] == "60.9100"
    for name in ("CLIP", "DAPrompt", "AD-CLIP"):  # published only, and so named
        assert at[name, "A>C"] and name not in {line["method"] for line in lines}
    # the ablation has averages alone, one for each backbone
    assert (at["CE+SSL+Dist+Reg", "Avg"], at["CE+SSL+Dist+Reg", "A>C"]) == ("75.5000", "")


@pytest.mark.parametrize(("backbone", "mean"), [("resnet101", "84.5000"), ("resnet152", "85.0000")])
def test_the_ablation_beside_the_papers(tmp_path: Path, backbone: str, mean: str) -> None:
    """Each of our rows of Table 1 meets the published row with the same terms, and no other."""
    specs = [spec for spec in sweep.load_file("scale_table1") if spec.backbone == backbone]
    specs = [spec for spec in specs if not spec.trial_seed]
    for spec in specs:
        write(tmp_path, spec, [_line(spec, spec.steps - 1, 0.9, 0.6)])
    lines = collected(tmp_path, "--published")
    theirs = {line["method"]: line["mean"] for line in lines if line["column"] == "Avg"}
    assert theirs["CE+SSL+Dist+Reg, published (SCALE)"] == mean
    assert len([name for name in theirs if name.startswith("SCALE (")]) == 7
    out = tmp_path / "table.md"
    flags = ["--input_dir", str(tmp_path), "--published", "--format", "markdown", "--output", str(out)]
    collect_results.main(flags)
    table = [line for line in out.read_text().splitlines() if line.startswith("|")]
    verdicts = [line for line in table if "verdict" in line]
    assert len(verdicts) == 7 + 1  # and SCALE of Table 2 with the last


# The sweeps


def test_the_plan_of_scales_ablation() -> None:
    specs = sweep.load_file("scale_table1")
    rows = {(s.backbone, *s.hparams.values()) for s in specs}
    terms = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1)]
    backbones = ("resnet50", "resnet101", "resnet152")
    assert rows == {(net, *on) for net in backbones for on in terms} and len(specs) == 21 * 12 * 3
    assert {tuple(s.hparams) for s in specs} == {("unlabelled_weight", "cl_weight", "reg_weight")}
    assert {s.algorithm for s in specs} == {"SCALE"} and _columns(specs) == _every_pair("OfficeHome")


def test_the_plan_of_scales_comparison() -> None:
    specs = sweep.load_file("scale_table2")
    methods = ["ERM", "DAN", "DANN_UDA", "CDAN", "MCC", "MDD", "MeanTeacher", "FixMatch", "SCALE"]
    for method in methods:
        own = [s for s in specs if s.algorithm == method]
        assert len(own) == 12 * 3 and _columns(own) == _every_pair("OfficeHome")
        assert {s.task for s in own} == {"domain_adaptation"} and {s.freeze_bn for s in own} == {False}
    assert {s.algorithm for s in specs} == set(methods)


def test_the_plan_of_office31() -> None:
    specs = sweep.load_file("uda_office31")
    assert _columns(specs) == _every_pair("Office31") and len(_columns(specs)) == 6
    assert {s.algorithm for s in specs} == {s.algorithm for s in sweep.load_file("scale_table2")}


def test_the_plan_on_digits() -> None:
    """Every row on every pair, three times."""
    names = ("ERM", "DANN_UDA", "CDAN", "DAN", "FixMatch", "SCALE")
    without = [("SCALE", f"{term}_weight") for term in ("unlabelled", "cl", "reg")]
    rows = [*((name, None) for name in names), *without]
    pairs = [("RotatedMNIST", "0", "45"), ("RotatedMNIST", "0", "75"), ("NoisyMNIST", "mnist", "noise")]
    planned = [
        (spec.algorithm, off, (spec.dataset, *spec.source_envs, *spec.test_envs), spec.trial_seed)
        for spec in sweep.load_file("uda_digits")
        for off in [next((name for name, value in spec.hparams.items() if value == 0), None)]
    ]
    expected = [(*row, pair, trial) for row, pair, trial in itertools.product(rows, pairs, range(3))]
    assert sorted(planned, key=str) == sorted(expected, key=str)


def test_the_plan_on_pacs() -> None:
    specs = sweep.load_file("uda_pacs64")
    assert {(s.image_size, s.pretrained, s.precision) for s in specs} == {(64, "none", "bf16")}
    assert _columns(specs) == {pair for pair in _every_pair("PACS") if "photo" in pair}
    methods = {s.algorithm for s in specs}
    first = specs[: len(methods) * 3]  # what a machine with little time comes to
    assert {s.trial_seed for s in first} == {0} and {s.source_envs for s in first} == {("photo",)}
    assert {s.algorithm for s in first} == methods >= {"ERM", "FixMatch", "SCALE"}


def _columns(specs: Sequence[RunSpec]) -> set[tuple[str, ...]]:
    return {(*spec.source_envs, *spec.test_envs) for spec in specs}


def _every_pair(dataset: str) -> set[tuple[str, ...]]:
    return set(itertools.permutations(sweep.registry.find("datasets", dataset).domains, 2))
