"""What is done with any nn.Module, whatever it computes: modes, wrappers, lazy layers."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from diminuendo.engine import tree

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class UninitializedError(ValueError):
    """Raised for a network with a lazy layer that was never run; the message names the layer."""


class CopyError(ValueError):
    """Raised for a network of which no copy can be made; the message names what stands in the way."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def with_forward(model: nn.Module, forward: Callable[[nn.Module, Any], Any] | None) -> nn.Module:
    """The network that `tree.call` runs by a function of its owner's: a shallow copy, which shares all of it.

    Deep copies of it, with other layers in it, are run likewise.
    """
    if forward is None:
        return model
    model = copy.copy(unwrapped(model))
    vars(model)[tree.FORWARD] = _Forward(forward)
    return model


class _Forward:
    """An owner's function, which no copy of a network copies."""

    def __init__(self, function: Callable[[nn.Module, Any], Any]) -> None:
        self._function = function

    def __call__(self, model: nn.Module, inputs: Any) -> Any:
        return self._function(model, inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Forward:
        return self


def unwrapped(model: nn.Module) -> nn.Module:
    """The network without what `torch.compile`, DataParallel and DistributedDataParallel put around it.

    A network that was compiled in part is copied, with the compiled parts replaced by what they were made from; any
    other is returned as it is. Names are those of the network inside: without ``_orig_mod`` and ``module``.
    """
    while _is_compiled(model) or isinstance(model, _WRAPPERS):
        inner: Any = model
        model = inner._orig_mod if _is_compiled(model) else inner.module
    compiled = [module for module in model.modules() if _is_compiled(module)]
    if not compiled:
        return model
    memo: dict[int, object] = {}
    for module in reversed(compiled):  # inner ones first
        inner = module
        memo[id(module)] = copied(inner._orig_mod, memo)
    return copied(model, memo)


def copied(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A deep copy of a network.

    Tensors that a forward left in its attributes, with the graph that made them, are copied without it: torch refuses
    to copy them as they are.

    Args:
        memo: As of `copy.deepcopy`: what stands for which object in the copy, by id.

    Raises:
        CopyError: Something in the network cannot be copied; names the attribute.
    """
    memo = {} if memo is None else memo
    try:
        with _WithoutGraph(), torch.no_grad():
            made = copy.deepcopy(model, memo)
    except Exception as error:
        raise CopyError(
            f"{_uncopyable(model)} cannot be copied ({type(error).__name__}: {error}); make it when it is used, or "
            "leave it out in __deepcopy__ or __getstate__"
        ) from error
    for module in model.modules():
        scripted = memo.get(id(module)) if isinstance(module, torch.jit.ScriptModule) else None
        if isinstance(scripted, nn.Module):  # torch copies its weights as it computes: with a graph, or not to be tuned
            for parameter, own in zip(scripted.parameters(), module.parameters(), strict=True):
                parameter.requires_grad_(own.requires_grad)
    return made


class _WithoutGraph(TorchFunctionMode):
    """Copies the results of others without the graph that made them, and sparse tensors at all."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.clone and args[0].layout is not torch.strided:
            return args[0].clone()  # sparse ones are not to be asked for a memory format
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def _uncopyable(model: nn.Module) -> str:
    """The attribute of a module that cannot be copied, in words."""
    for name, module in model.named_modules():
        for key, value in (vars(module) | module._parameters | module._buffers).items():
            if key not in ("_parameters", "_buffers", "_modules"):
                try:
                    with _WithoutGraph():
                        copy.deepcopy(value)
                except Exception:  # noqa: BLE001 - whatever the attribute's own code raises
                    return f"attribute {key!r} ({type(value).__name__}) of module {name!r}"
    return "the network"


def avoid_fast_paths(model: nn.Module) -> None:
    """Keep PyTorch's transformer layers from computing with the weights of layers that were replaced.

    In eval mode, where no hooks and no gradients forbid it, they skip the forward of their linear layers.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer) and _is_changed(module):
            module.activation_relu_or_gelu = 0  # "another activation", for which there is no fast path
        if isinstance(module, nn.TransformerEncoder) and any(_is_changed(layer) for layer in module.layers):
            module.use_nested_tensor = False  # it would ask the first layer for its weights


def _is_changed(layer: nn.Module) -> bool:
    """Whether a transformer layer has anything else in the place of its linear layers."""
    return not all(isinstance(getattr(layer, name, None), nn.Linear) for name in ("linear1", "linear2"))


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


class WeightFacts:
    """What may be asked of a weight that is no longer there; to compute with it is an error.

    Attributes:
        shape: Of the weight that was there.
    """

    def __init__(self, replacement: nn.Module, shape: torch.Size) -> None:
        """Of the weight in whose place a module came."""
        self._replacement = replacement
        self.shape = shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights that are there now."""
        return self._present.dtype

    @property
    def device(self) -> torch.device:
        """Of the weights that are there now."""
        return self._present.device

    @property
    def _present(self) -> Tensor:
        """A tensor of the replacement; one without weights has a buffer."""
        return next(chain(self._replacement.parameters(), self._replacement.buffers()))

    @property
    def ndim(self) -> int:
        """Of the weight that was there."""
        return len(self.shape)


def take_place(layer: nn.Module, replacement: nn.Module, memo: dict[int, object]) -> None:
    """Give a module what others know of the layer whose place it takes: hooks, mode, stride and the like.

    Its weights are told of, but not given, see `WeightFacts`.

    Args:
        memo: Of the network's copy, so that hooks that are methods of its modules are those of the copy's.
    """
    replacement.train(layer.training)
    for name in _HOOKS:
        setattr(replacement, name, copy.deepcopy(getattr(layer, name), memo))
    for name, value in vars(layer).items():
        if not name.startswith("_") and not hasattr(replacement, name):
            setattr(replacement, name, copy.deepcopy(value, memo))
    for name, parameter in layer._parameters.items():
        setattr(replacement, name, None if parameter is None else WeightFacts(replacement, parameter.shape))


def _is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` made it; asked without the second that importing torch's compiler takes."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(model, compiler.OptimizedModule)


def check_initialized(model: nn.Module) -> None:
    """Refuse a network whose lazy layers have no weights yet.

    Raises:
        UninitializedError: Names the layer and the remedy.
    """
    for name, module in model.named_modules():
        if any(is_lazy(tensor) for tensor in (*module._parameters.values(), *module._buffers.values())):
            raise UninitializedError(
                f"layer {name!r}: {type(module).__name__} has no weights yet; run the network once on real inputs, "
                "or load its trained weights, before it is compressed"
            )
