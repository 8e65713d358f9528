"""Puts a network together as a torch.fx.GraphModule: a graph, and the modules and tensors that it names."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, fx, nn

_TAKEN = frozenset(dir(fx.GraphModule(nn.Module(), fx.Graph())))
_ENDINGS = re.compile(r"[._](weight|bias|running_mean|kernel|gamma|scale)$")


class Builder:
    """A network that is being built.

    Attributes:
        graph: Of the calls so far.
        root: Has the modules and tensors, by dotted names.
    """

    def __init__(self) -> None:
        """Empty."""
        self.graph = fx.Graph()
        self.root = nn.Module()
        self._held: dict[int, tuple[str, Tensor]] = {}
        self._modules: dict[tuple[Any, ...], str] = {}

    def module(self, name: str, made: nn.Module, x: fx.Node, key: tuple[Any, ...] | None = None) -> fx.Node:
        """Call a module, which gets the name or one like it.

        Args:
            name: Dotted.
            made: The module.
            x: What it is called with.
            key: A module that was made with the same one is called again in its place; None: it is another one.
        """
        if key is None or key not in self._modules:
            target = self._attach(name, made)
            if key is not None:
                self._modules[key] = target
        else:
            target = self._modules[key]
        return self.graph.create_node("call_module", target, (x,), {}, name=readable(target))

    def tensor(self, name: str, value: Tensor) -> fx.Node:
        """A parameter or a buffer of the network; the same one for the same tensor object."""
        if id(value) not in self._held:
            self._held[id(value)] = self._attach(name, value), value
        target = self._held[id(value)][0]
        return self.graph.create_node("get_attr", target, (), {}, name=readable(target))

    def finish(self) -> fx.GraphModule:
        """The network, in eval mode."""
        network = fx.GraphModule(self.root, self.graph, class_name="Network")
        network.graph.eliminate_dead_code()
        network.delete_all_unused_submodules()
        network.graph.lint()
        network.recompile()
        return network.eval()

    def _attach(self, name: str, value: nn.Module | Tensor) -> str:
        """Put something under a name that is free, and tell the name."""
        *path, last = [part for part in re.sub(r"[^A-Za-z0-9_.]", "_", name).split(".") if part] or ["layer"]
        owner, used = self.root, []
        for part in path:
            owner, part = _container(owner, part)
            used.append(part)
        last = _free(owner, last)
        if isinstance(value, nn.Module):
            owner.add_module(last, value)
        elif isinstance(value, nn.Parameter):
            owner.register_parameter(last, value)
        else:
            owner.register_buffer(last, value)
        return ".".join([*used, last])


def _container(owner: nn.Module, name: str) -> tuple[nn.Module, str]:
    """A plain module inside another one, by this name or the next that is free."""
    found = owner._modules.get(name)
    if type(found) is nn.Module:
        return found, name
    name = _free(owner, name)
    inner = nn.Module()
    owner.add_module(name, inner)
    return inner, name


def _free(owner: nn.Module, name: str) -> str:
    free, number = name, 0
    while free in _TAKEN or hasattr(owner, free):
        number += 1
        free = f"{name}_{number}"
    return free


def readable(target: str) -> str:
    """A dotted name as that of a variable."""
    return re.sub(r"\W", "_", target)


def layer_name(tensor_name: str) -> str:
    """The name of the layer that a weight of this name belongs to: ``conv1`` for ``conv1.weight``."""
    return _ENDINGS.sub("", tensor_name)


def parameter(value: Tensor) -> Tensor:
    """A tensor as a parameter that is tuned; one of whole numbers as it is."""
    if isinstance(value, nn.Parameter) or not value.dtype.is_floating_point:
        return value
    return nn.Parameter(value.detach())
