"""One fleet on a server: give it models, follow it, fetch what came of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from diminuendo.v1 import (
    artifact_service_pb2,
    artifact_service_pb2_grpc,
    fleet_service_pb2,
    fleet_service_pb2_grpc,
    job_service_pb2_grpc,
)

from diminuendo.client import convert
from diminuendo.client.errors import DiminuendoError
from diminuendo.client.fleet import requests
from diminuendo.client.fleet.bundles import pack_all, send_all
from diminuendo.client.fleet.download import fetch_all
from diminuendo.client.fleet.models import FleetInfo, FleetModel, FleetUpdate, ModelDownload, ModelStatus
from diminuendo.client.fleet.results import FleetReport, report_of
from diminuendo.client.rpc import Connection
from diminuendo.client.types import Artifact, JobInfo
from diminuendo.client.upload import upload


class Fleet:
    """A handle on a fleet; made by `Client.fleet`. It holds no state of its own."""

    def __init__(self, connection: Connection, name: str) -> None:
        """A handle on the fleet of this name."""
        self._connection = connection
        self._stub = fleet_service_pb2_grpc.FleetServiceStub(connection.channel)
        self._name = name

    def __repr__(self) -> str:
        """As in ``Fleet('projects/default/fleets/vision')``."""
        return f"Fleet({self._name!r})"

    @property
    def name(self) -> str:
        """``projects/{project}/fleets/{fleet}``."""
        return self._name

    @property
    def fleet_id(self) -> str:
        """Last component of the name."""
        return requests.parts(self._name)[1]

    def submit(
        self,
        models: Iterable[FleetModel],
        *,
        labels: Mapping[str, str] | None = None,
        replace_changed: bool = False,
        on_sent: Callable[[Path, int], None] = lambda folder, size: None,
        timeout_s: float | None = None,
    ) -> tuple[ModelStatus, ...]:
        """Give the fleet these models: each that it has no job for gets one. The fleet is made where it is missing.

        Safe to call again: a model that has a job of the same wish gets no other. Everything is checked, and every
        bundle packed, before anything is sent; of bundles of the same content one is sent, and none that the server
        has.

        Args:
            models: In any number; they are sent in batches.
            labels: Of the fleet, where it is made now.
            replace_changed: Whether a model whose wish has changed gets another job, once its job has ended.
            on_sent: Told of each bundle that was sent: its folder, and the bytes of its archive.
            timeout_s: Deadline of each batch; None for the client's, a minute at least.

        Returns:
            What came of each model, in their order. One that was refused disturbs no other.

        Raises:
            InvalidArgumentError: Models are wrong; every one that is is named, and nothing was sent.
            BundleError: Folders are no bundles, or cannot be packed; nothing was sent.
            ServerUnavailableError: Nobody answers.
        """
        asked = requests.checked(self._name, models)
        bundles = pack_all(model.bundle for model in asked if model.bundle is not None)
        messages = requests.model_messages(self._name, asked, bundles.source)
        self._connection.call(self._stub.CreateFleet, requests.creation(self._name, labels), timeout_s=timeout_s)
        send_all(bundles, self._holds, lambda archive: upload(self._connection, archive), on_sent=on_sent)
        deadline_s = max(requests.BATCH_S, self._connection.config.timeout_s) if timeout_s is None else timeout_s
        came: list[ModelStatus] = []
        for batch in requests.batches(self._name, messages, replace_changed=replace_changed):
            answer = self._connection.call(self._stub.BatchCreateJobs, batch, timeout_s=deadline_s)
            came += map(requests.status, answer.models)
        return tuple(came)

    def info(self, *, timeout_s: float | None = None) -> FleetInfo:
        """The fleet as the server knows it now.

        Raises:
            NotFoundError: There is no such fleet.
            ServerUnavailableError: Nobody answers.
        """
        request = fleet_service_pb2.GetFleetRequest(name=self._name)
        return requests.fleet_info(self._connection.call(self._stub.GetFleet, request, timeout_s=timeout_s))

    def jobs(self) -> Iterator[JobInfo]:
        """The newest job of each model, fetched page by page as they are consumed; `JobInfo.model` says whose it is.

        Raises:
            NotFoundError: There is no such fleet.
        """
        stub = job_service_pb2_grpc.JobServiceStub(self._connection.channel)
        request = requests.newest_jobs(self._name, self._connection.config.page_size)
        while True:
            page = self._connection.call(stub.ListJobs, request)
            yield from map(convert.job_info, page.jobs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def watch(self, *, on_cut: Callable[[DiminuendoError], None] | None = None) -> Iterator[FleetUpdate]:
        """Every model's newest job as it is, then what changes, until all jobs have ended.

        A connection that is cut is made again, and everything is told again, see `FleetUpdate.begins`. Leaving the
        loop ends the stream on the server as well.

        Args:
            on_cut: Told each time that the connection was cut and is tried again.

        Raises:
            NotFoundError: There is no such fleet.
            ServerUnavailableError: Nobody answered for `ClientConfig.patience_s`.
        """
        return self._follow(on_cut=on_cut, until=None)

    def wait(self, timeout_s: float | None = None) -> FleetInfo:
        """Block until every job has ended.

        Raises:
            WaitTimeoutError: They had not after `timeout_s`; they go on.
            NotFoundError: There is no such fleet.
            ServerUnavailableError: Nobody answered for `ClientConfig.patience_s`.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        for _ in self._follow(on_cut=None, until=until):
            pass
        return requests.all_ended(self.info(), timeout_s)

    def cancel(self, *, timeout_s: float | None = None) -> FleetInfo:
        """Ask for the end of every job that has not ended. The fleet keeps what it has.

        Raises:
            NotFoundError: There is no such fleet.
        """
        request = fleet_service_pb2.CancelFleetRequest(name=self._name)
        return requests.fleet_info(self._connection.call(self._stub.CancelFleet, request, timeout_s=timeout_s))

    def retry(self, models: Sequence[str] = (), *, timeout_s: float | None = None) -> tuple[ModelStatus, ...]:
        """Try models again, each by another job that pays for no evaluation again.

        Args:
            models: Names of models whose newest job failed or was cancelled; empty: all whose newest job failed.

        Returns:
            What came of each model that was to be tried again.

        Raises:
            NotFoundError: There is no such fleet.
        """
        request = fleet_service_pb2.RetryFleetRequest(name=self._name, models=models)
        answer = self._connection.call(self._stub.RetryFleet, request, timeout_s=timeout_s)
        return tuple(map(requests.status, answer.models))

    def delete(self, *, allow_missing: bool = False, timeout_s: float | None = None) -> None:
        """Forget the fleet, and its jobs with it. What was downloaded stays, and so does what was evaluated.

        Args:
            allow_missing: Whether a fleet that is not there counts as deleted.

        Raises:
            FailedPreconditionError: A job has not ended.
            NotFoundError: There is no such fleet.
        """
        request = fleet_service_pb2.DeleteFleetRequest(name=self._name, allow_missing=allow_missing)
        self._connection.call(self._stub.DeleteFleet, request, timeout_s=timeout_s)

    def download(
        self, folder: Path | str, *, on_model: Callable[[ModelDownload], None] = lambda done: None
    ) -> tuple[ModelDownload, ...]:
        """Write a result folder for each model that has a result, and ``fleet.json`` with what came of all.

        Cut, it goes on where it was: what is there already is checked against its SHA-256 and not fetched again.

        Args:
            folder: Made when it is missing; each result goes into a folder of its model's name.
            on_model: Told of each model once it is done with.

        Returns:
            What came of each model. One that cannot be fetched disturbs no other.

        Raises:
            NotFoundError: There is no such fleet.
            ServerUnavailableError: Nobody answered for `ClientConfig.patience_s`.
        """
        return fetch_all(self._connection, self._name, list(self.jobs()), Path(folder), on_model=on_model)

    def report(self) -> FleetReport:
        """What came of each model as of now, and what was saved in all.

        Raises:
            NotFoundError: There is no such fleet.
        """
        return report_of(self._name, self.jobs())

    def _follow(
        self, *, on_cut: Callable[[DiminuendoError], None] | None, until: float | None
    ) -> Iterator[FleetUpdate]:
        """What the server tells until all have ended, or `until`."""
        opened = False

        def opening() -> fleet_service_pb2.WatchFleetRequest:
            nonlocal opened
            opened = True
            return fleet_service_pb2.WatchFleetRequest(name=self._name)

        messages = self._connection.stream(self._stub.WatchFleet, opening, until=until, on_cut=on_cut)
        with contextlib.closing(messages):
            for message in messages:
                yield requests.update(message, begins=opened)
                opened = False

    def _holds(self, content: Artifact) -> bool:
        """Whether the server has stored this content."""
        stub = artifact_service_pb2_grpc.ArtifactServiceStub(self._connection.channel)
        request = artifact_service_pb2.QueryUploadRequest(sha256=content.sha256, size_bytes=content.size_bytes)
        return self._connection.call(stub.QueryUpload, request).complete
