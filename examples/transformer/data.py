"""Sentences of Python's own reference manual, which comes with Python, as characters.

Legend: N sentences, T characters.
"""

from __future__ import annotations

import hashlib
import re
from pydoc_data.topics import topics

import torch
from torch import Tensor

from diminuendo.engine import Samples

LENGTH = 48
"""T: longer sentences are cut, shorter ones filled up."""

FIRST, VOCABULARY = 32, 96
"""Code of the first printable character, and how many tokens there are: the last one is the start, and the filling."""

FILL = VOCABULARY - 1
IGNORED = -100
"""Target that no loss and no metric counts."""


def sentences() -> list[str]:
    """Each different sentence once, in an order that has nothing to do with where it stands."""
    text = " ".join(" ".join(str(topic).split()) for _, topic in sorted(topics.items()))
    found = {part for part in re.split(r"(?<=[.:;]) ", text) if len(part) >= 24 and part.isascii()}
    return sorted(found, key=lambda part: hashlib.sha256(part.encode()).digest())


def encoded(parts: list[str]) -> Samples:
    """Sentences as a language model takes them.

    Returns:
        Inputs: (N, T) ``tokens``, the characters before each place, and (N, T) ``mask``, True where there is one.
        Targets: (N, T) the character at each place, `IGNORED` behind the end.
    """
    targets = torch.full((len(parts), LENGTH), IGNORED)
    for row, part in zip(targets, parts, strict=True):
        codes = torch.tensor(list(part[:LENGTH].encode("ascii"))) - FIRST
        row[: len(codes)] = codes.clamp(0, FILL - 1)
    mask = targets != IGNORED
    before = torch.full((len(parts), LENGTH), FILL)
    before[:, 1:] = torch.where(mask[:, 1:], targets[:, :-1], FILL)
    inputs: dict[str, Tensor] = {"tokens": before, "mask": mask}
    return Samples(inputs, targets)


def samples(count: int) -> tuple[Samples, Samples]:
    """So many sentences to train with, at most, and 600 that the network never sees."""
    parts = sentences()
    return encoded(parts[600 : 600 + count]), encoded(parts[:600])
