"""`diminuendo version`."""

from __future__ import annotations

import typer

from diminuendo.client.caller import client_version
from diminuendo.client.cli import options


@options.remote
def version(remote: options.Remote) -> None:
    """Show the version; with --server or --context the server's too."""
    own = client_version()
    if remote.server is None and remote.context is None:
        typer.echo(own)
        return
    with remote.connect() as client:
        server = client.server_version()
        typer.echo(f"client {own}")
        typer.echo(f"server {server or 'does not say its version'} at {client.target}")
