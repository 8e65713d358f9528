"""What was timed on a device before: a folder of small JSON files that jobs and processes share.

One file for each layer's shape on each device. What is kept are ratios to the layer itself, timed in the same run:
they are the same tomorrow, when the machine is busier or its clock is lower. A file that cannot be read is as good as
none, and where nothing can be written everything is measured again: nothing fails for want of a cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

REVISION = 1
"""Raised whenever ratios are measured in another way; part of every file's name."""

Facts = Mapping[str, object]
"""What a device or a layer is known by; plain JSON."""


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/diminuendo/latency``; ``~/.cache`` where that is not set or not absolute."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = given if given.is_absolute() else Path(os.path.expanduser("~")) / ".cache"
    return home / "diminuendo" / "latency"


@dataclass(frozen=True, slots=True)
class LatencyCache:
    """Ratios of forms to their layers, by device and by the layer's shape.

    Attributes:
        folder: Where the files are; None: nothing is kept.
    """

    folder: Path | None

    def read(self, device: Facts, layer: Facts) -> dict[str, float]:
        """Ratios that are known, by form, e.g. ``svd(12)``; none where the file is missing or damaged."""
        if self.folder is None:
            return {}
        try:
            content = json.loads(self._path(self.folder, device, layer).read_text(encoding="utf-8"))
            ratios = content["ratios"]
            if content["device"] != dict(device) or content["layer"] != dict(layer):
                return {}
            return {str(form): float(ratio) for form, ratio in ratios.items() if float(ratio) > 0}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def add(self, device: Facts, layer: Facts, ratios: Mapping[str, float]) -> None:
        """Keep ratios beside those that are known; of two processes that write at once one may be forgotten."""
        if self.folder is None or not ratios:
            return
        content = {
            "device": dict(device),
            "layer": dict(layer),
            "ratios": self.read(device, layer) | dict(ratios),
        }
        path = self._path(self.folder, device, layer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Whoever reads meanwhile sees the old file or the new one, never a part.
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, prefix=path.stem, suffix=".tmp", delete=False, encoding="utf-8"
            ) as file:
                json.dump(content, file, sort_keys=True)
            os.replace(file.name, path)
        except OSError:
            return

    def _path(self, folder: Path, device: Facts, layer: Facts) -> Path:
        return folder / _digest({"revision": REVISION, **device}) / f"{_digest(layer)}.json"


def _digest(facts: Facts) -> str:
    return hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:32]
