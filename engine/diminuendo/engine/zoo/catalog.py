"""Names of the zoo's networks, for those who must not import torch."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: As in ``zoo:NAME``.
        title: One line for people.
    """

    name: str
    title: str


CATALOG: tuple[Entry, ...] = (Entry("digits", "residual network on scikit-learn's handwritten digits (8x8)"),)


class UnknownNetworkError(LookupError):
    """A name that the zoo does not have; the message suggests the nearest."""


def find(name: str) -> Entry:
    """The entry of a name; UnknownNetworkError with the nearest name otherwise."""
    names = [entry.name for entry in CATALOG]
    if name in names:
        return CATALOG[names.index(name)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"known networks: {', '.join(names)}"
    raise UnknownNetworkError(f"the zoo has no network {name!r}; {hint}")
