"""The `tucker2` format: a convolution as three, narrow at both ends of the kernel (Kim et al. 2016).

``1 x 1, I -> r_in``, then ``k x k, r_in -> r_out`` with the original's stride, padding and dilation, then
``1 x 1, r_out -> O`` with the bias. Ranks are ``(r_in, r_out)``.

Factors (legend: O outputs, I inputs, K kernel elements, R_in = min(I, O K), R_out = min(O, I K)):
    ``output`` (O, R_out), ``core`` (R_out, R_in, k_h, k_w), ``input`` (R_in, I), ``output_spectrum`` (R_out,) and
    ``input_spectrum`` (R_in,) float64, and for a layer with a bias ``bias`` (O,), ``shift`` (R_out,) and
    ``input_mean`` (R_in,). Any leading block of them is the form at lower ranks.

The output side is `svd`'s: leading eigenvectors of the output's covariance. The input side is its mirror image:
the kernel, stacked to (K O, I), is a map on the input's channels, and its directions are the leading eigenvectors
of that map's output when every kernel element sees the input channels' covariance. So an input direction counts
by what the kernel makes of it, not merely by its own variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from diminuendo.engine.cost import Cost
from diminuendo.engine.formats.base import Factors, Format, Moments
from diminuendo.engine.formats.layers import check_ranks, kernel_size, unset_conv
from diminuendo.engine.formats.projection import (
    MAX_RUNGS,
    NEGLIGIBLE_ENERGY,
    Product,
    dropped_share,
    on_data,
    output_directions,
    pad,
    product_directions,
    spread,
)
from diminuendo.engine.plan import LayerSpec


class Tucker2(Format):
    """Three convolutions instead of one, by projections of output and input channels."""

    name: ClassVar[str] = "tucker2"

    def supports(self, spec: LayerSpec) -> bool:
        """Ungrouped convolutions with more than one kernel element."""
        return spec.kind == "conv2d" and kernel_size(spec) > 1

    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """``(min(I, O K), min(O, I K))``."""
        size = kernel_size(spec)
        return (
            min(spec.in_channels, spec.out_channels * size),
            min(spec.out_channels, spec.in_channels * size),
        )

    def cost(self, spec: LayerSpec, ranks: Sequence[int]) -> Cost:
        """Params ``I r_in + K r_in r_out + O r_out + O``; the first at input positions, the others at output's."""
        r_in, r_out = check_ranks(self, spec, ranks)
        first = spec.in_channels * r_in
        rest = kernel_size(spec) * r_in * r_out + spec.out_channels * r_out
        rest += spec.out_channels if spec.bias else 0
        return Cost(first + rest, first * spec.input_positions + rest * spec.positions)

    def factor(self, spec: LayerSpec, weight: Tensor, bias: Tensor | None, moments: Moments) -> dict[str, Tensor]:
        """Project outputs and inputs; where a constant shift is corrected afterwards, about their means.

        The bias correction is exact where the kernel lies inside the image; at zero-padded borders it is off by
        what the padding takes away from the input's mean.
        """
        kernel = weight.detach().to(torch.float64)  # (O, I, k_h, k_w)
        outputs, inputs = _directions(kernel, moments)
        stacked = inputs.left.reshape(kernel.shape[0], *kernel.shape[2:], -1)  # (O, k_h, k_w, R_in)
        core = torch.einsum("or,oklj->rjkl", outputs.left, stacked)
        factors = {
            "output": outputs.left,
            "core": core,
            "input": inputs.right,
        }
        if bias is not None:
            factors |= _bias_factors(kernel, bias.detach().to(kernel), outputs, inputs, moments)
        factors = {name: value.to(weight.dtype).contiguous() for name, value in factors.items()}
        return factors | {"output_spectrum": outputs.spectrum, "input_spectrum": inputs.spectrum}

    def energy(self, factors: Factors, ranks: Sequence[int]) -> float:
        """``1 - kept_in * kept_out``, the shares that each side keeps of what the other lets through.

        Below the sum of the dropped shares, which is the bound for two projections one after the other (HOSVD,
        De Lathauwer 2000), and like it exact when only one side is truncated; unlike it never above 1.
        """
        r_in, r_out = ranks
        lost_out = dropped_share(factors["output_spectrum"], r_out)
        lost_in = dropped_share(factors["input_spectrum"], r_in)
        return lost_out + lost_in - lost_out * lost_in

    def ladder(self, spec: LayerSpec, factors: Factors) -> list[tuple[int, ...]]:
        """From (1, 1) up, each step on the side that saves more energy for its params; a spread of that path."""
        dense = spec.out_channels * spec.in_channels * kernel_size(spec)
        bias = spec.out_channels if spec.bias else 0
        path = [ranks for ranks in _greedy_path(self, spec, factors) if self.cost(spec, ranks).params - bias < dense]
        useful = [i for i, ranks in enumerate(path) if self.energy(factors, ranks) <= NEGLIGIBLE_ENERGY]
        path = path[: useful[0] + 1] if useful else path
        return [path[i - 1] for i in spread(len(path), MAX_RUNGS)]

    def build(self, layer: nn.Module, ranks: Sequence[int]) -> nn.Sequential:
        """The three convolutions, unset."""
        if not isinstance(layer, nn.Conv2d):
            raise TypeError(f"tucker2 has no form of a {type(layer).__name__}")
        r_in, r_out = ranks
        return nn.Sequential(
            unset_conv(layer, layer.in_channels, r_in, spatial=False, bias=False),
            unset_conv(layer, r_in, r_out, spatial=True, bias=False),
            unset_conv(layer, r_out, layer.out_channels, spatial=False, bias=layer.bias is not None),
        )

    def load(self, module: nn.Sequential, factors: Factors, ranks: Sequence[int]) -> None:
        """Copy the leading block."""
        r_in, r_out = ranks
        output, core = factors["output"][:, :r_out], factors["core"][:r_out, :r_in]
        state = {
            "0.weight": factors["input"][:r_in, :, None, None],
            "1.weight": core,
            "2.weight": output[:, :, None, None],
        }
        if "bias" in factors:
            mean = factors["shift"][:r_out] + core.sum(dim=(2, 3)) @ factors["input_mean"][:r_in]
            state["2.bias"] = factors["bias"] - output @ mean
        module.load_state_dict(state)

    def resize(self, old: Mapping[str, Tensor], new_ranks: Sequence[int], factors: Factors) -> dict[str, Tensor]:
        """Each side on its own: truncated by its directions on the data, or grown by such as do nothing yet.

        See `projection.on_data` for how the data are known; a bias takes up what the truncation does to the mean.
        """
        r_in, r_out = new_ranks
        state = dict(old)
        if r_out < len(state["1.weight"]):
            _narrow_output(state, r_out, factors)
        if r_in < len(state["0.weight"]):
            _narrow_input(state, r_in, factors)
        if r_in > len(state["0.weight"]):
            _widen_input(state, r_in, factors)
        if r_out > len(state["1.weight"]):
            _widen_output(state, r_out, factors)
        return state


