import io
import json
import math

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from torch import nn

from dgbench.averager import Averager, estimate_batch_norm
from dgbench.averaging import AVERAGERS, EMA, RANGES, SWA, make
from dgbench.errors import UsageError
from dgbench.networks.split_norm import split_batch_norms
from dgbench.spec import AVERAGING
from dgbench.swad import SWAD, SWADPaper

torch.set_num_threads(1)


class Toy(nn.Module):
    """Stands for an algorithm: one parameter, one buffer, both set by hand after each "update"."""

    class problem:
        num_steps = 1
        freeze_bn = True

    def __init__(self, weights: np.ndarray, buffers: np.ndarray | None = None) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(weights.shape[1:], dtype=torch.float64))
        self.register_buffer("buf", torch.zeros(1, dtype=torch.float64))
        self.weights = torch.as_tensor(weights)
        self.buffers_ = torch.arange(len(weights)).view(-1, 1) if buffers is None else torch.tensor(buffers)

    def at(self, step: int) -> None:
        self.w.data.copy_(self.weights[step])
        self.buf.copy_(self.buffers_[step])


def drive(averager: Averager, toy: Toy, losses, freq: int, steps) -> None:
    """What the trainer does, over ``steps``."""
    for step in steps:
        toy.at(step)
        averager.update(toy, step)
        if step % freq == 0 and step // freq < len(losses):
            averager.evaluated(toy, step, float(losses[step // freq]))


def swad(case: Case, toy: Toy) -> SWAD:
    return SWAD(toy, **{name: case.hp[name] for name in ("n_converge", "n_tolerance", "tolerance_ratio")})


def saved_and_loaded(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


SWAD_CASES = cases("dg", "swad_lossvalley")


@pytest.mark.golden
@pytest.mark.parametrize("case", SWAD_CASES)
def test_swad_final_model(case: Case) -> None:
    toy = Toy(case.inputs["weights"], case.inputs["buffers"])
    averager, out = swad(case, toy), case.outputs
    drive(averager, toy, case.inputs["val_loss"], case.hp["freq"], range(len(toy.weights)))
    info = averager.info()
    assert info["converged"] == bool(out["converged"])
    assert (-1 if info["converge_step"] is None else info["converge_step"]) == out["converge_step"]
    assert (-1 if info["dead_step"] is None else info["dead_step"]) == out["dead_step"]
    assert (info["start_step"], info["end_step"]) == (out["start_step"], out["end_step"])
    assert info["n_averaged"] == out["n_averaged"]
    close(np.nan if info["threshold"] is None else info["threshold"], out["threshold"], 1e-12)
    with averager.swapped(toy):
        close(toy.w, out["final_w"], 1e-12, 0)
        close(toy.buf, out["final_buf"], 0, 0)


@pytest.mark.golden
@pytest.mark.parametrize("case", SWAD_CASES)
def test_swad_segments(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(case.inputs["weights"], case.inputs["buffers"])
    averager, freq = swad(case, toy), case.hp["freq"]
    entered: list[tuple[int, int]] = []

    def append(mean, segments, by_steps):
        entered.extend((segment.first, segment.last) for segment in segments)
        original(mean, segments, by_steps)

    from dgbench import swad as module

    original = module.append
    monkeypatch.setattr(module, "append", append)
    done = 0
    for step, converged, dead, start, end, n, appended in case.outputs["per_eval"]:
        before = len(entered)
        drive(averager, toy, case.inputs["val_loss"], freq, range(done, step + 1))
        done = step + 1
        mean = averager.mean
        assert (averager.converge_step is not None) == converged
        assert (averager.dead_step is not None) == dead
        assert (mean.first, mean.last, mean.n) == (start, end, n)
        assert len(entered) - before == appended
    averager.result()
    assert entered == [tuple(row) for row in case.outputs["segments"].tolist()]


@pytest.mark.golden
@pytest.mark.parametrize("case", SWAD_CASES)
def test_swad_resumed_anywhere(case: Case) -> None:
    """A state saved after any step leads to the same final weights, bit for bit."""
    toy = Toy(case.inputs["weights"], case.inputs["buffers"])
    losses, freq, steps = case.inputs["val_loss"], case.hp["freq"], len(toy.weights)
    whole = swad(case, toy)
    drive(whole, toy, losses, freq, range(steps))
    toy = Toy(case.inputs["weights"], case.inputs["buffers"])
    averager = swad(case, toy)
    for step in range(steps):
        drive(averager, toy, losses, freq, [step])
        state = saved_and_loaded(averager.state_dict())
        averager = swad(case, toy)
        averager.load_state_dict(state)
    assert averager.info() == whole.info()
    ours, theirs = averager.result(), whole.result()
    assert all(torch.equal(a, b) for a, b in zip(ours.values, theirs.values, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers, theirs.buffers, strict=True))


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("dg", "swa_average"))
def test_swa_is_the_official_running_average(case: Case) -> None:
    toy = Toy(case.inputs["weights"])
    averager = SWA(toy, start_fraction=0.0)
    for step, expected in enumerate(case.outputs["running_average"]):
        drive(averager, toy, [], 1, [step])
        with averager.swapped(toy):
            close(toy.w, expected, 1e-12, 0)
            close(toy.buf, case.outputs["buf"], 0, 0)
    out = case.outputs
    assert averager.info() == {
        "start_step": out["start_step"],
        "end_step": out["end_step"],
        "n_averaged": out["n_averaged"],
    }


def test_swa_begins_at_its_fraction_of_the_run() -> None:
    weights = np.random.RandomState(0).randn(10, 3)
    toy = Toy(weights)
    toy.problem = type("problem", (), {"num_steps": 10, "freeze_bn": True})
    averager = SWA(toy, start_fraction=0.6)
    drive(averager, toy, [], 1, range(6))
    assert not averager.ready(last=False)
    drive(averager, toy, [], 1, range(6, 10))
    assert averager.ready(last=False)
    with averager.swapped(toy):
        close(toy.w, weights[6:].mean(0))
        assert toy.buf == 6


def _ema_by_hand(weights: np.ndarray, decay: float) -> np.ndarray:
    value = weights[0]
    for n, w in enumerate(weights):
        alpha = min(1 - 1 / (n + 1), decay)
        value = alpha * value + (1 - alpha) * w
    return value


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_ema(decay: float) -> None:
    weights = np.random.RandomState(1).randn(25, 4)
    toy = Toy(weights)
    averager = EMA(toy, decay)
    drive(averager, toy, [], 1, range(25))
    with averager.swapped(toy):
        close(toy.w, _ema_by_hand(weights, decay))
        assert toy.buf == 24  # the current buffers
    assert averager.info() == {"start_step": 0, "end_step": 24, "n_averaged": 25, "decay": decay}


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ema_teacher"))
def test_ema_ramp(case: Case) -> None:
    toy = Toy(case.inputs["theta"])
    decay = next(value for name, value in case.hp.items() if name.startswith(("alpha", "decay")))
    averager = EMA(toy, decay)
    for step, expected in enumerate(case.outputs["teacher"]):
        drive(averager, toy, [], 1, [step])
        close(averager.result().values[0], expected, 1e-12)


class Net(nn.Module):
    """Float and integer buffers, a frozen parameter, a channels-last one."""

    class problem:
        num_steps = 12
        freeze_bn = True

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)
        self.head.bias.requires_grad_(False)
        self.register_buffer("bank", torch.zeros(5, dtype=torch.bool))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def train(net: Net, averagers: dict[str, Averager], steps, freq: int = 2) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optim = torch.optim.SGD(net.parameters(), lr=0.1)
        optim.zero_grad()
        net(torch.randn(6, 2, 5, 5, generator=generator)).square().mean().backward()
        optim.step()
        for averager in averagers.values():
            averager.update(net, step)
        if step % freq == 0:
            for averager in averagers.values():
                averager.evaluated(net, step, 1 / (1 + step))


def bits(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("name", AVERAGING)
def test_swapped_restores_exactly(name: str) -> None:
    net = Net()
    averager = make([name], net)[name]
    train(net, {name: averager}, range(12))
    before, strides = bits(net), net.conv.weight.stride()
    average = [value.clone() for value in averager.result().values]
    pointers = [p.data_ptr() for p in net.parameters()]
    with pytest.raises(KeyError), averager.swapped(net):
        for p, value in zip(net.parameters(), average, strict=True):
            assert torch.equal(p, value)
        assert not torch.equal(net.conv.weight, before["conv.weight"])
        net(torch.randn(4, 2, 5, 5))  # in training mode: moves the batch-norm statistics
        net.bank.fill_(True)
        raise KeyError
    assert all(torch.equal(value, before[key]) for key, value in bits(net).items())
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert net.conv.weight.stride() == strides
    for value, own in zip(averager.result().values, average, strict=True):
        assert torch.equal(value, own)  # the evaluation did not touch the average


@pytest.mark.parametrize("stop", [1, 4, 7, 10])
def test_state_of_all_rules_round_trips(stop: int) -> None:
    net = Net()
    whole = make(AVERAGING, net)
    train(net, whole, range(12))

    first = Net()
    averagers = make(AVERAGING, first)
    train(first, averagers, range(stop))
    state = saved_and_loaded({name: a.state_dict() for name, a in averagers.items()})
    weights = saved_and_loaded(first.state_dict())
    second = Net(seed=1)
    second.load_state_dict(weights)
    resumed = make(AVERAGING, second)
    for name, averager in resumed.items():
        averager.load_state_dict(state[name])
    train(second, resumed, range(stop, 12))
    for name in AVERAGING:
        assert resumed[name].info() == whole[name].info()
        ours, theirs = resumed[name].result(), whole[name].result()
        assert len(ours.values) == len(list(net.parameters()))
        assert all(torch.equal(a, b) for a, b in zip(ours.values, theirs.values, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(ours.buffers, theirs.buffers, strict=True))


def test_loading_copies() -> None:
    net = Net()
    a, b = EMA(net), EMA(net)
    train(net, {"a": a}, range(3))
    b.load_state_dict(a.state_dict())
    kept = [value.clone() for value in b.result().values]
    train(net, {"a": a}, range(3, 6))
    assert all(torch.equal(x, y) for x, y in zip(b.result().values, kept, strict=True))


def test_swad_result_leaves_the_state() -> None:
    toy = Toy(np.random.RandomState(5).randn(12, 3))
    averager = SWAD(toy)
    drive(averager, toy, [3.0, 1.0, *[1.1] * 10], 1, range(12))
    assert averager.info()["converged"] and averager._rest()
    first, info = averager.result().values[0].clone(), averager.info()
    assert torch.equal(averager.result().values[0], first) and averager.info() == info
    assert not averager.ready(last=False) and averager.ready(last=True)


def test_swad_stops_in_a_dead_valley() -> None:
    rng = np.random.RandomState(2)
    toy = Toy(rng.randn(40, 3))
    losses = [1.0, 0.5, 0.6, 0.6] + [9.0] * 36
    averager = SWAD(toy)
    drive(averager, toy, losses, 1, range(12))
    assert averager.info()["dead_step"] is not None
    final = averager.result().values[0].clone()
    drive(averager, toy, [0.0] * 40, 1, range(12, 40))  # the raw model trains on
    assert torch.equal(averager.result().values[0], final)
    assert averager.queue == []


def test_swad_without_convergence_is_its_last_segment() -> None:
    toy = Toy(np.random.RandomState(3).randn(9, 3))
    averager = SWAD(toy)
    assert not averager.ready(last=True)
    drive(averager, toy, [5.0, 4.0, 3.0, 2.0, 1.0], 2, range(9))
    assert averager.info()["converged"] is False
    close(averager.result().values[0], toy.weights[7:].mean(0))


@pytest.mark.parametrize("at", [0, 3])
def test_nan_losses_do_not_break_swad(at: int) -> None:
    toy = Toy(np.random.RandomState(4).randn(12, 3))
    averager = SWAD(toy)
    drive(averager, toy, [1.0] * at + [math.nan] * 12, 1, range(12))
    assert averager.result().values[0].isfinite().all()
    json.dumps(averager.info(), allow_nan=False)


def test_make() -> None:
    net = Net()
    assert list(make(AVERAGING, net)) == list(AVERAGING)
    with pytest.raises(UsageError, match=r"did you mean swa\? choose from: ema, swa, swad"):
        make(["swda"], net)
    for averager in make(AVERAGING, net).values():
        json.dumps(averager.info(), allow_nan=False)
        assert not averager.ready(last=False)


def test_every_option_has_a_range() -> None:
    assert {key for rule in AVERAGERS.values() for key in rule.options()} == set(RANGES)


def test_defaults_are_those_of_the_sources() -> None:
    """SWAD's of its repository (config.yaml); SWA averages the last quarter, EMA over some 1,000 steps."""
    swad = {"n_converge": 3, "n_tolerance": 6, "tolerance_ratio": 0.3, "bn_batches": -1}
    assert {name: rule.options() for name, rule in AVERAGERS.items()} == {
        "ema": {"decay": 0.999, "bn_batches": 0},
        "swa": {"start_fraction": 0.75, "bn_batches": 0},
        "swad": swad,
        "swad_paper": swad,
    }


def test_nothing_to_swap_is_an_error() -> None:
    net = Net()
    before = bits(net)
    with pytest.raises(RuntimeError, match="holds 0 tensors"), make(["swa"], net)["swa"].swapped(net):
        pass
    assert all(torch.equal(value, before[key]) for key, value in bits(net).items())


@pytest.mark.golden
@pytest.mark.parametrize("case", SWAD_CASES)
def test_swad_paper_is_the_mean_of_all_weights_in_the_papers_range(case: Case) -> None:
    toy, freq = Toy(case.inputs["weights"]), int(case.hp["freq"])
    losses = case.inputs["val_loss"]
    averager = SWADPaper(toy, **{k: case.hp[k] for k in ("n_converge", "n_tolerance", "tolerance_ratio")})
    steps = (len(losses) - 1) * freq + 1
    drive(averager, toy, losses, freq, range(steps))
    start, end = int(case.outputs["paper_ts_eval"]), int(case.outputs["paper_te_eval"])
    if start < 0:
        assert averager.converge_step is None
        return
    first = max(0, (start - 1) * freq + 1)  # the segment that ends at evaluation t_s
    last = (end if end >= 0 else len(losses) - 1) * freq
    close(averager.result().values[0], case.inputs["weights"][first : last + 1].mean(0), rtol=1e-12)
    info = averager.info()
    assert (info["start_step"], info["end_step"], info["n_averaged"]) == (first, last, last + 1 - first)
    assert (info["dead_step"] is not None) == (end >= 0)
    close(info["threshold"], case.outputs["paper_threshold"], 1e-12)


def test_options_are_parsed_and_checked() -> None:
    net = Toy(np.zeros((1, 2)))
    averager = make(["swad:tolerance_ratio=0.2,n_converge=4"], net)["swad:tolerance_ratio=0.2,n_converge=4"]
    assert (averager.tolerance_ratio, averager.n_converge, averager.n_tolerance) == (0.2, 4, 6)
    assert averager.bn_batches == 0, "frozen statistics stay as they are"
    net.problem = type("problem", (), {"num_steps": 5001, "freeze_bn": False})
    assert make(["swad"], net)["swad"].bn_batches == 500, "as the official code"
    assert make(["swad:bn_batches=7"], net)["swad:bn_batches=7"].bn_batches == 7
    for text, message in {
        "swadd:n_converge=4": "did you mean swad",
        "swad:tolerance_rate=0.2": "did you mean tolerance_ratio",
        "swad:n_converge=many": "is no number",
        "swad:n_converge=0": "at least 1 and below inf",
        "swa:start_fraction=1": "at least 0 and below 1",
        "ema:decay=nan": "at least 0 and below 1",
    }.items():
        with pytest.raises(UsageError, match=message):
            make([text], net)


def test_batch_norm_statistics_are_those_of_the_batches() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = torch.nn.BatchNorm1d(3)

            self.unused = torch.nn.BatchNorm1d(3)  # as a student's, where the teacher is evaluated
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.dropout(x))

    net, x = Net(), torch.randn(4, 10, 3, dtype=torch.float32)
    for layer in (net.bn, net.unused):
        layer(x[0] + 5)
    before = net.bn.running_mean.clone()
    averager = make(["ema:bn_batches=3"], net, lambda: iter(x))["ema:bn_batches=3"]
    averager.update(net, 0)
    with averager.swapped(net):
        torch.testing.assert_close(net.bn.running_mean, x[:3].mean((0, 1)))
        torch.testing.assert_close(net.bn.running_var, x[:3].var(1).mean(0))
        assert torch.equal(net.unused.running_mean, before), "not on the way of an image"
    assert torch.equal(net.bn.running_mean, before) and net.bn.momentum == 0.1
    averager.images = lambda: pytest.fail("the images of an average are read once")
    with averager.swapped(net):
        torch.testing.assert_close(net.bn.running_mean, x[:3].mean((0, 1)))
    averager.images = lambda: iter(x + 1)
    averager.update(net, 1)
    with averager.swapped(net):
        torch.testing.assert_close(net.bn.running_mean, 1 + x[:3].mean((0, 1)))


def test_split_batch_norm_estimates_its_statistics_too() -> None:
    layer = split_batch_norms(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    x = torch.randn(5, 8, 3, 2, 2)
    estimate_batch_norm(layer, x)
    torch.testing.assert_close(layer[0].running_mean, x.mean((0, 1, 3, 4)))
    assert layer[0].num_batches_tracked == 5 and layer[0].momentum == 0.1
