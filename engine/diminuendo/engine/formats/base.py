"""The contract of a format: factor once, slice at any rank, build the module, count its cost.

A form is a chain of small layers, its stages. A format says which stages, what factors they are cut from, and how;
building, counting, groups of channels and the layouts of PyTorch's layers are the same for all and live here.

Legend: G groups, O output and I input channels of one group, K kernel elements, r ranks. Kernels of one group are
always written (O, I, k_1, ..., k_d), also those of transposed convolutions; of linear layers (O, I).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diminuendo.engine.cost import Cost
from diminuendo.engine.formats import layers
from diminuendo.engine.formats.ladder import MAX_RUNGS, NEGLIGIBLE_ENERGY, greedy_path, spread
from diminuendo.engine.formats.sides import Sides
from diminuendo.engine.formats.stage import Stage
from diminuendo.engine.plan import LayerSpec, PlanError

Factors = Mapping[str, Tensor]
"""Named tensors of one layer in one format, at full rank; those of grouped layers lead with a dimension G."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Weights of the stages of one group at some ranks.

    Attributes:
        weights: Of each stage (out, in, k_1, ..., k_d), with 1 where a stage has no kernel; depthwise (out, 1, ...).
        bias: (O,) of the last stage; None for a layer without.
    """

    weights: tuple[Tensor, ...]
    bias: Tensor | None


class Format(ABC):
    """One way to write a layer as several smaller ones. Stateless; one instance per process.

    A new format implements the abstract methods, each for one group of channels; see docs/formats.md.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    """Whether the form at its highest ranks is the layer."""

    # --- what a format says --------------------------------------------------------------------------------

    @abstractmethod
    def supports(self, spec: LayerSpec) -> bool:
        """Whether a layer of this geometry has this form at all."""

    @abstractmethod
    def max_ranks(self, spec: LayerSpec) -> tuple[int, ...]:
        """The highest ranks, of one group, at which the form is exact if it can be."""

    @abstractmethod
    def stages(self, spec: LayerSpec, ranks: Sequence[int]) -> tuple[Stage, ...]:
        """The chain, of one group, from the input to the output; the bias is the last stage's."""

    @abstractmethod
    def decompose(self, sides: Sides) -> dict[str, Tensor]:
        """Data-aware factors of one group at full rank, float64, signs deterministic.

        No inverse of a covariance is taken: projections on leading eigenvectors. Formats that support groups do
        without control flow that depends on values, for it runs under `torch.vmap`.
        """

    @abstractmethod
    def cut(self, factors: Factors, ranks: Sequence[int]) -> Cut:
        """The form of one group at these ranks, sliced out of its factors."""

    @abstractmethod
    def spectra(self, factors: Factors) -> tuple[Tensor, ...]:
        """For each rank the variance on the data that each direction carries, descending, (R,) float64."""

    @abstractmethod
    def resized(self, old: Cut, new_ranks: Sequence[int], factors: Factors) -> Cut:
        """Tuned weights of one group at other ranks, see `resize`."""

    # --- the same for all ----------------------------------------------------------------------------------

    def cost(self, spec: LayerSpec, ranks: Sequence[int], *, item_bytes: int = 4) -> Cost:
        """Cost of the form by the rules of `diminuendo.engine.profile`, bias included.

        Args:
            spec: The layer; its calls tell the sizes.
            ranks: Of the form.
            item_bytes: Of one weight.
        """
        stages = self.stages(spec, self.check_ranks(spec, ranks))
        bias = spec.out_channels if spec.bias else 0
        weights = [spec.groups * stage.weights(spec.kernel) for stage in stages]
        macs = elements = 0
        for call in spec.calls:
            size = list(call.inputs)
            for stage, count in zip(stages, weights, strict=True):
                before = math.prod(size)
                for axis in stage.axes:
                    size[axis] = call.outputs[axis]
                transposed = spec.kind == "conv_transpose" and stage.axes
                macs += call.times * count * (before if transposed else math.prod(size))
                elements += call.times * spec.groups * stage.out_channels * math.prod(size)
            macs += call.times * bias * math.prod(call.outputs)
        params = sum(weights) + bias
        return Cost(params, macs, item_bytes * params, elements)

    def check_ranks(self, spec: LayerSpec, ranks: Sequence[int]) -> tuple[int, ...]:
        """The ranks; PlanError naming layer, format and legal range where they do not fit."""
        top = self.max_ranks(spec)
        if len(ranks) != len(top):
            raise PlanError(f"layer {spec.name!r}: {self.name} takes {len(top)} rank(s), got {list(ranks)}")
        for rank, most in zip(ranks, top, strict=True):
            if not 1 <= rank <= most:
                legal = " x ".join(f"1..{m}" for m in top)
                raise PlanError(
                    f"layer {spec.name!r}: {self.name} rank {rank} of {list(ranks)} is out of range; legal: {legal}"
                )
        return tuple(ranks)

    def pays(self, spec: LayerSpec) -> bool:
        """Whether the form has fewer params than the dense layer at least at its lowest ranks."""
        return self.cost(spec, [1] * len(self.max_ranks(spec))).params < spec.params

    def factor(self, sides: Sides) -> dict[str, Tensor]:
        """Factors of a whole layer at full rank, in its weights' dtype; spectra stay float64.

        Args:
            sides: The layer and what was seen of it on the data; what is decomposed for one format is kept there
                for the others.
        """
        found = sides.for_each_group(self.decompose)
        return {
            name: (tensor if "spectrum" in name else tensor.to(sides.dtype)).contiguous()
            for name, tensor in found.items()
        }

    def energy(self, factors: Factors, ranks: Sequence[int]) -> float:
        """Share of the layer's output variance on the data that these ranks drop, 0 (exact) to 1 (everything).

        For one rank it is exact; for several ``1 - kept_1 * kept_2 ...``, the shares that each side keeps of what the
        others let through: below the sum of the dropped shares, which bounds projections one after the other
        (HOSVD, De Lathauwer 2000), exact when one side alone is truncated, and never above 1.
        """
        kept = 1.0
        for spectrum, rank in zip(self._summed_spectra(factors), ranks, strict=True):
            total = float(spectrum.sum())
            kept *= min(1.0, float(spectrum[:rank].sum()) / total) if total > 0 else 1.0
        return max(0.0, 1.0 - kept)

    def _summed_spectra(self, factors: Factors) -> list[Tensor]:
        """Spectra of the whole layer: at a rank, all groups keep as many directions."""
        return [spectrum if spectrum.dim() == 1 else spectrum.sum(dim=0) for spectrum in self.spectra(factors)]

    def ladder(self, spec: LayerSpec, factors: Factors) -> list[tuple[int, ...]]:
        """Ranks worth considering, ascending in params and nested, all cheaper in params than dense.

        At most `MAX_RUNGS` from the lowest ranks up: of the path on which each step raises the rank that saves the
        most energy for its params, rungs evenly spaced on a log scale.
        """
        spectra = [spectrum.tolist() for spectrum in self._summed_spectra(factors)]
        cheaper: list[tuple[int, ...]] = []
        for ranks in greedy_path(spectra, self.max_ranks(spec), lambda r: self.cost(spec, r).params):
            if self.cost(spec, ranks).params >= spec.params:
                break
            cheaper.append(ranks)
            if self.energy(factors, ranks) <= NEGLIGIBLE_ENERGY:
                break
        return [cheaper[i - 1] for i in spread(len(cheaper), MAX_RUNGS)]

    def snapped(self, spec: LayerSpec, ladder: Sequence[tuple[int, ...]], multiple: int) -> list[tuple[int, ...]]:
        """A ladder whose ranks between its ends are rounded up to multiples, for hardware that likes them.

        Rounding keeps rungs nested. A rank is not raised over its highest, nor over the ladder's end.
        """
        if multiple == 1 or len(ladder) < 3:
            return list(ladder)
        first, *inner, last = ladder
        top = self.max_ranks(spec)
        rounded = (
            tuple(min(-(-rank // multiple) * multiple, most) for rank, most in zip(ranks, top, strict=True))
            for ranks in inner
        )
        between = [r for r in dict.fromkeys(rounded) if all(a <= b for a, b in zip(r, last, strict=True))]
        return [first, *(ranks for ranks in between if ranks not in (first, last)), last]

    def build(self, layer: nn.Module, ranks: Sequence[int]) -> nn.Sequential:
        """The form's structure in the layer's dtype and device with unset weights (`torch.nn.utils.skip_init`)."""
        spec = layers.geometry("", layer)
        stages = self.stages(spec, ranks)
        last = len(stages) - 1
        return nn.Sequential(
            *(layers.unset(layer, spec, stage, bias=spec.bias and i == last) for i, stage in enumerate(stages))
        )

    def load(self, module: nn.Sequential, spec: LayerSpec, factors: Factors, ranks: Sequence[int]) -> None:
        """Copy the slice of the factors at these ranks into a module made by `build`."""
        if spec.groups == 1:
            cut = self.cut(factors, ranks)
        else:
            weights, biases = torch.vmap(lambda own: self._cut_tensors(own, ranks))(dict(factors))
            cut = Cut(tuple(w.flatten(0, 1) for w in weights), biases[0].flatten() if biases else None)
        module.load_state_dict(layers.state_of(module, cut.weights, cut.bias))

    def _cut_tensors(self, factors: Factors, ranks: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        cut = self.cut(factors, ranks)
        return cut.weights, () if cut.bias is None else (cut.bias,)

    def resize(
        self, layer: nn.Module, old: Mapping[str, Tensor], new_ranks: Sequence[int], factors: Factors
    ) -> dict[str, Tensor]:
        """Tuned weights at other ranks: a warm start from a parent.

        Args:
            layer: The original layer.
            old: State dict of a module made by `build` at the parent's ranks, tuned since.
            new_ranks: Ranks of the child.
            factors: The stored factors, for directions that the parent lacked.

        Returns:
            State dict for a module made by `build` at `new_ranks`. Lower ranks: the tuned product truncated, where
            the format can in the data's metric as the stored spectra tell it, on the small factors, with the bias
            corrected. Higher ranks: the same function as the parent's, its new directions started from the stored
            factors on one side and zero on the other.
        """
        spec = layers.geometry("", layer)
        module = self.build(layer, new_ranks)
        whole = layers.weights_of(spec, self.stages(spec, new_ranks), old)
        parts = []
        for group in range(spec.groups):
            own = factors if spec.groups == 1 else {name: tensor[group] for name, tensor in factors.items()}
            weights = tuple(weight.chunk(spec.groups)[group] for weight in whole.weights)
            bias = None if whole.bias is None else whole.bias.chunk(spec.groups)[group]
            parts.append(self.resized(Cut(weights, bias), new_ranks, own))
        weights = tuple(torch.cat(stage) for stage in zip(*(part.weights for part in parts), strict=True))
        biases = [part.bias for part in parts if part.bias is not None]
        return layers.state_of(module, weights, torch.cat(biases) if biases else None)
