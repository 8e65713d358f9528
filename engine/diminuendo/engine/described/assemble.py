"""Puts the data of a ``data.toml`` together as the network takes it: inputs, targets, split.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from diminuendo.engine.described.parquet import Grouped, Groups
from diminuendo.engine.described.pictures import Augment, Look, Pictures
from diminuendo.engine.described.rows import Rows, read
from diminuendo.engine.described.spec import FILE, Description, ImageTable
from diminuendo.engine.foreign import NetworkInput
from diminuendo.engine.foreign.inputs import argument
from diminuendo.engine.search.rng import keyed
from diminuendo.engine.task import Data, Recipe, Samples, TaskError


@dataclass(frozen=True)
class Assembled:
    """Data of a task.

    Attributes:
        train: Training samples.
        evaluation: Evaluation samples.
        augment: Of training images; None: none.
        classes: Names, where the labels are texts.
        lowest: Label of all; 0 in a regression.
        highest: Likewise.
        width: Targets of each sample.
        name: Of the task, for people.
    """

    train: Data
    evaluation: Data
    augment: Augment | None
    classes: tuple[str, ...]
    lowest: int
    highest: int
    width: int
    name: str


def assemble(described: Description, folder: Path, inputs: Sequence[NetworkInput]) -> Assembled:
    """Read the data and fit it to a network.

    Args:
        described: Content of the ``data.toml``.
        folder: That it lies in.
        inputs: Of the network.

    Raises:
        TaskError: The data is not there, or does not fit; names it and the remedy.
    """
    where = folder / FILE
    keys = ("data",) if described.data is not None else ("train", "evaluation")
    sets = [read(getattr(described, key), folder, key) for key in keys]
    classes = _classes(described, sets)
    targets = [_targets(rows, classes, described.task.kind) for rows in sets]
    look = _look(described.image, inputs, where) if any(rows.images is not None for rows in sets) else None
    whole: list[int] | None = None
    if described.data is None:
        parts = [(rows, each, whole) for rows, each in zip(sets, targets, strict=True)]
    else:
        split = _split(targets[0], described.data.split, described.data.seed, described.task.kind, where)
        parts = [(sets[0], targets[0], index) for index in split]
    train, evaluation = (_data(rows, each, index, look, inputs) for rows, each, index in parts)
    labels = torch.cat([each.flatten() for each in targets]) if described.task.kind == "classification" else None
    augment = described.augment
    return Assembled(
        train=_ordered(train),
        evaluation=evaluation,
        augment=Augment(augment.flip, augment.crop_padding, look.last) if augment and look else None,
        classes=classes,
        lowest=0 if labels is None else int(labels.min()),
        highest=0 if labels is None else int(labels.max()),
        width=targets[0].reshape(len(targets[0]), -1).shape[1],
        name=described.task.name,
    )


def _classes(described: Description, sets: Sequence[Rows]) -> tuple[str, ...]:
    """Names of the classes, in the order of the network's outputs; none where labels are numbers.

    Raises:
        TaskError: Sets have other ones.
    """
    texts = any(rows.classes or any(map(_is_text, rows.targets)) for rows in sets)
    if described.task.kind != "classification" or not texts:
        return ()
    found = [rows.classes or tuple(sorted({str(each) for each in rows.targets})) for rows in sets]
    given = tuple(described.task.classes or found[0])
    for rows, names in zip(sets, found, strict=True):
        more = sorted(set(names) - set(given))
        missing = sorted(set(given) - set(names)) if rows.classes else []  # each class has a folder
        if more or missing:
            of = "task.classes" if described.task.classes else sets[0].what
            raise TaskError(
                f"data: {rows.what} has the classes {_told(names)} where {of} has {_told(given)} "
                f"({_told(more or missing)} {'more' if more else 'missing'}); give both the same ones"
            )
    return given


def _told(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "none"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not _is_whole(value)


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lstrip("-").isdigit()
    return isinstance(value, int | float) and float(value).is_integer()


def _targets(rows: Rows, classes: Sequence[str], kind: str) -> Tensor:
    """(N,) int64 class indices, or (N,) or (N, K) float32 values."""
    if kind == "classification":
        places = {name: place for place, name in enumerate(classes)}
        if classes:
            return torch.tensor([places[str(each)] for each in rows.targets], dtype=torch.int64)
        if any(not _is_whole(each) for each in rows.targets):
            odd = next(each for each in rows.targets if not _is_whole(each))
            raise TaskError(f"data: {rows.what}: label {odd!r} is no class; give one whole number for each sample")
        return torch.tensor([int(each) for each in rows.targets], dtype=torch.int64)
    try:
        values = np.array(rows.targets, dtype=np.float32)
    except ValueError:
        raise TaskError(
            f"data: {rows.what}: the targets are not numbers, or not as many in every row; a regression takes numbers"
        ) from None
    if not np.isfinite(values).all():
        raise TaskError(f"data: {rows.what}: a target is NaN or infinite; leave such rows out")
    return torch.from_numpy(values)


def _split(targets: Tensor, share: float, seed: int, kind: str, where: Path) -> tuple[list[int], list[int]]:
    """Numbers of the samples for training and for evaluation: a random share of each class."""
    order = torch.from_numpy(keyed(seed, "described split").permutation(len(targets)))
    if kind == "classification":
        order = order[torch.argsort(targets[order], stable=True)]
    total = len(order)
    places = [place for place in range(total) if int((place + 1) * share) > int(place * share)]
    chosen = set(order[places].tolist())
    train = [number for number in range(total) if number not in chosen]
    if not train or not chosen:
        raise TaskError(f"data: {where}: data.split = {share} leaves nothing of {total} samples; give more of them")
    return train, sorted(chosen)


def _look(table: ImageTable | None, inputs: Sequence[NetworkInput], where: Path) -> Look:
    """How images become inputs, by the file and the network.

    Raises:
        TaskError: The network takes something else; names both shapes.
    """
    table = table or ImageTable()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise TaskError(
            f"data: {where}: the network takes {'; '.join(map(str, inputs))}, which is not one batch of images; give "
            "numbers as inputs, by kind = npz, csv or parquet"
        )
    shape = inputs[0].shape[1:]
    last = table.layout == "NHWC"
    size, channels = (shape[:2], shape[2]) if last else (shape[1:], shape[0])
    wanted = table.size or size
    if None in wanted:
        raise TaskError(f"data: {where}: image.size is missing, for the network takes any; give size = [height, width]")
    look = Look(
        size=(int(wanted[0] or 0), int(wanted[1] or 0)),
        channels=int(table.channels or channels or 3),
        last=last,
        scale=table.scale,
        mean=tuple(table.mean or ()),
        std=tuple(table.std or ()),
        resize=table.resize,
        shorter=table.shorter,
        dtype=inputs[0].dtype,
    )
    fits = all(own is None or own == given for own, given in zip(shape, look.shape, strict=True))
    lengths = {len(look.mean), len(look.std)} - {0, look.channels}
    if not fits or look.channels not in (1, 3, 4):
        other = "NCHW" if last else "NHWC"
        raise TaskError(
            f"data: {where}: images of shape {look.shape} by [image] do not fit the network, which takes {inputs[0]}; "
            f'set image.size and image.channels to that, or layout = "{other}" if channels come elsewhere'
        )
    if lengths:
        raise TaskError(
            f"data: {where}: image.mean and image.std have {lengths.pop()} values for {look.channels} channels; give "
            "one for each"
        )
    return look


def _data(
    rows: Rows, targets: Tensor, index: list[int] | None, look: Look | None, inputs: Sequence[NetworkInput]
) -> Samples | Pictures:
    """The samples of a set, or those of some numbers."""
    if rows.images is not None and look is not None:
        return Pictures(rows.images, look, targets if index is None else targets[index], index)
    found = Samples(_numbers(rows, inputs), targets)
    return found if index is None else found.take(torch.tensor(index))


def _ordered(data: Samples | Pictures) -> Data:
    """Training data; images that are read in groups come in an order that goes through the groups."""
    if not isinstance(data, Pictures) or not isinstance(data.source, Groups):
        return data
    place_of = {number: place for place, number in enumerate(data._index)}
    groups = [[place_of[number] for number in rows if number in place_of] for rows in data.source.rows]
    return DataLoader(data, batch_size=Recipe().batch_size, sampler=Grouped(groups))


def _numbers(rows: Rows, inputs: Sequence[NetworkInput]) -> Tensor | Mapping[str, Tensor]:
    """Arrays as the network's inputs; by name where there are several."""
    arrays = {argument(name) if name else "": array for name, array in rows.arrays.items()}
    if "" in arrays and len(inputs) == 1:
        return _fitted(arrays[""], inputs[0], rows.what)
    names = [each.name for each in inputs]
    if sorted(arrays) != sorted(names):
        raise TaskError(
            f"data: {rows.what}: there are inputs {', '.join(sorted(filter(None, arrays))) or 'without names'} for a "
            f"network that takes {'; '.join(map(str, inputs))}; name them: inputs = "
            f"{{{', '.join(f'{name} = ...' for name in names)}}}"
        )
    fitted = {each.name: _fitted(arrays[each.name], each, rows.what) for each in inputs}
    return fitted if len(inputs) > 1 else fitted[names[0]]


