"""Retrieval as a task: its scores, what a run may see, its tables, galleries and weights."""

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from literal_runs import write
from PIL import Image
from sklearn.metrics import average_precision_score
from torch.nn.functional import normalize

from dgbench import course, galleries, plots, records, retrieval, sweep, train
from dgbench.algorithms.ucdir import UCDIR
from dgbench.build import build
from dgbench.checkpoint import State
from dgbench.clustering import spherical_kmeans
from dgbench.collect import comparison, published, rules, tables
from dgbench.collect.load import load
from dgbench.errors import UsageError
from dgbench.losses.memory import similarities, softmax_entropy
from dgbench.losses.precision import backward
from dgbench.machine import Machine
from dgbench.meter import Meter
from dgbench.networks import moco, projection
from dgbench.networks.backbones import ResNet
from dgbench.report import drawings
from dgbench.sources.source import File
from dgbench.spec import RunSpec

torch.set_num_threads(1)
CPU = Machine(device="cpu", threads=1)


def spec(algorithm: str = "UCDIR", **given: Any) -> RunSpec:
    given = {"test_envs": ("0", "60"), "steps": 12, "checkpoint_freq": 4, **given}
    return RunSpec("RotatedDigits", algorithm, task="retrieval", **given).resolved()


# scores


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ucdir_pk"))
def test_scores_are_the_official_ones(case: Case) -> None:
    sides = [(case.x(f"feat_{d}"), case.x(f"label_{d}")) for d in "AB"]
    ks = case.hp["ks"].tolist()
    for (query, gallery), name in ((sides, "A2B"), (sides[::-1], "B2A")):
        found = retrieval.scores(*query, *gallery, ks)
        close(100 * np.array([found[f"P@{k}"] for k in ks]), case.outputs[f"pk_{name}"], 1e-9)
        close(100 * np.array([found[f"plain_P@{k}"] for k in ks]), case.alt[f"plain_pk_{name}"], 1e-9)


