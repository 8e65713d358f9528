"""Runs the end of a network again and again: what happens before a layer's first call is computed once.

The calls of modules that ran to their end before the layer began, the outermost ones, are stood in for: what they gave
is kept and given back, so that nothing inside of them is computed. Code between modules runs as usual.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diminuendo.engine import tree
from diminuendo.engine.counting import buffers_kept, every_module_called
from diminuendo.engine.survey.trial import same, tensors_of

Forward = Callable[..., Any]


class UnlikeError(Exception):
    """Raised where a network does not repeat what was kept of it; run it whole."""


class _BegunError(BaseException):
    """Ends a forward as the layer begins; no error, so that no network takes it for one of its own."""


@dataclass(slots=True)
class _Call:
    """A call before the layer's first, that no other one which has ended was around."""

    module: nn.Module
    output: Any = None
    ended: bool = False


@dataclass(frozen=True)
class Kept:
    """What a network gave on one batch before the layer began.

    Attributes:
        inputs: The batch.
        calls: In the order in which they began; one that has not ended has the layer in it.
        called: Every module that was called, those inside of others too.
        versions: Every tensor that is kept, with how often it had been written into.
    """

    inputs: Any
    calls: tuple[_Call, ...]
    called: frozenset[nn.Module]
    versions: tuple[tuple[Tensor, int], ...]

    @property
    def size_bytes(self) -> int:
        """Memory of what is kept; tensors that are kept twice count once."""
        return sum(dict(_storage(leaf) for leaf, _ in self.versions).values())


class Ending:
    """A network that can be run from a layer's first call on.

    Attributes:
        network: In eval mode where it matters; its modules' forwards are taken over, so give it a copy.
        layer: One of its modules.
    """

    def __init__(self, network: nn.Module, layer: nn.Module) -> None:
        """Take over the forwards of the network's modules, but of scripted ones."""
        self.network = network
        self.layer = layer
        self._turn: _Turn | None = None
        self._policy = _Policy()
        for module in network.modules():
            if module is not network and not isinstance(module, torch.jit.ScriptModule):
                vars(module)["forward"] = self._in_turn(module, module.forward)

    def _in_turn(self, module: nn.Module, forward: Forward) -> Forward:
        """The forward of a module, as the present run wants it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._turn is None:
                return forward(*args, **kwargs)
            return self._turn.call(module, lambda: forward(*args, **kwargs))

        return call

    @contextmanager
    def _as(self, turn: _Turn) -> Iterator[None]:
        self._turn = turn
        try:
            yield
        finally:
            self._turn = None

    def whole(self, inputs: Any) -> Any:
        """Outputs of the whole network, whose buffers are afterwards what they were, as in every run."""
        with buffers_kept(self.network), torch.no_grad():
            return tree.call(self.network, inputs)

    def keep(self, inputs: Any) -> Kept:
        """Run a batch up to the layer.

        Raises:
            UnlikeError: It does not come to the layer.
        """
        turn = _Recording(self.layer, self._policy)
        try:
            with self._as(turn), every_module_called():
                self.whole(inputs)
        except _BegunError:
            pass
        if not turn.begun:
            raise UnlikeError("the layer is not called")
        if any(call.ended and call.module in self._policy.inside for call in turn.calls):
            raise UnlikeError("a module is called by itself that was inside of others")
        leaves = {id(leaf): leaf for call in turn.calls for leaf in tree.leaves(call.output)}
        versions = tuple((leaf, _version(leaf)) for leaf in leaves.values())
        return Kept(inputs, tuple(turn.calls), frozenset(turn.called), versions)

    def run(self, kept: Kept) -> Any:
        """Outputs on the batch of which the beginning was kept.

        Raises:
            UnlikeError: The network did not make the calls that were kept, or wrote into what they gave.
        """
        outputs = self._replayed(kept)
        if any(_version(leaf) != version for leaf, version in kept.versions):
            raise UnlikeError("what was kept was written into")
        return outputs

    def _replayed(self, kept: Kept) -> Any:
        turn = _Replay(self.layer, kept.calls, self._policy)
        with self._as(turn):
            outputs = self.whole(kept.inputs)
        if not turn.begun:
            raise UnlikeError("the layer is not called")
        return outputs

    def from_input(self, inputs: Any) -> Callable[[], Any]:
        """Whole runs of one batch: a function that gives the outputs as the network is when it is called."""
        return lambda: self.whole(inputs)

    def from_layer(self, inputs: Any) -> Callable[[], Any]:
        """The same from the layer on; the rest is computed now."""
        kept = self.keep(inputs)
        return lambda: self.run(kept)

    def tried(self, batches: Sequence[Any]) -> int | None:
        """Whether the end by itself gives what the whole network gives; from here on it keeps no more than that needs.

        Args:
            batches: A few samples each, at least two that differ, so that what a network remembers of one of them
                does not pass for what it makes of another.

        Returns:
            Bytes kept of all batches; None where only whole runs are right.
        """
        whole = [tensors_of(self.whole(batch)) for batch in batches]
        self._policy = _Policy()
        try:
            needed = self._needed(batches)
            for policy in (needed, replace(needed, unused=frozenset())):
                self._policy = policy
                kept = [self.keep(batch) for batch in batches]
                if all(same(one, tensors_of(self.run(own))) for one, own in zip(whole, kept, strict=True)):
                    return sum(own.size_bytes for own in kept)
        except UnlikeError:
            pass
        return None

    def _needed(self, batches: Sequence[Any]) -> _Policy:
        """How outputs must be kept: where they are looked at, or written into, or were inside of others."""
        seen: set[nn.Module] = set()
        used: set[nn.Module] = set()
        written: set[nn.Module] = set()
        outermost: set[nn.Module] = set()
        called: set[nn.Module] = set()
        for kept in [self.keep(batch) for batch in batches]:
            outermost |= {call.module for call in kept.calls}
            called |= kept.called
            with _Uses() as uses:
                self._replayed(kept)
            changed = {id(leaf) for leaf, version in kept.versions if _version(leaf) != version}
            for call in kept.calls:
                leaves = {id(leaf) for leaf in tree.leaves(call.output)}
                seen |= {call.module} if leaves else set()
                used |= {call.module} if leaves & uses.found else set()
                written |= {call.module} if leaves & changed else set()
        return _Policy(frozenset(seen - used), frozenset(written), frozenset(called - outermost))


@dataclass(frozen=True)
class _Policy:
    """How outputs are kept.

    Attributes:
        unused: Modules whose outputs only stand-ins are given: of them the shape is enough.
        written: Modules whose outputs are written into: a copy is kept, and copies are given.
        inside: Modules that are called inside of others that are stood in for, and nowhere else.
    """

    unused: frozenset[nn.Module] = frozenset()
    written: frozenset[nn.Module] = frozenset()
    inside: frozenset[nn.Module] = frozenset()

    def kept(self, module: nn.Module, output: Any) -> Any:
        """Of an output what is kept."""
        if module in self.inside:
            return None
        if module in self.unused:
            return tree.combine(_shape_of, output)
        return self.given(module, output)

    def given(self, module: nn.Module, output: Any) -> Any:
        """Of what is kept what is given."""
        return tree.combine(torch.clone, output) if module in self.written else output


def _shape_of(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, kind and device that takes no memory, and makes whatever it is used for NaN."""
    if tensor.is_nested or tensor.layout is not torch.strided or not tensor.is_floating_point():
        return tensor
    return tensor.new_full((), math.nan).expand(tensor.shape)


