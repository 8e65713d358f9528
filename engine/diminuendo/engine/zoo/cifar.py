"""CIFAR from a folder of parquet files: images as encoded bytes, and their classes.

The layout is ``train-*.parquet`` and ``test-*.parquet``; the columns are ``image`` or ``img`` (bytes in any format that
pillow reads, or Hugging Face's ``{bytes, path}``) and ``label`` or ``fine_label``. Reading it takes pyarrow and pillow,
the extra ``diminuendo[data]``.

Legend: N samples, C channels, H x W pixels.
"""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diminuendo.engine.task import Samples, TaskError
from diminuendo.engine.zoo.catalog import Source

MEAN = (0.5071, 0.4865, 0.4409)
STD = (0.2673, 0.2564, 0.2762)
"""Of CIFAR-100's training pixels, scaled to 0..1."""

PADDING = 4
CHUNK = 2048
"""Samples that are normalised or augmented at once: bounds the memory for what is in between."""

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "fine_label")


def load(folder: Path, source: Source, *, limit: int | None = None) -> tuple[Samples, Samples]:
    """Training and evaluation samples: (N, 3, H, W) float32 normalised, and their (N,) int64 classes.

    Args:
        folder: Has train-*.parquet and test-*.parquet.
        source: The network that is to take them: it gives size and number of classes.
        limit: At most so many samples of each, the first ones; for a trial.

    Raises:
        TaskError: pyarrow or pillow is not installed, or a file does not fit; names file, value and remedy.
    """
    if not folder.is_dir():
        raise TaskError(f"data: {folder} is no folder; give one with train-*.parquet and test-*.parquet")
    return read(folder, "train", source, limit=limit), read(folder, "test", source, limit=limit)


def read(folder: Path, split: str, source: Source, *, limit: int | None = None) -> Samples:
    """The samples of ``train`` or ``test``; see `load`."""
    files = sorted(folder.glob(f"{split}-*.parquet"))
    if not files:
        raise TaskError(
            f"data: {folder} has no {split}-*.parquet; give a folder with train-*.parquet and test-*.parquet, "
            "as CIFAR-100 is published in (columns image and label)"
        )
    pixels: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for path in files:
        left = None if limit is None else limit - len(labels)
        if left is None or left > 0:
            images, classes = _read_file(path, source, left)
            pixels.append(images)
            labels += classes
    if not labels:
        raise TaskError(f"data: {split}-*.parquet of {folder} have no rows; give files with images")
    return Samples(_normalise(pixels), torch.tensor(labels, dtype=torch.int64))


def _read_file(path: Path, source: Source, limit: int | None) -> tuple[NDArray[np.uint8], list[int]]:
    """(N, H, W, 3) pixels and N classes of one file."""
    parquet, image = _package("pyarrow.parquet", "pyarrow"), _package("PIL.Image", "pillow")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise TaskError(f"data: {path} is no parquet file that can be read ({error}); fetch it again") from error
    with file:
        names = file.schema_arrow.names
        image_column = _column(path, names, _IMAGE_COLUMNS)
        label_column = _column(path, names, _LABEL_COLUMNS)
        _check_classes(path, file.schema_arrow.metadata or {}, label_column, source)
        rows = file.metadata.num_rows if limit is None else min(limit, file.metadata.num_rows)
        _, height, width = source.entry.input_shape
        pixels = np.empty((rows, height, width, 3), np.uint8)
        labels: list[int] = []
        for batch in file.iter_batches(batch_size=CHUNK, columns=[image_column, label_column]):
            found = zip(batch.column(image_column).to_pylist(), batch.column(label_column).to_pylist(), strict=True)
            for content, label in found:
                if len(labels) == rows:
                    return pixels, labels
                where = f"{path}, row {len(labels)}"
                pixels[len(labels)] = _decode(image, where, content, (width, height))
                labels.append(_label(where, label, source))
    return pixels, labels


