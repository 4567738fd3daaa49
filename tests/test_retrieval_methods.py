"""Methods of retrieval without labels: vectors of the official code, slow loops and limit cases."""

from typing import Any

import numpy as np
import pytest
import torch
from golden_vectors import Case, cases, close
from linear_models import linear
from torch import Tensor, nn
from torch.nn.functional import normalize

from dgbench import clustering, hparams, registry
from dgbench.algorithm import Batch, Problem
from dgbench.algorithms.ucdir import UCDIR
from dgbench.dataset import Dataset
from dgbench.losses import clusters, memory
from dgbench.losses.memory import softmax_entropy
from dgbench.networks.memory import embeddings
from dgbench.networks.split_norm import split_batch_norms

torch.set_num_threads(1)

METHODS = ("UCDIR", "ID", "ProtoNCE", "CDS", "PCS")
DOMAINS = ("A", "B")


def build(name: str, sizes: tuple[int, ...] = (30, 25), classes: int = 4, **settings: Any) -> Any:
    """A method on 8 x 8 images; hyper-parameters, ``steps`` and ``epoch`` (in steps)."""
    steps, epoch = settings.pop("steps", 100), settings.pop("epoch", 10)
    method: Any = registry.find("algorithms", name)
    problem = Problem((1, 8, 8), classes, 2, steps, epoch, (), sizes, "digits_cnn")
    torch.manual_seed(0)
    return method(problem, hparams.resolve(method, Dataset, settings)).train()


def identity(name: str, sizes: tuple[int, ...], classes: int = 4, **settings: Any) -> Any:
    """The method in float64, its embeddings the inputs."""
    algorithm = build(name, sizes, classes, **settings).double()
    algorithm.featurizer, algorithm.classifier = nn.Identity(), nn.Identity()
    return algorithm


def batch_of(u: Tensor, index: Tensor, u2: Tensor | None = None) -> Batch:
    """u (2, n, ...) and index (2, n) of two domains."""
    none, domain = torch.empty(0, dtype=torch.int64), torch.arange(2).repeat_interleave(len(u[0]))
    views = {"u": u.flatten(0, 1), "u2": None if u2 is None else u2.flatten(0, 1)}
    return Batch(u[0][:0], none, none, none, 2, **views, ud=domain, uidx=index.flatten(), num_unlabelled=2)


def image_batch(step: int = 0, rows: int = 6) -> Batch:
    r = torch.Generator().manual_seed(step)
    u, u2 = (torch.rand(2, rows, 1, 8, 8, generator=r) for _ in range(2))
    index = torch.stack([torch.randperm(25, generator=r)[:rows] for _ in range(2)])
    return batch_of(u, index, u2)


def pair(case: Case, name: str, grad: bool = False) -> Tensor:
    """The inputs ``<name>_A`` and ``<name>_B``, or ``_s`` and ``_t``, of one size."""
    keys = [f"{name}_{d}" for d in (DOMAINS if f"{name}_A" in case.inputs else ("s", "t"))]
    return torch.stack([case.x(key) for key in keys]).requires_grad_(grad)


# ID


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "id_"))
def test_instance_discrimination(case: Case) -> None:
    """Loss and gradient of the softmax; then the whole update, which moves the memory."""
    settings = {"temperature": case.hp["T"], "memory_momentum": case.hp["m"], "banks": "joint"}
    algorithm = _with_memory(case, **settings)
    x, index = case.x("x", grad=True), case.x("y")
    loss, _ = algorithm.objective(x[None], index[None])
    loss.backward()
    close(x @ algorithm.rows[0].T / case.hp["T"], case.outputs["logits"])
    close(loss, case.outputs["loss"])
    close(x.grad, case.outputs["grad_x"])
    _update(algorithm, case.x("x"), index)
    close(algorithm.rows[0], case.outputs["memory"])


