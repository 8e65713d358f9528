"""The content of ``data.toml``: read, checked key by key, with nothing in it that is not known."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, ValidationError

from diminuendo.engine.task import TaskError

FILE = "data.toml"

TEMPLATE = """\
# data.toml: beside one model file (model.onnx or model.pt2), what the network is for and where its data is.
# Paths are relative to this file's folder, absolute, or addresses such as s3://bucket/folder. Evaluators read the
# data, too: on a cluster it must be where all of them find it.

[task]
kind = "classification"           # or "regression"
# name = "flowers"                # for people; the folder's name when left out
# classes = ["daisy", "rose"]     # names of the network's outputs in their order, where labels are texts;
                                  # when left out: the names found in the training data, sorted

[train]                           # what the network is tuned on
kind = "image_folder"             # a folder with one folder of images for each class
path = "images/train"

[evaluation]                      # what it was not trained on: one half steers, the other is sealed
kind = "image_folder"
path = "images/test"

# In place of both, one set that is split, by classes and always in the same way:
# [data]
# kind = "image_folder"
# path = "images"
# split = 0.2                     # the share for evaluation
# seed = 0

# Other kinds of data:
# kind = "npz"                    # numpy arrays
# path = "train.npz"
# inputs = "x"                    # key of the array; for several inputs {ids = "input_ids", mask = "mask"}
# target = "y"

# kind = "parquet"                # one file, a folder of them, or a pattern such as "train-*.parquet"
# path = "train-*.parquet"
# image = "image"                 # column of encoded images ...
# inputs = ["width", "height"]    # ... or columns of numbers or of lists of them
# target = "label"

# kind = "csv"
# path = "train.csv"
# image = "file"                  # column of paths to images, relative to the file ...
# inputs = ["width", "height"]    # ... or columns of numbers
# target = "label"

# [image]                         # how images become what the network takes
# size = [224, 224]               # height, width; those of the network's input when left out
# channels = 3                    # 1 grey, 3 red green blue, 4 with alpha
# layout = "NCHW"                 # or "NHWC"
# scale = 0.00392156862745098     # what the pixels, 0 to 255, are multiplied by (1/255)
# mean = [0.485, 0.456, 0.406]    # subtracted then, for each channel
# std = [0.229, 0.224, 0.225]     # divided by at last
# resize = "shorter"              # the shorter side to the size, the rest cropped; or "exact": both sides
# shorter = 256                   # another size for the shorter side, before the crop
# crop = "center"

# [augment]                       # of training images
# flip = true                     # left and right, every second one
# crop_padding = 4                # shifted by up to so many pixels
"""
"""An example of the file, with every key."""

Columns = str | list[str]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskTable(_Table):
    """What the network is for."""

    kind: Literal["classification", "regression"]
    name: str = ""
    classes: list[str] | None = None


class _Set(_Table):
    path: str = Field(min_length=1)


class ImageFolder(_Set):
    """Images in one folder for each class."""

    kind: Literal["image_folder"]


class Npz(_Set):
    """Numpy arrays in a file."""

    kind: Literal["npz"]
    inputs: str | dict[str, str]
    target: str


class Parquet(_Set):
    """Rows of parquet files, with an encoded image or with numbers."""

    kind: Literal["parquet"]
    image: str | None = None
    inputs: Columns | dict[str, Columns] | None = None
    target: Columns


class Csv(_Set):
    """Rows of a text file, with the path of an image or with numbers."""

    kind: Literal["csv"]
    image: str | None = None
    inputs: Columns | dict[str, Columns] | None = None
    target: Columns


class _Splitting(_Table):
    split: float = Field(gt=0.0, lt=1.0)
    seed: int = Field(default=0, ge=0)


class SplitFolder(_Splitting, ImageFolder):
    """The same, to be split."""


class SplitNpz(_Splitting, Npz):
    """The same, to be split."""


class SplitParquet(_Splitting, Parquet):
    """The same, to be split."""


class SplitCsv(_Splitting, Csv):
    """The same, to be split."""


Set = Annotated[ImageFolder | Npz | Parquet | Csv, Discriminator("kind")]
SplitSet = Annotated[SplitFolder | SplitNpz | SplitParquet | SplitCsv, Discriminator("kind")]


class ImageTable(_Table):
    """How images become inputs; what is None follows from the network."""

    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    channels: Literal[1, 3, 4] | None = None
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: float = 1 / 255
    mean: list[float] | None = None
    std: list[Annotated[float, Field(gt=0)]] | None = None
    resize: Literal["shorter", "exact"] | None = None
    shorter: int | None = Field(default=None, gt=0)
    crop: Literal["center"] | None = None


class AugmentTable(_Table):
    """What is done to training images."""

    flip: bool = False
    crop_padding: int = Field(default=0, ge=0)


class Description(_Table):
    """The whole file."""

    task: TaskTable
    train: Set | None = None
    evaluation: Set | None = None
    data: SplitSet | None = None
    image: ImageTable | None = None
    augment: AugmentTable | None = None


def read(path: Path) -> Description:
    """Read a ``data.toml``.

    Raises:
        TaskError: It is not there, is no TOML, or a key or a value in it is wrong; names the file, the key, the value
            and the remedy.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        found = Description.model_validate(content)
    except FileNotFoundError:
        raise TaskError(f"data: {path} is not there; write one that tells the task's data") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TaskError(f"data: {path} is no TOML ({error}); mend that line") from None
    except ValidationError as error:
        raise TaskError(f"data: {path}: {_said(error)}") from None
    _check(found, path)
    return found


