"""Retrieval across domains: rank a gallery by its cosine similarity to every query, and score the ranking.

P@k is UCDIR's (Hu and Lee, ECCV 2022, main.py): of query i the first t_i = min(k, images of its class in the
gallery) count, and P@k = sum_i hits_i / sum_i t_i, so a query whose class the gallery lacks counts nothing.
plain_P@k is the textbook's: the mean over all queries of hits among the first k, over k. mAP is the mean
average precision of the whole ranking, over the queries whose class the gallery has.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.functional import normalize

SIMILARITIES = {"cpu": 2**20, "cuda": 2**25}
"""Ranked at once; each takes some 30 bytes for a while."""


def scores(
    query: Tensor, query_labels: Tensor, gallery: Tensor, gallery_labels: Tensor, ks: Sequence[int]
) -> dict[str, float]:
    """{"P@1": share, ..., "plain_P@1": ..., "mAP": ...} of embeddings (n, F), (m, F) and classes (n,), (m,)."""
    counts = _over_chunks(lambda keys: _counts(keys, ks), query, gallery, query_labels, gallery_labels)
    official, counted, plain, (precision, answerable, *_) = torch.stack(counts).sum(0)
    shares = {
        "P@": official / counted.clamp(min=1),
        "plain_P@": plain / (len(query) * torch.tensor(ks, dtype=plain.dtype, device=plain.device)),
    }
    found = {
        f"{name}{k}": value
        for name, values in shares.items()
        for k, value in zip(ks, values.tolist(), strict=False)
    }
    return {**found, "mAP": (precision / answerable.clamp(min=1)).item()}


def nearest(query: Tensor, gallery: Tensor, count: int) -> Tensor:
    """(n, count): the rows of the gallery that are nearest to each query, best first."""
    labels = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for x in (query, gallery))
    return torch.cat(
        _over_chunks(lambda keys: (keys[:, :count] & (2**32 - 1)) >> 1, query, gallery, *labels)
    )


def _counts(keys: Tensor, ks: Sequence[int]) -> Tensor:
    """Sums over the queries of a chunk, (4, max(len(ks), 2)): by k the hits among the first t_i, the t_i and the
    hits among the first k; then the average precisions and the queries whose class the gallery has."""
    relevant = (keys & 1).bool()  # (r, m), best first
    total = relevant.sum(1)  # (r,)
    hits = torch.nn.functional.pad(relevant[:, : max(ks)].cumsum(1), (1, 0))  # (r, largest + 1): first 0, 1 ...
    wanted = torch.tensor(ks, device=keys.device)
    depth = torch.minimum(wanted, total[:, None])  # (r, ks)
    row, place = relevant.nonzero(as_tuple=True)
    number = torch.arange(len(row), device=row.device) - (total.cumsum(0) - total)[row]  # 0, 1, ... in its row
    precision = ((number + 1).double() / (place + 1) / total[row]).sum()
    last = torch.stack((precision, (total > 0).sum().double()))
    by_k = (hits.gather(1, depth), depth, hits[:, wanted.clamp(max=hits.shape[1] - 1)])
    rows = [*(values.sum(0).double() for values in by_k), last]
    return torch.stack([torch.nn.functional.pad(r, (0, max(len(ks), 2) - len(r))) for r in rows])


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