def _package(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TaskError(
            f"data: reading parquet files of images needs {name} ({error}); pip install 'diminuendo[data]'"
        ) from error


def _column(path: Path, names: list[str], wanted: tuple[str, str]) -> str:
    """The first wanted column that is there."""
    for name in wanted:
        if name in names:
            return name
    raise TaskError(
        f"data: {path} has the columns {', '.join(names) or 'none'}, and none is called {' or '.join(wanted)}; "
        "rename the column"
    )


def _check_classes(path: Path, metadata: dict[bytes, bytes], label_column: str, source: Source) -> None:
    """Refuse a file whose schema lists another number of classes than the network's."""
    names = _class_names(metadata, label_column)
    if names and len(names) != source.classes:
        raise TaskError(
            f"data: {path} has {len(names)} classes ({names[0]}, ...), {source} has {source.classes}; "
            f"say zoo:{source.entry.name}?classes={len(names)}, or give other data"
        )


def _class_names(metadata: dict[bytes, bytes], label_column: str) -> list[str]:
    """Names from the schema: under ``classes``, comma-separated, or as Hugging Face writes them; empty if neither."""
    if b"classes" in metadata:
        return metadata[b"classes"].decode(errors="replace").split(",")
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label_column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _decode(image: Any, where: str, content: object, size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) pixels of encoded bytes."""
    encoded = content.get("bytes") if isinstance(content, dict) else content
    if not isinstance(encoded, bytes):
        raise TaskError(
            f"data: {where}: the image is {type(encoded).__name__}, not bytes; store the encoded file's bytes"
        )
    try:
        with image.open(io.BytesIO(encoded)) as opened:
            found = opened.size
            pixels = np.asarray(opened.convert("RGB")) if found == size else None
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:  # all that pillow raises
        raise TaskError(f"data: {where}: the image cannot be read ({error}); store PNG or WebP bytes") from error
    if pixels is None:
        raise TaskError(
            f"data: {where}: the image is {found[0]}x{found[1]}, the network takes {size[0]}x{size[1]}; give images "
            "of that size"
        )
    return pixels


def _label(where: str, label: object, source: Source) -> int:
    if not isinstance(label, int) or not 0 <= label < source.classes:
        raise TaskError(
            f"data: {where}: label {label!r} is not a class of {source}, which are 0 to {source.classes - 1}; say "
            f"zoo:{source.entry.name}?classes=N for the number of classes in the data, or mend the file"
        )
    return label


def _normalise(parts: list[NDArray[np.uint8]]) -> Tensor:
    """(N, 3, H, W) float32 of all parts, each given up as soon as it is done."""
    total, (height, width) = sum(len(part) for part in parts), parts[0].shape[1:3]
    inputs = torch.empty(total, 3, height, width)
    scale = torch.tensor(STD).view(3, 1, 1) * 255.0
    shift = torch.tensor(MEAN).view(3, 1, 1) * 255.0
    done = 0
    while parts:
        part = torch.from_numpy(parts.pop(0))
        for chunk in torch.split(part, CHUNK):
            inputs[done : done + len(chunk)] = (chunk.permute(0, 3, 1, 2).to(torch.float32) - shift) / scale
            done += len(chunk)
    return inputs


def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to 4 pixels in each direction, reflected at the border; flip every second one.

    Args:
        inputs: (N, C, H, W), at least 5 pixels high and wide.
        generator: The only source of randomness.

    Returns:
        (N, C, H, W), a new tensor.
    """
    total, channels, height, width = inputs.shape
    device = inputs.device
    shift = torch.randint(-PADDING, PADDING + 1, (2, total, 1), generator=generator, device=generator.device).to(device)
    flip = torch.randint(0, 2, (total, 1), generator=generator, device=generator.device).to(device) > 0
    rows = _reflect(torch.arange(height, device=device) + shift[0], height)  # (N, H)
    columns = _reflect(torch.arange(width, device=device) + shift[1], width)  # (N, W)
    columns = torch.where(flip, columns.flip(1), columns)
    out = torch.empty(inputs.shape, dtype=inputs.dtype, device=device)
    for start in range(0, total, CHUNK):
        part = slice(start, start + CHUNK)
        pixels = inputs[part].reshape(-1, channels, height * width)
        index = (rows[part, :, None] * width + columns[part, None, :]).view(-1, 1, height * width)  # (n, 1, H W)
        torch.gather(pixels, 2, index.expand_as(pixels), out=out[part].view_as(pixels))
    return out


def _reflect(index: Tensor, size: int) -> Tensor:
    """Places outside 0..size-1 mirrored at the border, which is not repeated."""
    index = index.abs()
    return torch.where(index < size, index, 2 * (size - 1) - index)
