"""Scores of cross-domain retrieval."""

from .build import Built


def evaluate(run: Built) -> dict[str, float]:
    """{"A>B/metric": value}: images of domain A retrieve those of their class in domain B."""
    raise NotImplementedError
