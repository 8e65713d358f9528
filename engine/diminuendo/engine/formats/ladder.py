"""Which ranks of a format are worth considering."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

MAX_RUNGS = 32
NEGLIGIBLE_ENERGY = 1e-7
"""Share of the variance below which more rank gains nothing that fp32 weights can hold."""


def greedy_path(
    spectra: Sequence[Sequence[float]], top: Sequence[int], params: Callable[[tuple[int, ...]], int]
) -> Iterator[tuple[int, ...]]:
    """Ranks from all 1 to the top, one step of one rank at a time.

    Each step raises the rank that saves the most energy for the params that it adds.

    Args:
        spectra: For each rank, the variance of each direction, descending.
        top: Highest ranks.
        params: What ranks cost.
    """
    shares = [_shares(spectrum) for spectrum in spectra]
    ranks = tuple(1 for _ in top)
    kept = [share[0] for share in shares]
    yield ranks
    while ranks != tuple(top):
        here = params(ranks)
        best, best_gain = -1, -1.0
        for side, rank in enumerate(ranks):
            if rank == top[side]:
                continue
            gain = shares[side][rank] if rank < len(shares[side]) else 0.0
            for other, share in enumerate(kept):
                gain *= share if other != side else 1.0
            gain /= max(1, params(_raised(ranks, side)) - here)
            if gain > best_gain:
                best, best_gain = side, gain
        kept[best] += shares[best][ranks[best]] if ranks[best] < len(shares[best]) else 0.0
        ranks = _raised(ranks, best)
        yield ranks


def _raised(ranks: tuple[int, ...], side: int) -> tuple[int, ...]:
    return (*ranks[:side], ranks[side] + 1, *ranks[side + 1 :])


def _shares(spectrum: Sequence[float]) -> list[float]:
    """Each direction's share of the variance; zeros where there is none."""
    total = sum(spectrum)
    return [value / total if total > 0 else 0.0 for value in spectrum]


def spread(count: int, limit: int = MAX_RUNGS) -> list[int]:
    """At most `limit` of the numbers 1..count, both ends among them, evenly spaced on a log scale."""
    if count <= limit:
        return list(range(1, count + 1))
    steps = limit
    while True:  # a finer grid until enough of it is left once its crowded low end is rounded
        chosen = {round(count ** (i / (steps - 1))) for i in range(steps)}
        finer = {round(count ** (i / steps)) for i in range(steps + 1)}
        if len(finer) > limit:
            return sorted(chosen)
        steps += 1
