"""Bundles: an owner's network, data, loss and metric as a folder, how it travels, and how its task is had."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diminuendo.engine.bundle.archive import BundleError
    from diminuendo.engine.bundle.loading import FILE, imported, load, loaded

__all__ = ["FILE", "BundleError", "imported", "load", "loaded"]

_HOMES = {"BundleError": "archive", "FILE": "loading", "imported": "loading", "load": "loading", "loaded": "loading"}


def __getattr__(name: str) -> Any:
    """Import a name on first use: who only reads archives needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
