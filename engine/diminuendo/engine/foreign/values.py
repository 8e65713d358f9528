"""What the names in an ONNX graph stand for while it is imported, and the table of its operators.

A graph is imported by running it: every value that depends on the inputs is known on two trial batches of different
sizes, so that what has one size in both is taken for fixed, and what has not is computed by the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx


class UnsupportedError(Exception):
    """Raised by an operator that cannot be imported as it is used; the message says why."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that is known.

    Attributes:
        tensor: Its value.
        name: Of the initializer that it is; empty for what was computed.
        turned: The initializer's own tensor, where this is the transpose of it.
    """

    tensor: Tensor
    name: str = ""
    turned: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Traced:
    """A tensor that the network computes.

    Attributes:
        node: That computes it.
    """

    node: fx.Node


@dataclass(frozen=True, eq=False)
class Sizes:
    """Whole numbers of which some depend on the sizes of the inputs: a number, or a vector of them.

    Attributes:
        items: Each a number, or the node that computes it.
        scalar: Whether it is one number, without dimensions.
    """

    items: tuple[int | fx.Node, ...]
    scalar: bool = False


Value = Constant | Traced | Sizes


@dataclass(frozen=True)
class OnnxNode:
    """A node of an ONNX graph.

    Attributes:
        op: Its operator, with its domain in front where that is not ONNX's own.
        name: Its name, or the operator and its place.
        inputs: Names of values; empty for those that are left out.
        outputs: Likewise.
        attributes: Numbers, texts, lists of them, and tensors.
        scope: Dotted name of the module that it came from; empty where the file does not tell.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    scope: str = ""

    def number(self, name: str, default: int) -> int:
        """A whole number."""
        return int(self.attributes.get(name, default))

    def real(self, name: str, default: float) -> float:
        """A real number."""
        found = self.attributes.get(name)
        return default if found is None else float(str(np.float32(found)))  # 1e-05, and not what it is in 32 bits

    def numbers(self, name: str) -> list[int] | None:
        """Whole numbers; None where they are left out."""
        found = self.attributes.get(name)
        return None if found is None else [int(each) for each in found]

    def text(self, name: str, default: str) -> str:
        """A text."""
        return str(self.attributes.get(name, default))


Handler = Callable[..., Value | Sequence[Value]]
"""(importer, node, values of its inputs or None...) -> what its outputs stand for."""

OPERATORS: dict[str, Handler] = {}


def operator(*names: str) -> Callable[[Handler], Handler]:
    """Register how operators are imported."""

    def register(handler: Handler) -> Handler:
        OPERATORS.update(dict.fromkeys(names, handler))
        return handler

    return register


ON_SIZES: dict[str, Handler] = {}
"""Operators on `Sizes` and constants; those that are not here see them as any other."""


def on_sizes(*names: str) -> Callable[[Handler], Handler]:
    """Register how operators are imported that compute with sizes."""

    def register(handler: Handler) -> Handler:
        ON_SIZES.update(dict.fromkeys(names, handler))
        return handler

    return register
