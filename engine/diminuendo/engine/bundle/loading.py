"""Loads a bundle's task: from ``task.py``, or from a network's file and ``data.toml``, which need no code."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from diminuendo.engine.digest import BUNDLES
from diminuendo.engine.task import Task, TaskError
from diminuendo.engine.usercode import UserCodeError, user_code

FILE = "task.py"

_paths: list[str] = []
"""Folders of the bundles whose code was imported here, as they stand in sys.path."""


def load(folder: Path | str, *, source: str = "") -> Task:
    """The task of a bundle.

    Its folder is importable from then on, so that ``task.py`` may import what lies beside it; what an earlier bundle
    imported from its own folder is forgotten, since both may have modules of one name.

    Args:
        folder: Has ``task.py``, or a network's file and ``data.toml``.
        source: How the task's source is called; empty: ``bundle:`` and the folder.

    Raises:
        TaskError: There is neither, no function ``task`` in it, or what it returns is no Task.
        UserCodeError: The bundle's code raised.
    """
    folder = Path(folder).resolve()
    path = folder / FILE
    source = source or f"bundle:{folder}"
    if path.is_file():
        return dataclasses.replace(_task_of(path), source=source)
    from diminuendo.engine import described  # it reads data, whose readers know of bundles

    if described.is_described(folder):
        return dataclasses.replace(described.task(folder), source=source)
    raise TaskError(
        f"bundle: {folder} has no {FILE}; write one that defines task() -> diminuendo.engine.Task (`diminuendo init` "
        "writes an example), or put an .onnx or .pt2 file and a data.toml there"
    )


def _task_of(path: Path) -> Task:
    """What the function ``task`` of a file returns."""
    module = _executed(path)
    function = getattr(module, "task", None)
    if not callable(function):
        raise TaskError(f"bundle: {path} defines no function task(); define task() -> diminuendo.engine.Task")
    with user_code(f"task() of {path}"), _staying(f"task() of {path}"):
        task = function()
    if not isinstance(task, Task):
        raise TaskError(f"bundle: task() of {path} returned a {type(task).__name__}; return a diminuendo.engine.Task")
    return task


def holding(modules: Iterable[str]) -> tuple[str, ...]:
    """Paths of the ``task.py`` of the bundles, loaded in this process, that these modules are of."""
    files = [Path(file) for name in modules if (file := getattr(sys.modules.get(name), "__file__", None)) is not None]
    tasks = [Path(str(module.__file__)) for name, module in sys.modules.items() if name.startswith(BUNDLES)]
    return tuple(str(task) for task in tasks if any(file.is_relative_to(task.parent) for file in files))


def imported(path: str) -> None:
    """Import a ``task.py`` in a process that is to unpickle what is of it."""
    if _name(Path(path)) not in sys.modules:
        _executed(Path(path))


def _name(path: Path) -> str:
    """A module name of its own, so that two bundles do not meet."""
    return f"{BUNDLES}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _executed(path: Path) -> ModuleType:
    """The module, imported afresh."""
    name = _name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskError(f"bundle: {path} cannot be imported; is it Python?")
    module = importlib.util.module_from_spec(spec)
    _enter(str(path.parent))
    sys.modules[name] = module
    try:
        with user_code(f"importing {path}"), _staying(f"importing {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _enter(folder: str) -> None:
    """Have modules of this bundle's folder found, and those of no other one."""
    for module_name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or module_name.startswith(BUNDLES) or Path(file).is_relative_to(sys.prefix):
            continue  # a bundle may have a virtual environment in its folder: ours
        if any(Path(file).is_relative_to(other) for other in _paths):
            del sys.modules[module_name]
    for other in _paths:
        if other in sys.path:
            sys.path.remove(other)
    _paths[:] = [folder]
    sys.path.insert(0, folder)
    importlib.invalidate_caches()


@contextmanager
def _staying(what: str) -> Iterator[None]:
    """Turn a request to end the process into an error of the owner's code."""
    try:
        yield
    except SystemExit as error:
        raise UserCodeError(
            f"{what}: it asks to exit with {error.code!r}; return a Task instead", traceback.format_exc()
        ) from None
