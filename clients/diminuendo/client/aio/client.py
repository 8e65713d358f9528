"""The client on asyncio: one connection to one server, and the jobs on it."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from diminuendo.v1 import artifact_service_pb2, cluster_service_pb2

from diminuendo.client import convert, requests
from diminuendo.client.aio.fleet import AsyncFleet
from diminuendo.client.aio.job import AsyncJob
from diminuendo.client.aio.rpc import AsyncConnection
from diminuendo.client.aio.threads import in_thread
from diminuendo.client.aio.upload import upload
from diminuendo.client.bundle import pack
from diminuendo.client.cluster import Cluster
from diminuendo.client.config import DEFAULT_TARGET, Access, ClientConfig, check_target
from diminuendo.client.contexts import named
from diminuendo.client.convert_cluster import cluster as to_cluster
from diminuendo.client.fleet import requests as fleets
from diminuendo.client.fleet.models import FleetInfo
from diminuendo.client.types import Accept, Artifact, Bundle, Effort, Garbage, JobInfo, JobState


class AsyncClient:
    """What `Client` is, on asyncio; any number of calls may be under way at a time. An async context manager.

    It belongs to the event loop that its first call is made in. Work on the disk is done in threads. Cancelling a task
    cancels its call on the server's side as well.

    >>> async with AsyncClient() as client:                     # doctest: +SKIP
    ...     jobs = [await client.submit("zoo:digits", seed=seed) for seed in range(3)]
    ...     infos = await asyncio.gather(*(job.wait() for job in jobs))
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        project: str = "default",
        timeout_s: float = 10.0,
        config: ClientConfig | None = None,
        token: str | None = None,
        token_file: Path | str | None = None,
        renew_token: Callable[[], str | None] | None = None,
        tls: bool = False,
        ca_file: Path | str | None = None,
        cert_file: Path | str | None = None,
        key_file: Path | str | None = None,
        allow_insecure_token: bool = False,
    ) -> None:
        """Make a client; nothing is sent before the first call.

        Args:
            target: As in `Client`, as is everything else.
            project: The project that jobs are submitted to and listed from.
            timeout_s: Deadline of a call, its retries included; ignored when `config` is given.
            config: Every other setting.
            token: Sent with every call.
            token_file: A file with the token, in place of `token`.
            renew_token: Asked for the token of the moment when the server refuses the one before; in a thread.
            tls: Speak TLS, and check the server's certificate.
            ca_file: PEM file of the authorities that are trusted.
            cert_file: PEM file of a certificate of this client's own.
            key_file: PEM file of that certificate's key.
            allow_insecure_token: Let a token leave this machine on a line that is not encrypted.

        Raises:
            InvalidArgumentError: The target is not HOST:PORT, a file cannot be read, or the token would go
                unencrypted to another machine.
        """
        access = Access.of(
            token=token,
            token_file=token_file,
            renew_token=renew_token,
            tls=tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            allow_insecure_token=allow_insecure_token,
        )
        self.project = project
        self._connection = AsyncConnection(check_target(target), config or ClientConfig(timeout_s=timeout_s), access)

    @classmethod
    def from_context(
        cls,
        name: str | None = None,
        *,
        project: str | None = None,
        timeout_s: float = 10.0,
        config: ClientConfig | None = None,
    ) -> Self:
        """A client of the server that a context names; see `Client.from_context`.

        Args:
            name: The context, taken as it is. None: whom commands would call.
            project: In place of the context's project.
            timeout_s: As in `Client`.
            config: As in `Client`.

        Raises:
            InvalidArgumentError: There is no such context, the file of contexts is not of its form, or as `Client`.
            OSError: The file cannot be read.
        """
        found = named(name, project=project)
        return cls(found.server, project=found.project, timeout_s=timeout_s, config=config, **asdict(found.access))

    @property
    def target(self) -> str:
        """``HOST:PORT`` of the server."""
        return self._connection.target

    async def __aenter__(self) -> AsyncClient:
        """The client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way end with ServerUnavailableError, jobs go on."""
        await self._connection.close()

    async def submit(
        self,
        source: str = "",
        *,
        bundle: Path | str | None = None,
        delta: float | None = None,
        target: Mapping[str, float] | None = None,
        effort: Effort = "normal",
        accept: Accept = "estimate",
        seed: int = 0,
        formats: Sequence[str] = (),
        objective: str | None = None,
        limits: Mapping[str, float] | None = None,
        freeze: Sequence[str] = (),
        max_ratio: Mapping[str, float] | None = None,
        multiple: int = 1,
        stage: int = 2,
        budget: Mapping[str, float] | None = None,
        exports: Sequence[str] = (),
        parallel: int | None = None,
        job_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        deadline: datetime | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> AsyncJob:
        """Store a job durably and queue it; see `Client.submit` for what each argument means.

        Raises:
            InvalidArgumentError: A field is wrong.
            BundleError: The folder is no bundle, or cannot be packed.
            AlreadyExistsError: The job_id is taken, or the request_id was used with another content.
            ServerUnavailableError: Nobody answers.
        """
        spec = convert.job_spec(
            requests.source_of(source, has_bundle=bundle is not None),
            project=self.project,
            exports=exports,
            delta=delta,
            target=target,
            effort=effort,
            accept=accept,
            seed=seed,
            formats=formats,
            objective=objective,
            limits=limits,
            freeze=freeze,
            max_ratio=max_ratio,
            multiple=multiple,
            stage=stage,
            budget=budget,
            parallel=parallel,
        )
        request = requests.create_job(
            spec,
            project=self.project,
            job_id=job_id,
            labels=labels,
            priority=priority,
            deadline=deadline,
            request_id=request_id,
        )
        if bundle is not None:  # everything else has been checked before anything is sent
            request.job.spec.bundle = (await self.upload_bundle(bundle)).name
        created = await self._connection.call(self._connection.jobs.CreateJob, request, timeout_s=timeout_s)
        return AsyncJob(self._connection, created.name)

    def job(self, name_or_id: str) -> AsyncJob:
        """A handle on a job, by name or by id in the client's project; nothing is sent.

        Raises:
            InvalidArgumentError: It is neither a name nor an id.
        """
        return AsyncJob(self._connection, requests.job_name(self.project, name_or_id))

    async def get(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """The job as the server knows it now; NotFoundError when there is none."""
        return await self.job(name_or_id).info(timeout_s=timeout_s)

    async def cancel(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """Ask for a job's end; see `AsyncJob.cancel`."""
        return await self.job(name_or_id).cancel(timeout_s=timeout_s)

    async def pause(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """Have nobody work on a job for a while; see `AsyncJob.pause`."""
        return await self.job(name_or_id).pause(timeout_s=timeout_s)

    async def resume(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """Go on with a paused job; see `AsyncJob.resume`."""
        return await self.job(name_or_id).resume(timeout_s=timeout_s)

    async def retry(self, name_or_id: str, *, job_id: str | None = None, timeout_s: float | None = None) -> AsyncJob:
        """Try a job again that failed or was cancelled; see `AsyncJob.retry`."""
        return await self.job(name_or_id).retry(job_id=job_id, timeout_s=timeout_s)

    async def delete(self, name_or_id: str, *, allow_missing: bool = False, timeout_s: float | None = None) -> None:
        """Forget a job that has ended; see `AsyncJob.delete`."""
        await self.job(name_or_id).delete(allow_missing=allow_missing, timeout_s=timeout_s)

    async def list(
        self,
        *,
        states: Iterable[JobState] = (),
        labels: Mapping[str, str] | None = None,
        order_by: str = "",
        project: str | None = None,
    ) -> AsyncIterator[JobInfo]:
        """Jobs, newest first or in another order, fetched page by page as they are consumed.

        Args:
            states: Only jobs in one of these; empty for all.
            labels: Only jobs that have all of these.
            order_by: ``create_time``, ``update_time`` or ``priority``, with `` desc`` behind it for the highest first.
            project: Another project than the client's; ``-`` for all.

        Raises:
            InvalidArgumentError: The order or a label is none.
            ServerUnavailableError: Nobody answers.
        """
        request = requests.list_jobs(
            self.project if project is None else project,
            page_size=self._connection.config.page_size,
            states=states,
            labels=labels,
            order_by=order_by,
        )
        while True:
            page = await self._connection.call(self._connection.jobs.ListJobs, request)
            for job in page.jobs:
                yield convert.job_info(job)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def fleet(self, name_or_id: str) -> AsyncFleet:
        """A handle on a fleet, by name or by id in the client's project; nothing is sent.

        Raises:
            InvalidArgumentError: It is neither.
        """
        return AsyncFleet(self._connection, fleets.fleet_name(self.project, name_or_id))

    async def fleets(self, *, project: str | None = None) -> AsyncIterator[FleetInfo]:
        """Fleets, newest first, fetched page by page as they are consumed.

        Args:
            project: Another project than the client's; ``-`` for all.

        Raises:
            ServerUnavailableError: Nobody answers.
        """
        request = fleets.list_fleets(
            self.project if project is None else project, page_size=self._connection.config.page_size
        )
        while True:
            page = await self._connection.call(self._connection.fleets.ListFleets, request)
            for fleet in page.fleets:
                yield fleets.fleet_info(fleet)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cluster(self, job: str | None = None, *, timeout_s: float | None = None) -> Cluster:
        """Everything that computes for the server, as the coordinators last told: nodes, evaluators, what each does.

        Args:
            job: Only evaluators that work on this job, by name or by id in the client's project, and the coordinators
                that have them.
            timeout_s: Deadline; None for the client's.

        Raises:
            ServerVersionError: The server is too old to know.
            ServerUnavailableError: Nobody answers.
        """
        name = "" if job is None else requests.job_name(self.project, job)
        request = cluster_service_pb2.GetClusterRequest(job=name)
        return to_cluster(
            await self._connection.call(self._connection.clusters.GetCluster, request, timeout_s=timeout_s)
        )

    async def upload(self, path: Path | str) -> Artifact:
        """Store a file's content on the server, under its sha256; see `Client.upload`.

        Args:
            path: The file. It is read twice: for its sha256, and to be sent.

        Raises:
            OSError: The file cannot be read.
            UploadError: It changed while it was sent, or arrived damaged twice.
            InvalidArgumentError: It is larger than the server takes.
            ServerUnavailableError: Nobody answers, or the server has no room, for `ClientConfig.patience_s`.
        """
        return await upload(self._connection, Path(path))

    async def upload_bundle(self, folder: Path | str) -> Bundle:
        """Pack a bundle's folder and store it on the server; see `Client.upload_bundle`.

        Args:
            folder: Has ``task.py``, or a network's file and ``data.toml``.

        Raises:
            BundleError: The folder is no bundle, is too large, or has a link that leads out of it.
            OSError: A file cannot be read.
            UploadError: As `upload`.
            ServerUnavailableError: As `upload`.
        """
        with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
            archive = Path(scratch) / "bundle.tar"
            packed = await in_thread(pack, folder, archive)
            await self.upload(archive)
        return requests.bundle_of(self.project, packed)

    async def server_version(self, *, timeout_s: float | None = None) -> str | None:
        """The server's version, such as ``0.1.0``; None where it does not say.

        Args:
            timeout_s: How long it may take to answer; None for `ClientConfig.connect_s`.

        Raises:
            ServerUnavailableError: Nobody answers.
        """
        return await self._connection.server_version(timeout_s)

    async def collect_garbage(self, *, dry_run: bool = False, timeout_s: float = 600.0) -> Garbage:
        """Have the server remove what no job has referred to for as long as it is set to keep it.

        Args:
            dry_run: Only say what would be removed now.
            timeout_s: Deadline; the server goes through all that it has stored.

        Raises:
            PermissionDeniedError: The token is not of an administrator.
            ServerUnavailableError: Nobody answers, or not in time.
        """
        request = artifact_service_pb2.CollectGarbageRequest(dry_run=dry_run)
        answer = await self._connection.call(self._connection.artifacts.CollectGarbage, request, timeout_s=timeout_s)
        return requests.garbage_of(answer)