@pytest.mark.golden
@pytest.mark.parametrize("given", ["", "_Zgiven"])
@pytest.mark.parametrize("case", cases("other", "id_"))
def test_noise_contrastive_estimation(case: Case, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = case.x("idx")[:, 1:]
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: noise)
    settings = {"temperature": case.hp["T"], "memory_momentum": case.hp["m"], "banks": "joint"}
    algorithm = _with_memory(case, negatives=noise.shape[1], **settings)
    if given:
        algorithm.z.fill_(case.hp["Z_given"])
    x, index = case.x("x", grad=True), case.x("y")
    loss, _ = algorithm.objective(x[None], index[None])
    loss.backward()
    close(loss, case.outputs[f"nce_loss{given}"])
    close(x.grad, case.outputs[f"nce_grad{given}"])
    if not given:
        close(algorithm.z, case.outputs["Z_first"][None])
        p = memory._scores(x, algorithm.rows[0], index, noise, case.hp["T"]) / algorithm.z
        close(p, case.outputs["nce_probs"])
        _update(algorithm, case.x("x"), index)
        close(algorithm.rows[0], case.outputs["nce_memory"])


def _with_memory(case: Case, **settings: Any) -> Any:
    bank = case.x("memory")
    algorithm = identity("ID", (len(bank), 0), out_dim=bank.shape[1], **settings)
    algorithm.banks[0].fill(bank)
    return algorithm


def _update(algorithm: Any, x: Tensor, index: Tensor) -> None:
    """One update; the classifier keeps x."""
    algorithm.classifier = linear(torch.eye(x.shape[1]))
    batch = batch_of(x[None], index[None])
    algorithm.reset_optimizers()
    algorithm.update(Batch(**{**vars(batch), "ud": torch.zeros_like(index)}))


# CDS


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "cds_"))
def test_cds(case: Case) -> None:
    banks = [case.x("mem_s"), case.x("mem_t")]
    hp = {"temperature": case.hp["T"], "neighbours": case.hp["topn"], "memory_momentum": case.hp["m"]}
    algorithm = identity("CDS", (len(banks[0]), len(banks[1])), out_dim=banks[0].shape[1], **hp)
    for bank, rows in zip(algorithm.banks, banks, strict=True):
        bank.fill(rows)
    f, index = pair(case, "f", grad=True), pair(case, "id")
    loss, logs = algorithm.objective(f, index)
    loss.backward()
    close(logs["instance"], case.outputs["id"])
    close(logs["matching"], case.outputs["ent_s2t"] + case.outputs["ent_t2s"])
    close(loss, case.outputs["total"])
    close(f.grad, np.stack([case.outputs["grad_s"], case.outputs["grad_t"]]))
    algorithm.classifier = linear(torch.eye(f.shape[2]))
    algorithm.update(batch_of(f.detach(), index))
    for bank, name in zip(algorithm.rows, ("mem_s", "mem_t"), strict=True):
        close(bank, case.outputs[name])


# PCS

ROWS = {"id": 0, "matching": 1, "proto": 2, "cross": 4}
PARTS = ("source", "target")


def _pcs(case: Case, **settings: Any) -> Any:
    """PCS with the vectors' memories and clusters."""
    banks, ks = [case.x(f"bank_{part}") for part in PARTS], case.hp["ks"].tolist()
    settings = {"cluster_factors": ks, "cluster_runs": 1, "id_weight": 1.0, **settings}
    settings |= {"temperature": case.hp["T"], "out_dim": banks[0].shape[1]}
    algorithm = identity("PCS", (len(banks[0]), len(banks[1])), 1, **settings)
    for i, part in enumerate(PARTS):
        algorithm.banks[i].fill(banks[i])
        for r in range(len(ks)):
            centroids, labels = case.x(f"centroids_{part}_{r}"), case.x(f"labels_{part}_{r}")
            density = clusters.pcs_density(banks[i], centroids, labels)
            close(density, case.outputs[f"phi_{part}_{r}"], 1e-5)
            if not algorithm.hp["cluster_density"]:
                density = torch.full_like(density, case.hp["T"])
            algorithm.clusters[r][i].set(centroids[None], labels[None], density[None])
    return algorithm


