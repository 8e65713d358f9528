"""Ridge regression that says by itself how far it may go: by samples that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths that are tried, in units of the inputs' mean square."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What was found.

    Attributes:
        weight: (O, K).
        bias: (O,): what is missing of the targets' mean.
        ridge: The strength, of `RIDGES`.
    """

    weight: Tensor
    bias: Tensor
    ridge: float


@dataclass(frozen=True, slots=True)
class _Squares:
    """Sums over rows about an origin: (K, K) of inputs, (K, O) of inputs with targets, float64; and of the rows."""

    inputs: Tensor
    crossed: Tensor
    sums: tuple[Tensor, Tensor]
    rows: int

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor) -> _Squares:
        """Products in the rows' own precision."""
        products = inputs.mT @ inputs, inputs.mT @ targets
        sums = inputs.sum(0, dtype=torch.float64), targets.sum(0, dtype=torch.float64)
        return cls(products[0].to(torch.float64), products[1].to(torch.float64), sums, len(inputs))

    def __add__(self, other: _Squares) -> _Squares:
        sums = self.sums[0] + other.sums[0], self.sums[1] + other.sums[1]
        return _Squares(self.inputs + other.inputs, self.crossed + other.crossed, sums, self.rows + other.rows)

    def about_means(self) -> _Squares:
        """The same about the rows' own means."""
        here, there = self.sums
        inputs = self.inputs - torch.outer(here, here) / self.rows
        crossed = self.crossed - torch.outer(here, there) / self.rows
        return _Squares(inputs, crossed, (torch.zeros_like(here), torch.zeros_like(there)), self.rows)

    def misses(self, weight: Tensor) -> float:
        """Sum of squares that (K, O) weights miss the targets by, but for what is the same for all weights."""
        return float((weight * (self.inputs @ weight)).sum() - 2 * (weight * self.crossed).sum())

    def solved(self, start: Tensor, ridge: float) -> Tensor | None:
        """The (K, O) weights that miss least, a move from `start` having its price; None when there are none."""
        diagonal = self.inputs.diagonal()
        damped = self.inputs + torch.diag_embed(torch.full_like(diagonal, ridge * float(diagonal.mean())))
        factor, failed = torch.linalg.cholesky_ex(damped)
        if int(failed):
            return None
        return start + torch.cholesky_solve(self.crossed - self.inputs @ start, factor)


def fitted(inputs: Tensor, targets: Tensor, weight: Tensor, held: Tensor, *, centred: bool) -> Fit | None:
    """Linear weights that bring inputs nearer to targets than those that are there, or None.

    Minimised is the sum of squares, with a price on the distance from the weights that are there. Its strength is the
    one that does best on held rows; where none does better on them than the weights that are there, nothing is taken.
    The weights are then fitted to all rows.

    Args:
        inputs: (N, K) float.
        targets: (N, O) float.
        weight: (O, K), what is there.
        held: (N,) bool: rows that are not fitted to until the strength is chosen.
        centred: Whether a constant may be added to the outputs.
    """
    mine = ~held
    finite = bool(torch.isfinite(inputs).all()) and bool(torch.isfinite(targets).all())
    if not finite or not bool(mine.any()) or not bool(held.any()):
        return None
    start = weight.mT.to(torch.float64)
    here, there = inputs[mine], targets[mine]
    origin = (here.mean(0), there.mean(0)) if centred else (torch.zeros_like(here[0]), torch.zeros_like(there[0]))
    seen = _Squares.of(here - origin[0], there - origin[1])
    unseen = _Squares.of(inputs[held] - origin[0], targets[held] - origin[1])
    least, best = unseen.misses(start), None
    for ridge in RIDGES:
        found = seen.solved(start, ridge)
        if found is not None and (missed := unseen.misses(found)) < least:
            least, best = missed, ridge
    if best is None:
        return None
    everything = seen + unseen
    found = (everything.about_means() if centred else everything).solved(start, best)
    if found is None or not bool(torch.isfinite(found).all()):
        return None
    bias = targets.mean(0, dtype=torch.float64) - inputs.mean(0, dtype=torch.float64) @ found
    return Fit(found.mT, bias, best)
