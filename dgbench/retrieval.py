"""Retrieval across domains: rank a gallery by its cosine similarity to every query, and score the ranking.

P@k is UCDIR's (Hu and Lee, ECCV 2022, main.py): of query i the first t_i = min(k, images of its class in the
gallery) count, and P@k = sum_i hits_i / sum_i t_i, so a query whose class the gallery lacks counts nothing.
plain_P@k is the textbook's: the mean over all queries of hits among the first k, over k. mAP is the mean
average precision of the whole ranking, over the queries whose class the gallery has.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from .networks.memory import Memo, embeddings, writes

if TYPE_CHECKING:
    from .build import Built

SIMILARITIES = {"cpu": 2**20, "cuda": 2**25}
"""Ranked at once; each takes some 30 bytes for a while."""


def evaluate(run: "Built") -> dict[str, float]:
    """{"A>B/metric": share}: images of domain A retrieve those of their class in domain B, and back."""
    found = embedded(run)
    return {
        f"{a}>{b}/{name}": value
        for a, b in permutations(found, 2)
        for name, value in scores(*found[a], *found[b], run.dataset.ks).items()
    }


def embedded(run: "Built") -> dict[str, tuple[Tensor, Tensor]]:
    """{domain: embeddings (n, F) and classes (n,) of the images that are scored}."""
    found = {}
    for pool in run.split.evaluated.values():
        f = embeddings(run.algorithm, run.loader.images(pool))
        run.loader.memos[id(pool.indices)] = Memo(run.algorithm, writes(run.algorithm), f)
        found[pool.domain.name] = f, torch.from_numpy(pool.labels).to(run.device)
    return found


def scores(
    query: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, ks: Sequence[int]
) -> dict[str, float]:
    """{"P@1": share, ..., "plain_P@1": ..., "mAP": ...} of embeddings (n, F), (m, F), classes (n,), (m,)."""
    counts = _over_chunks(lambda keys: _counts(keys, ks), query, gallery, query_labels, gallery_labels)
    official, counted, plain, precision, answerable = (
        sums.tolist() for sums in torch.stack(counts).sum(0).split([len(ks)] * 3 + [1, 1])
    )
    return {
        **{f"P@{k}": a / max(b, 1) for k, a, b in zip(ks, official, counted, strict=True)},
        **{f"plain_P@{k}": a / (k * len(query)) for k, a in zip(ks, plain, strict=True)},
        "mAP": precision[0] / max(answerable[0], 1),
    }


def nearest(query: Tensor, gallery: Tensor, count: int) -> Tensor:
    """(n, count): the rows of the gallery that are nearest to each query, best first."""
    labels = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for x in (query, gallery))
    return torch.cat(_over_chunks(lambda keys: (keys[:, :count] & (2**32 - 1)) >> 1, query, gallery, *labels))


def _counts(keys: Tensor, ks: Sequence[int]) -> Tensor:
    """Sums over a chunk's queries, (3 len(ks) + 2,): for each k the hits among the first t_i, the t_i and the
    hits among the first k; the average precisions; the queries whose class the gallery has."""
    relevant = (keys & 1).bool()  # (r, m), best first
    total, wanted = relevant.sum(1), torch.tensor(ks, device=keys.device)  # (r,), (len(ks),)
    hits = pad(relevant[:, : max(ks)].cumsum(1), (1, 0))  # (r, largest + 1), of the first 0, 1, ...
    depth = torch.minimum(wanted, total[:, None])  # (r, len(ks))
    row, place = relevant.nonzero(as_tuple=True)
    before = (total.cumsum(0) - total)[row]  # relevant ones of earlier rows
    number = torch.arange(1, len(row) + 1, device=row.device) - before  # 1, 2, ... in its row
    precision = (number.double() / (place + 1) / total[row]).sum()
    by_k = (hits.gather(1, depth), depth, hits[:, wanted.clamp(max=hits.shape[1] - 1)])
    return torch.cat([*(values.sum(0) for values in by_k), precision[None], (total > 0).sum()[None]])


def _over_chunks(
    work: Callable[[Tensor], Tensor],
    query: Tensor,
    gallery: Tensor,
    query_labels: Tensor,
    gallery_labels: Tensor,
) -> list[Tensor]:
    """What ``work`` makes of the rankings of each chunk of queries, int64 keys (r, m), ascending: best first.

    A key is the falling similarity, then the row of the gallery (31 bits), then whether it is of the query's
    class. Equal similarities are thus ranked by the row, and one sort of plain integers is all it takes.
    """
    q, g = normalize(query.float()), normalize(gallery.float()).T.contiguous()
    low = torch.arange(len(gallery), device=q.device) << 1

    @torch.inference_mode()
    def chunk(rows: slice) -> Tensor:
        bits = (q[rows] @ g).neg_().add_(0.0).view(torch.int32)  # -0 becomes 0
        bits ^= (bits >> 31) & 0x7FFFFFFF  # the order of integers is now that of the floats
        keys = bits.long().bitwise_left_shift_(32).bitwise_or_(low)
        keys |= query_labels[rows, None] == gallery_labels
        return work(_sorted(keys))

    step = max(1, SIMILARITIES.get(q.device.type, 2**20) // len(gallery))
    parts = [slice(start, start + step) for start in range(0, len(query), step)]
    threads = torch.get_num_threads() if q.device.type == "cpu" else 1
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(chunk, parts))


def _sorted(keys: Tensor) -> Tensor:
    """Every row in ascending order; numpy sorts integers several times faster than torch on a processor."""
    if keys.device.type != "cpu":
        return keys.sort(1).values
    keys.numpy().sort(axis=1)
    return keys
