"""What each task shows to training, to selection and to the score."""

import math

import numpy as np
import pytest
import torch

from dgbench import build, registry, schedule, splits, sweep, tasks
from dgbench.algorithm import Batch
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.sam import SAM
from dgbench.build import Built
from dgbench.checkpoint import State
from dgbench.datasets.rotateddigits import RotatedDigits
from dgbench.errors import UsageError
from dgbench.machine import Machine
from dgbench.meter import Meter
from dgbench.spec import RunSpec
from dgbench.tasks import Pool, few_per_class
from dgbench.train import run, update


class Sees(ERM):
    """Plain training that asks for every view."""

    needs = ("unlabelled", "strong", "strong_labelled")

    def keep(self, logits):
        return logits.softmax(1).amax(1) >= 0.5


class Pairs(ERM):
    """Two draws of unlabelled images."""

    needs = ("unlabelled", "two")
    tasks = ("retrieval",)


def built(method: type[ERM], task: str, **given) -> Built:
    with registry.registered(method):
        given = {"test_envs": ("0",), "steps": 2, **given}
        spec = RunSpec("RotatedDigits", method.__name__, task=task, **given).resolved()
        return build.build(spec, Machine())


def rows(pool: Pool) -> set[int]:
    return set(pool.indices.tolist())


@pytest.mark.parametrize(("trial", "target"), [(0, "0"), (2, "30")])
def test_a_run_has_the_trials_split_of_every_domain(trial: int, target: str) -> None:
    """The domain's place in the data set seeds it, not its place among the sources."""
    split = built(ERM, "domain_generalization", test_envs=(target,), trial_seed=trial).split
    inside = {pool.domain.name: pool for pool in split.labelled} | {target: split.evaluated[f"{target}/in"]}
    for env, name in enumerate(RotatedDigits.domains):
        outside = split.evaluated[f"{name}/out"]
        expected = splits.split(len(outside.domain), 0.2, trial, env)
        for pool, rows_ in zip((inside[name], outside), expected, strict=True):
            assert np.array_equal(pool.indices, rows_) and pool.env == env


@pytest.mark.parametrize("given", [{"seed": 1}, {"trial_seed": 1}])
def test_seed_and_trial_change_weights_and_batches(given: dict[str, int]) -> None:
    first, again, other = (built(ERM, "domain_generalization", **own) for own in ({}, {}, given))
    weights = [
        torch.cat([p.detach().flatten() for p in b.algorithm.parameters()]) for b in (first, again, other)
    ]
    drawn = [b.loader.batch(0).idx for b in (first, again, other)]
    for same, same_too, different in (weights, drawn):
        assert torch.equal(same, same_too) and not torch.equal(same, different)


def test_an_epoch_is_of_the_smallest_pool_and_in_retrieval_of_the_largest() -> None:
    plain = built(ERM, "domain_generalization", holdout_fraction=0.201)
    few = built(Sees, "semi_supervised", hparams={"unlabelled_ratio": 2}, holdout_fraction=0.201)
    pair = built(Pairs, "retrieval", test_envs=("0", "60"))
    for one, pools, of, ratio in (
        (plain, plain.split.labelled, min, 1),
        (few, few.split.unlabelled, min, 2),
        (pair, pair.split.unlabelled, max, 1),
    ):
        sizes = [len(pool) for pool in pools]
        assert min(sizes) < max(sizes)
        assert one.steps_per_epoch == of(sizes) / (ratio * one.algorithm.hp["batch_size"])


def test_semi_supervised_cuts_the_in_part_in_labelled_and_unlabelled() -> None:
    few = built(Sees, "semi_supervised", labels_per_class=3)
    full = built(ERM, "domain_generalization")
    assert few.split.parts == full.split.parts
    for labelled, unlabelled, whole in zip(
        few.split.labelled, few.split.unlabelled, full.split.labelled, strict=True
    ):
        assert labelled.domain.name == unlabelled.domain.name == whole.domain.name != "0"
        assert np.bincount(labelled.labels).tolist() == [3] * 10
        assert np.array_equal(labelled.labels, labelled.domain.labels[labelled.indices])
        assert rows(labelled) | rows(unlabelled) == rows(whole)
        assert not rows(labelled) & rows(unlabelled)
        assert unlabelled.labels is None


