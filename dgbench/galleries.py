"""What some images of one domain retrieve in the other, as pictures: the galleries of UCDIR's Figure 3.

A line is a query and the first images of its ranking; a green frame: of the query's class, a red one: not.
"""

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from . import retrieval
from .build import Built
from .errors import UsageError
from .report.samples import picture
from .tasks import Pool

PIXELS, FRAME, GAP = 96, 4, 12
GREEN, RED, WHITE = (0, 160, 60), (210, 40, 40), (255, 255, 255)


def pictures(
    run: Built, folder: Path, queries: int = 8, shown: int = 10, seed: int = 0, name: str = "gallery"
) -> list[Path]:
    """``<name>-A-to-B.png`` for both directions: ``queries`` random images and the ``shown`` nearest."""
    if run.spec.task != "retrieval":
        raise UsageError(
            f"a gallery is of a run of retrieval; this one is of {run.spec.task}; choose: latent"
        )
    pools = {pool.domain.name: pool for pool in run.split.evaluated.values()}
    with run.autocast():
        found = retrieval.embedded(run)
    if run.spec.frozen:  # its pools hold features
        images = {domain.name: domain for domain in run.dataset.load(list(pools))}
        pools = {name: replace(pool, domain=images[name]) for name, pool in pools.items()}
    paths = []
    for a, b in permutations(pools, 2):
        rows = np.sort(np.random.default_rng(seed).permutation(len(pools[a]))[:queries])
        ranked = retrieval.nearest(found[a][0][rows], found[b][0], shown)
        right = found[b][1][ranked] == found[a][1][rows, None]
        path = folder / f"{name}-{a}-to-{b}.png".replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        draw(pools[a], rows, pools[b], ranked, right).save(path, optimize=True)
        paths.append(path)
    return paths


def draw(queries: Pool, rows: np.ndarray, gallery: Pool, ranked: Tensor, right: Tensor) -> Image.Image:
    """A line for each of the rows (n,) of ``queries``: ranked (n, k) rows of ``gallery``, right (n, k)."""
    side = PIXELS + 2 * FRAME
    sheet = Image.new("RGB", (side * (1 + ranked.shape[1]) + GAP, side * len(rows)), WHITE)
    for line, row in enumerate(rows.tolist()):
        sheet.paste(_tile(queries, row, WHITE), (0, line * side))
        for place, (index, same) in enumerate(zip(ranked[line].tolist(), right[line].tolist(), strict=True)):
            tile = _tile(gallery, index, GREEN if same else RED)
            sheet.paste(tile, (GAP + side * (1 + place), line * side))
    return sheet


def _tile(pool: Pool, row: int, colour: tuple[int, int, int]) -> Image.Image:
    image = picture(np.asarray(pool.domain.images[pool.indices[row]]))
    how = Image.Resampling.NEAREST if image.width < PIXELS // 2 else Image.Resampling.BILINEAR
    tile = Image.new("RGB", (PIXELS + 2 * FRAME,) * 2, colour)
    tile.paste(image.resize((PIXELS, PIXELS), how), (FRAME, FRAME))
    return tile
