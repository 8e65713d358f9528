"""Data of every kind, read as it is described."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from tests.engine.described.folders import (
    CLASSIFICATION,
    COLOURS,
    NPZ,
    arrays,
    described,
    encoded,
    folders,
    image_folder,
    picture,
)

from diminuendo.engine import reading
from diminuendo.engine.described import parquet
from diminuendo.engine.described.assemble import Assembled, assemble
from diminuendo.engine.described.pictures import Augment, Pictures
from diminuendo.engine.described.spec import read
from diminuendo.engine.foreign import NetworkInput
from diminuendo.engine.gather import evaluation, training
from diminuendo.engine.task import Samples, TaskError

IMAGE = (NetworkInput("x", (None, 3, 8, 8), torch.float32),)
VECTOR = (NetworkInput("x", (None, 4), torch.float32),)


def found(folder: Path, inputs: tuple[NetworkInput, ...] = IMAGE) -> Assembled:
    return assemble(read(folder / "data.toml"), folder, inputs)


def samples(data: Any) -> Samples:
    assert isinstance(data, Samples)
    return data


def test_images_in_folders_by_class(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 2, 1)
    image_folder(tmp_path / "test", 3, 2)
    made = found(described(tmp_path, folders(more="[image]\nmean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.25, 0.5]")))
    assert made.classes == ("blue", "green", "red")
    assert isinstance(made.train, Pictures)
    value, target = made.train[3]  # the second of the second class
    assert int(target) == 1
    pixels = np.asarray(picture("green", 1101)).astype(np.float32) / 255
    expected = (pixels - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.25, 0.5])
    np.testing.assert_allclose(value.numpy(), expected.transpose(2, 0, 1), atol=1e-6)
    held = evaluation(made.evaluation)
    assert isinstance(held, Samples)
    assert held.targets.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_images_are_streamed_where_they_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image_folder(tmp_path / "train", 8, 1)
    image_folder(tmp_path / "test", 2, 2)
    made = found(described(tmp_path, folders()))
    monkeypatch.setattr(reading, "MEMORY_BYTES", 1000)
    stream = training(made.train, 5)
    assert not isinstance(stream, Samples)
    assert len(stream) == 24
    batches = stream.batches(0)
    first = next(batches)
    batches.close()
    assert first.inputs.shape == (5, 3, 8, 8)


def test_images_of_another_size(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 1, 1, (16, 12))
    image_folder(tmp_path / "test", 1, 2, (16, 12))
    with pytest.raises(TaskError, match=r"00.png is an image of 12 x 16 pixels where the network takes 8 x 8; set"):
        found(described(tmp_path, folders())).train[0]  # type: ignore[index]
    exact: Any = found(described(tmp_path, folders(more='[image]\nresize = "exact"'))).train
    image = picture("blue", 1000, (16, 12)).resize((8, 8), 2)
    np.testing.assert_allclose(exact[0][0].numpy(), np.asarray(image).transpose(2, 0, 1) / 255, atol=1e-6)
    text = '[image]\nresize = "shorter"\nshorter = 12\ncrop = "center"'
    cropped: Any = found(described(tmp_path, folders(more=text))).train
    image = picture("blue", 1000, (16, 12)).crop((4, 2, 12, 10))  # the middle of what was 12 high already
    np.testing.assert_allclose(cropped[0][0].numpy(), np.asarray(image).transpose(2, 0, 1) / 255, atol=1e-6)


def test_one_set_is_split_by_classes_and_always_alike(tmp_path: Path) -> None:
    image_folder(tmp_path / "all", 10, 1)
    text = CLASSIFICATION + '[data]\nkind = "image_folder"\npath = "all"\nsplit = 0.2\n'
    one, two = found(described(tmp_path, text)), found(described(tmp_path, text))
    for made in (one, two):
        assert isinstance(made.train, Pictures)
        assert isinstance(made.evaluation, Pictures)
    assert one.evaluation.targets.tolist() == [0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]
    assert one.evaluation._index == two.evaluation._index  # type: ignore[union-attr]
    assert sorted([*one.train._index, *one.evaluation._index]) == list(range(30))  # type: ignore[union-attr]
    other = found(described(tmp_path, text + "seed = 1\n"))
    assert other.evaluation._index != one.evaluation._index  # type: ignore[union-attr]


def test_arrays(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float64).reshape(6, 2, 2)
    arrays(tmp_path / "train.npz", x=x, y=np.array([0, 1, 2, 0, 1, 2]))
    arrays(tmp_path / "test.npz", x=x[:3], y=np.array([0, 1, 2], np.uint8))
    made = found(described(tmp_path, NPZ), VECTOR)
    torch.testing.assert_close(samples(made.train).inputs, torch.arange(24.0).reshape(6, 4))
    assert samples(made.evaluation).targets.dtype == torch.int64
    assert (made.lowest, made.highest) == (0, 2)


def test_several_inputs_by_name(tmp_path: Path) -> None:
    arrays(tmp_path / "d.npz", a=np.ones((4, 3), np.int32), b=np.zeros((4, 3)), t=np.arange(4.0))
    text = """
    [task]
    kind = "regression"
    [data]
    kind = "npz"
    path = "d.npz"
    inputs = {"input.ids" = "a", mask = "b"}
    target = "t"
    split = 0.5
    """
    inputs = (NetworkInput("input_ids", (None, None), torch.int64), NetworkInput("mask", (None, 3), torch.float32))
    train = samples(found(described(tmp_path, text), inputs).train)
    assert {name: (value.dtype, value.shape) for name, value in train.inputs.items()} == {
        "input_ids": (torch.int64, (2, 3)),
        "mask": (torch.float32, (2, 3)),
    }
    assert train.targets.dtype == torch.float32
    with pytest.raises(TaskError, match=r"inputs input_ids, mask for a network that takes ids: .*= \{ids = ...\}"):
        found(tmp_path, (NetworkInput("ids", (None, 3), torch.int64),))


def _csv(kind: str, body: str) -> str:
    tables = "".join(f'[{name}]\nkind = "csv"\npath = "d.csv"\n{body}\n' for name in ("train", "evaluation"))
    return f'[task]\nkind = "{kind}"\n{tables}'


def test_text_files_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("a,b,c,d,label,u\n1,2,3,4,cat,5\n6,7,8,9,dog,0.5\n")
    made = found(described(tmp_path, _csv("classification", 'inputs = ["a", "b", "c", "d"]\ntarget = "label"')), VECTOR)
    assert made.classes == ("cat", "dog")
    assert samples(made.train).inputs.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]
    text = _csv("regression", 'inputs = ["a", "b", "c", "d"]\ntarget = ["u", "a"]')
    assert samples(found(described(tmp_path, text), VECTOR).train).targets.tolist() == [[5, 1], [0.5, 6]]


def test_text_files_of_paths_to_images(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 1, 1)
    rows = "".join(f"images/{name}/00.png,{number}\n" for number, name in enumerate(COLOURS))
    (tmp_path / "d.csv").write_text("file,label\n" + rows)
    made = found(described(tmp_path, _csv("classification", 'image = "file"\ntarget = "label"')))
    train: Any = made.train
    np.testing.assert_allclose(
        train[2][0].numpy(), np.asarray(picture("red", 1200)).transpose(2, 0, 1) / 255, atol=1e-6
    )
    assert made.classes == ()


def _parquet(folder: Path, groups: int = 1) -> None:
    folder.mkdir()
    for part in range(2):
        images = [encoded(picture(name, part)) for name in COLOURS]
        table = pyarrow.table(
            {
                "image": [{"bytes": each, "path": None} for each in images],
                "label": [0, 1, 2],
                "row": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
                "more": [7, 8, 9],
            }
        )
        pyarrow.parquet.write_table(table, folder / f"part-{part}.parquet", row_group_size=3 // groups)


def _described_parquet(body: str, kind: str = "classification") -> str:
    tables = "".join(
        f'[{name}]\nkind = "parquet"\npath = "{path}"\n{body}\n'
        for name, path in (("train", "data"), ("evaluation", "data/part-1*.parquet"))
    )
    return f'[task]\nkind = "{kind}"\n{tables}'


def test_parquet_files_of_images(tmp_path: Path) -> None:
    _parquet(tmp_path / "data")
    made: Any = found(described(tmp_path, _described_parquet('image = "image"\ntarget = "label"')))
    assert (len(made.train), len(made.evaluation)) == (6, 3)
    expected = np.asarray(picture("green", 1)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(made.train[4][0].numpy(), expected, atol=1e-6)
    assert made.train.targets.tolist() == [0, 1, 2, 0, 1, 2]


def test_many_images_are_read_group_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _parquet(tmp_path / "data", groups=3)
    monkeypatch.setattr(parquet, "HELD_BYTES", 0)
    made = found(described(tmp_path, _described_parquet('image = "image"\ntarget = "label"')))
    loader: Any = made.train
    data = loader.dataset
    assert isinstance(data.source, parquet.Groups)
    assert sorted(iter(loader.sampler)) == list(range(6))
    expected = np.asarray(picture("red", 1)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(data[5][0].numpy(), expected, atol=1e-6)
    assert len(training(loader, 4)) == 6


def test_parquet_files_of_numbers_and_lists(tmp_path: Path) -> None:
    _parquet(tmp_path / "data")
    text = _described_parquet('inputs = ["row", "more"]\ntarget = "more"', "regression")
    made = found(described(tmp_path, text), (NetworkInput("x", (None, 3), torch.float32),))
    assert samples(made.evaluation).inputs.tolist() == [[1, 2, 7], [3, 4, 8], [5, 6, 9]]
    assert samples(made.evaluation).targets.tolist() == [7, 8, 9]


def test_addresses(tmp_path: Path) -> None:
    memory = importlib.import_module("fsspec").filesystem("memory")
    for name in COLOURS:
        memory.pipe(f"/described/train/{name}/0.png", encoded(picture(name, 1)))
    try:
        image_folder(tmp_path / "test", 1, 1)
        made: Any = found(described(tmp_path, folders("memory://described/train", f"file://{tmp_path}/test")))
        assert made.train[2][0].shape == made.evaluation[2][0].shape == (3, 8, 8)
    finally:
        memory.rm("/described", recursive=True)


def test_augmentation_flips_and_shifts() -> None:
    images = torch.arange(64.0).reshape(1, 1, 8, 8).expand(50, 1, 8, 8)
    made = Augment(flip=True, padding=0)(images, torch.Generator().manual_seed(0))
    turned = [bool((each == images[0].flip(-1)).all()) for each in made]
    assert all(now or bool((each == images[0]).all()) for now, each in zip(turned, made, strict=True))
    assert 10 < sum(turned) < 40
    shifted = Augment(flip=False, padding=2)(images, torch.Generator().manual_seed(0))
    assert shifted.shape == images.shape
    middles = {float(each[0, 4, 4]) for each in shifted}
    assert middles <= {float(8 * y + x) for y in range(2, 7) for x in range(2, 7)}
    assert len(middles) > 10
    last = Augment(flip=True, padding=2, last=True)(images.permute(0, 2, 3, 1), torch.Generator().manual_seed(0))
    assert torch.equal(last.permute(0, 3, 1, 2), Augment(True, 2)(images, torch.Generator().manual_seed(0)))


def test_data_that_is_not_there_or_not_right(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"train.path = 'train' \(/.*train\) is not there; give one .*every machine"):
        found(described(tmp_path, folders()))
    (tmp_path / "train").mkdir()
    with pytest.raises(TaskError, match=r"has no folders; give one with a folder of images for each class"):
        found(tmp_path)
    (tmp_path / "train" / "red").mkdir()
    with pytest.raises(TaskError, match=r"red has no images .*put those of class 'red' there"):
        found(tmp_path)
    image_folder(tmp_path / "test", 1, 1)
    (tmp_path / "train" / "red" / "a.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"test'.*the classes blue, green, red where .*train.* has red \(blue, green"):
        found(tmp_path)
    for name in ("blue", "green"):
        (tmp_path / "train" / name).mkdir()
        (tmp_path / "train" / name / "a.png").write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"a.png is no image that can be read .*replace or remove it"):
        training(found(tmp_path).train, 4)


def test_arrays_that_do_not_fit(tmp_path: Path) -> None:
    described(tmp_path, NPZ)
    arrays(tmp_path / "test.npz", x=np.ones((2, 4)), y=np.zeros(2))
    (tmp_path / "train.npz").write_bytes(b"none")
    with pytest.raises(TaskError, match=r"train.npz.* is no file of arrays that can be read .*numpy.savez"):
        found(tmp_path, VECTOR)
    arrays(tmp_path / "train.npz", x=np.ones((3, 4)))
    with pytest.raises(TaskError, match=r"has the arrays x, and none is called 'y'; name one of these in train.inputs"):
        found(tmp_path, VECTOR)
    arrays(tmp_path / "train.npz", x=np.ones((3, 4)), y=np.zeros(2))
    with pytest.raises(TaskError, match=r"'x' has shape \(3, 4\) and 'y' \(2,\); the first dimension of both"):
        found(tmp_path, VECTOR)
    arrays(tmp_path / "train.npz", x=np.ones((3, 5)), y=np.zeros(3))
    with pytest.raises(TaskError, match=r"shape \('N', 5\) and type float64 do not fit .* x: \(N, 4\) float32"):
        found(tmp_path, VECTOR)
    arrays(tmp_path / "train.npz", x=np.full((3, 4), np.nan), y=np.zeros(3))
    with pytest.raises(TaskError, match=r"an input is NaN or infinite"):
        found(tmp_path, VECTOR)
    arrays(tmp_path / "train.npz", x=np.ones((3, 4)), y=np.array([0.0, 1.5, 0.0]))
    with pytest.raises(TaskError, match=r"label 1.5 is no class; give one whole number"):
        found(tmp_path, VECTOR)
    arrays(tmp_path / "train.npz", x=np.ones((0, 4)), y=np.zeros(0))
    with pytest.raises(TaskError, match=r"has no samples; give data that has some"):
        found(tmp_path, VECTOR)


def test_text_and_parquet_files_that_do_not_fit(tmp_path: Path) -> None:
    described(tmp_path, _csv("classification", 'inputs = ["a"]\ntarget = "label"'))
    one = (NetworkInput("x", (None,), torch.float32),)
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        TaskError, match=r"the columns a, b, and none is called 'label'; name one of these in \[train\]"
    ):
        found(tmp_path, one)
    (tmp_path / "d.csv").write_text("a,label\n1,2\nx,3\n")
    with pytest.raises(TaskError, match=r"row 2: a = 'x' is no number"):
        found(tmp_path, one)
    (tmp_path / "d.csv").write_text("a,label\n1\n")
    with pytest.raises(TaskError, match=r"line 2: it has 1 values for 2 columns; mend that line"):
        found(tmp_path, one)
    _parquet(tmp_path / "data")
    described(tmp_path, _described_parquet('image = "more"\ntarget = "label"'))
    with pytest.raises(TaskError, match=r"row 1 is a int, not encoded bytes"):
        found(tmp_path)
    described(tmp_path, _described_parquet('image = "picture"\ntarget = "label"'))
    with pytest.raises(TaskError, match=r"none is called 'picture'"):
        found(tmp_path)
    (tmp_path / "data" / "part-2.parquet").write_bytes(b"none")
    with pytest.raises(TaskError, match=r"part-2.parquet is no parquet file that can be read"):
        found(tmp_path)


def test_images_for_a_network_of_something_else(tmp_path: Path) -> None:
    image_folder(tmp_path / "train", 1, 1)
    image_folder(tmp_path / "test", 1, 1)
    described(tmp_path, folders(more="[image]\nsize = [16, 16]"))
    with pytest.raises(TaskError, match=r"shape \(3, 16, 16\) by \[image\] do not fit .*x: \(N, 3, 8, 8\) float32"):
        found(tmp_path)
    with pytest.raises(TaskError, match=r"takes x: \(N, 4\) float32, which is not one batch of images"):
        found(tmp_path, VECTOR)
    described(tmp_path, folders())
    with pytest.raises(TaskError, match=r"image.size is missing, for the network takes any"):
        found(tmp_path, (NetworkInput("x", (None, 3, None, None), torch.float32),))
    described(tmp_path, folders(more='[image]\nlayout = "NHWC"'))
    made: Any = found(tmp_path, (NetworkInput("x", (None, 8, 8, 3), torch.float32),))
    assert made.train[0][0].shape == (8, 8, 3)


@pytest.mark.parametrize(("package", "table"), [("PIL.Image", "image_folder"), ("pyarrow.parquet", "parquet")])
def test_a_package_that_is_missing_is_named(
    package: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if table == "image_folder":
        image_folder(tmp_path / "train", 1, 1)
        image_folder(tmp_path / "test", 1, 1)
        described(tmp_path, folders())
    else:
        _parquet(tmp_path / "data")
        described(tmp_path, _described_parquet('image = "image"\ntarget = "label"'))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(TaskError, match=r"takes (pillow|pyarrow) .*pip install 'diminuendo\[data\]'"):
        training(found(tmp_path).train, 4)
