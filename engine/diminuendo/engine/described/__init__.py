"""Tasks without code: a folder with one model file (``.onnx`` or ``.pt2``) and a ``data.toml`` that tells its data.

`TEMPLATE` is such a file with every key explained.
"""

from __future__ import annotations

from diminuendo.engine.described.spec import FILE, TEMPLATE
from diminuendo.engine.described.tasks import is_described, task

__all__ = ["FILE", "TEMPLATE", "is_described", "task"]
