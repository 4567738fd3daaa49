"""Whole runs of ``semi_supervised``: what may not reach a method, and what is recorded."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dgbench import averaging, build, collect_results, registry, sweep, train
from dgbench.algorithms.fixclr import BASES
from dgbench.algorithms.fixmatch import FixMatch
from dgbench.build import Built
from dgbench.checkpoint import State
from dgbench.machine import Machine
from dgbench.meter import Meter
from dgbench.spec import RunSpec

CPU = Machine(device="cpu", threads=1)


def spec(algorithm: str = "FixMatch", **given) -> RunSpec:
    given = {"test_envs": ("75",), "labels_per_class": 3, "steps": 4, **given}
    return RunSpec("RotatedDigits", algorithm, task="semi_supervised", **given).resolved()


def weights(built: Built, steps: int = 3) -> dict[str, torch.Tensor]:
    state = State(built.algorithm, averaging.make((), built.algorithm), Meter())
    for step in range(steps):
        train.update(state, built.loader, step, built.seed)
    return built.algorithm.state_dict()


def poison(built: Built) -> None:
    """Noise in every image that is not trained on and in every label that is not given."""
    r, split = np.random.default_rng(0), built.split
    rows = {name: np.zeros((2, len(domain)), bool) for name, domain in split.domains.items()}
    for known, pools in enumerate((split.unlabelled, split.labelled)):
        for pool in pools:
            rows[pool.domain.name][: known + 1, pool.indices] = True
    for name, domain in split.domains.items():
        unseen, unnamed = ~rows[name]
        domain.images[unseen] = r.integers(0, 256, (unseen.sum(), *domain.images.shape[1:]))
        domain.labels[unnamed] = r.integers(0, 10, unnamed.sum())


def differs(method: str, **hp) -> bool:
    clean, poisoned = (build.build(spec(method, hparams=hp), CPU) for _ in range(2))
    poison(poisoned)
    a, b = weights(clean), weights(poisoned)
    return any(not torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("base", BASES)
def test_no_hidden_label_and_no_unseen_image_trains_a_composition(base: str) -> None:
    assert not differs("FixCLR", base=base)


class Peeks(FixMatch):
    """Takes the unlabelled images' labels from where they are kept."""

    def targets(self, seen):
        labels = seen.batch.ud + Peeks.source.labels[seen.batch.uidx]
        return super().targets(seen)._replace(labels=torch.as_tensor(labels) % 10, weights=torch.ones(1))


class Looks(FixMatch):
    """Takes one image of the target."""

    def see(self, batch):
        batch.u2[0] = torch.as_tensor(Looks.source.images[0]).permute(2, 0, 1) / 255
        return super().see(batch)


@pytest.mark.parametrize(("leak", "domain"), [(Peeks, "0"), (Looks, "75")])
def test_a_leak_is_caught(leak: type[FixMatch], domain: str) -> None:
    """The same comparison fails for a method that looks at a label, or at an image, that it may not see."""
    with registry.registered(leak):
        clean, poisoned = (
            build.build(spec(leak.__name__, hparams={"threshold": 0.0}), CPU) for _ in range(2)
        )
        poison(poisoned)
        found = []
        for built in (clean, poisoned):
            leak.source = built.split.domains[domain]
            found.append(weights(built))
    assert any(not torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_records_tell_whether_pseudo_labels_are_good(tmp_path: Path) -> None:
    train.run(spec(steps=41, checkpoint_freq=20), tmp_path / "run", CPU)
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    for source in ("0", "15", "30", "45", "60"):
        right, keep = (
            [line["metrics"][f"{source}/unlabelled/{name}"] for line in lines]
            for name in ("pseudo_acc", "keep")
        )
        assert right[-1] > right[0] and all(0 <= value <= 1 for value in right + keep)
    assert not any(key.startswith("75/unlabelled") for key in lines[-1]["metrics"])
    assert {"labelled", "unlabelled", "kept"} <= lines[-1]["losses"].keys()


def test_what_is_told_of_debiased_labels_is_what_trains() -> None:
    built = build.build(spec("DebiasPL", hparams={"debias": 5.0, "threshold": 0.0}), CPU)
    weights(built, 8)
    algorithm, batch = built.algorithm, built.loader.batch(9)
    logits = algorithm(batch.u).detach()
    algorithm.q.copy_(logits.softmax(1).mean(0))
    assert not torch.equal(algorithm.pseudo_labels(logits), logits.argmax(1))
    assert torch.equal(algorithm.targets(algorithm.see(batch)).labels, algorithm.pseudo_labels(logits))


@pytest.mark.parametrize("base", ["FreeMatch", "MeanTeacher"])
def test_a_composition_by_the_command(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = "launch --algorithms FixCLR --datasets RotatedDigits --task semi_supervised --envs 75 --n_trials 1"
    where = f"--steps 2 --output_dir {tmp_path} --launcher serial --device cpu"
    for chosen in ({"base": base}, {}):
        assert sweep.main([*grid.split(), *where.split(), "--hparams", json.dumps(chosen)]) == 0
    runs = [json.loads(path.read_text().splitlines()[-1]) for path in tmp_path.glob("*/results.jsonl")]
    assert {run["hparams"]["base"] for run in runs} == {base, "FixMatch"}
    assert all("repelling" in run["losses"] for run in runs)
    capsys.readouterr()
    assert collect_results.main(["--input_dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"FixCLR (our reading, base={base})" in told
    assert "10 labels per class and source domain" in " ".join(told.split())
