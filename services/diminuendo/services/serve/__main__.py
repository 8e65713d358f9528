"""`python -m diminuendo.services.serve`: the same as `diminuendo serve`."""

import typer

from diminuendo.services.serve.command import serve

typer.run(serve)
