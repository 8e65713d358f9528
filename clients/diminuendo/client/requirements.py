"""Asks pip whether a bundle's requirements could be installed, without installing anything."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from diminuendo.client.errors import BundleError
from diminuendo.client.oneline import one_line

FILE = "requirements.txt"
PATIENCE_S = 120.0
_SAID = 3
"""Last lines of pip's that a message repeats."""


def check(folder: Path) -> str:
    """Have pip resolve a folder's requirements beside what is installed here.

    Returns:
        What was found, for people.

    Raises:
        BundleError: They cannot be installed; repeats what pip said.
    """
    path = folder / FILE
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    if not any(line.strip() and not line.strip().startswith("#") for line in lines):
        return "none"
    if importlib.util.find_spec("pip") is None:
        return "not checked: pip is not installed here"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--disable-pip-version-check", "-r", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return f"not checked: pip has not answered in {PATIENCE_S:g} s"
    if done.returncode == 0:
        return "can be installed"
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    raise BundleError(
        f"{path}: it cannot be installed: {one_line(' '.join(said[-_SAID:]))}; correct it, and try "
        f"`pip install -r {FILE}` in a new environment"
    )
