"""First and second moments of a layer on training samples: what data-aware factors know of the data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diminuendo.engine.plan import LayerSpec


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of one layer, float64, over samples and positions. Those of grouped layers lead with a dimension G.

    What is not needed is None, see `needs`.

    Attributes:
        output_mean: (O,) mean of the layer's output without its bias.
        output_covariance: (O, O) centred covariance of the output, or None: the input's tells it.
        input_mean: (I,) mean of the input channels.
        input_covariance: (I, I) centred covariance of the input channels, or None.
        input_lags: (k_1 - 1, I, I) centred covariances of an input position with those 1, 2, ... steps of dilation
            further along the kernel's first axis (zero beyond the border), or None.
        output_count: Output positions seen.
        input_count: Input positions seen.
        absorbs_mean: Whether a constant shift of the output is corrected afterwards: the layer has a bias that
            can take it, or its output goes straight into a BatchNorm. Otherwise projections are taken about
            zero instead of about the mean.
    """

    output_mean: Tensor
    output_covariance: Tensor | None
    input_mean: Tensor
    input_covariance: Tensor | None
    input_lags: Tensor | None
    output_count: int
    input_count: int
    absorbs_mean: bool


@dataclass(frozen=True, slots=True)
class Needs:
    """Which second moments a layer's factors need."""

    output: bool
    input: bool
    lags: bool


def needs(spec: LayerSpec) -> Needs:
    """Which second moments a layer's factors need.

    A pointwise layer needs one side, the narrower: ``W C W^T`` is the covariance of its output.
    """
    out, inner = spec.out_channels // spec.groups, spec.in_channels // spec.groups
    if spec.kernel_size == 1:
        return Needs(output=out <= inner, input=out > inner, lags=False)
    separable = spec.kind == "conv" and len(spec.kernel) > 1 and 1 < spec.kernel[0] < spec.kernel_size
    return Needs(output=True, input=True, lags=separable)


def widest(spec: LayerSpec) -> int:
    """Side of the largest matrix of second moments that the layer needs."""
    out, inner, need = spec.out_channels // spec.groups, spec.in_channels // spec.groups, needs(spec)
    return max(out if need.output else 0, inner if need.input else 0)
