"""A result folder as a real search left it: 18 evaluations of the example that `diminuendo init` writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DATA = Path(__file__).parent / "data"
Edit = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The result, in a folder of its own."""
    return Path(shutil.copytree(DATA, tmp_path / "smaller"))


@pytest.fixture
def edited(folder: Path) -> Edit:
    """Changes fields of a file of the result: ``edited("certificate", drop=1.0)``; returns the folder."""

    def edit(file: str, /, **fields: Any) -> Path:
        path = folder / f"{file}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return folder

    return edit