@pytest.mark.parametrize("at_once", [1, 50, 10**6])
def test_scores_are_those_of_a_full_ranking(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against argsort and scikit-learn, whatever the chunks; class 4 is in the queries alone."""
    monkeypatch.setitem(retrieval.SIMILARITIES, "cpu", at_once)
    r = np.random.default_rng(0)
    query, gallery = r.normal(size=(23, 6)), r.normal(size=(31, 6))
    labels, others = r.integers(5, size=23), r.integers(4, size=31)
    arguments = map(torch.from_numpy, (query, labels, gallery, others))
    found = retrieval.scores(*arguments, ks=(3, 40))
    similar = np.array([[u @ v / np.linalg.norm(u) / np.linalg.norm(v) for v in gallery] for u in query])
    right = (labels[:, None] == others) * 1
    ranked = np.take_along_axis(right, np.argsort(-similar, 1), 1)
    for k in (3, 40):
        depth = np.minimum(k, right.sum(1))
        hits = [row[:t].sum() for row, t in zip(ranked, depth, strict=True)]
        assert found[f"P@{k}"] == pytest.approx(sum(hits) / depth.sum())
        assert found[f"plain_P@{k}"] == pytest.approx(ranked[:, :k].sum() / k / 23)
    precisions = [average_precision_score(y, s) for y, s in zip(right, similar, strict=True) if y.any()]
    assert found["mAP"] == pytest.approx(np.mean(precisions))


def test_equal_similarities_are_ranked_by_the_row() -> None:
    gallery = torch.tensor([[1.0, 0], [0, 1], [1, 0], [-1, 0], [0, -1], [1, 0]])
    query = torch.tensor([[2.0, 0], [0, -3]])
    assert retrieval.nearest(query, gallery, 6).tolist() == [[0, 2, 5, 1, 4, 3], [4, 0, 2, 3, 5, 1]]


def test_threads_do_not_change_the_scores() -> None:
    r = torch.Generator().manual_seed(0)
    x, y = torch.randn(400, 8, generator=r), torch.randint(7, (400,), generator=r)
    one = retrieval.scores(x, y, x.flip(0), y.flip(0), (1, 5))
    torch.set_num_threads(3)
    several = retrieval.scores(x, y, x.flip(0), y.flip(0), (1, 5))
    torch.set_num_threads(1)
    assert one == several and one["P@1"] == 1


# what a run sees


@pytest.mark.parametrize("limit", [0, 40])
@pytest.mark.parametrize("split", ["official", "held_out"])
def test_what_is_trained_on_and_scored(split: str, limit: int) -> None:
    run = build(spec(split=split, max_images=limit), CPU)
    trained = {pool.domain.name: set(pool.indices.tolist()) for pool in run.split.unlabelled}
    scored = {pool.domain.name: set(pool.indices.tolist()) for pool in run.split.evaluated.values()}
    another = build(spec(split=split, max_images=limit, trial_seed=1), CPU)
    other = {pool.domain.name: set(pool.indices.tolist()) for pool in another.split.unlabelled}
    assert list(trained) == list(scored) == ["0", "60"] and run.split.labelled == ()
    for name, rows in trained.items():
        assert rows == scored[name] if split == "official" else not rows & scored[name]
        if limit:
            assert len(rows) == len(scored[name]) == limit
            assert rows != other[name], "drawn by the trial"
        else:
            assert len(rows | scored[name]) == len(run.split.domains[name])
    assert all(pool.labels is None for pool in run.split.unlabelled)


def test_held_out_images_are_never_looked_at() -> None:
    """Neither by the updates nor by the clustering: their pixels may be anything."""
    settings = spec(split="held_out", hparams={"warm_up": 0.0})

    def train_some(poison: bool) -> dict[str, torch.Tensor]:
        run = build(settings, CPU)
        for pool in run.split.evaluated.values() if poison else ():
            pool.domain.images[pool.indices] = 255 - pool.domain.images[pool.indices]
        state = State(run.algorithm, {}, Meter())
        for step in range(3):
            run.algorithm.step = step
            run.algorithm.begin_epoch(run.loader.epoch_pools(run.split))
            train.update(state, run.loader, step, run.seed)
        return copy.deepcopy(run.algorithm.state_dict())

    clean, poisoned = train_some(False), train_some(True)
    assert all(torch.equal(clean[name], poisoned[name]) for name in clean)


def test_metrics_are_those_of_the_evaluated_network() -> None:
    run = build(spec(split="held_out"), CPU)
    metrics = course.evaluate(run)
    pools = list(run.split.evaluated.values())
    run.algorithm.eval()
    with torch.no_grad():
        a, b = (normalize(run.algorithm(next(run.loader.images(pool)))) for pool in pools)
    first = (a @ b.T).argmax(1).numpy()
    assert metrics["0>60/P@1"] == pytest.approx((pools[1].labels[first] == pools[0].labels).mean())
    names = ("P@1", "P@5", "P@15", "plain_P@1", "plain_P@5", "plain_P@15", "mAP")
    assert set(metrics) == {f"{way}/{name}" for way in ("0>60", "60>0") for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["UCDIR", "ProtoNCE", "PCS", "CDS"])
def test_a_run_goes_on_in_the_middle_of_an_epoch(algorithm: str, tmp_path: Path) -> None:
    """Clusters and memories are in the checkpoint: the same records and weights as without a stop."""
    hparams: dict[str, Any] = {"batch_size": 100, "warm_up": 0.0, "align_from": 0.0, "ramp_end": 0.1}
    hparams = {name: value for name, value in hparams.items() if algorithm == "UCDIR" or name == "batch_size"}
    settings = spec(algorithm, hparams=hparams, checkpoint_freq=2)
    whole = train.run(settings, tmp_path / "whole", CPU)
    run = build(settings, CPU)
    assert run.algorithm.problem.steps_per_epoch == 3  # 300 images: the stop at 5 is inside the second
    state = State(run.algorithm, {}, Meter())
    for step in range(5):
        if step % 3 == 0:
            run.algorithm.step = step
            run.algorithm.begin_epoch(run.loader.epoch_pools(run.split))
        train.update(state, run.loader, step, run.seed)
    again = build(settings, CPU)
    again.algorithm.load_state_dict(copy.deepcopy(run.algorithm.state_dict()))
    for ours, theirs in zip(again.algorithm.optims, run.algorithm.optims, strict=True):
        ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for step in range(5, 12):
        if step % 3 == 0:
            again.algorithm.step = step
            again.algorithm.begin_epoch(again.loader.epoch_pools(again.split))
        train.update(State(again.algorithm, {}, Meter()), again.loader, step, again.seed)
    assert course.evaluate(again) == whole["metrics"]


def test_untrained_keeps_the_first_weights(tmp_path: Path) -> None:
    record = train.run(spec("Untrained", steps=3), tmp_path / "run", CPU)
    assert record["metrics"] == course.evaluate(build(spec("Untrained", steps=3), CPU))


def test_clusters_are_one_per_class_and_of_the_momentum_network() -> None:
    run = build(spec(hparams={"warm_up": 0.0}), CPU)
    assert isinstance(run.algorithm, UCDIR)
    run.algorithm.begin_epoch(run.loader.epoch_pools(run.split))
    for found, bank, pool in zip(
        run.algorithm.clusters, run.algorithm.banks, run.split.unlabelled, strict=True
    ):
        assert found.centroids.shape == (1, 10, 128) and sorted(set(found.labels[0].tolist())) == list(
            range(10)
        )
        with torch.no_grad():
            f = normalize(run.algorithm.key.eval()(next(run.loader.images(pool))))
        close(bank.rows[: len(f)], f, 1e-5, 1e-6)
        means = torch.stack([bank.rows[found.labels[0] == u].mean(0) for u in range(10)])
        close(found.centroids[0], normalize(means), 1e-3, 1e-3)


def test_an_evaluation_and_the_clusters_after_it_share_one_pass() -> None:
    """As long as no weight is written; the vectors are then those of the weights as they are."""
    run = build(spec(hparams={"warm_up": 0.0}), CPU)
    assert isinstance(run.algorithm, UCDIR)
    state, read = State(run.algorithm, {}, Meter()), []
    run.algorithm.key.register_forward_hook(lambda net, *_: None if net.training else read.append(1))

    def clusters() -> list[torch.Tensor]:
        run.algorithm.begin_epoch(run.loader.epoch_pools(run.split))
        return [found.centroids.clone() for found in run.algorithm.clusters]

    course.evaluate(run)
    batches = len(read)
    first = clusters()
    assert len(read) == batches > 0
    for step in range(2):  # the first leaves the momentum network where it is
        train.update(state, run.loader, step, run.seed)
    moved = clusters()
    assert len(read) == 2 * batches and not torch.equal(first[0], moved[0])
    run.loader.memos.clear()
    assert all(map(torch.equal, moved, clusters())) and len(read) == 3 * batches
    course.evaluate(run)
    with torch.no_grad():
        next(run.algorithm.key.parameters()).mul_(2)  # as averaged weights are put in and out
    clusters()
    assert len(read) == 5 * batches
    course.evaluate(run)
    train.update(state, run.loader, 2, run.seed)
    assert not run.loader.memos  # whether or not its optimizer counts what it writes


def test_an_epoch_is_evaluated_where_its_clusters_are_made(tmp_path: Path) -> None:
    """After the last update before: the images are read once for both."""
    assert records.evaluation_steps(spec(steps=7, checkpoint_freq=3)) == [0, 2, 5, 6]
    epoch = build(spec(), CPU).algorithm.problem.steps_per_epoch
    two = spec(hparams={"warm_up": 0.0}, steps=2 * epoch, checkpoint_freq=epoch)
    read: list[int] = []
    with course.opened(two, tmp_path / "run", CPU) as begun:
        assert begun is not None and isinstance(begun.run.algorithm, UCDIR)
        begun.run.algorithm.key.register_forward_hook(
            lambda net, *_: None if net.training else read.append(1)
        )
        begun.evaluate(0)
        once = len(read)
        train._train(begun, progress=False)
    assert len(read) == 4 * once  # above, after the first update, at the end of two epochs


def test_bf16_does_not_round_clusters_and_their_losses() -> None:
    """Features of a network that has hardly trained: all of them are near to each other."""
    r = torch.Generator().manual_seed(0)
    x = normalize(1 + 0.1 * torch.randn(120, 16, generator=r))
    q = x[:20].clone().requires_grad_()

    def found() -> tuple[torch.Tensor, torch.Tensor]:
        q.grad = None
        backward(softmax_entropy(similarities(q, x[20:30], 0.01)))
        return spherical_kmeans(x, 5, 2, torch.Generator().manual_seed(0))[1], q.grad

    expected = found()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, found(), expected))


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="two domains"):
        build(spec(test_envs=("0",)), CPU)
    with pytest.raises(UsageError, match="does not run under retrieval; choose from"):
        build(spec("ERM"), CPU)
    with pytest.raises(UsageError, match="max_images 5 has no meaning"):
        RunSpec("RotatedDigits", "ERM", test_envs=("0",), max_images=5).resolved()
    with pytest.raises(UsageError, match="official, held_out"):
        spec(split="half")


def test_a_run_that_diverged_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="features to be clustered are not finite: training diverged"):
        train.run(spec(steps=20, hparams={"lr": 1e10, "warm_up": 0.0}), tmp_path / "run", CPU)
    assert (tmp_path / "run" / "results.jsonl").exists(), "what was recorded stays"


@pytest.mark.skipif(find_spec("faiss") is not None, reason="faiss is installed")
def test_faiss_is_an_option() -> None:
    run = build(spec(hparams={"clustering": "faiss", "warm_up": 0.0}), CPU)
    with pytest.raises(UsageError, match="faiss is not installed; choose from: clustering=scikit-learn"):
        run.algorithm.begin_epoch(run.loader.epoch_pools(run.split))


# tables

HOME = {"backbone": "resnet50", "pretrained": "moco_v2_800ep", "freeze_bn": False, "checkpoint_freq": 10}


METRICS = {"P@1": 0.0, "P@5": 0.01, "P@15": 0.0} | {f"plain_P@{k}": 0.0 for k in (1, 5, 15)} | {"mAP": 0.02}


def literal(
    folder: Path, algorithm: str, pair: tuple[str, str], last: float, best: float, **more: Any
) -> None:
    """A run that is done, whose second of three evaluations is the best in the mean of both directions."""
    steps = more.pop("steps", 21)
    run = RunSpec("OfficeHome", algorithm, "retrieval", pair, steps=steps, **HOME, **more)
    ways = [f"{a}>{b}" for a, b in (pair, pair[::-1])]
    lines = []
    for step, value in zip((0, 10, steps - 1), (0.1, best, last), strict=True):
        metrics = {
            f"{way}/{name}": value + extra - 0.05 * place
            for place, way in enumerate(ways)
            for name, extra in METRICS.items()
        }
        parts = {"validation": [], "test": ways, "oracle": ways}
        lines.append(
            {"run": run.run_id(), "spec": run.to_dict(), "step": step, "metrics": metrics, "parts": parts}
        )
    write(folder, run, lines)


def printed(table: tables.Table) -> dict[str, list[str]]:
    return {row.label: [*map(str, row.cells), str(row.average)] for row in table.rows}


def test_a_table_per_metric_and_a_column_per_direction(tmp_path: Path) -> None:
    literal(tmp_path, "ID", ("Art", "Clipart"), 0.4, 0.5)
    literal(tmp_path, "ID", ("Art", "Real World"), 0.5, 0.6)
    found = tables.build(load(tmp_path), rules.RULES[rules.DEFAULT])
    names = ["P@1", "P@5", "P@15", "mAP", "plain_P@1", "plain_P@5", "plain_P@15"]
    assert [table.variant for table in found] == [f"metric: {name}" for name in names]
    first, second, *_ = found
    assert first.columns == ["A>C", "A>R", "C>A", "R>A"]
    assert printed(first) == {"ID": ["40.0", "50.0", "35.0", "45.0", "42.5"]}
    assert printed(second) == {"ID": ["41.0", "51.0", "36.0", "46.0", "43.5"]}
    assert "selection: last checkpoint" in first.heading
    assert "P@1 in percent" in first.caption[0] and "images trained on" in first.caption[0]


def test_both_directions_are_of_one_run(tmp_path: Path) -> None:
    """Of its cost, of a paired test, of its curve, and of a shared draw."""
    for trial in range(2):
        for algorithm, score in (("ERM", 0.3), ("ID", 0.4)):
            literal(tmp_path, algorithm, ("Art", "Clipart"), score + trial / 100, 0.5, trial_seed=trial)
    for path in tmp_path.glob("*/results.jsonl"):
        lines = [json.loads(line) | {"seconds": {"train": 1799.0, "evaluate": 1.0}} for line in path.open()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines[-1:]))
    sweep_ = load(tmp_path)
    (table, *_) = tables.build(sweep_, rules.RULES[rules.DEFAULT])
    comparison.add_cost([table])
    comparison.add_baseline([table])
    _, own = table.rows
    assert own.extra["Hours"] == "1.00"
    assert "over the 2 pairs of runs, the mean of both directions" in table.caption[-1]
    assert own.extra["vs ERM"] == "+10.0" and own.extra["p"] == "0.5"
    assert len(drawings._chosen(table, own)) == 4
    (shared, *_) = tables.build(sweep_, rules.RULES[rules.DEFAULT], draws="shared")
    assert printed(shared) == printed(table)


def test_draws_that_nothing_could_choose_from_are_not_planned() -> None:
    with pytest.raises(UsageError, match="retrieval has no labels to choose among several draws"):
        sweep.grid(["ID"], ["RotatedDigits"], task="retrieval", n_hparams=2)


def test_the_oracle_epoch_is_printed_under_its_name_alone(tmp_path: Path) -> None:
    literal(tmp_path, "ID", ("Art", "Clipart"), 0.4, 0.5)
    (first, *_) = tables.build(load(tmp_path), rules.RULES["oracle_epoch"])
    assert printed(first) == {"ID": ["50.0", "45.0", "47.5"]} and "oracle epoch" in first.heading


def test_runs_of_some_epochs_share_a_table_and_others_do_not(tmp_path: Path) -> None:
    literal(tmp_path, "ID", ("Art", "Clipart"), 0.4, 0.5)
    literal(tmp_path, "ID", ("Art", "Product"), 0.4, 0.5, steps=31)
    literal(tmp_path, "Untrained", ("Art", "Product"), 0.1, 0.1, steps=12)
    (first, *_) = tables.build(load(tmp_path), rules.RULES["last"])
    assert set(printed(first)) == {"ID", "Untrained"} and printed(first)["Untrained"][0] == "- (0/1)"
    literal(tmp_path, "ID", ("Art", "Clipart"), 0.6, 0.7, steps=41)
    found = tables.build(load(tmp_path), rules.RULES["last"])
    assert {"steps: 41, metric: P@1", "steps: 31, metric: P@1"} < {table.variant for table in found}


def test_published_numbers_stand_below(tmp_path: Path) -> None:
    literal(tmp_path, "UCDIR", ("Art", "Real World"), 0.4, 0.5)
    found = tables.build(load(tmp_path), rules.RULES["oracle_epoch"])
    published.add(found)
    rows = printed(found[0])
    assert rows["UCDIR, published (UCDIR, ECCV 2022)"] == ["45.12", "47.95", "-"]
    assert rows["ID, published (UCDIR, ECCV 2022)"][:2] == ["35.89", "39.89"]
    assert rows["  UCDIR: verdict"][0] == "+4.9, no test"  # one run each
    assert published._names("DomainNet7") == (
        "DomainNet",
        {"clipart": "clip", "infograph": "info", "painting": "paint", "quickdraw": "quick"}
        | {"real": "real", "sketch": "sketch"},
    )


# galleries


def test_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.run(spec("ID", split="held_out"), tmp_path / "run", CPU)
    assert plots.main(["gallery", str(tmp_path / "run"), "--device", "cpu", "--queries", "3"]) == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert names == ["gallery-0-to-60.png", "gallery-60-to-0.png"]
    run = plots.load(tmp_path / "run", CPU)
    found = retrieval.embedded(run)
    a, b = run.split.evaluated.values()
    rows = np.sort(np.random.default_rng(0).permutation(len(a))[:3])
    ranked = retrieval.nearest(found["0"][0][rows], found["60"][0], 10)
    with Image.open(tmp_path / "run" / names[0]) as opened:
        sheet = np.asarray(opened)
    side = galleries.PIXELS + 2 * galleries.FRAME
    assert sheet.shape == (3 * side, 11 * side + galleries.GAP, 3)
    for line in range(3):
        for place in range(10):
            corner = sheet[line * side, galleries.GAP + side * (1 + place)]
            same = b.labels[ranked[line, place]] == a.labels[rows[line]]
            assert tuple(corner) == (galleries.GREEN if same else galleries.RED)
    middle = side // 2
    shown = sheet[middle, middle + side + galleries.GAP, 0]  # of the nearest image, 8 x 8 pixels
    assert shown == b.domain.images[b.indices[ranked[0, 0]]][4, 4, 0]


def test_a_gallery_of_frozen_features_shows_the_images(tmp_path: Path) -> None:
    train.run(spec("ID", split="held_out", frozen=True), tmp_path / "run", CPU)
    run = plots.load(tmp_path / "run", CPU)
    path, _ = galleries.pictures(run, tmp_path, queries=3)
    rows = np.sort(np.random.default_rng(0).permutation(len(run.split.evaluated["0/out"]))[:3])
    (images,) = run.dataset.load(["0"])
    side, first = galleries.PIXELS + 2 * galleries.FRAME, run.split.evaluated["0/out"].indices[rows[0]]
    with Image.open(path) as opened:
        assert np.asarray(opened)[side // 2, side // 2, 0] == images.images[first][4, 4, 0]


def test_a_gallery_is_of_a_run_of_retrieval(tmp_path: Path) -> None:
    train.run(RunSpec("RotatedDigits", "ERM", test_envs=("0",), steps=2), tmp_path / "run", CPU)
    with pytest.raises(UsageError, match="choose: latent"):
        plots.main(["gallery", str(tmp_path / "run"), "--device", "cpu"])


# data


def folder_of(root: Path, classes: tuple[str, ...], domains: tuple[str, ...]) -> None:
    for d, domain in enumerate(domains):
        for c, name in enumerate(classes):
            (root / domain / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (40 * d, 30 * c, 0)).save(root / domain / name / "1.png")


def test_domainnet7_reads_its_seven_classes_alone(tmp_path: Path) -> None:
    from dgbench.datasets.domainnet7 import DomainNet7

    classes = ("aardvark", *DomainNet7.classes, "zigzag")
    folder_of(tmp_path / "domain_net", classes, ("clipart", "real"))
    (domain,) = DomainNet7(tmp_path, image_size=8, cache="none").load(["real"])
    assert domain.labels.tolist() == list(range(7))
    assert np.asarray(domain.images[np.arange(7)])[:, 0, 0, 1].tolist() == [30 * (1 + c) for c in range(7)]
    assert DomainNet7.count("clipart", tmp_path) == 1959 and DomainNet7.count("real", tmp_path) == 7
    assert sweep.steps_of_epochs("DomainNet7", ("clipart", "sketch"), 200, 64) == (6400, 32)


def test_a_data_set_that_is_made_is_not_counted() -> None:
    with pytest.raises(UsageError, match="give --steps"):
        sweep.steps_of_epochs("RotatedDigits", ("0", "60"), 1, 1)


# weights


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A file as MoCo's, where torch keeps such files; its checksum is known."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    net = ResNet("resnet50", "none", False, 0.0).net
    head = torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 128))
    state = {f"{moco._QUERY}{key}": value for key, value in net.state_dict().items()}
    state |= {f"{moco._QUERY}fc.{key}": value for key, value in head.state_dict().items()}
    state["module.queue"] = torch.zeros(2)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    path = folder / moco.MOCO["moco_v2_800ep"].name
    torch.save({"state_dict": state}, path)
    from dgbench.sources.fetch import digest

    file = File("https://nowhere.invalid/weights", path.name, md5=digest(path, "md5")[:8])
    monkeypatch.setitem(moco.MOCO, "moco_v2_800ep", file)
    return state


@pytest.mark.slow
def test_moco_weights_start_backbone_and_head(checkpoint: dict[str, torch.Tensor]) -> None:
    net = ResNet("resnet50", "moco_v2_800ep", False, 0.0)
    assert torch.equal(net.net.layer4[2].conv3.weight, checkpoint[f"{moco._QUERY}layer4.2.conv3.weight"])
    problem: Any = type("Problem", (), {"pretrained": "moco_v2_800ep"})
    assert torch.equal(projection(problem, 2048, 128)[2].weight, checkpoint[f"{moco._QUERY}fc.2.weight"])
    assert projection(problem, 2048, 64)[2].weight.shape == (64, 2048)


@pytest.mark.slow
def test_wrong_or_missing_moco_weights_are_one_line(
    checkpoint: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = File("https://nowhere.invalid/weights", moco.MOCO["moco_v2_800ep"].name, md5="00000000")
    monkeypatch.setitem(moco.MOCO, "moco_v2_800ep", wrong)
    with pytest.raises(UsageError, match=r"cannot get the weights moco_v2_800ep.*or choose from"):
        ResNet("resnet50", "moco_v2_800ep", False, 0.0)
    with pytest.raises(UsageError, match="unknown weights of resnet18 'moco_v2_800ep'"):
        ResNet("resnet18", "moco_v2_800ep", False, 0.0)


def test_evaluation_is_recorded(tmp_path: Path) -> None:
    train.run(spec("ID", averaging=("ema",)), tmp_path / "run", CPU)
    lines = [json.loads(line) for line in (tmp_path / "run" / "results.jsonl").read_text().splitlines()]
    assert {line["weights"] for line in lines} == {"raw", "ema"}
    assert lines[0]["parts"] == {"validation": [], "test": ["0>60", "60>0"], "oracle": ["0>60", "60>0"]}
