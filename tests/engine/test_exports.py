from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import diminuendo.engine as engine


def test_public_names_are_these() -> None:
    assert engine.__all__ == [
        "Batches",
        "Choice",
        "Compressed",
        "Exported",
        "Fit",
        "Metric",
        "Plan",
        "PlanError",
        "Recipe",
        "Samples",
        "SetMetric",
        "Task",
        "TaskError",
        "UnknownNetworkError",
        "UserCodeError",
        "apply",
        "compress",
        "export",
        "load",
    ]
    for name in engine.__all__:
        assert getattr(engine, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = engine.nothing


def test_no_module_takes_a_public_names_place() -> None:
    modules = {module.name for module in pkgutil.iter_modules(engine.__path__)}
    assert modules.isdisjoint(engine.__all__)


@pytest.mark.parametrize("module", ["plan", "cost", "store", "search.session", "search.drive", "zoo.catalog"])
def test_the_plain_parts_come_without_torch(module: str) -> None:
    code = f"import sys, diminuendo.engine.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.import_module(f"diminuendo.engine.{module}")