@pytest.mark.golden
@pytest.mark.parametrize("by_density", [True, False])
@pytest.mark.parametrize("case", cases("other", "pcs_"))
def test_pcs(case: Case, by_density: bool) -> None:
    algorithm = _pcs(case, matching_weight=1.0, cluster_density=by_density)
    rows = ROWS if by_density else {"proto": 3}
    for i, part in enumerate(PARTS):
        for name, row in rows.items():
            f = case.x(f"f_{part}", grad=True)
            term = algorithm.terms(i, f, case.x(f"idx_{part}"))[name]
            term.backward()
            close(term, case.outputs[f"losses_{part}"][row], 1e-6)
            close(f.grad, case.outputs[f"grads_{part}"][row], 1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "pcs_"))
def test_pcs_update(case: Case) -> None:
    """The sum of both domains' terms, by their weights; then the memories move."""
    weights = {"proto_weight": 0.5, "cross_weight": 2.0, "id_weight": 3.0}
    algorithm = _pcs(case, **weights, memory_momentum=case.hp["m"])
    algorithm.classifier = linear(torch.eye(algorithm.hp["out_dim"]))
    f = torch.stack([case.x(f"f_{part}") for part in PARTS])
    index = torch.stack([case.x(f"idx_{part}") for part in PARTS])
    logs = algorithm.update(batch_of(f, index))
    losses = sum(case.outputs[f"losses_{part}"] for part in PARTS)
    close(
        logs["loss"],
        sum(weights[f"{name}_weight"] * losses[ROWS[name]] for name in logs if name in ROWS),
        1e-6,
    )
    for bank, part, own in zip(algorithm.rows, PARTS, index, strict=True):
        close(bank[own], case.outputs[f"new_rows_{part}"], 1e-6)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "pcs_"))
def test_pcs_mutual_information(case: Case) -> None:
    algorithm = build("PCS", classes=case.inputs["mim_logits"].shape[2], mim_weight=1.0).double()
    algorithm.counted.fill_(case.hp["mim_m"])
    for step, logits in enumerate(case.x("mim_logits")):
        found = algorithm.mutual_information(0, logits)
        close(algorithm.mean[0], case.outputs["mim_vector"][step], 1e-6)
        close(found, case.outputs["mim_losses"][step].sum(), 1e-6)
    bank = case.x("bank_source")[: len(case.outputs["cos_logits"])]
    algorithm.prototypes = linear(case.inputs["cos_W"])
    close(algorithm.class_logits(bank) * 0.05, case.outputs["cos_logits"] * case.hp["cos_T"], 1e-6)


# ProtoNCE


@pytest.mark.golden
@pytest.mark.parametrize("negatives", ["batch", "all"])
@pytest.mark.parametrize("case", cases("other", "protonce"))
def test_protonce(case: Case, negatives: str) -> None:
    feat, raw, labels = case.x("feat"), case.x("raw_centroids"), case.x("assign")
    (k, d), t = raw.shape, case.hp["T"]
    settings = {"cluster_factors": [k], "queue": len(case.inputs["queue"]), "temperature": t, "out_dim": d}
    algorithm = identity("ProtoNCE", (len(feat), 0), 1, negatives=negatives, warm_up=0.0, **settings)
    algorithm.queue.copy_(case.x("queue"))
    found = algorithm.clusters[0]
    found.set(raw, labels, clusters.pcl_density(feat, raw, labels, t))
    close(found.density[0], case.outputs["phi"])
    close(found.centroids[0], case.outputs["prototypes"])
    raw_query, key = case.x("query_raw", grad=True), memory.unit(case.x("key_raw"))
    loss, logs = algorithm.objective(memory.unit(raw_query), key, case.x("index"))
    close(logs["info"], case.outputs["infonce"])
    if negatives == "all":
        return close(logs["proto"], case.alt["proto_full"])
    loss.backward()
    close(logs["proto"], case.outputs["proto"])
    close(loss, case.outputs["total"])
    close(raw_query.grad, case.outputs["grad_query_raw"])
    algorithm.enqueue(key)
    ours = {tuple(row) for row in algorithm.queue.round(decimals=9).tolist()}
    assert ours == {tuple(row) for row in np.round(case.outputs["queue_after"], 9).tolist()}  # a ring there


