"""Packs a bundle's folder into the archive that travels: the same folder gives the same bytes, wherever it lies.

An uncompressed tar, since what zip makes of the same bytes changes from version to version: sorted names, no times, no
owners. What ``.gitignore`` files leave out is left out, as git itself and Python's caches are.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pathspec

from diminuendo.client.errors import BundleError

TASK, DATA = "task.py", "data.toml"
NETWORKS = (".onnx", ".pt2")
IGNORE = ".gitignore"
MOST_BYTES, MOST_FILES = 2 * 2**30, 20_000
"""The most that a bundle may be: each evaluator fetches it. Big data stays where it is."""
_NAMED = 3
"""Largest files that a message names."""
_NEVER = pathspec.GitIgnoreSpec.from_lines([".git/", "__pycache__/", "*.py[co]"])


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle that was packed.

    Attributes:
        sha256: Of the archive, lower-case hex.
        size_bytes: Of the archive.
        files: Paths in it, sorted.
        ignored: Paths of the folder that are left out, sorted; of a folder that is left out whole, its own.
    """

    sha256: str
    size_bytes: int
    files: tuple[str, ...]
    ignored: tuple[str, ...]


def pack(folder: Path | str, archive: Path, *, most_bytes: int = MOST_BYTES) -> Packed:
    """Write a folder's archive.

    Args:
        folder: Has ``task.py``, or a network's file and ``data.toml``.
        archive: Written anew.
        most_bytes: The most that its files may be together.

    Raises:
        BundleError: The folder is no bundle, is too large, or has a link that leads out of it.
        OSError: A file cannot be read, or the archive cannot be written.
    """
    found = survey(folder)
    sizes = {name: (found.folder / name).stat().st_size for name in found.files}
    if sum(sizes.values()) > most_bytes:
        raise too_large(found.folder, sizes, most_bytes)
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in found.files:
            _add(tar, found.folder / name, name)
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Packed(sha256, archive.stat().st_size, found.files, found.ignored)


def too_large(folder: Path, sizes: dict[str, int], most_bytes: int) -> BundleError:
    """The error of a bundle over the limit."""
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:_NAMED]
    named = ", ".join(f"{name} ({_megabytes(size)})" for name, size in largest)
    return BundleError(
        f"bundle: {folder} has {_megabytes(sum(sizes.values()))} in {len(sizes):,} files, of which at most "
        f"{_megabytes(most_bytes)} are taken; the largest: {named}. Leave data where it is and name it in {TASK} by "
        f"path or URI, or list what is not needed in {IGNORE}"
    )


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A file's content under its name, and of all that is known about it whether it can be run."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        member = tarfile.TarInfo(name)
        member.size = status.st_size
        member.mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
        reader: io.BufferedReader = file
        try:
            tar.addfile(member, reader)
        except OSError as error:
            raise BundleError(f"bundle: {path} changed while it was packed ({error}); pack it again") from error


@dataclass(frozen=True, slots=True)
class Survey:
    """What a bundle's folder has; see `Packed`."""

    folder: Path
    files: tuple[str, ...]
    ignored: tuple[str, ...]


def survey(folder: Path | str) -> Survey:
    """Look at a folder, and see that it is a bundle as far as that shows without running it.

    Raises:
        BundleError: It is none; says why and what to do.
    """
    root = Path(folder)
    if not root.is_dir():
        raise BundleError(f"bundle: {root} is not a folder; name one with {TASK}, or start one with `diminuendo init`")
    root = root.resolve()
    files: list[str] = []
    ignored: list[str] = []
    for name, left_out in _walk(root):
        (ignored if left_out else files).append(name)
        if len(files) > MOST_FILES:
            raise BundleError(f"bundle: {root} has over {MOST_FILES:,} files; list what is not needed in {IGNORE}")
    found = Survey(root, tuple(sorted(files)), tuple(sorted(ignored)))
    _check(found)
    return found