def _fitted(array: NDArray[Any], given: NetworkInput, what: str) -> Tensor:
    """(N, ...) numbers in the shape and the type of an input.

    Raises:
        TaskError: They have not as many values for each sample, or are of another kind; names both shapes.
    """
    sizes = given.shape[1:]
    fits = array.ndim == len(given.shape) and all(
        own is None or own == size for own, size in zip(sizes, array.shape[1:], strict=True)
    )
    if not fits and None not in sizes and array.size == len(array) * int(np.prod(np.array(sizes, dtype=int))):
        array = array.reshape(len(array), *[int(size or 0) for size in sizes])
        fits = True
    if not fits or array.dtype.kind not in "biuf":
        raise TaskError(
            f"data: {what}: inputs of shape {('N', *array.shape[1:])} and type {array.dtype} do not fit the network, "
            f"which takes {given}; give data of that shape"
        )
    if array.dtype.kind == "f" and not given.dtype.is_floating_point and bool((array != np.floor(array)).any()):
        raise TaskError(
            f"data: {what}: the network takes whole numbers ({given}), and there are others; give whole ones"
        )
    if array.dtype.kind == "f" and not bool(np.isfinite(array).all()):
        raise TaskError(f"data: {what}: an input is NaN or infinite; leave such samples out")
    return torch.from_numpy(np.ascontiguousarray(array)).to(given.dtype)
