"""Reads parquet files: columns of numbers at once, columns of images group by group where they are many.

Reading them takes pyarrow, the extra ``diminuendo[data]``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils.data import Sampler

from diminuendo.engine.described.pictures import Encoded
from diminuendo.engine.described.places import Place, package
from diminuendo.engine.task import TaskError

HELD_BYTES = 2**30
"""Most memory for encoded images; more of them are read group by group, in an order that goes through groups."""

_GROUPS = 2
"""Groups of rows that are held at a time."""


@dataclass(frozen=True)
class Tables:
    """Parquet files with the same columns.

    Attributes:
        place: Of which they are.
        paths: In order.
        key: Name of the table in ``data.toml``.
    """

    place: Place
    paths: tuple[str, ...]
    key: str

    @cached_property
    def _files(self) -> list[Any]:
        parquet = package("pyarrow.parquet", "pyarrow", "parquet files")
        found = []
        for path in self.paths:
            try:
                found.append(parquet.ParquetFile(self.place.system.open(path, "rb")))
            except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
                raise TaskError(
                    f"data: {path} is no parquet file that can be read ({error}); fetch it again"
                ) from error
        return found

    def values(self, columns: Sequence[str]) -> list[Any]:
        """What columns hold, row by row: values of one column, or lists of those of several, end to end."""
        parts = [self._column(name) for name in columns]
        if len(parts) == 1:
            return parts[0]
        return [[each for value in row for each in _flat(value)] for row in zip(*parts, strict=True)]

    def _column(self, name: str) -> list[Any]:
        found: list[Any] = []
        for path, file in zip(self.paths, self._files, strict=True):
            self._check(path, file, name)
            found += file.read(columns=[name]).column(0).to_pylist()
        if None in found:
            raise TaskError(
                f"data: {self.place.what}: column {name!r} has no value in row {found.index(None) + 1}; leave rows out "
                "that have none"
            )
        return found

    def _check(self, path: str, file: Any, name: str) -> None:
        columns = file.schema_arrow.names
        if name not in columns:
            raise TaskError(
                f"data: {path} has the columns {', '.join(columns) or 'none'}, and none is called {name!r}; name one "
                f"of these in [{self.key}]"
            )

    def images(self, name: str) -> Encoded:
        """A column of encoded images: bytes, or ``{bytes, path}`` as of Hugging Face."""
        for path, file in zip(self.paths, self._files, strict=True):
            self._check(path, file, name)
        groups = [
            (path, group, file.metadata.row_group(group))
            for path, file in zip(self.paths, self._files, strict=True)
            for group in range(file.metadata.num_row_groups)
        ]
        size = sum(group.total_byte_size for _, _, group in groups)
        made = Groups(self.place, name, tuple((path, group, each.num_rows) for path, group, each in groups))
        return made if size > HELD_BYTES and len(groups) > _GROUPS else Held(made.what, tuple(made.all()))


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@dataclass(frozen=True)
class Held:
    """Encoded images in memory.

    Attributes:
        what: How messages call them.
        contents: One for each.
    """

    what: str
    contents: tuple[bytes, ...]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.contents)

    def content(self, index: int) -> bytes:
        """The bytes of one."""
        return self.contents[index]

    def where(self, index: int) -> str:
        """Its row."""
        return f"{self.what}, row {index + 1}"


class Groups:
    """Encoded images in groups of rows, of which the last used ones are in memory.

    Attributes:
        place: Of the files.
        name: Of the column.
        groups: (path, number in it, rows) of each.
    """

    def __init__(self, place: Place, name: str, groups: tuple[tuple[str, int, int], ...]) -> None:
        """Nothing is read yet."""
        self.place, self.name, self.groups = place, name, groups
        self._starts = [sum(rows for _, _, rows in groups[:number]) for number in range(len(groups))]
        self._read: OrderedDict[int, list[bytes]] = OrderedDict()

    @property
    def what(self) -> str:
        """How messages call them."""
        return f"{self.place.what}, column {self.name!r}"

    @property
    def rows(self) -> list[range]:
        """Numbers of the images of each group."""
        return [range(start, start + rows) for start, (_, _, rows) in zip(self._starts, self.groups, strict=True)]

    def __len__(self) -> int:
        """How many there are."""
        return sum(rows for _, _, rows in self.groups)

    def content(self, index: int) -> bytes:
        """The bytes of one."""
        group = bisect_right(self._starts, index) - 1
        while self.groups[group][2] == 0:
            group -= 1
        if group not in self._read:
            self._read[group] = self._bytes(group)
        self._read.move_to_end(group)
        while len(self._read) > _GROUPS:
            self._read.popitem(last=False)
        return self._read[group][index - self._starts[group]]

    def where(self, index: int) -> str:
        """Its row."""
        return f"{self.what}, row {index + 1}"

    def all(self) -> Iterator[bytes]:
        """The bytes of all, in order."""
        for group in range(len(self.groups)):
            yield from self._bytes(group)

    def _bytes(self, number: int) -> list[bytes]:
        parquet = package("pyarrow.parquet", "pyarrow", "parquet files")
        path, group, _ = self.groups[number]
        with self.place.system.open(path, "rb") as opened, parquet.ParquetFile(opened) as file:
            values = file.read_row_group(group, columns=[self.name]).column(0).to_pylist()
        found: list[Any] = [value.get("bytes") if isinstance(value, dict) else value for value in values]
        for row, value in enumerate(found):
            if not isinstance(value, bytes):
                raise TaskError(
                    f"data: {self.where(self._starts[number] + row)} is a {type(value).__name__}, not encoded bytes; "
                    "store the file's bytes"
                )
        return found


class Grouped(Sampler[int]):
    """Each sample once, in a random order that goes through groups of rows one after the other.

    Attributes:
        groups: Places of the samples of each.
        generator: Of the order.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        """Of samples in groups."""
        self.groups = [group for group in groups if len(group)]
        self.generator = torch.Generator()

    def __len__(self) -> int:
        """How many there are."""
        return sum(map(len, self.groups))

    def __iter__(self) -> Iterator[int]:
        """Places, in a new order each time."""
        for number in torch.randperm(len(self.groups), generator=self.generator).tolist():
            group = self.groups[number]
            for place in torch.randperm(len(group), generator=self.generator).tolist():
                yield group[place]
