"""Takes in an owner's data: what fits into memory and stays the same is read once, all else is read as it is needed.

Training data that is not the same each time it is read (a dataset that augments) is streamed too: reading it once would
freeze its augmentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from diminuendo.engine import reading
from diminuendo.engine.data import Indexed, Stream
from diminuendo.engine.digest import Digest
from diminuendo.engine.reader import Reader, endless
from diminuendo.engine.task import Data, Samples, TaskError

BATCH = 64
"""Samples of evaluation data that are read at a time, from a dataset without a loader."""


def training(data: Data, batch_size: int) -> Samples | Stream:
    """Training data: in memory where it fits and stays the same, else to be streamed.

    Args:
        data: The owner's.
        batch_size: Of a dataset without a loader.

    Raises:
        TaskError: It has no samples, no labels, no end, or cannot be read; names the remedy.
        UserCodeError: The owner's code raised.
    """
    if isinstance(data, Samples):
        return data
    reader = Reader(_loader(data, "train", batch_size, shuffle=True), "train")
    if not reader.by_index:
        return _passing(reader)
    indices, fixed = _indices(reader)
    probe, alike, rest = reading.probed(reader, indices)
    with closing(rest):
        if fixed and alike and reading.size_bytes(probe) / len(probe) * len(indices) <= reading.MEMORY_BYTES:
            return reading.joined("train", list(map(reading.own, rest)))
    steps = reader.steps or len(reading.lists(indices, reading.batch_size(reader)))
    again, _, rest = (probe, alike, rest) if alike else reading.probed(reader, indices)
    with closing(rest):
        return Stream(reader, len(indices), steps, probe, again.same(probe), indices)


def _passing(reader: Reader) -> Samples | Stream:
    """Training data that comes as it does: all of it where it fits and comes again alike."""
    whole, found = reading.whole(reader)
    probe = found.head(reading.PROBED)
    if whole and reading.first(reader, len(probe), reading.SEED + 1).same(probe):
        return found
    steps = reader.steps
    if steps is None and not whole:
        raise endless("train", len(found))
    size = reading.first_batch(reader)
    batches = -(-len(found) // size) if steps is None else steps
    repeats = reading.first(reader, len(probe)).same(probe)
    return Stream(reader, len(found) if whole else batches * size, batches, probe, repeats)


def evaluation(data: Data) -> Samples | Indexed:
    """Evaluation data: in memory where it fits, else to be read by index whenever it is looked at.

    Raises:
        TaskError: It has no samples, no labels, no end, or cannot be read; names the remedy.
        UserCodeError: The owner's code raised.
    """
    if isinstance(data, Samples):
        return data
    reader = Reader(_loader(data, "evaluation", BATCH, shuffle=False), "evaluation")
    if not reader.by_index:
        whole, found = reading.whole(reader)
        probe = found.head(reading.PROBED)
        if not reading.first(reader, len(probe)).same(probe):
            raise _changing()
        if whole:
            return found
        if reader.steps is None and reading.size_bytes(found) <= reading.MEMORY_BYTES // 2:  # it went by their number
            raise endless("evaluation", len(found))
        raise TaskError(
            f"evaluation: {len(found):,} samples fill {reading.MEMORY_BYTES / 2**30:g} GiB, or are too many, and there "
            "are more; give a dataset that is read by index, or fewer samples"
        )
    indices, _ = _indices(reader)
    probe, alike, rest = reading.probed(reader, indices)
    with closing(rest):
        if not alike:
            raise _changing()
        if reading.size_bytes(probe) / len(probe) * len(indices) <= reading.MEMORY_BYTES:
            return reading.joined("evaluation", list(map(reading.own, rest)))
        digest, classes = Digest("evaluation"), []
        for batch in rest:
            batch.add_to(digest, "batch")
            classes.append(batch.classes)
    known = [part for part in classes if part is not None]
    return Indexed(reader, indices, digest.hexdigest(), torch.cat(known) if len(known) == len(classes) else None)


def example(data: Data) -> Any:
    """Inputs of one sample of evaluation data."""
    if isinstance(data, Samples):
        return data.head(1).inputs
    return reading.first(Reader(_loader(data, "evaluation", 1, shuffle=False), "evaluation"), 1).inputs


def _loader(data: Any, what: str, batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
    """The owner's loader, or one around their dataset that reads in this process."""
    if isinstance(data, DataLoader):
        return data
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, Tensor | str | dict):
        raise TaskError(
            f"{what}: a {type(data).__name__} cannot be read; give Samples(inputs, targets), a torch DataLoader, or a "
            "Dataset of (input, target) pairs"
        )
    if not len(data):
        raise reading.empty(what)
    return DataLoader(data, batch_size, shuffle=shuffle)


def _changing() -> TaskError:
    return TaskError(
        "evaluation: a sample is another one when it is read again; leave what is random out of evaluation data"
    )


def _indices(reader: Reader) -> tuple[Sequence[Any], bool]:
    """Indices of the samples of a pass, and whether every pass has the same."""
    if reader.in_full:
        if not reader.samples:
            raise reading.empty(reader.what)
        return range(reader.samples), True
    one, two = (
        [index for part in reader.index_lists(seed) for index in part] for seed in (reading.SEED, reading.SEED + 1)
    )
    if not one:
        raise reading.empty(reader.what)
    return one, Counter(one) == Counter(two)
