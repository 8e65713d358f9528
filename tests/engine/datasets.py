"""Datasets of all kinds. Here, and not beside the tests, so that spawned workers can import them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler


def values(count: int) -> Tensor:
    """(count, 3)."""
    return torch.arange(3.0 * count).reshape(count, 3)


class Pairs(Dataset[tuple[Tensor, int]]):
    """Rows of numbers with classes; keeps the indices that were asked for in this process."""

    def __init__(self, count: int, noise: float = 0.0) -> None:
        self.rows = values(count)
        self.noise = noise
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        return self.rows[index] + self.noise * torch.randn(3), index % 4


class Raising(Pairs):
    """Cannot read its last sample."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == len(self) - 1:
            raise OSError(f"file {index} is gone")
        return super().__getitem__(index)


class Exiting(Pairs):
    """Ends its process."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        os._exit(3)


class Items(Dataset[Any]):
    """Whatever it is given."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Running(IterableDataset[tuple[Tensor, int]]):
    """Rows one after the other, `count` of them or without end; shuffled anew each time when asked."""

    def __init__(self, count: int | None, *, shuffled: bool = False) -> None:
        self.count = count
        self.shuffled = shuffled

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        if self.count is None:
            while True:
                yield torch.zeros(3), 0
        order = torch.randperm(self.count) if self.shuffled else torch.arange(self.count)
        for index in order.tolist():
            yield values(self.count)[index], index % 4


class Measured(Running):
    """The same with a length, whatever comes."""

    def __init__(self, count: int | None, length: int) -> None:
        super().__init__(count)
        self.length = length

    def __len__(self) -> int:
        return self.length


class Unseeded(Running):
    """Rows of random numbers that follow no seed."""

    def __init__(self) -> None:
        super().__init__(30)

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        generator = torch.Generator()
        generator.seed()
        for index in range(30):
            yield torch.randn(3, generator=generator), index % 4


class Odd(Sampler[int]):
    """Every second index; counts the passes that it was told of."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.passes: list[int] = []

    def set_epoch(self, number: int) -> None:
        self.passes.append(number)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, self.count, 2))

    def __len__(self) -> int:
        return self.count // 2


class Endless(Sampler[int]):
    """The first index for ever."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


def padded(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Texts of any length, as long as the longest of the batch."""
    texts = torch.nn.utils.rnn.pad_sequence([text for text, _ in items], batch_first=True)
    return texts, torch.tensor([target for _, target in items])