def test_few_labels_depend_on_pixels_and_seed_not_on_the_order_of_files() -> None:
    pool = built(ERM, "domain_generalization").split.labelled[0]
    order = np.random.default_rng(1).permutation(len(pool))
    chosen = rows(pool.take(np.flatnonzero(few_per_class(pool, 4, 0))))
    shuffled = pool.take(order)
    assert rows(shuffled.take(np.flatnonzero(few_per_class(shuffled, 4, 0)))) == chosen
    assert rows(pool.take(np.flatnonzero(few_per_class(pool, 4, 1)))) != chosen
    assert few_per_class(pool, 10_000, 0).all()


def test_all_labels_leave_nothing_unlabelled() -> None:
    with pytest.raises(UsageError, match="leaves no unlabelled image of 15"):
        built(ERM, "semi_supervised", labels_per_class=10_000)


def test_domain_adaptation_trains_on_the_targets_images_without_labels() -> None:
    split = built(Sees, "domain_adaptation", source_envs=("30",)).split
    (source,), (target,) = split.labelled, split.unlabelled
    assert (source.domain.name, target.domain.name) == ("30", "0")
    assert target.labels is None and len(target) == len(target.domain)
    assert split.parts == {"validation": ["30/out"], "test": ["0/all"], "oracle": ["0/all"]}
    assert not rows(source) & rows(split.evaluated["30/out"])
    assert len(built(Sees, "domain_adaptation").split.labelled) == 5  # from several sources


def test_retrieval_has_no_labels_and_two_directions() -> None:
    official = built(Pairs, "retrieval", test_envs=("0", "60")).split
    held_out = built(Pairs, "retrieval", test_envs=("0", "60"), split="held_out").split
    for split in (official, held_out):
        assert split.parts == {"validation": [], "test": ["0>60", "60>0"], "oracle": ["0>60", "60>0"]}
        assert [pool.labels for pool in split.unlabelled] == [None, None] and split.labelled == ()
    for name, pool in zip(("0", "60"), official.unlabelled, strict=True):
        assert rows(pool) == rows(official.evaluated[f"{name}/all"])
    for name, pool in zip(("0", "60"), held_out.unlabelled, strict=True):
        assert not rows(pool) & rows(held_out.evaluated[f"{name}/out"])
    for wrong in (("0",), ("0", "15", "30")):
        with pytest.raises(UsageError, match="retrieval needs two domains"):
            built(Pairs, "retrieval", test_envs=wrong)


def test_the_views_of_a_batch_show_the_same_rows() -> None:
    """Weak and strong views differ in pixels, not in images: undone, both have the row's own mass of ink."""
    run = built(Sees, "semi_supervised", hparams={"unlabelled_ratio": 2, "data_augmentation": False})
    batch, b = run.loader.batch(3), run.algorithm.hp["batch_size"]
    assert batch.x.shape == batch.x2.shape == (5 * b, 1, 8, 8)
    assert batch.u.shape == batch.u2.shape == (5 * 2 * b, 1, 8, 8)
    assert batch.num_unlabelled == len(run.algorithm.problem.unlabelled_sizes) == 5
    assert batch.images == 15 * b, "several views of one are one"
    assert batch.per_unlabelled(batch.ud).eq(torch.arange(5)[:, None]).all()
    own = torch.stack(
        [
            torch.from_numpy(pool.domain.images[pool.indices[i]].copy())
            for pool, i in (
                (run.split.unlabelled[d], i)
                for d, i in zip(batch.ud.tolist(), batch.uidx.tolist(), strict=True)
            )
        ]
    )
    assert torch.allclose(batch.u, own.permute(0, 3, 1, 2) / 255)
    assert not torch.equal(batch.u2, batch.u)
    assert not torch.equal(run.loader.batch(4).uidx, batch.uidx)


