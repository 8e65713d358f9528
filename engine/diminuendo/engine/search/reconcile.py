"""Options that keep several bounds at once, or a proof that there are none: multiplicative weights over the bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TURNS = 400
"""Weightings that are tried."""

RATE = 4.0
"""By how much a bound's weight follows what is over it: the exponent for a whole bound in the first turn."""

CLOSE = 1e-9
"""Share of a bound that is none."""


@dataclass(frozen=True, slots=True)
class Use:
    """What is used of one bound.

    Attributes:
        most: The largest sum that is legal.
        fixed: What is used in any case.
        amounts: Of each layer's options.
    """

    most: float
    fixed: float
    amounts: Sequence[Sequence[float]]


def nearest(uses: Sequence[Use], count: int) -> list[list[int]]:
    """Option indices, one for each layer, that keep all bounds or nearly do: at most so many, the nearest first."""
    worst: dict[tuple[int, ...], float] = {}
    for state, _, used in _turns(uses):
        worst[state] = used
    return [list(state) for state in sorted(worst, key=lambda state: (worst[state], state))[:count]]


def impossible(uses: Sequence[Use]) -> bool:
    """Whether it is certain that no options keep all bounds: some average of them is over 1 at the least.

    False says nothing.
    """
    return any(least > 1.0 + CLOSE for _, least, _ in _turns(uses))


def _turns(uses: Sequence[Use]) -> Iterator[tuple[tuple[int, ...], float, float]]:
    """In every turn the options that use least of a weighted average of all bounds.

    More weight then goes to the bounds that these break: on average over the turns the worst bound is used as little
    as it can be (Arora, Hazan and Kale 2012).

    Yields:
        The options, the average that they use, and how much they use of the worst bound.
    """
    layers = range(len(uses[0].amounts))
    shares: list[NDArray[np.float64]] = [  # (bounds, options) of each layer
        np.stack([np.asarray(use.amounts[layer], dtype=np.float64) / use.most for use in uses]) for layer in layers
    ]
    fixed = np.array([use.fixed / use.most for use in uses])
    logs = np.zeros(len(uses))
    for turn in range(TURNS):
        weights = np.exp(logs - logs.max())
        weights /= weights.sum()
        state = tuple(int((weights @ share).argmin()) for share in shares)
        used = fixed + sum(share[:, option] for share, option in zip(shares, state, strict=True))
        yield state, float(weights @ used), float(used.max())
        logs += RATE / np.sqrt(turn + 1) * (used - 1.0)
