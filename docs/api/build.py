"""Writes the API reference: what `diminuendo.client` and `diminuendo.engine` make public, from their docstrings.

It is written to the folder that is given, or to ``.build/docs``.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pdoc

PACKAGES = ("diminuendo.client", "diminuendo.engine")
MODULES = ("diminuendo.engine.metrics",)
"""Modules of the packages that have a page of their own."""


def build(folder: Path) -> None:
    """Write the pages into the folder, which is made.

    Raises:
        AttributeError: A public name cannot be imported.
    """
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:  # they are imported on first use, and pdoc looks for what is there
            getattr(module, name)
    pdoc.render.configure(docformat="google", footer_text="Diminuendo", show_source=False)
    inner = (rf"!{package}\..+" for package in PACKAGES)
    pdoc.pdoc(*PACKAGES, *inner, *MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ".build/docs"))