def _directions(kernel: Tensor, moments: Moments) -> tuple[Product, Product]:
    """Directions of the output (O, R_out) and of the input: left (O * K, R_in), right (R_in, I)."""
    output_moment, input_moment = moments.output_covariance.to(kernel), moments.input_covariance.to(kernel)
    if not moments.absorbs_mean:
        output_moment = output_moment + torch.outer(moments.output_mean, moments.output_mean).to(kernel)
        input_moment = input_moment + torch.outer(moments.input_mean, moments.input_mean).to(kernel)
    outputs = output_directions(kernel.flatten(1), output_moment)
    stacked = kernel.permute(0, 2, 3, 1).flatten(0, 2)  # (O * K, I)
    eye = torch.eye(stacked.shape[1], dtype=kernel.dtype, device=kernel.device)
    return outputs, product_directions(stacked, eye, input_moment)


def _bias_factors(
    kernel: Tensor, bias: Tensor, outputs: Product, inputs: Product, moments: Moments
) -> dict[str, Tensor]:
    """What the bias at any ranks is made of: it keeps the output's mean on the data where it was."""
    output_mean, input_mean = moments.output_mean.to(kernel), moments.input_mean.to(kernel)
    if not moments.absorbs_mean:
        output_mean, input_mean = torch.zeros_like(output_mean), torch.zeros_like(input_mean)
    inside = kernel.sum(dim=(2, 3)) @ input_mean  # (O,): the output's mean, were there no borders
    return {
        "bias": bias + output_mean,
        "shift": outputs.left.T @ (output_mean - inside),
        "input_mean": inputs.right @ input_mean,
    }


def _greedy_path(form: Tucker2, spec: LayerSpec, factors: Factors) -> list[tuple[int, int]]:
    """Every pair of ranks from (1, 1) to the full ones, one step of one rank at a time."""
    top_in, top_out = form.max_ranks(spec)
    gain_in, gain_out = _shares(factors["input_spectrum"]), _shares(factors["output_spectrum"])
    size = kernel_size(spec)
    r_in, r_out = 1, 1
    kept_in, kept_out = gain_in[0], gain_out[0]
    path = [(r_in, r_out)]
    while (r_in, r_out) != (top_in, top_out):
        price_in, price_out = spec.in_channels + size * r_out, spec.out_channels + size * r_in
        if r_out == top_out or (
            r_in < top_in and gain_in[r_in] * kept_out * price_out >= gain_out[r_out] * kept_in * price_in
        ):
            kept_in += gain_in[r_in]
            r_in += 1
        else:
            kept_out += gain_out[r_out]
            r_out += 1
        path.append((r_in, r_out))
    return path