# UCDIR


def _ucdir(case: Case, **settings: Any) -> UCDIR:
    """UCDIR with the vectors' memories and clusters, all terms on."""
    _, cw, se, dd = case.hp["weights"]
    hp = {"temperature": case.hp["T"], "filter_threshold": case.hp["filter_thresh"]}
    hp |= {"se_temperature": case.hp["phi_se"], "cw_weight": cw, "se_weight": se, "dd_weight": dd}
    hp = {name: float(value) for name, value in hp.items()}
    k, d = case.inputs["centroids_A"].shape
    sizes = tuple(len(case.inputs[f"im2cluster_{domain}"]) for domain in DOMAINS)
    algorithm = identity("UCDIR", sizes, k, out_dim=d, **hp, **settings)
    for i, domain in enumerate(DOMAINS):
        found = algorithm.clusters[i]
        found.labels[0], found.centroids[0] = case.x(f"im2cluster_{domain}"), case.x(f"centroids_{domain}")
    return algorithm


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ucdir_losses"))
def test_ucdir_losses(case: Case) -> None:
    algorithm = _ucdir(case, steps=10, epoch=1)
    algorithm.step = 9
    q, k, index = pair(case, "q", grad=True), pair(case, "k"), pair(case, "id")
    for i, domain in enumerate(DOMAINS):
        algorithm.banks[i].fill(case.x(f"bank_{domain}"))
        algorithm.banks[i].write(index[i], k[i])
        close(algorithm.banks[i].rows, case.outputs[f"bank_{domain}"])
        close(algorithm.cluster_loss(i, q[i], index[i]), case.outputs["cw"][i])
        keep = algorithm.certain(i, index[i])
        close(keep.double(), case.outputs[f"cw_keep_{domain}"])
    loss, logs = algorithm.objective(q, index)
    loss.backward()
    for name in ("iw", "cw"):
        close(logs[name], case.outputs[name].mean())
    for name in ("se", "dd"):
        close(logs[name], case.outputs[name])
    a, b = (found.centroids[0] for found in algorithm.clusters)
    pairs = [softmax_entropy(rows @ c.T / case.hp["phi_se"]) for rows in q for c in (a, b)]
    close(torch.stack(pairs), case.outputs["se_pairs"])
    dd = [clusters.distance_of_distance(rows, a, b, case.hp["phi_dd"]) for rows in q]
    close(torch.stack(dd), case.outputs["dd_domains"])
    close(loss, case.outputs["total"])
    close(q.grad, np.stack([case.outputs["grad_q_A"], case.outputs["grad_q_B"]]))


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ucdir_trace"))
def test_ucdir_steps(case: Case) -> None:
    """Whole updates: momentum network, keys, memories, losses, SGD; the first half without clusters."""
    steps = len(case.inputs["ids_A"])
    sgd = {"lr": case.hp["lr"], "optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4}
    sgd |= {"lr_schedule": "constant", "key_momentum": case.hp["m"], "warm_up": 0.0}
    algorithm = _ucdir(case, steps=steps, epoch=steps // 2, **sgd)
    algorithm.featurizer = nn.Sequential(linear(case.inputs["l1_w"], case.inputs["l1_b"]), nn.ReLU())
    algorithm.classifier = linear(case.inputs["fc_w"], case.inputs["fc_b"])
    algorithm.key = type(algorithm.key)(algorithm.query, case.hp["m"])
    x = [case.x("x_A"), case.x("x_B")]
    for bank, rows in zip(algorithm.banks, x, strict=True):
        bank.fill(embeddings(algorithm.key, [rows]))
    for step in range(steps):
        algorithm.step = step
        index = torch.stack([case.x(f"ids_{domain}")[step] for domain in DOMAINS])
        own = torch.stack([x[i][index[i]] for i in range(2)])
        u, u2 = (
            own + torch.stack([case.x(f"noise_{kind}{domain}")[step] for domain in DOMAINS]) for kind in "qk"
        )
        logs = algorithm.update(batch_of(u, index, u2))
        close(logs["loss"], case.outputs["loss"][step])
        close(nn.utils.parameters_to_vector(algorithm.query.parameters()), case.outputs["theta_q"][step])
        close(nn.utils.parameters_to_vector(algorithm.key.parameters()), case.outputs["theta_k"][step])
        for i, domain in enumerate(DOMAINS):
            close(algorithm.banks[i].rows, case.outputs[f"bank_{domain}"][step])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ucdir_schedule"))
def test_ucdir_schedule(case: Case) -> None:
    hp, per_epoch = case.hp, 7
    start, end = hp["start"] / hp["epochs"], hp["sature"] / hp["epochs"]
    settings = {"warm_up": start, "ramp_end": end, "cw_weight": hp["w_sature"], "align_from": end}
    algorithm = build("UCDIR", steps=per_epoch * hp["epochs"], epoch=per_epoch, **settings)
    for epoch in case.inputs["epoch"].tolist():
        for step in (epoch * per_epoch, epoch * per_epoch + per_epoch - 1):
            algorithm.step = step
            close(algorithm.weights()["cw"], case.outputs["lambda"][epoch], 1e-12)
            aligned = {"se": algorithm.hp["se_weight"], "dd": algorithm.hp["dd_weight"]}
            expected = aligned if epoch >= hp["sature"] else dict.fromkeys(aligned, 0.0)
            assert {name: algorithm.weights()[name] for name in aligned} == expected


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ucdir_kmeans"))
def test_kmeans(case: Case) -> None:
    x = case.x("x")
    centroids, labels = clustering.kmeans(x, case.hp["K"])
    _, first, which = np.unique(labels.numpy(), return_index=True, return_inverse=True)
    order = np.argsort(first)  # clusters in the order of their first rows
    assert (np.argsort(order)[which] == case.outputs["im2cluster"]).all()
    close(centroids[labels[np.sort(first)]], case.outputs["raw_mean"], 0, 2e-5)
    close(normalize(centroids[labels[np.sort(first)]]), case.outputs["centroids"], 0, 2e-5)


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ucdir_ema_splitbn"))
def test_split_batch_norm(case: Case) -> None:
    network = split_batch_norms(nn.Sequential(nn.BatchNorm2d(3).double()))
    layer = network[0]
    layer.weight.data, layer.bias.data = case.x("bn_weight"), case.x("bn_bias")
    close(network(case.x("bn_x")), case.outputs["bn_y"])
    close(layer.running_mean, case.outputs["bn_running_mean"])
    close(layer.running_var, case.outputs["bn_running_var"])


@pytest.mark.golden
@pytest.mark.parametrize("case", cases("other", "ucdir_ema_splitbn"))
def test_momentum_network(case: Case) -> None:
    """The momentum network of UCDIR, over queries that something else trains."""
    algorithm = build("UCDIR", key_momentum=case.hp["m"])
    a, b = (nn.Parameter(case.x(f"q0_{name}")) for name in "ab")
    query = nn.ParameterList([a, b])
    key = type(algorithm.key)(query, algorithm.hp["key_momentum"])
    for step in range(len(case.inputs["q_a"])):
        a.data, b.data = case.x("q_a")[step], case.x("q_b")[step]
        key.move(query, step)
        for value, name in zip(key.parameters(), "ab", strict=True):
            close(value, case.outputs[f"k_{name}"][step])
