"""Parts of what an owner's loader gives: a few samples, those at some places, all that fit into memory."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from torch import Tensor

from diminuendo.engine import tree
from diminuendo.engine.reader import Reader
from diminuendo.engine.task import Samples, TaskError

MEMORY_BYTES = 2 * 2**30
"""Most memory for each of training and evaluation data."""

MOST_SAMPLES, MOST_BATCHES = 2_000_000, 500_000
"""Most that is kept of data that comes as it does, however small it is: each batch costs time, and memory beside its
values, so that what has no end is told after minutes."""

SEED = 0
"""Of reading what is kept: it must be the same in every process."""

PROBED = 32
"""Samples that are read twice, to see how large they are and whether they stay the same."""


def size_bytes(samples: Samples) -> int:
    """Bytes of inputs and targets."""
    return tree.size_bytes(samples.inputs) + tree.size_bytes(samples.targets)


def batch_size(reader: Reader) -> int:
    """Of the loader; of one whose batches differ, that of its first."""
    return reader.loader.batch_size or len(reader.index_lists(SEED)[0])


def lists(indices: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """The indices of batches."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]


def probed(reader: Reader, indices: Sequence[Any]) -> tuple[Samples, bool, Generator[Samples, None, None]]:
    """A few samples, whether they are the same when they are read again, and then the batches of all."""
    some = indices[:: -(-len(indices) // PROBED)]
    batches = reader.batches(SEED, lists=[list(some), list(some), *lists(indices, batch_size(reader))])
    first, second = next(batches), next(batches)
    return first, first.same(second), batches


def first(reader: Reader, count: int, seed: int = SEED) -> Samples:
    """The first samples of a pass."""
    parts: list[Samples] = []
    with closing(reader.batches(seed)) as batches:
        for batch in batches:
            parts.append(own(batch))
            if sum(map(len, parts)) >= count:
                break
    return joined(reader.what, parts).head(count)


def first_batch(reader: Reader) -> int:
    """Samples of the first batch of a pass."""
    with closing(reader.batches(SEED)) as batches:
        return len(next(batches))


def whole(reader: Reader) -> tuple[bool, Samples]:
    """A pass over the loader as far as it fits into memory, and whether that is all of it."""
    parts: list[Samples] = []
    held, count, all_of_it = 0, 0, True
    with closing(reader.batches(SEED)) as batches:
        for batch in batches:
            full = held + size_bytes(batch) > MEMORY_BYTES or count > MOST_SAMPLES or len(parts) >= MOST_BATCHES
            if full and parts:
                all_of_it = False
                break
            parts.append(own(batch))
            held += size_bytes(batch)
            count += len(batch)
    return all_of_it, joined(reader.what, parts)


def own(batch: Samples) -> Samples:
    """In memory of its own: what comes from a worker keeps a file open."""
    return Samples(tree.combine(Tensor.clone, batch.inputs), tree.combine(Tensor.clone, batch.targets))


def joined(what: str, parts: Sequence[Samples]) -> Samples:
    """All batches together.

    Raises:
        TaskError: There are none, or they differ in shape.
    """
    if not parts:
        raise empty(what)
    try:
        return Samples(tree.concat([part.inputs for part in parts]), tree.concat([part.targets for part in parts]))
    except RuntimeError as error:
        raise TaskError(
            f"{what}: its batches cannot be put together ({error}); let the collate_fn pad all samples to one shape"
        ) from error


def empty(what: str) -> TaskError:
    """The error of data that has no samples."""
    return TaskError(
        f"{what}: there are no samples; give a dataset that has some, and a loader whose drop_last does not drop them"
    )
