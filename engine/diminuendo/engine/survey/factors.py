"""Factors of a layer in every format that has a form of it, and their way to and from bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from safetensors.torch import load, save
from torch import Tensor, nn

from diminuendo.engine.formats import FORMATS, Moments, Sides
from diminuendo.engine.modules import unwrapped
from diminuendo.engine.plan import FORMAT_NAMES, LayerSpec


def factor(
    model: nn.Module,
    spec: LayerSpec,
    moments: Moments,
    formats: Collection[str] = FORMAT_NAMES,
    *,
    paying: bool = True,
) -> dict[str, dict[str, Tensor]]:
    """Data-aware factors at full rank, by format, for every format that has a form of the layer.

    Args:
        model: The original network; not changed.
        spec: The layer, with its calls.
        moments: Of this layer, as `moments.collect` took them.
        formats: Names of the formats to consider.
        paying: Whether to leave out formats of which no form has fewer params than the layer.
    """
    sides = Sides.of(unwrapped(model).get_submodule(spec.name), moments, spec)
    return {
        name: form.factor(sides)
        for name, form in FORMATS.items()
        if name in formats and form.supports(spec) and (form.pays(spec) or not paying)
    }


def to_bytes(factors: Mapping[str, Tensor]) -> bytes:
    """Factors of one layer in one format as safetensors; the same factors give the same bytes."""
    return save({name: tensor.contiguous() for name, tensor in factors.items()})


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """The factors back, on the CPU."""
    return load(content)
