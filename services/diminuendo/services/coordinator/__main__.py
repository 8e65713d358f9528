"""`python -m diminuendo.services.coordinator`: the same as `diminuendo coordinator`."""

import typer

from diminuendo.services.coordinator.command import coordinator

typer.run(coordinator)
