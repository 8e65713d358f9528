"""What travels is not trusted: a bundle's archive is unpacked into its folder or not at all."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from diminuendo.engine.bundle.archive import BundleError, StoredFile, requirement_lines, requirements, unpack
from diminuendo.engine.store import ArtifactMissingError, DirectoryStore

Member = tuple[str, bytes, bytes]
"""Name, content, type."""


def tar_of(*members: Member, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, link
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def file(name: str, content: bytes = b"x") -> Member:
    return name, content, tarfile.REGTYPE


def unpacked(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "a.tar").write_bytes(content)
    unpack(tmp_path / "a.tar", tmp_path / "out")
    return tmp_path / "out"


def test_files_and_folders_come_out_as_they_went_in(tmp_path: Path) -> None:
    out = unpacked(tmp_path, tar_of(file("task.py", b"t"), file("a/b/c.bin", b"\0" * 3_000_000)))
    assert (out / "task.py").read_bytes() == b"t"
    assert (out / "a/b/c.bin").stat().st_size == 3_000_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of(file("../outside")), "'../outside' lies outside of it"),
        (tar_of(file("a/../../outside")), "lies outside of it"),
        (tar_of(file("/absolute")), "'/absolute' lies outside of it"),
        (tar_of(("link", b"", tarfile.SYMTYPE), link="/etc"), "'link' is neither a file nor a folder"),
        (tar_of(("hard", b"", tarfile.LNKTYPE), link="task.py"), "'hard' is neither a file nor a folder"),
        (tar_of(("pipe", b"", tarfile.FIFOTYPE)), "'pipe' is neither a file nor a folder"),
        (b"PK\3\4 this is a zip", "no uncompressed tar"),
        (b"", "no uncompressed tar"),
        (tar_of(file("task.py", b"x" * 5000))[:3000], r"damaged|cannot be unpacked"),
    ],
)
def test_what_is_no_bundle_is_refused_and_nothing_lands_outside(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        unpacked(tmp_path, content)
    assert {path.name for path in tmp_path.iterdir()} <= {"a.tar", "out"}
    assert not (tmp_path.parent / "outside").exists()


def test_requirements_are_read_without_the_rest(tmp_path: Path) -> None:
    store = Counting(tmp_path)
    text = b"# ours\nsix==1.16.0  # pinned\n\nnumpy>=2; python_version > '3'\n--index-url https://h/#x\nlong \\\n [x]\n"
    big = b"\0" * 50_000_000
    sha256 = store.put(
        tar_of(file("a.bin", big), file("deep/requirements.txt", b"not these"), file("requirements.txt", text))
    )
    found = requirements(store, sha256)
    assert found == (
        "six==1.16.0", "numpy>=2; python_version > '3'", "--index-url https://h/#x", "long   [x]"
    )  # fmt: skip
    assert store.bytes_read < 8 * 2**20
    assert requirements(store, store.put(tar_of(file("task.py")))) == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "no UTF-8 text"), (b"x" * (2**20 + 1), "bytes are too many")],
)
def test_requirements_that_are_no_text_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    store = DirectoryStore(tmp_path)
    with pytest.raises(BundleError, match=message):
        requirements(store, store.put(tar_of(file("requirements.txt", content))))
    with pytest.raises(BundleError, match="no uncompressed tar"):
        requirements(store, store.put(b"nothing of the kind"))
    with pytest.raises(ArtifactMissingError):
        requirements(store, "0" * 64)


def test_lines_are_joined_as_pip_joins_them() -> None:
    assert requirement_lines("a \\\r\n  b\r\n#c\r\nd#e\n") == ("a    b", "d#e")


def test_a_stored_file_reads_like_a_file(tmp_path: Path) -> None:
    store, content = DirectoryStore(tmp_path), bytes(range(256)) * 40
    opened = io.BufferedReader(StoredFile(store, store.put(content)), 100)
    assert opened.read(300) == content[:300]
    assert opened.seek(-5, io.SEEK_END) == len(content) - 5
    assert opened.read() == content[-5:]
    opened.seek(10)
    opened.seek(7, io.SEEK_CUR)
    assert opened.read(3) == content[17:20]


class Counting(DirectoryStore):
    bytes_read = 0

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        data = super().read(sha256, offset, length)
        self.bytes_read += len(data)
        return data
