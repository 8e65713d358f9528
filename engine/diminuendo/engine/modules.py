"""What is done with any nn.Module, whatever it computes: modes, wrappers, lazy layers."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

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
    try:
        with _WithoutGraph():
            return copy.deepcopy(model, memo)
    except Exception as error:
        raise CopyError(
            f"{_uncopyable(model)} cannot be copied ({type(error).__name__}: {error}); make it when it is used, or "
            "leave it out in __deepcopy__ or __getstate__"
        ) from error


class _WithoutGraph(TorchFunctionMode):
    """Copies the results of others without the graph that made them."""

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def _uncopyable(model: nn.Module) -> str:
    """The attribute of a module that cannot be copied, in words."""
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key not in ("_parameters", "_buffers", "_modules"):
                try:
                    with _WithoutGraph():
                        copy.deepcopy(value)
                except Exception:  # noqa: BLE001 - whatever the attribute's own code raises
                    return f"attribute {key!r} ({type(value).__name__}) of module {name!r}"
    return "the network"


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


def carry_hooks(layer: nn.Module, replacement: nn.Module, memo: dict[int, object]) -> None:
    """Give a module the hooks of the layer whose place it takes, copied as the network was.

    Args:
        memo: Of the network's copy, so that hooks that are methods of its modules are those of the copy's.
    """
    for name in _HOOKS:
        setattr(replacement, name, copy.deepcopy(getattr(layer, name), memo))


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
