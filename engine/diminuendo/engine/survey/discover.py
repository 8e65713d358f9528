"""Which layers of a network can be compressed, and why the others cannot."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from diminuendo.engine import tree
from diminuendo.engine.formats import FORMATS
from diminuendo.engine.formats.layers import BASES, base_of, geometry, is_transposed_linear
from diminuendo.engine.formats.moments import widest
from diminuendo.engine.modules import check_initialized, unwrapped
from diminuendo.engine.plan import LayerSpec
from diminuendo.engine.survey.observe import Seen, observe
from diminuendo.engine.survey.trial import Trial

WIDEST = 16384
"""Largest side of a covariance that is taken: 2 GiB in float64."""

_SEVERAL = 16
"""Samples that are tried for layers that the first one does not reach."""

NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
"""Layers whose few weights are no matter for compression: they are not reported as left dense."""

_NOT_REPORTED = (*NORM_LAYERS, parametrize.ParametrizationList)
_QUANTIZED = ("torch.ao.nn", "torch.nn.quantized", "torchao.")


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a network is made of, to one who compresses it.

    Attributes:
        layers: Layers that can be compressed, in the order of the network's modules.
        left_dense: (module name, reason) for modules with weights that cannot.
    """

    layers: tuple[LayerSpec, ...]
    left_dense: tuple[tuple[str, str], ...]


def discover(model: nn.Module, inputs: Any) -> Discovery:
    """Find the layers that can be compressed by running the network on one sample, and on several.

    A layer's calls are those of the first sample: none for one that only others reach (an expert). What none of the
    first 16 reaches is left dense. Networks whose inputs do not have the samples as their first dimension are not
    handled.

    Args:
        model: Left as it was: parameters, buffers, mode of every module, hooks.
        inputs: (N, ...) inputs, as `tree` has them, of which the first 16 at most are used.

    Returns:
        Linear layers and convolutions that are called with one tensor, own their trainable weight alone, of which
        some form has fewer params, and in whose place another module gives the same network.

    Raises:
        TaskError: The network cannot be copied, a copy of it uses modules or weights of the original, or its outputs
            hold no tensor.
        UninitializedError: A lazy layer was never run.
    """
    check_initialized(model)
    model = unwrapped(model)
    reasons = {name: _by_itself(name, module) for name, module in model.named_modules() if _reported(module)}
    watched = {name: model.get_submodule(name) for name, reason in reasons.items() if not reason}
    seen = observe(model, tree.take(inputs, slice(0, 1)), watched)
    rare = {name: module for name, module in watched.items() if not seen[name].sizes(0, 1)}
    several = tree.take(inputs, slice(0, _SEVERAL if rare else 2))
    elsewhere = observe(model, several, rare) if rare else {}
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    specs: dict[str, LayerSpec] = {}
    for name, module in watched.items():
        reasons[name] = _at_work(module, elsewhere.get(name, seen[name]), owners)
        if not reasons[name]:
            specs[name] = _spec(name, module, seen[name])
            reasons[name] = _without_form(specs[name])
    candidates = [name for name, reason in reasons.items() if not reason]
    if candidates:
        reasons |= Trial(model, several).obstacles(candidates)
    return Discovery(
        layers=tuple(specs[name] for name, reason in reasons.items() if not reason),
        left_dense=tuple((name, reason) for name, reason in reasons.items() if reason),
    )


def _reported(module: nn.Module) -> bool:
    """Whether it has weights of its own that matter."""
    return not isinstance(module, _NOT_REPORTED) and (any(True for _ in _own_weights(module)) or _quantized(module))


def _own_weights(module: nn.Module) -> Iterator[Tensor]:
    """Weights that belong to this module itself, also such as are hidden behind a parametrization."""
    yield from module.parameters(recurse=False)
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def _quantized(module: nn.Module) -> bool:
    """Whether it is one of PyTorch's quantized layers, whose weights are no parameters."""
    return type(module).__module__.startswith(_QUANTIZED) and hasattr(module, "weight")


def _by_itself(name: str, module: nn.Module) -> str:
    """Why this module cannot be compressed, as far as it tells itself; empty if it can."""
    kind = type(module).__name__
    if _quantized(module):
        return "its weights are quantized"
    if parametrize.is_parametrized(module):
        return f"its {kind} weights are parametrized"
    if base_of(module) is None and not is_transposed_linear(module):
        base = next((b.__name__ for b in type(module).__mro__ if b in BASES), None)
        return f"{kind} is a subclass of {base} with a forward of its own" if base else f"no format for {kind}"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    if name == "":
        return "it is the whole network; wrap it in nn.Sequential"
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed by a hook, not a parameter of its own"
    if type(weight) is not nn.Parameter or type(weight.data) is not Tensor:
        return f"its weight is a {type(weight).__name__}, not a plain parameter"
    if weight.layout is not torch.strided:
        return f"its weight is sparse ({weight.layout})"
    if not weight.requires_grad:
        return "its weight is frozen (requires_grad is False)"
    if not weight.dtype.is_floating_point:
        return f"its weight is {weight.dtype}, not a floating-point type"
    return ""


def _at_work(module: nn.Module, seen: Seen, owners: Counter[int]) -> str:
    """Why this module cannot be compressed, as it was seen in a forward; empty if it can."""
    if any(owners[id(p)] > 1 for p in module.parameters(recurse=False)):
        return "it shares weights with another module"
    if seen.used_by:
        return f"code outside of it uses its weight ({seen.used_by})"
    if seen.calls == 0:
        return "it is not called in a forward"
    if seen.odd:
        return "it is called with more than one plain tensor"
    if all(0 in given or 0 in returned for given, returned in seen.shapes):
        return "it is called with an empty tensor"
    return ""


def _without_form(spec: LayerSpec) -> str:
    """Why no form of this layer is of use; empty if one is."""
    if not any(form.exact and form.supports(spec) and form.pays(spec) for form in FORMATS.values()):
        return f"no form has fewer params than its {spec.params:,}"
    if widest(spec) > WIDEST:
        return f"its covariance would have {widest(spec):,} rows, more than {WIDEST:,}"
    return ""


def _spec(name: str, module: nn.Module, seen: Seen) -> LayerSpec:
    """A layer with its calls in the forward of one sample."""
    bare = geometry(name, module)
    return dataclasses.replace(bare, calls=seen.sizes(len(bare.kernel), bare.in_channels))
