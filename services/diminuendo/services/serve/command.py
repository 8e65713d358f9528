"""`diminuendo serve`: runs a whole server on this machine until it is told to stop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError
from diminuendo.services.common.process import die_with_parent, stop_signals
from diminuendo.services.common.settings import CONFIG
from diminuendo.services.serve.orphans import adopt
from diminuendo.services.serve.settings import ServeSettings
from diminuendo.services.serve.supervisor import FailedError, log_folder
from diminuendo.services.serve.supervisor import serve as supervise


def serve(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of settings; flags and environment come first.", show_default="none"),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of everything it keeps.", show_default="./diminuendo-data")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port of gRPC; 0: the system chooses.", show_default="50300")] = None,
    http_port: Annotated[
        int | None,
        typer.Option(help="Port of /metrics, /livez, /readyz; 0: the system chooses.", show_default="50301"),
    ] = None,
    evaluators: Annotated[
        int | None, typer.Option(help="Number of evaluators.", show_default="one per GPU, else per CPU core")
    ] = None,
    lease_s: Annotated[
        float | None,
        typer.Option(help="Seconds that the coordinator may be silent before it loses its job.", show_default="30"),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="Folder of the artifacts, or s3://BUCKET/PREFIX.", show_default="DATA_DIR/artifacts"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Most jobs at a time; others wait in the queue.", show_default="8")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="PROJECT=NUMBER,...", help="What projects may have of the evaluators.", show_default="1 each"
        ),
    ] = None,
    tokens_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML file of the tokens that calls must have.", show_default="none needed"),
    ] = None,
    tls_cert_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM file of the certificate to serve by TLS with.", show_default="no TLS"),
    ] = None,
    tls_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of the certificate's key.", show_default="none")
    ] = None,
    tls_client_ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM file of authorities of clients' certificates.", show_default="none"),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")] = None,
    traces: Annotated[
        str | None,
        typer.Option(metavar="http://HOST:PORT", help="Where spans go, by OTLP over gRPC.", show_default="nowhere"),
    ] = None,
    with_parent: Annotated[
        bool | None, typer.Option("--with-parent", help="Stop when the parent process ends.", show_default="no")
    ] = None,
) -> None:
    """Run a whole server here: conductor, coordinator and evaluators on a local Ray.

    Prints `ready grpc=HOST:PORT http=HOST:PORT` when it serves; the services' logs are in DATA_DIR/logs. Every
    option can also be given as DIMINUENDO_SERVE_..., e.g. DIMINUENDO_SERVE_PORT.
    """
    try:
        if config is not None:
            os.environ[CONFIG] = str(config.absolute())  # the services have tables of their own in it
        settings = ServeSettings.load(
            config,
            data_dir=data_dir,
            host=host,
            port=port,
            http_port=http_port,
            evaluators=evaluators,
            lease_s=lease_s,
            artifacts=artifacts,
            jobs=jobs,
            weights=weights,
            tokens_file=tokens_file,
            tls_cert_file=tls_cert_file,
            tls_key_file=tls_key_file,
            tls_client_ca_file=tls_client_ca_file,
            log_level=log_level,
            traces=traces,
            with_parent=with_parent,
        )
        # The services log to files; here only what a person at the terminal should know.
        logs.configure(service="serve", level="warning" if log_level is None else settings.log_level)
        adopt()
        if settings.with_parent:
            die_with_parent()
        asyncio.run(_run(settings))
    except StartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except FailedError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


async def _run(settings: ServeSettings) -> None:
    with stop_signals() as stop, log_folder(settings.data_dir) as folder:
        await supervise(settings, folder, stop)
