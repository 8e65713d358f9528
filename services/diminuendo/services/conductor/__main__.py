"""`python -m diminuendo.services.conductor`: the same as `diminuendo conductor`."""

import typer

from diminuendo.services.conductor.command import conductor

typer.run(conductor)
