"""What is public: `__all__` of `diminuendo.client` and `diminuendo.engine`; the API reference has it, and no more."""

from __future__ import annotations

import builtins
import importlib
import inspect
import itertools
import pkgutil
import re
import subprocess
import sys
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import diminuendo.client as client
import diminuendo.engine as engine
from diminuendo.client import errors

ROOT = Path(__file__).parents[2]
PACKAGES = [client, engine]
HANDLES = {"Job", "Fleet", "AsyncJob", "AsyncFleet"}
"""Made by a client, and by nobody else: what their constructors take is not public."""
OWN = {
    "compress": {"Step", "Done", "Work"},  # what its callbacks are told may change with the search
    "Samples.add_to": {"Digest"},  # for keys of evaluations
}
"""Types that public signatures name and that are not public all the same."""


def names(module: ModuleType) -> dict[str, Any]:
    return {name: getattr(module, name) for name in module.__all__}


def functions(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(qualified name, function) of a public function, or of every public method and property of a class."""
    if not inspect.isclass(value):
        yield name, value
        return
    for key, member in vars(value).items():
        found = member.fget if isinstance(member, property) else inspect.unwrap(getattr(member, "__func__", member))
        ours = inspect.isfunction(found) and found.__module__.startswith("diminuendo.")
        if ours and (key == "__init__" or not key.startswith("_")):
            yield f"{name}.{key}", found


def types_in(annotation: object) -> Iterator[type[Any]]:
    if inspect.isclass(annotation) and not typing.get_args(annotation):
        yield annotation
    for part in annotation if isinstance(annotation, list) else typing.get_args(annotation):
        yield from types_in(part)


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: str(module.__name__))
def test_public_names_are_all_sorted_and_nothing_else(module: ModuleType) -> None:
    assert sorted(set(module.__all__)) == list(module.__all__)
    namespace: dict[str, Any] = {}
    exec(f"from {module.__name__} import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(module.__all__)
    for name, value in names(module).items():
        assert value.__name__ == name
        assert value.__module__.startswith(module.__name__), "it is ours"
    submodules = {found.name for found in pkgutil.iter_modules(module.__path__)}
    assert submodules.isdisjoint(module.__all__), "no module takes a name's place"


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: str(module.__name__))
def test_what_type_checkers_see_is_what_is_imported(module: ModuleType) -> None:
    """The names are imported on first use, and once more for type checkers alone."""
    block = inspect.getsource(module).partition("if TYPE_CHECKING:\n")[2]
    lines = itertools.takewhile(lambda line: not line or line.startswith(" "), block.splitlines())
    seen: dict[str, Any] = {}
    exec(textwrap.dedent("\n".join(lines)), seen)
    assert {name: value for name, value in seen.items() if name != "__builtins__"} == names(module)


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: str(module.__name__))
def test_everything_public_is_described(module: ModuleType) -> None:
    bare = []
    for name, value in names(module).items():
        bare += [] if inspect.getdoc(value) and value.__doc__ else [name]
        for where, function in functions(name, value):
            generated = where.endswith(".__init__") and hasattr(value, "__dataclass_fields__")
            bare += [] if generated or function.__doc__ else [where]
    assert bare == []


@pytest.mark.parametrize("name", ["Client", "AsyncClient", "Job", "AsyncJob", "Fleet", "AsyncFleet"])
def test_what_calls_a_server_says_what_it_raises(name: str) -> None:
    """Each method has its errors, or says whose it has."""
    thin = []
    for where, function in functions(name, getattr(client, name)):
        if isinstance(inspect.getattr_static(getattr(client, name), where.partition(".")[2]), property):
            continue
        told = re.search(r"Raises:|[A-Z]\w+Error|see `\w+\.\w+`|nothing is sent", function.__doc__)
        if not told and where.rpartition(".")[2] not in ("__init__", "close"):
            thin.append(where)
    assert thin == []


@pytest.mark.parametrize("module", PACKAGES, ids=lambda module: str(module.__name__))
def test_types_and_errors_of_public_signatures_are_public(module: ModuleType) -> None:
    public = names(module)
    hidden = set()
    for name, value in public.items():
        for where, function in functions(name, value):
            if where.rpartition(".")[0] in HANDLES and where.endswith(".__init__"):
                continue
            for annotation in typing.get_type_hints(function).values():
                for found in types_in(annotation):
                    ours = found.__module__.startswith("diminuendo.")
                    if ours and found not in public.values() and found.__name__ not in OWN.get(where, ()):
                        hidden.add(f"{where}: {found.__name__}")
            section = re.search(r"Raises:\n((?:\s+.*\n?)+)", inspect.getdoc(function) or "")
            for error in re.findall(r"^ +(\w+):", section[1] if section else "", re.MULTILINE):
                if error not in public and not hasattr(builtins, error):
                    hidden.add(f"{where} raises {error}")
    assert hidden == set()


def test_every_error_of_the_client_is_public() -> None:
    ours = {
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert ours <= set(client.__all__)


@pytest.mark.parametrize("module", ["types", "cluster", "fleet.models"])
def test_what_the_client_hands_out_is_public(module: str) -> None:
    found = importlib.import_module(f"diminuendo.client.{module}")
    ours = {
        name
        for name, value in vars(found).items()
        if inspect.isclass(value) and value.__module__ == found.__name__ and not name.startswith("_")
    }
    assert ours <= set(client.__all__)


def test_what_the_documents_import_is_public() -> None:
    """Names, and modules that the reference has a page for."""
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.py")]
    files += ROOT.glob("engine/diminuendo/engine/template/**/*.py")
    wanted = set()
    for file in files:
        for package, given in re.findall(r"from diminuendo\.(client|engine) import ([\w, ]+)", file.read_text()):
            wanted |= {(package, name.strip()) for name in given.split(",")}
    assert len(wanted) > 5
    documented = {"client": set(client.__all__), "engine": {*engine.__all__, "metrics", "described"}}
    assert {(package, name) for package, name in wanted if name not in documented[package]} == set()


def test_the_reference_is_built_without_warnings_and_has_every_name(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "docs" / "api" / "build.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    for module in PACKAGES:
        page = (tmp_path / f"{module.__name__.replace('.', '/')}.html").read_text()
        there = set(re.findall(r'id="([\w.]+)"', page))
        wanted = {where for name, value in names(module).items() for where, _ in functions(name, value)}
        assert {where for where in wanted if not where.endswith(".__init__")} <= there
        assert set(module.__all__) <= there
        assert "AsyncConnection</a>" not in page, "nothing that is not public has a place"
        assert not re.search(r"<(?:script|link|img|iframe)[^>]*https?://", page), "it can be read offline"
    metrics = (tmp_path / "diminuendo" / "engine" / "metrics.html").read_text()
    assert {"auc", "f1", "mean_iou", "perplexity", "rmse"} <= set(re.findall(r'id="(\w+)"', metrics))
