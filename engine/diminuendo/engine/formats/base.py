"""The contract of a format: factor once, slice at any rank, build the module, count its cost.

Legend: O output channels, I input channels, K kernel elements (k_h * k_w), r ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import LayerSpec

Factors = Mapping[str, Tensor]
"""Named tensors of one layer in one format, at full rank; nested: a lower rank is a slice of them."""


@dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of one layer on training samples, float64, over samples and positions.

    Attributes:
        output_mean: (O,) mean of the layer's output without its bias.
        output_covariance: (O, O) centred covariance of the output.
        input_mean: (I,) mean of the input channels.
        input_covariance: (I, I) centred covariance of the input channels.
        output_count: Output positions seen.
        input_count: Input positions seen.
        absorbs_mean: Whether a constant shift of the output is corrected afterwards: the layer has a bias that
            can take it, or its output goes straight into a BatchNorm. Otherwise projections are taken about
            zero instead of about the mean.
    """

    output_mean: Tensor
    output_covariance: Tensor
    input_mean: Tensor
    input_covariance: Tensor
    output_count: int
    input_count: int
    absorbs_mean: bool


class Format(ABC):
    """One way to write a layer as several smaller ones. Stateless; one instance per process."""

    name: ClassVar[str]

    @abstractmethod
    def supports(self, spec: LayerSpec) -> bool:
        """Whether a layer of this geometry has this form at all."""

    @abstractmethod
    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """The ranks at which the form is exact."""

    @abstractmethod
    def cost(self, spec: LayerSpec, ranks: Sequence[int]) -> Cost:
        """Params and MACs of the form by the rules of `diminuendo.engine.profile`, bias included."""

    @abstractmethod
    def factor(self, spec: LayerSpec, weight: Tensor, bias: Tensor | None, moments: Moments) -> dict[str, Tensor]:
        """Data-aware factors at full rank, in the weight's dtype (computed in float64), signs deterministic.

        Spectra needed by `energy` are among them. No inverse is taken: projections on leading eigenvectors.
        """

    @abstractmethod
    def energy(self, factors: Factors, ranks: Sequence[int]) -> float:
        """Share of the layer's output variance on the data that these ranks drop, 0 (exact) to 1 (everything)."""

    @abstractmethod
    def ladder(self, spec: LayerSpec, factors: Factors) -> list[tuple[int, ...]]:
        """Ranks worth considering, ascending in params and nested, all cheaper in params than dense.

        At most about 32 rungs from the smallest rank up. For formats with several ranks: the path on which each
        rung drops the least energy for its params.
        """

    @abstractmethod
    def build(self, layer: nn.Module, ranks: Sequence[int]) -> nn.Sequential:
        """The form's structure in the layer's dtype and device with unset weights (`torch.nn.utils.skip_init`)."""

    @abstractmethod
    def load(self, module: nn.Sequential, factors: Factors, ranks: Sequence[int]) -> None:
        """Copy the slice of the factors at these ranks into a module made by `build`."""

    @abstractmethod
    def resize(self, old: Mapping[str, Tensor], new_ranks: Sequence[int], factors: Factors) -> dict[str, Tensor]:
        """Tuned weights at other ranks: a warm start from a parent.

        Args:
            old: State dict of a module made by `build` at the parent's ranks, tuned since.
            new_ranks: Ranks of the child.
            factors: The stored factors, for directions that the parent lacked.

        Returns:
            State dict for a module made by `build` at `new_ranks`. Lower ranks: the tuned product truncated in the
            data's metric as the stored spectra tell it, on the small factors, with the bias corrected. Higher
            ranks: the same function as the parent's, its new directions started from the stored factors on one
            side and zero on the other.
        """


def leading_eigenvectors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (descending, clamped at 0) and eigenvectors (columns) of a symmetric matrix, float64.

    Signs are deterministic: the component of largest magnitude of each vector is positive.
    """
    values, vectors = torch.linalg.eigh(covariance.to(torch.float64))
    values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
    pivot = vectors.abs().argmax(dim=0)
    signs = torch.sign(vectors[pivot, torch.arange(vectors.shape[1])])
    return values, vectors * torch.where(signs == 0, torch.ones_like(signs), signs)
