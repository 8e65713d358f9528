"""The engine: everything that compresses, in one process, without a server.

Names are imported when first used, so that `diminuendo.engine.plan`, `.cost`, `.store`, `.search` and
`.zoo.catalog` can be had without torch. No module here is called like one of these names: once imported, it would
take the name's place.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diminuendo.engine.application import apply
    from diminuendo.engine.compression import Compressed, compress
    from diminuendo.engine.exports.folder import export
    from diminuendo.engine.exports.forms import Exported
    from diminuendo.engine.loading import load
    from diminuendo.engine.task import Fit, Metric, Recipe, Samples, SetMetric, Task

__all__ = [
    "Compressed",
    "Exported",
    "Fit",
    "Metric",
    "Recipe",
    "Samples",
    "SetMetric",
    "Task",
    "apply",
    "compress",
    "export",
    "load",
]

_HOMES = {
    "Compressed": "compression",
    "Exported": "exports.forms",
    "Fit": "task",
    "Metric": "task",
    "Recipe": "task",
    "Samples": "task",
    "SetMetric": "task",
    "Task": "task",
    "apply": "application",
    "compress": "compression",
    "export": "exports.folder",
    "load": "loading",
}


os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
"""torch reads it at its first allocation: large tensors then come in huge pages, where the system leaves that to
programs. On CPUs a tuning step takes 0.9 of the time, and half where memory was given back before it."""


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
