"""Reads the sets of a ``data.toml``: the rows of a folder of images, of arrays, of a text file.

Legend: N rows.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diminuendo.engine.described import parquet
from diminuendo.engine.described.pictures import Encoded, Files
from diminuendo.engine.described.places import Place
from diminuendo.engine.described.spec import Columns, Csv, ImageFolder, Npz, Parquet
from diminuendo.engine.task import TaskError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of the files in a folder that are its images."""

Named = Mapping[str, list[str]]
"""Columns or keys by the input that they are; by the empty name for the only one."""


@dataclass(frozen=True)
class Rows:
    """A set of samples, with their targets as they are written.

    Attributes:
        what: How messages call it.
        targets: Texts, numbers, or lists of numbers.
        images: Where inputs are images.
        arrays: (N, ...) by the name of the input, where they are numbers.
        classes: Names of the folders, in order, where the targets are those.
    """

    what: str
    targets: Sequence[Any]
    images: Encoded | None = None
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """N."""
        return len(self.targets)


def read(table: Any, folder: Path, key: str) -> Rows:
    """The rows of a set.

    Args:
        table: Of the ``data.toml``.
        folder: That file's.
        key: Name of the table.

    Raises:
        TaskError: Something is not there or not as it is said to be; names it and the remedy.
    """
    place = Place.of(table.path, folder, f"{key}.path")
    readers: tuple[tuple[type[Any], Callable[[Any, Place, str], Rows]], ...] = (
        (ImageFolder, _folder),
        (Npz, _npz),
        (Parquet, _parquet),
        (Csv, _csv),
    )
    rows = next(reader for kind, reader in readers if isinstance(table, kind))(table, place, key)
    if not len(rows):
        raise TaskError(f"data: {rows.what} has no samples; give data that has some")
    return rows


def _folder(table: ImageFolder, place: Place, key: str) -> Rows:
    """One folder of images for each class."""
    paths, targets, classes = [], [], []
    for folder in place.folders():
        name = folder.rstrip("/").rpartition("/")[2]
        found = [path for path in place.tree(folder) if path.lower().endswith(IMAGES)]
        if not found:
            raise TaskError(
                f"data: {folder} has no images ({', '.join(IMAGES)}); put those of class {name!r} there, or remove it"
            )
        classes.append(name)
        paths += found
        targets += [name] * len(found)
    return Rows(place.what, targets, Files(place, tuple(paths)), classes=tuple(classes))


def _npz(table: Npz, place: Place, key: str) -> Rows:
    """Arrays of a numpy file."""
    (path,) = place.files(".npz")[:1]
    wanted = {"": table.inputs} if isinstance(table.inputs, str) else dict(table.inputs)
    try:
        with np.load(io.BytesIO(place.bytes_of(path)), allow_pickle=False) as held:
            found = {name: held[name] for name in held.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise TaskError(
            f"data: {place.what} is no file of arrays that can be read ({error}); write it with numpy.savez, without "
            "objects"
        ) from error
    for name in (*wanted.values(), table.target):
        if name not in found:
            raise TaskError(
                f"data: {place.what} has the arrays {', '.join(found) or 'none'}, and none is called {name!r}; name "
                f"one of these in {key}.inputs and {key}.target"
            )
    arrays, targets = {name: found[each] for name, each in wanted.items()}, found[table.target]
    for name, array in arrays.items():
        if not array.ndim or not targets.ndim or len(array) != len(targets):
            raise TaskError(
                f"data: {place.what}: {wanted[name]!r} has shape {array.shape} and {table.target!r} {targets.shape}; "
                "the first dimension of both counts the samples"
            )
    return Rows(place.what, targets.tolist(), arrays=arrays)


def named(inputs: Columns | Mapping[str, Columns] | None) -> Named:
    """The columns of each input."""
    given = inputs if isinstance(inputs, Mapping) else {"": inputs or []}
    return {name: [each] if isinstance(each, str) else list(each) for name, each in given.items()}


def _parquet(table: Parquet, place: Place, key: str) -> Rows:
    """Rows of parquet files."""
    files = parquet.Tables(place, tuple(place.files(".parquet")), key)
    targets = files.values([table.target] if isinstance(table.target, str) else table.target)
    if table.image is not None:
        return Rows(place.what, targets, files.images(table.image))
    arrays = {name: _array(place.what, columns, files.values(columns)) for name, columns in named(table.inputs).items()}
    return Rows(place.what, targets, arrays=arrays)


def _array(what: str, columns: Sequence[str], rows: Sequence[Any]) -> NDArray[Any]:
    """Numbers, or lists of them, as an array."""
    try:
        made = np.array(rows)
    except ValueError:
        made = np.array(rows, dtype=object)
    if made.dtype.kind not in "biuf":
        raise TaskError(
            f"data: {what}: the columns {', '.join(columns)} are not numbers, or lists of as many in every row; name "
            "columns that are, or leave rows out that have none"
        )
    return made


def _csv(table: Csv, place: Place, key: str) -> Rows:
    """Rows of a text file with a line of names."""
    (path,) = place.files(".csv")[:1]
    try:
        text = place.bytes_of(path).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaskError(f"data: {place.what} is no text that can be read ({error}); write it as UTF-8") from error
    if not lines:
        raise TaskError(f"data: {place.what} is empty; its first line names the columns")
    columns, body = lines[0], [line for line in lines[1:] if line]
    ragged = next((number for number, line in enumerate(body, 2) if len(line) != len(columns)), None)
    if ragged is not None:
        raise TaskError(
            f"data: {place.what}, line {ragged}: it has {len(body[ragged - 2])} values for {len(columns)} columns; "
            "mend that line"
        )
    texts = _Texts(place.what, columns, body, key)
    single = isinstance(table.target, str)
    targets = texts.column(str(table.target)) if single else texts.numbers(list(table.target)).tolist()
    if table.image is not None:
        beside = path.rpartition("/")[0]
        images = [each if each.startswith("/") else f"{beside}/{each}" for each in texts.column(table.image)]
        return Rows(place.what, targets, Files(place, tuple(images)))
    arrays = {name: texts.numbers(each) for name, each in named(table.inputs).items()}
    return Rows(place.what, targets, arrays=arrays)


@dataclass(frozen=True)
class _Texts:
    """Columns of texts."""

    what: str
    columns: Sequence[str]
    body: Sequence[Sequence[str]]
    key: str

    def column(self, name: str) -> list[str]:
        if name not in self.columns:
            raise no_column(self.what, self.columns, name, self.key)
        place = list(self.columns).index(name)
        return [line[place] for line in self.body]

    def numbers(self, names: Sequence[str]) -> NDArray[Any]:
        """(N, columns); of a single column (N,)."""
        made = np.empty((len(self.body), len(names)), np.float64)
        for place, name in enumerate(names):
            for number, value in enumerate(self.column(name)):
                try:
                    made[number, place] = float(value)
                except ValueError:
                    raise TaskError(
                        f"data: {self.what}, row {number + 1}: {name} = {value!r} is no number; mend it, or leave the "
                        "row out"
                    ) from None
        return made[:, 0] if len(names) == 1 else made


def no_column(what: str, columns: Sequence[str], name: str, key: str) -> TaskError:
    """The error of a column that is not there."""
    return TaskError(
        f"data: {what} has the columns {', '.join(columns) or 'none'}, and none is called {name!r}; name one of these "
        f"in [{key}]"
    )
