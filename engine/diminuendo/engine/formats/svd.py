"""The `svd` format: a layer as two, narrow in the middle.

A linear layer becomes ``I -> r`` and ``r -> O``; a convolution becomes ``k x k, I -> r`` (with the original's
stride, padding and dilation) and ``1 x 1, r -> O``. The bias stays with the second.

Factors (legend: O outputs, I inputs, R = min(O, I * K)):
    ``left`` (O, R), ``right`` (R, I) or (R, I, k_h, k_w), ``spectrum`` (R,) float64, and for a layer with a bias
    ``bias`` (O,) and ``shift`` (R,): the bias at rank r is ``bias - left[:, :r] @ shift[:r]``, which keeps the
    output's mean on the data where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from diminuendo.engine.cost import Cost
from diminuendo.engine.formats.base import Factors, Format, Moments
from diminuendo.engine.formats.layers import check_ranks, kernel_size, unset_conv, unset_linear
from diminuendo.engine.formats.projection import (
    NEGLIGIBLE_ENERGY,
    dropped_share,
    on_data,
    output_directions,
    pad,
    product_directions,
    spread,
)
from diminuendo.engine.plan import LayerSpec


class Svd(Format):
    """Two layers instead of one, by projection on the leading eigenvectors of the layer's own output."""

    name: ClassVar[str] = "svd"

    def supports(self, spec: LayerSpec) -> bool:
        """Linear layers and ungrouped convolutions."""
        return spec.kind in ("linear", "conv2d")

    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """``(min(O, I * K),)``."""
        return (min(spec.out_channels, spec.in_channels * kernel_size(spec)),)

    def cost(self, spec: LayerSpec, ranks: Sequence[int]) -> Cost:
        """Params ``r (I K + O) + O``; each at every output position."""
        (rank,) = check_ranks(self, spec, ranks)
        bias = spec.out_channels if spec.bias else 0
        params = rank * (spec.in_channels * kernel_size(spec) + spec.out_channels) + bias
        return Cost(params, params * spec.positions)

    def factor(self, spec: LayerSpec, weight: Tensor, bias: Tensor | None, moments: Moments) -> dict[str, Tensor]:
        """Project on the eigenvectors of the output's covariance (about zero where a shift would stay)."""
        matrix = weight.detach().to(torch.float64).flatten(1)  # (O, I K)
        mean = moments.output_mean.to(matrix)
        moment = moments.output_covariance.to(matrix)
        if not moments.absorbs_mean:
            moment = moment + torch.outer(mean, mean)
        product = output_directions(matrix, moment)
        factors = {
            "left": product.left.to(weight.dtype).contiguous(),
            "right": product.right.reshape(-1, *weight.shape[1:]).to(weight.dtype).contiguous(),
            "spectrum": product.spectrum,
        }
        if bias is not None:
            corrected = mean if moments.absorbs_mean else torch.zeros_like(mean)
            factors["bias"] = (bias.detach().to(torch.float64) + corrected).to(weight.dtype)
            factors["shift"] = (product.left.T @ corrected).to(weight.dtype)
        return factors

    def energy(self, factors: Factors, ranks: Sequence[int]) -> float:
        """Share of the eigenvalues left out: exact, on the samples that the moments were taken from."""
        return dropped_share(factors["spectrum"], ranks[0])

    def ladder(self, spec: LayerSpec, factors: Factors) -> list[tuple[int, ...]]:
        """Ranks evenly spaced on a log scale, up to where nothing is dropped or nothing is saved."""
        (top,) = self.max_ranks(spec)
        dense = spec.out_channels * spec.in_channels * kernel_size(spec)
        cheaper = (dense - 1) // (spec.in_channels * kernel_size(spec) + spec.out_channels)
        top = min(top, cheaper)
        rungs: list[tuple[int, ...]] = []
        for rank in spread(top):
            rungs.append((rank,))
            if self.energy(factors, (rank,)) <= NEGLIGIBLE_ENERGY:
                break
        return rungs

    def build(self, layer: nn.Module, ranks: Sequence[int]) -> nn.Sequential:
        """The two layers, unset."""
        (rank,) = ranks
        if isinstance(layer, nn.Linear):
            return nn.Sequential(
                unset_linear(layer, layer.in_features, rank, bias=False),
                unset_linear(layer, rank, layer.out_features, bias=layer.bias is not None),
            )
        if isinstance(layer, nn.Conv2d):
            return nn.Sequential(
                unset_conv(layer, layer.in_channels, rank, spatial=True, bias=False),
                unset_conv(layer, rank, layer.out_channels, spatial=False, bias=layer.bias is not None),
            )
        raise TypeError(f"svd has no form of a {type(layer).__name__}")

    def load(self, module: nn.Sequential, factors: Factors, ranks: Sequence[int]) -> None:
        """Copy the first r directions."""
        (rank,) = ranks
        left, right = factors["left"][:, :rank], factors["right"][:rank]
        outer = left[:, :, None, None] if right.dim() == 4 else left
        state = {"0.weight": right, "1.weight": outer}
        if "bias" in factors:
            state["1.bias"] = factors["bias"] - left @ factors["shift"][:rank]
        module.load_state_dict(state)

    def resize(self, old: Mapping[str, Tensor], new_ranks: Sequence[int], factors: Factors) -> dict[str, Tensor]:
        """Truncate the tuned product by its directions on the data, or add directions that do nothing yet.

        See `projection.on_data` for how the data are known; a bias takes up what the truncation does to the mean.
        """
        (rank,) = new_ranks
        state = dict(old)
        inner, outer = old["0.weight"], old["1.weight"]
        count = len(inner)
        if rank < count:
            right, left = inner.flatten(1).to(torch.float64), outer.flatten(1).to(torch.float64)
            data = on_data(right, factors["right"].flatten(1), factors["spectrum"], factors.get("shift"))
            product = product_directions(left, right, data.moment)
            columns = product.left[:, :rank]
            state["0.weight"] = product.right[:rank].reshape(rank, *inner.shape[1:]).to(inner)
            state["1.weight"] = columns.reshape(-1, rank, *outer.shape[2:]).to(outer)
            if "1.bias" in old:
                mean = left @ data.mean
                state["1.bias"] = old["1.bias"] + (mean - columns @ (columns.T @ mean)).to(old["1.bias"])
        elif rank > count:
            state["0.weight"] = torch.cat([inner, factors["right"][count:rank].to(inner)])
            state["1.weight"] = pad(outer, (outer.shape[0], rank, *outer.shape[2:]))
        return state
