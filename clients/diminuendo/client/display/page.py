"""Tables on stdout: as wide as the terminal; as wide as they need to be, without trailing blanks, elsewhere."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from rich.console import Console

_WIDTH = 200


def page(draw: Callable[[Console], None]) -> None:
    """Write what `draw` prints on the console that it is given."""
    console = Console()
    if console.is_terminal:
        draw(console)
        return
    text = io.StringIO()
    draw(Console(file=text, width=_WIDTH, color_system=None))
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
    sys.stdout.flush()