def _said(error: ValidationError) -> str:
    """What is wrong with the first key that is, in words."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    where = [str(part) for part in first["loc"] if part not in _KINDS]
    key = ".".join(where)
    if first["type"] == "extra_forbidden":
        known = _known_keys(where[:-1], first["loc"])
        near = difflib.get_close_matches(where[-1], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys there are {', '.join(known)}"
        return f"there is no key {key!r}; {hint}"
    if first["type"] == "missing":
        return f"{key} is missing; give it (diminuendo.engine.described.TEMPLATE explains every key)"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{key} = {str(first['input'])[:80]!r}: {message}; give one that is"


_KINDS = ("image_folder", "npz", "parquet", "csv", "str", "list[str]", "constrained-str")
_SETS: dict[str, tuple[type[_Table], type[_Table]]] = {
    "image_folder": (ImageFolder, SplitFolder),
    "npz": (Npz, SplitNpz),
    "parquet": (Parquet, SplitParquet),
    "csv": (Csv, SplitCsv),
}


def _known_keys(where: Sequence[str], place: Sequence[Any]) -> list[str]:
    """The keys of the table that a key was not found in."""
    if not where:
        return list(Description.model_fields)
    table = where[0]
    if table in ("train", "evaluation", "data"):
        kinds = _SETS[str(place[1])]
        return list(kinds[table == "data"].model_fields)
    tables: dict[str, type[_Table]] = {"task": TaskTable, "image": ImageTable, "augment": AugmentTable}
    return list(tables[table].model_fields) if table in tables else []


def _check(found: Description, path: Path) -> None:
    """Refuse what is right key by key, but not together."""
    sets = [name for name in ("train", "evaluation", "data") if getattr(found, name) is not None]
    if sets not in (["train", "evaluation"], ["data"]):
        raise TaskError(
            f"data: {path} has the tables {', '.join(sets) or 'of no data'}; give [train] and [evaluation], or one "
            "[data] with split = 0.2"
        )
    pictures = False
    for name in sets:
        table = getattr(found, name)
        pictures |= isinstance(table, ImageFolder) or getattr(table, "image", None) is not None
        if isinstance(table, Parquet | Csv) and (table.image is None) == (table.inputs is None):
            raise TaskError(f"data: {path}: {name}: give image or inputs, and not {_both(table)}")
    if found.task.kind == "regression" and (found.task.classes or isinstance(found.train or found.data, ImageFolder)):
        raise TaskError(f"data: {path}: task.kind = 'regression' has no classes; give targets that are numbers")
    if not pictures and (found.image or found.augment):
        given = "image" if found.image else "augment"
        raise TaskError(f"data: {path}: [{given}] is for images, and there are none in the data; leave it out")
    _check_image(found.image, path)


def _both(table: Parquet | Csv) -> str:
    return "both" if table.image is not None else "neither"


def _check_image(table: ImageTable | None, path: Path) -> None:
    if table is None:
        return
    for name in ("mean", "std"):
        values = getattr(table, name)
        if values is not None and table.channels is not None and len(values) != table.channels:
            raise TaskError(
                f"data: {path}: image.{name} = {values} has {len(values)} values for image.channels = "
                f"{table.channels}; give one for each channel"
            )
    if table.resize != "shorter" and (table.shorter is not None or table.crop is not None):
        raise TaskError(
            f"data: {path}: image.{'shorter' if table.shorter is not None else 'crop'} goes with image.resize = "
            f"'shorter', not {table.resize!r}; set that, or leave it out"
        )
