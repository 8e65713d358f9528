"""Packing: the same folder gives the same bytes; what does not belong in it is left out or refused with a remedy."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from diminuendo.client.bundle import Packed, pack
from diminuendo.client.errors import BundleError, InvalidArgumentError

TASK = "def task():\n    return None\n"


def bundle(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def packed(folder: Path, **options: int) -> Packed:
    return pack(folder, folder.parent / f"{folder.name}.tar", **options)


def test_the_same_folder_gives_the_same_bytes_wherever_and_whenever_it_lies(tmp_path: Path) -> None:
    files = {"task.py": TASK, "b/two.txt": "2", "a.txt": "1", ".hidden": "h"}
    one = bundle(tmp_path / "one", files)
    other = bundle(tmp_path / "elsewhere" / "other", dict(reversed(files.items())))
    for number, path in enumerate(sorted(other.rglob("*"))):
        os.utime(path, (1e9 + number, 1e9 + number))
    (other / "task.py").chmod(0o600)
    first, second = packed(one), packed(other)
    assert first == second
    assert first.files == (".hidden", "a.txt", "b/two.txt", "task.py")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "elsewhere" / "other.tar").read_bytes()
    (other / "a.txt").write_text("1 ")
    assert packed(other).sha256 != first.sha256


def test_the_archive_is_a_plain_tar_that_tells_nothing_of_the_machine(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", {"task.py": TASK, "run.sh": "#!/bin/sh\n"})
    (folder / "run.sh").chmod(0o755)
    packed(folder)
    with tarfile.open(tmp_path / "b.tar", "r:") as tar:
        members = {m.name: (m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar}
    assert members == {"run.sh": (0, 0, 0, "", "", 0o755), "task.py": (0, 0, 0, "", "", 0o644)}


def test_what_gitignore_leaves_out_is_left_out(tmp_path: Path) -> None:
    folder = bundle(
        tmp_path / "b",
        {
            "task.py": TASK,
            ".gitignore": "*.log\n/data/\n!keep.log\nsecret\n",
            "a.log": "",
            "keep.log": "",
            "data/big.bin": "x",
            "sub/data/kept.bin": "x",
            "sub/.gitignore": "!a.log\n*.tmp\n",
            "sub/a.log": "",
            "sub/b.tmp": "",
            "sub/b.log": "",
            "b.tmp": "",
            ".git/config": "",
            "sub/__pycache__/x.cpython-311.pyc": "",
            "secret": "",
        },
    )
    found = packed(folder)
    assert found.files == (
        ".gitignore", "b.tmp", "keep.log", "sub/.gitignore", "sub/a.log", "sub/data/kept.bin", "task.py"
    )  # fmt: skip
    assert found.ignored == ("a.log", "data", "secret", "sub/b.log", "sub/b.tmp")


def test_git_agrees_on_what_is_left_out(tmp_path: Path) -> None:
    """The rules as git itself applies them, on names that are easily got wrong."""
    names = ["a/b/c.txt", "a/c.txt", "foo", "sub/foo", "x/foo/y", "doc/frotz/a", "a/doc/frotz/b", "#hash", "trailing "]
    rules = "/foo\ndoc/frotz/\na/**/c.txt\n\\#hash\n!x/foo/y\nx/*\n"
    folder = bundle(tmp_path / "b", {"task.py": TASK, ".gitignore": rules} | dict.fromkeys(names, ""))
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    told = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert list(packed(folder).files) == sorted(told.stdout.split("\0")[:-1])


def test_a_link_within_the_folder_is_followed_and_one_out_of_it_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", {"task.py": TASK, "real/weights.bin": "w"})
    (folder / "weights.bin").symlink_to("real/weights.bin")
    (folder / "again").symlink_to("real")
    assert packed(folder).files == ("again/weights.bin", "real/weights.bin", "task.py", "weights.bin")
    (tmp_path / "outside.bin").write_text("o")
    (folder / "data.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(BundleError, match=r"data\.bin is a link out of the folder, to .*outside\.bin; copy what"):
        packed(folder)
    (folder / "data.bin").unlink()
    (folder / "data.bin").symlink_to("nowhere")
    with pytest.raises(BundleError, match=r"data\.bin is a link to 'nowhere', which is not there; remove it"):
        packed(folder)
    (folder / "data.bin").unlink()
    (folder / "real" / "round").symlink_to(folder)
    with pytest.raises(BundleError, match="is a link to a folder that it lies in; remove it"):
        packed(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme": ""}, r"has no task\.py; write one that defines task\(\)"),
        ({"task.py": "def tusk():\n    pass\n"}, r"defines no function task\(\); define task\(\) ->"),
        ({"task.py": "x = 1\n\ndef task(:\n"}, r"task\.py, line 3: .*; correct it"),
        ({"task.py": "x = '\0'"}, r"task\.py.*; (is it Python\?|correct it)"),
        ({"task.py": TASK, ".gitignore": "*.py\n"}, r"leaves task\.py out; add the line !task\.py"),
        ({"data.toml": ""}, r"has a data\.toml and needs one \.onnx or \.pt2 file; there are none"),
        ({"data.toml": "", "a.onnx": "", "b.pt2": ""}, r"there are 2 of them: a\.onnx, b\.pt2"),
    ],
)
def test_a_folder_that_is_no_bundle_says_what_it_lacks(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        packed(bundle(tmp_path / "b", files))
    assert isinstance(caught.value, InvalidArgumentError)
    assert not (tmp_path / "b.tar").exists()


@pytest.mark.parametrize(
    "text",
    ["task = lambda: None", "from elsewhere import task", "from x import make as task", "from x import *",
     "if True:\n    def task(): ...\n", "try:\n    from x import task\nexcept ImportError:\n    pass"],
)  # fmt: skip
def test_a_task_may_be_defined_in_any_way(tmp_path: Path, text: str) -> None:
    assert packed(bundle(tmp_path / "b", {"task.py": text})).files == ("task.py",)


def test_a_network_with_described_data_needs_no_code(tmp_path: Path) -> None:
    assert packed(bundle(tmp_path / "b", {"data.toml": "", "net.onnx": ""})).files == ("data.toml", "net.onnx")


def test_a_bundle_over_the_limit_names_its_largest_files(tmp_path: Path) -> None:
    files = {
        "task.py": TASK,
        "small": "x" * 10,
        "large.bin": "x" * 5000,
        "middle.bin": "x" * 3000,
        "data/d": "x" * 2000,
    }
    with pytest.raises(BundleError) as caught:
        packed(bundle(tmp_path / "b", files), most_bytes=4096)
    said = str(caught.value)
    assert "large.bin (0.0 MB), middle.bin (0.0 MB), data/d (0.0 MB)" in said
    assert "name it in task.py by path or URI" in said
    assert not (tmp_path / "b.tar").exists()


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", {"task.py": TASK})
    os.mkfifo(folder / "pipe")
    with pytest.raises(BundleError, match="pipe is neither a file nor a folder; remove it, or list it"):
        packed(folder)
    (folder / ".gitignore").write_text("pipe\n")
    assert packed(folder).ignored == ("pipe",)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "b", {"task.py": TASK})
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("")
    with pytest.raises(BundleError, match="is no UTF-8; rename it"):
        packed(folder)
