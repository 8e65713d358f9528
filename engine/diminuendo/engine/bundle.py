"""Bundles: a folder whose ``task.py`` defines ``task() -> diminuendo.engine.Task``."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from diminuendo.engine.digest import BUNDLES
from diminuendo.engine.task import Task, TaskError
from diminuendo.engine.usercode import user_code

FILE = "task.py"


def load(folder: Path | str) -> Task:
    """The task of a bundle; its folder is importable from then on, so that ``task.py`` may import what lies beside it.

    Returns:
        The task, with a source that tells the folder.

    Raises:
        TaskError: There is no ``task.py``, no function ``task`` in it, or what it returns is no Task.
        UserCodeError: The bundle's code raised.
    """
    folder = Path(folder).resolve()
    path = folder / FILE
    if not path.is_file():
        raise TaskError(f"bundle: {folder} has no {FILE}; write one that defines task() -> diminuendo.engine.Task")
    module = _executed(path)
    function = getattr(module, "task", None)
    if not callable(function):
        raise TaskError(f"bundle: {path} defines no function task(); define task() -> diminuendo.engine.Task")
    with user_code(f"task() of {path}"):
        task = function()
    if not isinstance(task, Task):
        raise TaskError(f"bundle: task() of {path} returned a {type(task).__name__}; return a diminuendo.engine.Task")
    return dataclasses.replace(task, source=f"bundle:{folder}")


def loaded() -> tuple[str, ...]:
    """Paths of the ``task.py`` of the bundles that were loaded in this process."""
    modules = [module for name, module in sys.modules.items() if name.startswith(BUNDLES)]
    return tuple(str(module.__file__) for module in modules)


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
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        with user_code(f"importing {path}"):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
