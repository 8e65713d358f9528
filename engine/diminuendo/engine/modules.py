"""What is done with any nn.Module, whatever it computes: modes, wrappers, lazy layers."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parameter import is_lazy

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class UninitializedError(ValueError):
    """Raised for a network with a lazy layer that was never run; the message names the layer."""


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
        model = model._orig_mod if _is_compiled(model) else model.module  # type: ignore[assignment]
    compiled = [module for module in model.modules() if _is_compiled(module)]
    if not compiled:
        return model
    memo: dict[int, object] = {}
    for module in reversed(compiled):  # inner ones first
        memo[id(module)] = copy.deepcopy(module._orig_mod, memo)
    return copy.deepcopy(model, memo)


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
