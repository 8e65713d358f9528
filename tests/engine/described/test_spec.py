"""What a data.toml may say, and how it is told that it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.described.folders import CLASSIFICATION, NPZ, described, folders

from diminuendo.engine.described import TEMPLATE
from diminuendo.engine.described.spec import ImageFolder, read
from diminuendo.engine.task import TaskError


def test_the_template_is_a_description(tmp_path: Path) -> None:
    found = read(described(tmp_path, TEMPLATE) / "data.toml")
    assert isinstance(found.train, ImageFolder)
    assert found.task.kind == "classification"


def test_every_line_of_the_template_that_is_a_comment_is_known(tmp_path: Path) -> None:
    lines = [line.removeprefix("# ") for line in TEMPLATE.splitlines()]
    tables = {"[image]": lines.index(next(line for line in lines if line.startswith("[image]")))}
    tables["[augment]"] = lines.index(next(line for line in lines if line.startswith("[augment]")))
    text = folders() + "\n".join(lines[min(tables.values()) :])
    found = read(described(tmp_path, text) / "data.toml")
    assert found.image is not None
    assert found.image.size == (224, 224)
    assert found.image.shorter == 256
    assert found.augment is not None
    assert found.augment.crop_padding == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[task", r"is no TOML"),
        ('[task]\nkind = "regresion"', r"task.kind = 'regresion': .*'classification' or 'regression'"),
        (NPZ.replace('kind = "classification"', ""), r"task.kind is missing; give it"),
        (NPZ + "[imge]\n", r"no key 'imge'; did you mean 'image'\?"),
        (NPZ + "taget = 3\n", r"no key 'evaluation.taget'; did you mean 'target'\?"),
        (folders(more="[image]\nsizes = [8, 8]"), r"no key 'image.sizes'; did you mean 'size'\?"),
        (folders(more="[image]\nqq = 3"), r"no key 'image.qq'; the keys there are size, channels"),
        (folders(more="[image]\nsize = [8]"), r"image.size.* is missing|image.size = "),
        (folders(more='[image]\nresize = "longer"'), r"image.resize = 'longer': .*'shorter' or 'exact'"),
        (folders(more="[image]\nchannels = 1\nmean = [0.1, 0.2, 0.3]"), r"image.mean = .* 3 values for .* 1; give one"),
        (folders(more='[image]\ncrop = "center"'), r"image.crop goes with image.resize = 'shorter', not None"),
        (CLASSIFICATION, r"the tables of no data; give \[train\] and \[evaluation\], or one \[data\]"),
        (NPZ.split("[evaluation]")[0], r"the tables train; give \[train\] and \[evaluation\]"),
        (NPZ + "[augment]\nflip = true", r"\[augment\] is for images, and there are none"),
        (folders().replace("classification", "regression"), r"'regression' has no classes; give targets"),
        (NPZ.replace("npz", "csv").replace('inputs = "x"', ""), r"train: give image or inputs, and not neither"),
        (NPZ.replace('"npz"', '"excel"'), r"train = .*'image_folder', 'npz', 'parquet', 'csv'"),
        (
            CLASSIFICATION + '[data]\nkind = "image_folder"\npath = "x"\nsplit = 1.5',
            r"data.split = '1.5': .*less than 1",
        ),
    ],
)
def test_what_is_wrong_is_told_by_file_key_value_and_remedy(text: str, said: str, tmp_path: Path) -> None:
    path = described(tmp_path, text) / "data.toml"
    with pytest.raises(TaskError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)
