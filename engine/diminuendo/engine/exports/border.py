"""How a file calls a network: plain tensors in containers, float32 outside whatever is inside.

A value's *bare* form has the same tensors in the same order, in tuples, lists and dicts alone, and nothing else.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import tree

_MISSING = object()


def bare(value: Any) -> Any:
    """The bare form of a value; an empty tuple when there is no tensor in it."""
    found = _bare(value)
    return () if found is _MISSING else found


def _bare(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        items = {key: _bare(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        kept = [found for found in map(_bare, value) if found is not _MISSING]
        return _MISSING if not kept else kept if isinstance(value, list) else tuple(kept)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {field.name: _bare(getattr(value, field.name)) for field in dataclasses.fields(value)}
    else:
        return _MISSING
    kept_items = {key: item for key, item in items.items() if item is not _MISSING}
    return kept_items or _MISSING


def refilled(example: Any, leaves: Iterable[Tensor]) -> Any:
    """A value like the example, with other tensors in its order."""
    source = iter(leaves)
    return tree.combine(lambda _: next(source), example)


def floats(value: Any, dtype: torch.dtype) -> Any:
    """The value with its floating-point tensors in a type; no cast is traced of those that are of it."""
    return tree.combine(
        lambda tensor: tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != dtype else tensor, value
    )


@dataclasses.dataclass(frozen=True)
class Call:
    """What a file is called with, made of inputs as `tree` has them.

    Attributes:
        args: Positional arguments, bare.
        kwargs: Keyword arguments, bare.
        names: Of the parameters, of both.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, network: nn.Module, inputs: Any) -> Call:
        """The call of a network by inputs; floating-point ones are float32 from here on."""
        inputs = floats(tree.detach(inputs), torch.float32)
        if tree.FORWARD in vars(network) or not isinstance(inputs, tuple | Mapping):
            own = () if tree.FORWARD in vars(network) else _parameters(network)
            return cls((bare(inputs),), {}, own[:1] or ("input",))
        if isinstance(inputs, Mapping):
            kwargs = {str(name): bare(item) for name, item in inputs.items() if _has_tensor(item)}
            return cls((), kwargs, tuple(kwargs))
        places = [place for place, item in enumerate(inputs) if _has_tensor(item)]
        known = dict(enumerate(_parameters(network)))
        names = tuple(known.get(place, f"input_{place}") for place in places)
        return cls(tuple(bare(inputs[place]) for place in places), {}, names)

    @property
    def leaves(self) -> list[Tensor]:
        """Every tensor, in order."""
        return list(tree.leaves((self.args, self.kwargs)))

    def shaped(self, leaf: Callable[[Tensor], Any]) -> dict[str, Any]:
        """By parameter: the value with each tensor replaced by what a function says of it."""
        values = (*self.args, *self.kwargs.values())
        return {name: tree.combine(leaf, value) for name, value in zip(self.names, values, strict=True)}

    def refilled(self, leaves: Iterable[Tensor]) -> Call:
        """The same with other tensors."""
        args, kwargs = refilled((self.args, self.kwargs), leaves)
        return Call(args, kwargs, self.names)

    def input_names(self) -> list[str]:
        """A name for each tensor: ``input`` when there is one alone, else its parameter's and its place in there."""
        found = [
            name + path.replace(".", "_")
            for name, value in self.shaped(lambda tensor: tensor).items()
            for path, _ in tree.entries(value)
        ]
        return ["input"] if len(found) == 1 else found


def output_names(outputs: Any) -> list[str]:
    """A name for each tensor of bare outputs: ``output`` when there is one alone, else its key or its place."""
    paths = [path.lstrip(".").replace(".", "_") for path, _ in tree.entries(outputs)]
    return ["output"] if len(paths) == 1 else [f"output_{path}" if path[:1].isdigit() else path for path in paths]


def _has_tensor(value: Any) -> bool:
    return next(tree.leaves(value), None) is not None


def _parameters(network: nn.Module) -> tuple[str, ...]:
    """Names of the forward's positional parameters."""
    try:
        parameters = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in kinds)


def forward_of(network: nn.Module, example: Any, call: Call, dtype: torch.dtype) -> Callable[..., Any]:
    """A forward that takes a call of a file and gives bare outputs; float32 outside, `dtype` inside.

    Args:
        network: Its floating-point weights are of `dtype`.
        example: Inputs as the network takes them: what is no tensor in them stays what it is there.
        call: Of the example.
        dtype: That inputs are brought to.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *(kwargs[name] for name in call.names[len(args) :]))
        inputs = refilled(example, floats(tuple(tree.leaves(given)), dtype))
        return floats(bare(tree.call(network, inputs)), torch.float32)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in call.names])
    forward.__signature__ = signature  # type: ignore[attr-defined]  # exporters name the inputs by it
    return forward


class Shell(nn.Module):
    """The network's own modules and weights, under their own names, with the forward of a file."""

    @classmethod
    def of(cls, network: nn.Module, forward: Callable[..., Any]) -> Shell:
        """Around a network, which goes on to be what the forward runs: hooks are its own alone."""
        blank = nn.Module()
        shell = cls.__new__(cls)
        vars(shell).update(vars(network))
        vars(shell).update({name: value for name, value in vars(blank).items() if "hook" in name})
        vars(shell).pop(tree.FORWARD, None)
        vars(shell)["forward"] = forward
        return shell


class FileNetwork(nn.Module):
    """What a file computes, as a network that takes inputs and gives outputs as the one it was made of does."""

    @classmethod
    def of(cls, run: Callable[[list[Tensor]], list[Tensor]], outputs: Any, *, single: bool) -> FileNetwork:
        """Run by a function of plain float32 tensors on the CPU.

        Args:
            run: Tensors of the inputs, in order -> those of the outputs.
            outputs: As the network gives them, for one batch.
            single: Whether the file takes one sample at a time.
        """

        def whole(inputs: Any) -> Any:
            found = run([leaf.detach().cpu() for leaf in tree.leaves(floats(inputs, torch.float32))])
            device = next(tree.leaves(inputs)).device
            return refilled(outputs, [leaf.to(device) for leaf in found])

        def forward(_: nn.Module, inputs: Any) -> Any:
            return tree.concat([whole(one) for one in tree.batches(inputs, 1)]) if single else whole(inputs)

        network = cls()
        vars(network)[tree.FORWARD] = forward
        return network.eval()
