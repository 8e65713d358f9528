"""Where commands that write a result put it."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from diminuendo.client.errors import FolderNotEmptyError


@contextlib.contextmanager
def result_folder(out: Path | None, name: str) -> Iterator[Path]:
    """An empty folder, made now so that a run does not fail at its end; removed again when nothing came."""
    if out is None:
        out = _free(Path("results") / re.sub(r"[^\w.-]+", "-", name))
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FolderNotEmptyError(f"out: {out} is not an empty folder; give another one, or empty it")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield out
    except BaseException:
        with contextlib.suppress(OSError):  # not empty: a result cut short is left to look at
            for folder in made:
                folder.rmdir()
        raise


def _free(base: Path) -> Path:
    """`base`, or the first of base-2, base-3, ... that is not there."""
    numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    return next(folder for folder in itertools.chain([base], numbered) if not folder.exists())
