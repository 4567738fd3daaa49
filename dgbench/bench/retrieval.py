"""Retrieval: ranking a gallery, and what clustering and evaluation add to an epoch."""

from itertools import count

import torch

from ..build import build
from ..checkpoint import State
from ..course import evaluate
from ..machine import Machine
from ..meter import Meter
from ..retrieval import scores
from ..spec import RunSpec
from ..train import update
from .images import data_dir
from .ratio import Ratio, alternate, milliseconds, paired
from .start import process

IMAGES, DIMENSIONS, CLASSES, KS = 10_000, 128, 10, (1, 5, 15)
UPDATES = 3  # of a turn; their time stands for an epoch's

PEAK = """
import sys, torch
from dgbench.machine import peak_memory_gb
from dgbench.retrieval import scores
images, dimensions, threads = map(int, sys.argv[2:])
torch.set_num_threads(threads)
x, y = torch.randn(2, images, dimensions), torch.randint(10, (2, images))
scores(x[0], y[0], x[1], y[1], (1, 5, 15))
print(peak_memory_gb(torch.device("cpu")) * 1024)
"""


def ranking(turns: int) -> list[Ratio]:
    """P@k and mAP of a full ranking / the similarities alone; the memory of a process that makes them."""
    r = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(2, IMAGES, DIMENSIONS, generator=r)
    labels = torch.randint(CLASSES, (2, IMAGES), generator=r)

    def similarities() -> None:
        for rows in query.split(IMAGES // 10):
            rows @ gallery.T

    size = f"{IMAGES:,} x {IMAGES:,} x {DIMENSIONS}"
    name = f"P@k and mAP / similarities, {size}"
    time = alternate(
        name, lambda: scores(query, labels[0], gallery, labels[1], KS), similarities, min(turns, 5)
    )
    threads = str(torch.get_num_threads())
    whole, small = (process(PEAK, [str(n), str(DIMENSIONS), threads]) for n in (IMAGES, 10))
    return [time, paired(f"memory of P@k and mAP, {size} / of 10 x 10", whole, small, 1, "MiB")]


def clustering(turns: int) -> list[Ratio]:
    """Clustering and evaluation / the updates of an epoch: UCDIR on PACS's photos and sketches, 64 px."""
    spec = RunSpec(
        "PACS",
        "UCDIR",
        "retrieval",
        ("photo", "sketch"),
        image_size=64,
        backbone="resnet18",
        pretrained="none",
        precision="bf16",
        hparams={"warm_up": 0.0},
    ).resolved(data_dir())
    run = build(spec, Machine(data_dir=data_dir(), device="cpu", threads=torch.get_num_threads()))
    state, steps = State(run.algorithm, {}, Meter()), count()

    def updates() -> None:
        with run.autocast():
            for _ in range(UPDATES):
                update(state, run.loader, next(steps), run.seed)

    def others() -> None:
        evaluate(run)
        with run.autocast():
            run.algorithm.begin_epoch(run.loader.epoch_pools(run.split))

    updates()
    epoch = run.steps_per_epoch / UPDATES
    name = "clustering and evaluation / updates of an epoch, UCDIR, PACS at 64 px, ResNet-18, 2 x 64"
    return [paired(name, lambda: milliseconds(others), lambda: epoch * milliseconds(updates), min(turns, 3))]
