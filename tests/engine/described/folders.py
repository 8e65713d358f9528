"""Folders of tasks without code: model files, and the data that they describe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tests.engine.foreign.graphs import Node, written

COLOURS = {"blue": (10, 20, 200), "green": (20, 200, 30), "red": (200, 30, 20)}


def picture(class_name: str, seed: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    """A noisy image of one colour, of (width, height)."""
    noise = np.random.default_rng(seed).integers(-10, 11, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLOURS[class_name]) + noise).astype(np.uint8))


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def image_folder(folder: Path, count: int, seed: int, size: tuple[int, int] = (8, 8)) -> Path:
    """Images of each colour in a folder of its own."""
    for place, name in enumerate(COLOURS):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture(name, 1000 * seed + 100 * place + number, size).save(folder / name / f"{number:02}.png")
    return folder


def classifier(
    folder: Path, shape: tuple[int | str, ...] = ("n", 3, 8, 8), classes: int = 3, *, soft: bool = False
) -> Path:
    """A linear network on what is given, flattened."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = int(np.prod([size for size in shape[1:] if isinstance(size, int)]))
    weight = np.random.default_rng(0).normal(size=(inputs, classes)).astype(np.float32)
    nodes: list[Node] = [("Flatten", "x", "a", {}), ("MatMul", "a head.weight", "z" if soft else "y", {})]
    nodes += [("Softmax", "z", "y", {"axis": -1})] if soft else []
    return written(folder / "model.onnx", nodes, ["n", 3, 8, 8], {"head.weight": weight})


def described(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.toml").write_text(text)
    return folder


def arrays(path: Path, **values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **values)  # type: ignore[arg-type]


CLASSIFICATION = '[task]\nkind = "classification"\n'
NPZ = """
[task]
kind = "classification"
[train]
kind = "npz"
path = "train.npz"
inputs = "x"
target = "y"
[evaluation]
kind = "npz"
path = "test.npz"
inputs = "x"
target = "y"
"""


def folders(train: str = "train", evaluation: str = "test", more: str = "") -> str:
    return (
        f'{CLASSIFICATION}[train]\nkind = "image_folder"\npath = "{train}"\n'
        f'[evaluation]\nkind = "image_folder"\npath = "{evaluation}"\n{more}'
    )