def test_retrieval_draws_each_image_once_an_epoch_in_two_views() -> None:
    run = built(Pairs, "retrieval", test_envs=("0", "60"), hparams={"batch_size": 10})
    assert len(run.loader.batch(0).x) == len(run.loader.batch(0).y) == 0
    batches = [run.loader.batch(step) for step in range(min(map(len, run.split.unlabelled)) // 10)]
    for d in range(2):
        seen = torch.cat([batch.uidx[batch.ud == d] for batch in batches])
        assert len(seen.unique()) == len(seen)
    assert not torch.equal(batches[0].u, batches[0].u2)


def test_workers_decide_no_pixel_of_unlabelled_images() -> None:
    """The two streams of a batch come out of one process as they come out of another."""
    inline = built(Sees, "semi_supervised").loader
    with registry.registered(Sees):
        spec = RunSpec("RotatedDigits", "Sees", task="semi_supervised", test_envs=("0",), steps=2).resolved()
        ahead = build.build(spec, Machine(data_workers=1)).loader
    for step in range(3):
        ours, theirs = vars(inline.batch(step)), vars(ahead.batch(step))
        assert ours.keys() == vars(Batch(*[None] * 5)).keys()
        assert all(
            torch.equal(v, theirs[k]) if isinstance(v, torch.Tensor) else v == theirs[k]
            for k, v in ours.items()
        )


def test_a_run_records_pseudo_labels_of_methods_that_have_them(tmp_path) -> None:
    with registry.registered(Sees):
        spec = RunSpec("RotatedDigits", "Sees", task="semi_supervised", test_envs=("0",), steps=30)
        metrics = run(spec, tmp_path / "run")["metrics"]
    told = [metrics[f"15/unlabelled/{name}"] for name in ("pseudo_acc", "keep", "kept_acc")]
    assert all(0 < value <= 1 for value in told)
    pool = built(Sees, "semi_supervised").split.pseudo["15/unlabelled"]
    right = told[2] * told[1] * len(pool)
    assert math.isclose(right, round(right), abs_tol=1e-6)  # a count
    plain = run(
        RunSpec("RotatedDigits", "ERM", task="semi_supervised", test_envs=("0",), steps=1), tmp_path / "plain"
    )
    assert not any("unlabelled" in key for key in plain["metrics"])


@pytest.mark.parametrize(
    ("method", "task", "said"),
    [
        (Sees, "domain_generalization", "choose from: semi_supervised, domain_adaptation"),
        (Pairs, "semi_supervised", "Pairs needs two images, which semi_supervised does not give"),
        (ERM, "retrieval", "ERM does not run under retrieval"),
    ],
)
def test_a_task_that_cannot_give_what_a_method_needs(method, task, said) -> None:
    with pytest.raises(UsageError, match=said):
        built(method, task, test_envs=("0", "15") if task == "retrieval" else ("0",))


def test_grids() -> None:
    def where(**given) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
        specs = sweep.grid(["ERM"], ["PACS"], n_trials=1, **given)
        return [(spec.source_envs, spec.test_envs) for spec in specs]

    pairs = where(task="domain_adaptation", pairs=True)
    assert len(set(pairs)) == 12 and all(len(s) == len(t) == 1 and s != t for s, t in pairs)
    assert where(task="domain_adaptation", envs=("sketch",)) == [((), ("sketch",))]
    assert len(where(task="retrieval")) == 6
    assert where(task="retrieval", envs=("photo", "sketch")) == [((), ("photo", "sketch"))]
    ids = [spec.run_id() for spec in sweep.grid(["ERM"], ["PACS"], 1, task="domain_adaptation", pairs=True)]
    assert len(set(ids)) == 12 and ids[0].startswith("PACS-ERM-cartoon_to_art_painting-")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [1, 1, 1]),
        ("cosine", [1, 0.5, 0.5 * (1 + math.cos(0.7 * math.pi))]),
        ("cosine_epoch", [1, 0.5 * (1 + math.cos(0.4 * math.pi)), 0.5 * (1 + math.cos(0.4 * math.pi))]),
        ("inverse", [1, 1.5**-0.75, 1.7**-0.75]),
    ],
)
def test_schedules(name: str, expected: list[float]) -> None:
    found = [schedule.factor(name, step, 10, 4, 0.1) for step in (0, 5, 7)]
    assert found == pytest.approx(expected)


def test_a_schedule_scales_every_group(tmp_path) -> None:
    hparams = {"lr_schedule": "cosine", "featurizer_lr": 0.1, "lr": 0.5, "optimizer": "sgd"}
    algorithm = built(ERM, "domain_generalization", hparams=hparams).algorithm
    for algorithm.step in (0, 1):
        schedule.apply(algorithm)
    (optim,) = algorithm.optims
    assert [group["lr"] for group in optim.param_groups] == pytest.approx([0.025, 0.25])
    inside = {id(p) for p in algorithm.featurizer.parameters()}
    assert {id(p) for p in optim.param_groups[0]["params"]} == inside
    assert sum(len(group["params"]) for group in optim.param_groups) == len(list(algorithm.parameters()))