def _version(tensor: Tensor) -> int:
    """Counts what is written into it, through any view of it."""
    return 0 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> tuple[int, int]:
    """Where its memory is, and how many bytes."""
    if tensor.is_nested or tensor.layout is not torch.strided:
        return id(tensor), tensor.numel() * tensor.element_size()
    return tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()


class _Uses(TorchFunctionMode):
    """Notes every tensor that a torch function is given, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found |= {id(tensor) for tensor in tree.leaves((args, kwargs or {}))}
        return func(*args, **(kwargs or {}))


class _Turn(Protocol):
    """What a module's call becomes in a run."""

    def call(self, module: nn.Module, forward: Callable[[], Any]) -> Any:
        """Its output."""


@dataclass
class _Recording:
    """Notes calls and what they give, until the layer begins."""

    layer: nn.Module
    policy: _Policy
    calls: list[_Call] = field(default_factory=list)
    called: set[nn.Module] = field(default_factory=set)
    begun: bool = False

    def call(self, module: nn.Module, forward: Callable[[], Any]) -> Any:
        if self.begun:  # the network caught what was to end it
            return forward()
        if module is self.layer:
            self.begun = True
            raise _BegunError
        call, place = _Call(module), len(self.calls)
        self.calls.append(call)
        self.called.add(module)
        output = forward()
        if not self.begun:
            del self.calls[place + 1 :]  # those inside of it
            call.output, call.ended = self.policy.kept(module, output), True
        return output


@dataclass
class _Replay:
    """Gives back what calls gave, until the layer begins."""

    layer: nn.Module
    calls: Sequence[_Call]
    policy: _Policy
    place: int = 0
    begun: bool = False

    def call(self, module: nn.Module, forward: Callable[[], Any]) -> Any:
        if self.begun:
            return forward()
        if module is self.layer:
            if self.place < len(self.calls):
                raise UnlikeError("there are fewer calls before the layer than were kept")
            self.begun = True
            return forward()
        if self.place == len(self.calls) or self.calls[self.place].module is not module:
            raise UnlikeError("there are other calls before the layer than were kept")
        call = self.calls[self.place]
        self.place += 1
        return self.policy.given(module, call.output) if call.ended else forward()
