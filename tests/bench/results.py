"""Records of benchmarks: figures with what they were measured on, by, and when, one JSON file each under `results/`."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tests.bench.machine import machine

RESULTS = Path(__file__).parent / "results"


def record(
    name: str, figures: Mapping[str, Any], *, command: str, seed: int, folder: Path = RESULTS, **more: Any
) -> Path:
    """Write what a benchmark found.

    Args:
        name: Of the file, without ``.json``.
        figures: What was measured.
        command: That measures it again, see `command_line`.
        seed: Of everything random in it.
        folder: Where the file comes.
        more: What else it was measured with: ``weights``, ``runs``, ``device``, ...; `threads` where they are not
            torch's in this process.

    Returns:
        The file.

    Raises:
        ValueError: A figure has the name of something that every record tells.
    """
    about: dict[str, Any] = {
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "torch": torch.__version__,
        "version": version(),
        "threads": torch.get_num_threads(),
        "seed": seed,
    } | more
    taken = sorted(about.keys() & figures.keys())
    if taken:
        raise ValueError(f"figures: {', '.join(taken)} say what was measured with; name the figures otherwise")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(about | dict(figures), indent=2, allow_nan=False) + "\n")
    return path


def command_line(module: str, arguments: Sequence[str] | None = None) -> str:
    """``python -m module`` with its arguments; those of this process when None."""
    return shlex.join(["python", "-m", module, *(sys.argv[1:] if arguments is None else arguments)])


def version() -> str:
    """The project's version and, in a checkout, its commit: ``0.1.0+g0df5aa0``, with ``.dirty`` where files differ."""
    own = importlib.metadata.version("diminuendo")
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return own
    results = f"{RESULTS.parent.name}/{RESULTS.name}/"
    dirty = any(results not in line for line in changed.stdout.splitlines())  # other records do not count
    return f"{own}+g{commit.stdout.strip()}{'.dirty' if dirty else ''}"
