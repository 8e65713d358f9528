"""`diminuendo conductor`: runs a conductor until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from diminuendo.services.common import logs, tracing
from diminuendo.services.common.errors import StartError
from diminuendo.services.common.process import die_with_parent, stop_signals
from diminuendo.services.conductor.app import conducting
from diminuendo.services.conductor.lock import data_folder
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.store.sql import SqlStore

_log = logs.get(__name__)


def conductor(
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
    lease_s: Annotated[
        float | None,
        typer.Option(help="Seconds that a coordinator may be silent before it loses its job.", show_default="30"),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="postgresql://USER@HOST/NAME, or sqlite:///FILE. A password is better given by the environment.",
            show_default="SQLite in the data folder",
        ),
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(help="Folder of the artifacts, or s3://BUCKET/PREFIX.", show_default="DATA_DIR/artifacts"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="PROJECT=NUMBER,...", help="What projects may have of the evaluators.", show_default="1 each"
        ),
    ] = None,
    tokens_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="TOML file of the tokens that calls must have.", show_default="calls need none"
        ),
    ] = None,
    tls_cert_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="PEM file of the certificate that gRPC serves by TLS with.", show_default="no TLS"
        ),
    ] = None,
    tls_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of the certificate's key.", show_default="none")
    ] = None,
    tls_client_ca_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="PEM file of authorities: clients must have a certificate of theirs.",
            show_default="none",
        ),
    ] = None,
    local_port: Annotated[
        int | None,
        typer.Option(help="With TLS: a port on 127.0.0.1 without; 0: the system chooses.", show_default="none"),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="none|local|ray|kuberay", help="Who provides what jobs are computed on.", show_default="none"
        ),
    ] = None,
    cluster_scope: Annotated[
        str | None,
        typer.Option(metavar="shared|project", help="RayClusters: one, or one a project.", show_default="shared"),
    ] = None,
    cluster_address: Annotated[
        str | None, typer.Option(help="Of --cluster ray: http:// URL of its dashboard.", show_default="none")
    ] = None,
    cluster_template: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of --cluster kuberay: the RayCluster to make.", show_default="none"),
    ] = None,
    cluster_conductor: Annotated[
        str | None,
        typer.Option(help="HOST:PORT under which a Ray cluster reaches this conductor.", show_default="none"),
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.", show_default="info")] = None,
    traces: Annotated[
        str | None,
        typer.Option(metavar="http://HOST:PORT", help="Where spans go, by OTLP over gRPC.", show_default="nowhere"),
    ] = None,
    migrate_only: Annotated[
        bool, typer.Option("--migrate-only", help="Bring the database's tables up to date, and serve nothing.")
    ] = False,
    with_parent: Annotated[
        bool | None, typer.Option("--with-parent", help="Stop when the parent process ends.", show_default="no")
    ] = None,
) -> None:
    """Run the conductor: the API, the queue and the database.

    Prints `ready grpc=HOST:PORT http=HOST:PORT` when it serves, with ` local=HOST:PORT` behind it where there is a
    local port; logs go to stderr. Every option can also be given
    as DIMINUENDO_CONDUCTOR_..., e.g. DIMINUENDO_CONDUCTOR_PORT.
    """
    try:
        settings = ConductorSettings.load(
            config,
            data_dir=data_dir,
            host=host,
            port=port,
            http_port=http_port,
            lease_s=lease_s,
            database=database,
            artifacts=artifacts,
            weights=weights,
            tokens_file=tokens_file,
            tls_cert_file=tls_cert_file,
            tls_key_file=tls_key_file,
            tls_client_ca_file=tls_client_ca_file,
            local_port=local_port,
            cluster=cluster,
            cluster_scope=cluster_scope,
            cluster_address=cluster_address,
            cluster_template=cluster_template,
            cluster_conductor=cluster_conductor,
            log_level=log_level,
            traces=traces,
            with_parent=with_parent,
        )
        logs.configure(service="conductor", level=settings.log_level, style=settings.log_style)
        tracing.configure(service="conductor", endpoint=settings.traces)
        if settings.with_parent:
            die_with_parent()
        code = asyncio.run(_migrate(settings) if migrate_only else _run(settings))
    except StartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        tracing.close()
    raise typer.Exit(code)


async def _migrate(settings: ConductorSettings) -> Literal[0]:
    """Do what a conductor does to the database when it starts, and no more."""
    with nullcontext() if settings.database.get_secret_value() else data_folder(settings.data_dir):
        store = await asyncio.to_thread(SqlStore.open, settings.url)
        await store.close()
    _log.info("migrated")
    return 0


async def _run(settings: ConductorSettings) -> Literal[0, 1]:
    """Serve until a signal comes; 1 when something broke instead."""
    with stop_signals() as asked:
        async with conducting(settings) as running:
            gc.freeze()  # what is there now stays: collections need not go through it again and again
            local = f" local={running.local}" if running.local else ""
            typer.echo(f"ready grpc={running.grpc} http={running.http}{local}")
            _log.info("serving", grpc=running.grpc, http=running.http, data_dir=str(settings.data_dir))
            told = asyncio.create_task(asked.wait())
            await asyncio.wait({told, running.sweeper}, return_when=asyncio.FIRST_COMPLETED)
            broken = running.sweeper.done()
            if broken:
                _log.error("sweeper_failed", exc_info=running.sweeper.exception())
            told.cancel()
            _log.info("stopping", drain_s=settings.drain_s)
    _log.info("stopped")
    return 1 if broken else 0
