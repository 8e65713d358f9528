"""The engine: everything that compresses, in one process, without a server.

Names are imported when first used, so that `diminuendo.engine.plan`, `.cost`, `.store`, `.search` and
`.zoo.catalog` can be had without torch. No module here is called like one of these names: once imported, it would
take the name's place.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diminuendo.engine.lazily import import_on_use

if TYPE_CHECKING:
    from diminuendo.engine.application import apply
    from diminuendo.engine.compression import Compressed, compress
    from diminuendo.engine.exports.folder import export
    from diminuendo.engine.exports.forms import Exported
    from diminuendo.engine.loading import load
    from diminuendo.engine.plan import Choice, Plan, PlanError
    from diminuendo.engine.task import Batches, Fit, Metric, Recipe, Samples, SetMetric, Task, TaskError
    from diminuendo.engine.usercode import UserCodeError
    from diminuendo.engine.zoo.catalog import UnknownNetworkError

__all__ = [
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

_HOMES = {
    "Batches": "task",
    "Choice": "plan",
    "Compressed": "compression",
    "Exported": "exports.forms",
    "Fit": "task",
    "Metric": "task",
    "Plan": "plan",
    "PlanError": "plan",
    "Recipe": "task",
    "Samples": "task",
    "SetMetric": "task",
    "Task": "task",
    "TaskError": "task",
    "UnknownNetworkError": "zoo.catalog",
    "UserCodeError": "usercode",
    "apply": "application",
    "compress": "compression",
    "export": "exports.folder",
    "load": "loading",
}


os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
"""torch reads it at its first allocation: large tensors then come in huge pages, where the system leaves that to
programs. On CPUs a tuning step takes 0.9 of the time, and half where memory was given back before it."""

__getattr__ = import_on_use(__name__, _HOMES, globals())
"""Public names are imported on first use."""
