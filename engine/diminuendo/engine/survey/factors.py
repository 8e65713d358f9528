"""Factors of a layer in every format that has a form of it, and their way to and from bytes."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor, nn

from diminuendo.engine.formats import FORMATS, Moments
from diminuendo.engine.plan import LayerSpec


def factor(model: nn.Module, spec: LayerSpec, moments: Moments) -> dict[str, dict[str, Tensor]]:
    """Data-aware factors at full rank, by format, for every format that supports the layer.

    Args:
        model: The original network; not changed.
        spec: The layer.
        moments: Of this layer, as `moments.collect` took them.
    """
    parameters = dict(model.get_submodule(spec.name).named_parameters(recurse=False))
    return {
        name: form.factor(spec, parameters["weight"], parameters.get("bias"), moments)
        for name, form in FORMATS.items()
        if form.supports(spec)
    }


def to_bytes(factors: Mapping[str, Tensor]) -> bytes:
    """Factors of one layer in one format as safetensors; the same factors give the same bytes."""
    return save({name: tensor.contiguous() for name, tensor in factors.items()})


def from_bytes(content: bytes) -> dict[str, Tensor]:
    """The factors back, on the CPU."""
    return load(content)
