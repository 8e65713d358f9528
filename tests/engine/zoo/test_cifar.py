from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from torch.nn import functional

from diminuendo.engine.task import TaskError
from diminuendo.engine.zoo import cifar
from diminuendo.engine.zoo.catalog import Source

RESNET = Source.parse("resnet18?classes=10")


def pixels(count: int, seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, size[1], size[0], 3), dtype=np.uint8)


def encoded(image: np.ndarray[Any, np.dtype[np.uint8]], form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, **({"lossless": True} if form == "WEBP" else {}))
    return out.getvalue()


def write(path: Path, columns: dict[str, list[Any]], metadata: dict[str, str] | None = None) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), path)


def write_both(folder: Path, **columns: list[Any]) -> None:
    for split in ("train", "test"):
        write(folder / f"{split}-00000.parquet", columns)


def test_images_and_classes_come_normalised_and_in_the_files_order(tmp_path: Path) -> None:
    images = pixels(5, seed=1)
    content = [encoded(image, form) for image, form in zip(images, ["PNG", "WEBP", "PNG", "WEBP", "PNG"], strict=True)]
    write(tmp_path / "train-00001-of-00002.parquet", {"image": content[3:], "label": [9, 0]})
    write(tmp_path / "train-00000-of-00002.parquet", {"image": content[:3], "label": [1, 2, 3]})
    write(tmp_path / "test-00000-of-00001.parquet", {"image": content[4:], "label": [7]})
    train, evaluation = cifar.load(tmp_path, RESNET)
    assert (train.inputs.shape, train.inputs.dtype) == ((5, 3, 32, 32), torch.float32)
    assert train.targets.tolist() == [1, 2, 3, 9, 0]
    assert (train.targets.dtype, evaluation.targets.tolist()) == (torch.int64, [7])
    expected = (images.astype(np.float64) / 255 - [0.5071, 0.4865, 0.4409]) / [0.2673, 0.2564, 0.2762]
    np.testing.assert_allclose(train.inputs.permute(0, 2, 3, 1).numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(evaluation.inputs.permute(0, 2, 3, 1).numpy(), expected[4:], atol=2e-6)


def test_hugging_faces_columns_are_read_too(tmp_path: Path) -> None:
    structs = [{"bytes": encoded(image), "path": None} for image in pixels(2, seed=2)]
    names = [f"c{i}" for i in range(10)]
    features = json.dumps({"info": {"features": {"img": {}, "fine_label": {"names": names}}}})
    columns: dict[str, list[Any]] = {"img": structs, "fine_label": [4, 5], "coarse_label": [0, 1]}
    for split in ("train", "test"):
        write(tmp_path / f"{split}-0.parquet", columns, {"huggingface": features})
    train, _ = cifar.load(tmp_path, RESNET)
    assert train.targets.tolist() == [4, 5]
    with pytest.raises(TaskError, match=r"has 10 classes \(c0, \.\.\.\), zoo:resnet18 has 100; say zoo:resnet18\?cl"):
        cifar.load(tmp_path, Source.parse("resnet18"))


def test_a_trial_reads_only_the_first_samples(tmp_path: Path) -> None:
    good, broken = [encoded(image) for image in pixels(3, seed=3)], b"never read"
    write(tmp_path / "train-0.parquet", {"image": good, "label": [0, 1, 2]})
    write(tmp_path / "train-1.parquet", {"image": [good[0], broken], "label": [3, 4]})
    write(tmp_path / "test-0.parquet", {"image": good, "label": [0, 1, 2]})
    train, evaluation = cifar.load(tmp_path, RESNET, limit=4)
    assert (train.targets.tolist(), evaluation.targets.tolist()) == ([0, 1, 2, 3], [0, 1, 2])


def test_classes_in_the_schema_must_be_the_networks(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"image": [encoded(pixels(1, seed=0)[0])], "label": [0]}
    for split in ("train", "test"):
        write(tmp_path / f"{split}-0.parquet", columns, {"classes": "cat,dog"})
    with pytest.raises(TaskError, match=r"train-0\.parquet has 2 classes \(cat, \.\.\.\), zoo:resnet18\?classes=10"):
        cifar.load(tmp_path, RESNET)
    assert len(cifar.load(tmp_path, Source.parse("resnet18?classes=2"))[0]) == 1


GOOD = encoded(pixels(1, seed=0)[0])


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"picture": [GOOD], "label": [0]}, "has the columns picture, label, and none is called image or img; rename"),
        ({"image": [GOOD], "class": [0]}, "has the columns image, class, and none is called label or fine_label"),
        ({"image": [GOOD], "label": [10]}, "row 0: label 10 is not a class of zoo:resnet18?classes=10, which are 0 to"),
        ({"image": [GOOD, GOOD], "label": [1, -1]}, "row 1: label -1 is not a class"),
        ({"image": [GOOD], "label": [0.5]}, "label 0.5 is not a class"),
        ({"image": [GOOD, GOOD], "label": [0, None]}, "row 1: label None is not a class"),
        ({"image": [encoded(pixels(1, 0, (28, 32))[0])], "label": [0]}, "the image is 28x32, the network takes 32x32"),
        ({"image": [b"not an image"], "label": [0]}, "row 0: the image cannot be read (cannot identify image file"),
        ({"image": [GOOD[:100]], "label": [0]}, "row 0: the image cannot be read"),
        ({"image": [GOOD, None], "label": [0, 0]}, "row 1: the image is NoneType, not bytes; store"),
        ({"image": ["text"], "label": [0]}, "the image is str, not bytes"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_value_and_remedy(
    tmp_path: Path, columns: dict[str, list[Any]], says: str
) -> None:
    write_both(tmp_path, **columns)
    with pytest.raises(TaskError) as caught:
        cifar.load(tmp_path, RESNET)
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"data: {tmp_path}/train-00000.parquet")


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"data: .*nowhere is no folder; give one with train-\*\.parquet"):
        cifar.load(tmp_path / "nowhere", RESNET)
    with pytest.raises(TaskError, match=r"has no train-\*\.parquet; give a folder"):
        cifar.load(tmp_path, RESNET)
    write(tmp_path / "train-0.parquet", {"image": [GOOD], "label": [0]})
    with pytest.raises(TaskError, match=r"has no test-\*\.parquet; give a folder"):
        cifar.load(tmp_path, RESNET)
    (tmp_path / "test-0.parquet").write_bytes(b"something else")
    with pytest.raises(TaskError, match=r"test-0\.parquet is no parquet file that can be read .*; fetch it again"):
        cifar.load(tmp_path, RESNET)


