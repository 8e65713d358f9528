"""Which layers feed which: what a network still computes with when some of its layers give constants."""

from __future__ import annotations

from collections.abc import Collection

ENDS = ""
"""Name of the network's input among what layers take, and of its output among those that take."""

Wiring = tuple[tuple[str, tuple[str, ...]], ...]
"""For each layer, and for the output: the layers that it takes from, past no other layer, and the input where it does.

Empty where it is not known.
"""


def reached(wiring: Wiring, constant: Collection[str]) -> frozenset[str]:
    """The layers whose outputs the network's output depends on, and `ENDS` where it depends on the input.

    Args:
        wiring: Not empty.
        constant: Layers that give the same whatever they take.
    """
    takes = dict(wiring)
    found: set[str] = set()
    waiting = list(takes[ENDS])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name != ENDS and name not in constant:
                waiting += takes[name]
    return frozenset(found)
