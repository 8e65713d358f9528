"""Shell patterns over layer names: which layers they mean, and what to say when they mean none."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase


def matches(patterns: Iterable[str], layer: str) -> bool:
    """Whether any of the patterns means this layer; ``*`` spans dots."""
    return any(fnmatchcase(layer, pattern) for pattern in patterns)


def complaint(option: str, patterns: Iterable[str], layers: Sequence[str]) -> str | None:
    """What to say of the first pattern that means no layer; None when each means some."""
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            plain = pattern.replace("*", "").strip(".")
            near = difflib.get_close_matches(plain, layers, n=3, cutoff=0.3) or list(layers[:3])
            return f"{option}: no layer is named like {pattern!r}; the nearest are {', '.join(near)}"
    return None