@pytest.mark.parametrize(("module", "package"), [("pyarrow.parquet", "pyarrow"), ("PIL.Image", "pillow")])
def test_a_missing_package_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    write_both(tmp_path, image=[GOOD], label=[0])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TaskError, match=rf"needs {package} .*; pip install 'diminuendo\[data\]'"):
        cifar.load(tmp_path, RESNET)


def test_augmentation_is_a_crop_of_the_reflected_image_or_its_mirror_image() -> None:
    inputs = torch.randn(3000, 2, 8, 8, generator=torch.Generator().manual_seed(0))  # more than one chunk
    before = inputs.clone()
    out = cifar.augment(inputs, torch.Generator().manual_seed(5))
    assert torch.equal(inputs, before)
    assert torch.equal(out, cifar.augment(inputs, torch.Generator().manual_seed(5)))
    padded = functional.pad(inputs, (4, 4, 4, 4), mode="reflect")
    seen = set()
    matched = torch.zeros(len(inputs), dtype=torch.bool)
    for top in range(9):
        for left in range(9):
            crop = padded[:, :, top : top + 8, left : left + 8]
            for mirrored in (False, True):
                equal = (out == (crop.flip(3) if mirrored else crop)).flatten(1).all(dim=1)
                matched |= equal
                if bool(equal.any()):
                    seen.add((top, left, mirrored))
    assert bool(matched.all())
    assert len(seen) == 9 * 9 * 2  # 3000 draws of 162 kinds


def test_augmentation_takes_any_layout_and_device_of_generator() -> None:
    inputs = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    last = inputs.to(memory_format=torch.channels_last)
    expected = cifar.augment(inputs, torch.Generator().manual_seed(1))
    assert torch.equal(cifar.augment(last, torch.Generator().manual_seed(1)), expected)
    assert cifar.augment(inputs[:0], torch.Generator()).shape == (0, 3, 32, 32)
