"""Cells of a table that takes long: each is computed once and kept in a file, so that a stopped benchmark goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Cells:
    """Finished cells in a folder; those of other settings are not taken for finished."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Use a folder, which is made when the first cell is finished.

        Args:
            folder: Where they are.
            settings: What all cells depend on; written into each.
        """
        self._folder = folder
        self._settings = json.loads(json.dumps(dict(settings)))

    def get(self, name: str) -> dict[str, Any] | None:
        """A finished cell; None where there is none of these settings."""
        path = self._folder / f"{name}.json"
        if not path.exists():
            return None
        cell = json.loads(path.read_text())
        return dict(cell["figures"]) if cell["settings"] == self._settings else None

    def computed(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """A cell, computed where it is not finished."""
        found = self.get(name)
        return self.keep(name, compute()) if found is None else found

    def keep(self, name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a finished cell, and give it back as it will be read."""
        kept = dict(json.loads(json.dumps(dict(figures))))
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}.json"
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps({"settings": self._settings, "figures": kept}, indent=2) + "\n")
        beside.replace(path)
        return kept
