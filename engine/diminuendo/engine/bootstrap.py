"""How far chance moves a figure of a set of samples: by sets drawn from them, and by sets that lack one of them.

Legend: N samples, R draws.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diminuendo.engine.task import TaskError

SEED = 0
"""Of the draws: the same samples are drawn in every process, and for every network."""

LEAST = 10
"""Draws of which something can be said."""


class Effort(NamedTuple):
    """How many sets are looked at: draws with repetition, and sets that lack one sample."""

    draws: int
    lacking: int


USUAL, SLOW, SLOWEST = Effort(1000, 256), Effort(200, 64), Effort(50, 16)
SLOW_S, SLOWEST_S = 0.005, 0.1
"""Seconds of one look from which there are fewer. The draws are the first ones of the same."""


class Draws:
    """A figure of sets drawn from N samples with repetition: the bootstrap of Efron (1979).

    Attributes:
        effort: How many sets are looked at.
    """

    def __init__(self, value: Callable[[Tensor], float], values: Tensor) -> None:
        """Time the figure on one set.

        Args:
            value: (N, ...) what samples add -> the figure. Sets that it raises on are left out.
            values: (N, ...) of some samples.
        """
        self._value = value
        self._count = len(values)
        seconds = min(self._timed(values) for _ in range(2))
        self.effort = USUAL if seconds < SLOW_S else SLOW if seconds < SLOWEST_S else SLOWEST

    def of(self, values: Tensor) -> Tensor:
        """(R,) figures of the draws, the same samples in each whatever the values; NaN where there is none."""
        generator = torch.Generator().manual_seed(SEED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a draw lacks is no news
            return torch.tensor(
                [
                    self._tried(values[torch.randint(self._count, (self._count,), generator=generator)])
                    for _ in range(self.effort.draws)
                ],
                dtype=torch.float64,
            )

    def influences(self, values: Tensor) -> Tensor:
        """What single samples bring: the figure of all, less that without the one; of those that differ most."""
        whole = self._tried(values.clone())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            without = [
                self._tried(torch.cat([values[:place], values[place + 1 :]]))
                for place in _telling(values, self.effort.lacking)
            ]
        found = whole - torch.tensor(without, dtype=torch.float64)
        return found[found.isfinite()]

    def _tried(self, values: Tensor) -> float:
        try:
            found = self._value(values)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # noqa: BLE001 - whatever the owner's code says of a set that lacks something
            return math.nan
        return found if math.isfinite(found) else math.nan

    def _timed(self, values: Tensor) -> float:
        start = time.perf_counter()
        self._tried(values[torch.arange(self._count)])
        return time.perf_counter() - start


def standard_error(figures: Tensor) -> float:
    """Of a figure, from those of draws.

    Raises:
        TaskError: Hardly any draw has one.
    """
    finite = figures[figures.isfinite()]
    if len(finite) < LEAST:
        raise TaskError(
            f"metric: it has a finite value on {len(finite)} of {len(figures)} random draws of the samples, so that "
            "nothing can be said of its noise; bring more evaluation samples of what is rare in them, or let "
            "SetMetric.value give a number for samples that lack something"
        )
    return float(finite.std())


def _telling(values: Tensor, most: int) -> list[int]:
    """Places of at most so many samples: those with the least and the most of something, then any."""
    flat = values.reshape(len(values), -1)
    columns = flat[:, :: max(1, -(-4 * flat.shape[1] // most))]
    ends = torch.cat([columns.argmin(dim=0), columns.argmax(dim=0)]).tolist()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(SEED)).tolist()
    return list(dict.fromkeys([*ends, *order]))[:most]
