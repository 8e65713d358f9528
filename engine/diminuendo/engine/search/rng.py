"""Random numbers that depend on a key and nothing else: the same decision, wherever and whenever it is made."""

from __future__ import annotations

import hashlib

import numpy as np


def keyed(seed: int, *labels: str | int) -> np.random.Generator:
    """A generator of its own for every (seed, labels): Philox, a counter-based generator, under a hashed key."""
    text = "\x1f".join([str(seed), *map(str, labels)]).encode()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(text).digest()[:16], "big")))


def keyed_seed(seed: int, *labels: str | int) -> int:
    """A seed of 63 bits for (seed, labels)."""
    return int(keyed(seed, *labels).integers(0, 2**63 - 1))