def _walk(
    root: Path, below: PurePosixPath = PurePosixPath(), rules: tuple[_Rules, ...] = ()
) -> Iterator[tuple[str, bool]]:
    """(path within the bundle, whether it is left out) of every file; of a folder that is left out, of itself."""
    here = root / below
    if (here / IGNORE).is_file():
        text = (here / IGNORE).read_text(errors="replace")
        rules = (*rules, _Rules(below, pathspec.GitIgnoreSpec.from_lines(text.splitlines())))
    for entry in sorted(os.scandir(here), key=lambda entry: entry.name):
        name = below / entry.name
        _check_name(str(name))
        target = _target(root, Path(entry.path)) if entry.is_symlink() else Path(entry.path)
        is_folder = target.is_dir()
        if _NEVER.match_file(f"{entry.name}/" if is_folder else entry.name):
            continue
        if _left_out(rules, name, is_folder=is_folder):
            yield str(name), True
        elif is_folder:
            if entry.is_symlink() and here.resolve().is_relative_to(target):
                raise BundleError(f"bundle: {name} is a link to a folder that it lies in; remove it")
            yield from _walk(root, name, rules)
        elif target.is_file():
            yield str(name), False
        else:
            raise BundleError(f"bundle: {name} is neither a file nor a folder; remove it, or list it in {IGNORE}")


def _check_name(name: str) -> None:
    """Names travel as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise BundleError(f"bundle: the name {name!r} is no UTF-8; rename it") from None


def _target(root: Path, link: Path) -> Path:
    """What a link leads to."""
    name = link.relative_to(root)
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):
        raise BundleError(f"bundle: {name} is a link to {os.readlink(link)!r}, which is not there; remove it") from None
    if not target.is_relative_to(root):
        raise BundleError(
            f"bundle: {name} is a link out of the folder, to {target}; copy what is needed into it, and name big data "
            f"in {TASK} by path or URI"
        )
    return target


@dataclass(frozen=True, slots=True)
class _Rules:
    """A .gitignore, and the folder that it lies in."""

    below: PurePosixPath
    spec: pathspec.GitIgnoreSpec


def _left_out(rules: tuple[_Rules, ...], name: PurePosixPath, *, is_folder: bool) -> bool:
    """Whether the rules leave it out: the innermost file that says anything of it has the word."""
    for rule in reversed(rules):
        path = str(name.relative_to(rule.below)) + ("/" if is_folder else "")
        said = rule.spec.check_file(path).include
        if said is not None:
            return said
    return False


def _check(found: Survey) -> None:
    """That it has a task, or what stands in its place."""
    root, files = found.folder, found.files
    if TASK in files:
        _check_task(root / TASK)
        return
    if TASK in found.ignored:
        raise BundleError(f"bundle: {root / IGNORE} leaves {TASK} out; add the line !{TASK} to it")
    networks = [name for name in files if "/" not in name and name.endswith(NETWORKS)]
    if DATA in files and len(networks) == 1:
        return
    if DATA in files:
        seen = f"{len(networks)} of them: {', '.join(networks)}" if networks else "none"
        raise BundleError(f"bundle: {root} has a {DATA} and needs one {' or '.join(NETWORKS)} file; there are {seen}")
    raise BundleError(
        f"bundle: {root} has no {TASK}; write one that defines task() -> diminuendo.engine.Task (`diminuendo init` "
        f"writes an example), or put an {' or '.join(NETWORKS)} file and a {DATA} there"
    )


def _check_task(path: Path) -> None:
    """That the file is Python and defines ``task``, without running it."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as error:
        raise BundleError(f"bundle: {path}, line {error.lineno}: {error.msg}; correct it") from None
    except ValueError as error:
        raise BundleError(f"bundle: {path}: {error}; is it Python?") from None
    if "task" not in set(_defined(tree.body)):
        raise BundleError(f"bundle: {path} defines no function task(); define task() -> diminuendo.engine.Task")


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module may have once it has run; ``task`` too where that cannot be told."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            yield from ("task" if alias.name == "*" else alias.asname or alias.name for alias in statement.names)
        else:
            yield from (node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
            yield from (node.name for node in ast.walk(statement) if isinstance(node, ast.FunctionDef))
            yield from (
                alias.asname or alias.name
                for node in ast.walk(statement)
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
            )
