"""The client: one connection to one server, and the jobs on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from diminuendo.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    fleet_service_pb2_grpc,
    job_service_pb2_grpc,
)

from diminuendo.client import convert, requests
from diminuendo.client.bundle import pack
from diminuendo.client.cluster import Cluster
from diminuendo.client.config import DEFAULT_TARGET, Access, ClientConfig, check_target
from diminuendo.client.contexts import named
from diminuendo.client.convert_cluster import cluster as to_cluster
from diminuendo.client.fleet import requests as fleets
from diminuendo.client.fleet.fleet import Fleet
from diminuendo.client.fleet.models import FleetInfo
from diminuendo.client.job import Job
from diminuendo.client.rpc import Connection
from diminuendo.client.types import Accept, Artifact, Bundle, Effort, Garbage, JobInfo, JobState
from diminuendo.client.upload import upload


class Client:
    """Talks to one Diminuendo server. Safe to use from several threads; a context manager.

    >>> with Client() as client:                                # doctest: +SKIP
    ...     job = client.submit("zoo:digits", delta=1.0)
    ...     print(job.wait().result.params_ratio)
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
            target: ``HOST:PORT`` of the server.
            project: The project that jobs are submitted to and listed from.
            timeout_s: Deadline of a call, its retries included; ignored when `config` is given.
            config: Every other setting.
            token: Sent with every call as ``authorization: Bearer TOKEN``.
            token_file: A file with the token, in place of `token`; read again when the server refuses the token.
            renew_token: Asked for the token of the moment when the server refuses the one before; None where there is
                no newer one.
            tls: Speak TLS, and check the server's certificate.
            ca_file: PEM file of the authorities that are trusted; None: those that gRPC trusts.
            cert_file: PEM file of a certificate of this client's own, where the server asks for one.
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
        self._connection = Connection(check_target(target), config or ClientConfig(timeout_s=timeout_s), access)
        self._stub = job_service_pb2_grpc.JobServiceStub(self._connection.channel)

    @classmethod
    def from_context(
        cls,
        name: str | None = None,
        *,
        project: str | None = None,
        timeout_s: float = 10.0,
        config: ClientConfig | None = None,
    ) -> Self:
        """A client of the server that a context names; contexts are made with `diminuendo config set`.

        Args:
            name: The context, taken as it is. None: whom commands would call, which is what ``DIMINUENDO_SERVER``,
                ``DIMINUENDO_PROJECT``, ``DIMINUENDO_TOKEN``, ``DIMINUENDO_TOKEN_FILE`` and ``DIMINUENDO_CONTEXT`` say,
                else the current context, else this machine.
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

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the connection; jobs go on."""
        self._connection.close()

    def submit(
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
    ) -> Job:
        """Store a job durably and queue it.

        Args:
            source: ``zoo:NAME``, or what `upload_bundle` gave as its source; ``zoo:digits`` when there is no bundle.
            bundle: In place of a source the folder of a bundle, which is uploaded first; see `upload_bundle`.
            delta: The largest loss of the metric, in points, over 0 and up to 100; the smallest network inside it is
                looked for. 1.0 when neither delta nor a target is given.
            target: In place of delta the most that one figure may be, e.g. ``{"size": 1.0}``; the network within it
                that loses least is looked for.
            effort: How much searching is done: quick, normal or deep.
            accept: What must be inside delta: the estimate of the drop, or (strict) its 95 % upper bound.
            seed: Seed of every random choice.
            formats: Forms that layers may take, e.g. ``("svd", "tucker2")``; empty: those of the effort.
            objective: The figure that gets as small as it can: ``params`` (the default), ``macs``, ``size``,
                ``memory`` or ``latency`` (on the evaluators). A target has its own.
            limits: The most that figures may be: params, MACs, MB of 2^20 bytes of size and of memory, or ms of
                latency for one sample.
            freeze: Shell patterns over the names of layers that stay dense.
            max_ratio: The most by which the params of layers may shrink, by pattern.
            multiple: What ranks are multiples of.
            stage: 1 stops after the exploration, 2 anneals too.
            budget: The most ``evaluations`` and ``epochs``, certification included, and the ``minutes`` after which
                the best so far is certified.
            exports: Files to be made of the result beside its safetensors: ``onnx``, ``pt2``, ``torchscript``, each
                with ``:fp16`` or ``:bf16`` behind it for narrower weights; ``safetensors:fp16``.
            parallel: The most evaluations at a time; None: as many as there are evaluators.
            job_id: Last component of the job's name; None lets the server choose.
            labels: Free labels.
            priority: Jobs of a higher one are leased first, -1000 to 1000.
            deadline: When the job is to end with its best model so far, with its time zone; where there is no model
                yet, it ends soon after.
            request_id: The same one again returns the same job; None makes one, so that the client's own
                retries are safe.
            timeout_s: Deadline; None for the client's.

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
            request.job.spec.bundle = self.upload_bundle(bundle).name
        created = self._connection.call(self._stub.CreateJob, request, timeout_s=timeout_s)
        return Job(self._connection, created.name)

    def job(self, name_or_id: str) -> Job:
        """A handle on a job, by name or by id in the client's project; nothing is sent.

        Raises:
            InvalidArgumentError: It is neither.
        """
        return Job(self._connection, requests.job_name(self.project, name_or_id))

    def get(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """The job as the server knows it now; NotFoundError when there is none."""
        return self.job(name_or_id).info(timeout_s=timeout_s)

    def cancel(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """Ask for a job's end; see `Job.cancel`."""
        return self.job(name_or_id).cancel(timeout_s=timeout_s)

    def pause(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """Have nobody work on a job for a while; see `Job.pause`."""
        return self.job(name_or_id).pause(timeout_s=timeout_s)

    def resume(self, name_or_id: str, *, timeout_s: float | None = None) -> JobInfo:
        """Go on with a paused job; see `Job.resume`."""
        return self.job(name_or_id).resume(timeout_s=timeout_s)

    def retry(self, name_or_id: str, *, job_id: str | None = None, timeout_s: float | None = None) -> Job:
        """Try a job again that failed or was cancelled; see `Job.retry`."""
        return self.job(name_or_id).retry(job_id=job_id, timeout_s=timeout_s)

    def delete(self, name_or_id: str, *, allow_missing: bool = False, timeout_s: float | None = None) -> None:
        """Forget a job that has ended; see `Job.delete`."""
        self.job(name_or_id).delete(allow_missing=allow_missing, timeout_s=timeout_s)

    def list(
        self,
        *,
        states: Iterable[JobState] = (),
        labels: Mapping[str, str] | None = None,
        order_by: str = "",
        project: str | None = None,
    ) -> Iterator[JobInfo]:
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
            page = self._connection.call(self._stub.ListJobs, request)
            yield from map(convert.job_info, page.jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def fleet(self, name_or_id: str) -> Fleet:
        """A handle on a fleet, by name or by id in the client's project; nothing is sent.

        Raises:
            InvalidArgumentError: It is neither.
        """
        return Fleet(self._connection, fleets.fleet_name(self.project, name_or_id))

    def fleets(self, *, project: str | None = None) -> Iterator[FleetInfo]:
        """Fleets, newest first, fetched page by page as they are consumed.

        Args:
            project: Another project than the client's; ``-`` for all.

        Raises:
            ServerUnavailableError: Nobody answers.
        """
        stub = fleet_service_pb2_grpc.FleetServiceStub(self._connection.channel)
        request = fleets.list_fleets(
            self.project if project is None else project, page_size=self._connection.config.page_size
        )
        while True:
            page = self._connection.call(stub.ListFleets, request)
            yield from map(fleets.fleet_info, page.fleets)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cluster(self, job: str | None = None, *, timeout_s: float | None = None) -> Cluster:
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
        stub = cluster_service_pb2_grpc.ClusterServiceStub(self._connection.channel)
        return to_cluster(self._connection.call(stub.GetCluster, request, timeout_s=timeout_s))

    def upload(self, path: Path | str) -> Artifact:
        """Store a file's content on the server, under its sha256. What the server has already is not sent.

        Cut, it goes on where it was, also in another process within a day. Content that no job refers to is
        forgotten after a while: a week, unless the server is set otherwise.

        Args:
            path: The file. It is read twice: for its sha256, and to be sent.

        Raises:
            OSError: The file cannot be read.
            UploadError: It changed while it was sent, or arrived damaged twice.
            InvalidArgumentError: It is larger than the server takes.
            ServerUnavailableError: Nobody answers, or the server has no room, for `ClientConfig.patience_s`.
        """
        return upload(self._connection, Path(path))

    def upload_bundle(self, folder: Path | str) -> Bundle:
        """Pack a bundle's folder and store it on the server. What the server has already is not sent.

        The same folder gives the same sha256, wherever it lies. What its ``.gitignore`` files leave out is left out.

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
            packed = pack(folder, archive)
            self.upload(archive)
        return requests.bundle_of(self.project, packed)

    def server_version(self, *, timeout_s: float | None = None) -> str | None:
        """The server's version, such as ``0.1.0``; None where it does not say.

        Args:
            timeout_s: How long it may take to answer; None for `ClientConfig.connect_s`.

        Raises:
            ServerUnavailableError: Nobody answers.
        """
        return self._connection.server_version(timeout_s)

    def collect_garbage(self, *, dry_run: bool = False, timeout_s: float = 600.0) -> Garbage:
        """Have the server remove what no job has referred to for as long as it is set to keep it.

        It does that by itself every hour, unless it is set otherwise.

        Args:
            dry_run: Only say what would be removed now.
            timeout_s: Deadline; the server goes through all that it has stored.

        Raises:
            PermissionDeniedError: The token is not of an administrator.
            ServerUnavailableError: Nobody answers, or not in time.
        """
        stub = artifact_service_pb2_grpc.ArtifactServiceStub(self._connection.channel)
        request = artifact_service_pb2.CollectGarbageRequest(dry_run=dry_run)
        return requests.garbage_of(self._connection.call(stub.CollectGarbage, request, timeout_s=timeout_s))
