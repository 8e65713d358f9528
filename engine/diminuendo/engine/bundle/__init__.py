"""Bundles: an owner's network, data, loss and metric as a folder, how it travels, and how its task is had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diminuendo.engine.lazily import import_on_use

if TYPE_CHECKING:
    from diminuendo.engine.bundle.archive import BundleError
    from diminuendo.engine.bundle.loading import FILE, holding, imported, load

__all__ = ["FILE", "BundleError", "holding", "imported", "load"]

_HOMES = {"BundleError": "archive", "FILE": "loading", "holding": "loading", "imported": "loading", "load": "loading"}

__getattr__ = import_on_use(__name__, _HOMES, globals())
"""Public names are imported on first use: who only reads archives needs no torch."""
