"""`diminuendo coordinator`: runs a coordinator and its evaluators until it is told to stop."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from diminuendo.services.common import logs, tracing
from diminuendo.services.common.errors import StartError
from diminuendo.services.common.process import die_with_parent
from diminuendo.services.coordinator.environment import isolate
from diminuendo.services.coordinator.settings import CoordinatorSettings
from diminuendo.services.coordinator.stopping import GRACE_S, SignalWatch, Stop


def coordinator(
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of settings; flags and environment come first.", show_default="none"),
    ] = None,
    conductor: Annotated[
        str | None, typer.Option(help="HOST:PORT of the conductor.", show_default="127.0.0.1:50300")
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            help="Folder of the artifacts, or s3://BUCKET/PREFIX.", show_default="./diminuendo-data/artifacts"
        ),
    ] = None,
    evaluators: Annotated[
        int | None, typer.Option(help="Number of evaluators.", show_default="one per GPU, else per CPU core")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name, unique among coordinators.", show_default="local")] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a Ray cluster, auto, or the http:// URL of a remote one's dashboard.",
            show_default="a local Ray",
        ),
    ] = None,
    work_timeout_s: Annotated[
        float | None, typer.Option(help="Seconds that one work may take.", show_default="3600")
    ] = None,
    evaluator_memory_gb: Annotated[
        float | None, typer.Option(help="Most host memory of one evaluator, in GB.", show_default="what there is")
    ] = None,
    evaluator_gpus: Annotated[
        float | None,
        typer.Option(
            help="GPUs of one evaluator, 0 for one CPU, on a cluster that adds nodes by itself.",
            show_default="its share of what is there",
        ),
    ] = None,
    idle_s: Annotated[
        float | None,
        typer.Option(help="Seconds without work after which an evaluator is let go.", show_default="never"),
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Most jobs at a time.", show_default="8")] = None,
    project: Annotated[str | None, typer.Option(help="Take jobs of this project only.", show_default="all")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file with the token to show; or DIMINUENDO_COORDINATOR_TOKEN.", show_default="none"
        ),
    ] = None,
    tls: Annotated[bool | None, typer.Option("--tls", help="Speak TLS to the conductor.", show_default="no")] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM file of the authorities to trust.", show_default="those of gRPC"),
    ] = None,
    cert_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PEM file of a certificate of its own, if asked for.", show_default="none"),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM file of that certificate's key.", show_default="none")
    ] = None,
    allow_insecure_token: Annotated[
        bool | None,
        typer.Option(
            "--allow-insecure-token", help="Send the token unencrypted to another machine.", show_default="no"
        ),
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
    """Run a coordinator: it takes jobs from the conductor and drives their searches on evaluators.

    Logs go to stderr. Every option can also be given as DIMINUENDO_COORDINATOR_..., e.g.
    DIMINUENDO_COORDINATOR_EVALUATORS.
    """
    try:
        settings = CoordinatorSettings.load(
            config,
            conductor=conductor,
            artifacts=artifacts,
            evaluators=evaluators,
            name=name,
            ray_address=ray_address,
            work_timeout_s=work_timeout_s,
            evaluator_memory_gb=evaluator_memory_gb,
            evaluator_gpus=evaluator_gpus,
            idle_s=idle_s,
            jobs=jobs,
            project=project,
            token_file=token_file,
            tls=tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            allow_insecure_token=allow_insecure_token,
            log_level=log_level,
            traces=traces,
            with_parent=with_parent,
        )
        os.environ.pop(settings.key("token"), None)  # evaluators, which run what users wrote, inherit the rest
        logs.configure(service="coordinator", level=settings.log_level, style=settings.log_style)
        tracing.configure(service="coordinator", endpoint="" if settings.is_remote else settings.traces)
        if settings.with_parent:
            die_with_parent()
        code = _run(settings)
    except StartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    finally:
        tracing.close()
    raise typer.Exit(code)


def _run(settings: CoordinatorSettings) -> int:
    stop = Stop()
    if settings.is_remote:
        SignalWatch(stop, grace_s=2 * GRACE_S).install()  # the coordinator over there has that long
        from diminuendo.services.coordinator import remote

        return remote.follow(settings, stop)
    watch = SignalWatch(stop)
    watch.install()
    if settings.ray_address is None:
        isolate()
    from diminuendo.services.coordinator import main  # ray reads the environment when it is imported

    return main.run(settings, watch, stop)
