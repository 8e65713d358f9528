"""Data that is not kept in memory: training samples that are streamed, evaluation samples that are read by index.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diminuendo.engine import reading, tree
from diminuendo.engine.digest import Digest, named
from diminuendo.engine.reader import Reader
from diminuendo.engine.task import Samples

PART_BYTES = 2**30
"""Most memory for the part of streamed training data that the survey and BatchNorm's statistics are taken on."""


@dataclass(frozen=True)
class Stream:
    """Training samples that are read anew in every epoch, in the loader's batches and order.

    Attributes:
        reader: Of the loader.
        samples: N, of a pass.
        steps: Batches of a pass.
        probe: A few samples.
        repeats: Whether those are the same whenever they are read with the same seed.
        indices: Of all samples of the dataset that a pass reads; None where batches come in no other way than they do.
        device: Where batches are put.
    """

    reader: Reader
    samples: int
    steps: int
    probe: Samples
    repeats: bool
    indices: Sequence[Any] | None = None
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        """Number of samples."""
        return self.samples

    def to(self, device: torch.device | str) -> Stream:
        """The same, with batches on a device."""
        return replace(self, device=device, probe=self.probe.to(device))

    def batches(self, seed: int) -> Generator[Samples, None, None]:
        """Batches, pass after pass, without end. Close the generator: that closes the loader's workers."""
        with closing(self.reader.batches(seed, passes=None)) as batches:
            for batch in batches:
                yield batch.to(self.device)

    def some(self, order: Sequence[int]) -> Samples:
        """The samples at these places, or as many of the first ones of a pass where they cannot be chosen.

        No more of them than `PART_BYTES` hold, but two at least.
        """
        most = PART_BYTES // max(1, reading.size_bytes(self.probe) // len(self.probe))
        order = order[: max(2, most)]
        if self.indices is None:
            return reading.first(self.reader, len(order)).to(self.device)
        lists = reading.lists([self.indices[place] for place in order], reading.batch_size(self.reader))
        with closing(self.reader.batches(reading.SEED, lists=lists)) as batches:
            return reading.joined(self.reader.what, list(map(reading.own, batches))).to(self.device)

    def add_to(self, digest: Digest, name: str) -> None:
        """Tell a digest what can be told without reading all: a few samples, how many there are, and who reads them."""
        loader = self.reader.loader
        kinds = tuple(named(type(each)) for each in (loader.dataset, loader.sampler))
        digest.add(name, (*kinds, self.samples, self.steps, loader.batch_size, loader.num_workers))
        if self.repeats:
            self.probe.add_to(digest, f"{name}.probe")
        else:  # values that follow no seed would make every process take the data for another one's
            digest.add(f"{name}.shapes", [tuple(leaf.shape[1:]) for leaf in tree.leaves(self.probe.inputs)])


@dataclass(frozen=True)
class Indexed:
    """Evaluation samples that are read whenever they are looked at, batch by batch.

    Attributes:
        reader: Of a loader that reads by index.
        indices: Of the samples in the dataset.
        content: sha256 of all samples of the data that these are of.
        classes: (N,) targets, where they are class indices.
        device: Where batches are put.
    """

    reader: Reader
    indices: Sequence[Any]
    content: str
    classes: Tensor | None = None
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def to(self, device: torch.device | str) -> Indexed:
        """The same, with batches on a device."""
        return replace(self, device=device)

    def take(self, index: Tensor) -> Indexed:
        """The samples at these indices, in this order."""
        places = index.tolist()
        classes = None if self.classes is None else self.classes[index.cpu()]
        return replace(self, indices=[self.indices[place] for place in places], classes=classes)

    def batches(self, size: int) -> Generator[Samples, None, None]:
        """Batches of at most `size` samples, in order. Close the generator: that closes the loader's workers."""
        with closing(self.reader.batches(reading.SEED, lists=reading.lists(self.indices, size))) as batches:
            for batch in batches:
                yield batch.to(self.device)

    def head(self, count: int) -> Samples:
        """The first samples, at most so many."""
        with closing(self.batches(count)) as batches:
            return next(batches)

    def add_to(self, digest: Digest, name: str) -> None:
        """Tell a digest what all of it is."""
        digest.add(name, (self.content, len(self)))