@pytest.mark.parametrize(
    ("name", "chosen", "is_made"),
    [
        ("FixMatch", {}, False),
        ("FixMatch", {"variant": "ssdg"}, True),
        ("FixCLR", {"base": "FreeMatch"}, False),
        ("DeFixMatch", {}, True),
        ("StyleMatch", {}, True),
    ],
)
def test_the_strong_view_of_labelled_images_is_made_where_it_is_used(
    name: str, chosen: dict, is_made: bool
) -> None:
    run = built(registry.find("algorithms", name), "semi_supervised", hparams=chosen)
    batch = run.loader.batch(0)
    assert (batch.x2 is not None) == is_made and batch.u2 is not None
    run.algorithm.update(batch)


def test_the_form_of_the_benchmark_is_not_of_a_target() -> None:
    """One source and one target: as many labelled as unlabelled domains, which are others."""
    given = {"hparams": {"variant": "ssdg"}, "source_envs": ("15",)}
    with pytest.raises(UsageError, match="variant=general"):
        built(registry.find("algorithms", "FixMatch"), "domain_adaptation", **given)


@pytest.mark.parametrize("name", registry.names("algorithms"))
def test_a_non_linear_classifier_is_one_or_is_refused(name: str) -> None:
    method = registry.find("algorithms", name)
    task = method.tasks[0]
    given = {"test_envs": ("0", "15")} if task == "retrieval" else {"source_envs": ("30", "45")}
    if method.own_classifier:
        with pytest.raises(UsageError, match="classifier of its own"):
            built(method, task, hparams={"nonlinear_classifier": True}, **given)
        return
    layers = [
        sum(
            isinstance(m, torch.nn.Linear)
            for m in built(method, task, hparams=chosen, **given).algorithm.modules()
        )
        for chosen in ({}, {"nonlinear_classifier": True})
    ]
    assert layers[1] > layers[0]


@pytest.mark.parametrize("name", ["ERMPlusPlus", "EQRM", "MIRO", "RDM", "SagNet", "Transfer", "URM"])
def test_methods_with_optimizers_of_their_own_slow_the_featurizer(name: str) -> None:
    run = built(
        registry.find("algorithms", name), "domain_generalization", hparams={"featurizer_lr": 0.1, "lr": 0.5}
    )
    inside = {id(p) for p in run.algorithm.featurizer.parameters()}
    rates = {
        group["lr"]
        for optim in run.algorithm.optims
        for group in optim.param_groups
        if inside & {id(p) for p in group["params"]}
    }
    assert rates == {0.5 * 0.1}


def test_an_optimizer_that_starts_anew_keeps_to_the_schedule() -> None:
    """The update at which IRM restarts Adam has the learning rate that ERM has there."""
    rates = {}
    for name, own in (("IRM", {"irm_penalty_anneal_iters": 3}), ("ERM", {})):
        run = built(
            registry.find("algorithms", name),
            "domain_generalization",
            hparams={"lr_schedule": "cosine", **own},
            steps=6,
        )
        state = State(run.algorithm, {}, Meter())
        rates[name] = []
        for step in range(6):
            update(state, run.loader, step, run.seed)
            rates[name].append(run.algorithm.optims[0].param_groups[0]["lr"])
    assert rates["IRM"] == rates["ERM"]


def test_autocast_keeps_no_copies_of_weights() -> None:
    """Methods that change weights within an update (SAM, Fish) would read the ones before."""
    run = built(SAM, "domain_generalization", precision="bf16", hparams={"rho": 50.0})
    state = State(run.algorithm, {}, Meter())
    with run.autocast():
        update(state, run.loader, 0, run.seed)
    losses = state.meter.read()[0]
    assert losses["perturbed"] > losses["loss"] + 0.5


def test_every_task_is_described() -> None:
    assert tasks.TASKS.keys() == tasks.GIVES.keys()
    assert all(task.__doc__ for task in tasks.TASKS.values())
