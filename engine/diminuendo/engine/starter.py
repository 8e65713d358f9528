"""Copies the example that a new bundle starts from: the folder `template`, whose files run as they stand."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from diminuendo.engine.task import TaskError

FILES = ("task.py", "network.py", "train.py", "weights.safetensors", "requirements.txt", "README.md", ".gitignore")
"""Of the template: all but what Python or a tool has put beside them."""


def start(folder: Path | str) -> list[Path]:
    """Write the template into a folder.

    Args:
        folder: New or empty; its parents are made.

    Returns:
        The files written.

    Raises:
        TaskError: The folder holds something already, or it cannot be written to. Then nothing is left in it.
    """
    folder = Path(folder)
    template = resources.files("diminuendo.engine").joinpath("template")
    contents = {name: template.joinpath(name).read_bytes() for name in FILES}
    made: list[Path] = []
    try:
        if folder.is_dir() and any(folder.iterdir()):
            raise TaskError(f"folder: {folder} is not empty; name a new or an empty one")
        _make(folder, made)
        for name, content in contents.items():
            made.append(folder / name)
            made[-1].write_bytes(content)
    except OSError as error:
        _remove(made)
        raise TaskError(
            f"folder: {folder} cannot be written to ({error.strerror}); name another one, new or empty"
        ) from error
    except BaseException:
        _remove(made)
        raise
    return [folder / name for name in contents]


def _make(folder: Path, made: list[Path]) -> None:
    """The folder and its parents, as far as they are not there; tells which it has made."""
    for part in (*reversed(folder.parents), folder):
        if not part.is_dir():
            part.mkdir()
            made.append(part)


def _remove(made: list[Path]) -> None:
    """What was made, the last first; what cannot be removed any more stays."""
    for path in reversed(made):
        try:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        except OSError:
            continue