def _shares(spectrum: Tensor) -> list[float]:
    """Each direction's share of the variance; zeros where there is none."""
    total = float(spectrum.sum())
    return [value / total if total > 0 else 0.0 for value in spectrum.tolist()]


def _narrow_input(state: dict[str, Tensor], rank: int, factors: Factors) -> None:
    """Truncate the input side: the map that core and output are on the input's directions."""
    first, core, last = state["0.weight"], state["1.weight"], state["2.weight"]
    right = first.flatten(1).to(torch.float64)  # (r_in, I)
    basis, square = torch.linalg.qr(last.flatten(1).to(torch.float64))  # (O, r_out), (r_out, r_out)
    moved = torch.einsum("qr,rjkl->qklj", square, core.to(torch.float64))  # (r_out, k_h, k_w, r_in)
    data = on_data(right, factors["input"], factors["input_spectrum"], factors.get("input_mean"))
    left = moved.flatten(0, 2)
    product = product_directions(left, right, data.moment)
    kept = min(rank, product.left.shape[1])
    columns = product.left[:, :kept]
    state["0.weight"] = product.right[:kept, :, None, None].to(first).contiguous()
    state["1.weight"] = columns.reshape(*moved.shape[:3], kept).permute(0, 3, 1, 2).to(core).contiguous()
    state["2.weight"] = basis[:, :, None, None].to(last).contiguous()
    if "2.bias" in state:
        mean = left @ data.mean
        lost = (mean - columns @ (columns.T @ mean)).reshape(*moved.shape[:3]).sum(dim=(1, 2))
        state["2.bias"] = state["2.bias"] + (basis @ lost).to(state["2.bias"])


def _narrow_output(state: dict[str, Tensor], rank: int, factors: Factors) -> None:
    """Truncate the output side: the map that the output is on the core's directions.

    The core is compared with the stored one at the same input directions, which has nearly the same output.
    """
    core, last = state["1.weight"], state["2.weight"]
    r_in = core.shape[1]
    tuned = _compose(core, state["0.weight"].flatten(1))
    stored = _compose(factors["core"][:, :r_in], factors["input"][:r_in])
    data = on_data(tuned, stored, factors["output_spectrum"], _core_mean(factors))
    left = last.flatten(1).to(torch.float64)
    product = product_directions(left, core.flatten(1).to(torch.float64), data.moment)
    columns = product.left[:, :rank]
    state["1.weight"] = product.right[:rank].reshape(rank, *core.shape[1:]).to(core)
    state["2.weight"] = columns[:, :, None, None].to(last).contiguous()
    if "2.bias" in state:
        mean = left @ data.mean
        state["2.bias"] = state["2.bias"] + (mean - columns @ (columns.T @ mean)).to(state["2.bias"])


def _compose(core: Tensor, first: Tensor) -> Tensor:
    """Core (r_out, r_in, k_h, k_w) on input directions (r_in, I) -> the map (r_out, I K), float64."""
    return torch.einsum("rjkl,ji->rikl", core.to(torch.float64), first.to(torch.float64)).flatten(1)


def _core_mean(factors: Factors) -> Tensor | None:
    """(R_out,) mean of the core's output at full rank, for a layer with a bias."""
    if "bias" not in factors:
        return None
    return factors["shift"] + factors["core"].sum(dim=(2, 3)) @ factors["input_mean"]


def _widen_input(state: dict[str, Tensor], rank: int, factors: Factors) -> None:
    """More input directions from the stored factors, which the core does not read yet."""
    first, core = state["0.weight"], state["1.weight"]
    fresh = factors["input"][len(first) : rank, :, None, None].to(first)
    state["0.weight"] = torch.cat([first, fresh])
    state["1.weight"] = pad(core, (core.shape[0], rank, *core.shape[2:]))


def _widen_output(state: dict[str, Tensor], rank: int, factors: Factors) -> None:
    """More output directions from the stored factors, which the output does not use yet."""
    core, last = state["1.weight"], state["2.weight"]
    fresh = factors["core"][len(core) : rank, : core.shape[1]].to(core)
    state["1.weight"] = torch.cat([core, fresh])
    state["2.weight"] = pad(last, (last.shape[0], rank, 1, 1))
