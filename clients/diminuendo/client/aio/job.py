"""One job on a server, on asyncio: follow it, wait for it, cancel it, fetch its result."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import datetime
from pathlib import Path

from diminuendo.v1 import cluster_service_pb2, job_service_pb2

from diminuendo.client import convert, requests
from diminuendo.client.aio.download import download
from diminuendo.client.aio.rpc import AsyncConnection
from diminuendo.client.cluster import Evaluator
from diminuendo.client.convert_cluster import cluster as to_cluster
from diminuendo.client.errors import DiminuendoError
from diminuendo.client.following import Gap, Position, in_time, is_final
from diminuendo.client.types import Event, JobInfo


class AsyncJob:
    """A handle on a job; made by `AsyncClient.submit` and `AsyncClient.job`. It holds no state of its own."""

    def __init__(self, connection: AsyncConnection, name: str) -> None:
        """A handle on the job of this name."""
        self._connection = connection
        self._name = name

    def __repr__(self) -> str:
        """As in ``AsyncJob('projects/default/jobs/a1b2')``."""
        return f"AsyncJob({self._name!r})"

    @property
    def name(self) -> str:
        """``projects/{project}/jobs/{job}``."""
        return self._name

    @property
    def job_id(self) -> str:
        """Last component of the name."""
        return self._name.rpartition("/")[2]

    async def info(self, *, timeout_s: float | None = None) -> JobInfo:
        """The job as the server knows it now.

        Raises:
            NotFoundError: There is no such job.
            ServerUnavailableError: Nobody answers.
        """
        request = job_service_pb2.GetJobRequest(name=self._name)
        return convert.job_info(await self._connection.call(self._connection.jobs.GetJob, request, timeout_s=timeout_s))

    def watch(
        self, after_sequence: int = 0, *, on_cut: Callable[[DiminuendoError], None] | None = None
    ) -> AsyncGenerator[Event, None]:
        """Every event after `after_sequence`, in order, then new ones as they come, until the job has ended.

        A connection that is cut is made again and resumed where it was: no event is lost or seen twice.
        Cancelling the task that waits for an event ends the stream on the server as well, and so does closing the
        iterator, which `contextlib.aclosing` does as soon as a loop is left.

        Args:
            after_sequence: The last sequence number already seen; 0 from the beginning.
            on_cut: Told each time that the connection was cut and is tried again.

        Raises:
            NotFoundError: There is no such job.
            ServerUnavailableError: Nobody answered for `ClientConfig.patience_s`.
        """
        return self._follow(after_sequence, on_cut=on_cut, until=None)

    async def watch_live(self) -> JobInfo:
        """Show the job until it has ended: in place in a notebook and on a terminal, in plain lines elsewhere.

        Returns:
            The job as it ended.

        Raises:
            NotFoundError: There is no such job.
            ServerUnavailableError: Nobody answered for `ClientConfig.patience_s`.
        """
        from rich.console import Console

        from diminuendo.client.aio.live import follow

        return await follow(self, Console())

    async def wait(self, timeout_s: float | None = None) -> JobInfo:
        """Return once the job has ended.

        Raises:
            WaitTimeoutError: It had not after `timeout_s`; it goes on.
            ServerUnavailableError: Nobody answered for `ClientConfig.patience_s`.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        info = await self.info()
        if info.state.final:
            return info
        events = self._follow(info.last_sequence, on_cut=None, until=until)
        async with contextlib.aclosing(events):
            async for event in events:
                if is_final(event):
                    break
        return in_time(await self.info(), timeout_s)

    async def evaluators(self, *, timeout_s: float | None = None) -> tuple[Evaluator, ...]:
        """What works on the job now, as the coordinators last told; lost evaluators whose work is tried again, too.

        Raises:
            ServerVersionError: The server is too old to know.
            ServerUnavailableError: Nobody answers.
        """
        request = cluster_service_pb2.GetClusterRequest(job=self._name)
        found = await self._connection.call(self._connection.clusters.GetCluster, request, timeout_s=timeout_s)
        return to_cluster(found).evaluators

    async def cancel(self, *, request_id: str | None = None, timeout_s: float | None = None) -> JobInfo:
        """Ask for the job's end; cancelling one that is being or has been cancelled changes nothing.

        Raises:
            FailedPreconditionError: It has already succeeded or failed.
            NotFoundError: There is no such job.
        """
        request = job_service_pb2.CancelJobRequest(name=self._name, request_id=request_id or requests.new_id())
        return convert.job_info(
            await self._connection.call(self._connection.jobs.CancelJob, request, timeout_s=timeout_s)
        )

    async def pause(self, *, request_id: str | None = None, timeout_s: float | None = None) -> JobInfo:
        """Have nobody work on the job for a while: evaluations under way are given up, finished ones are kept.

        Pausing a job that is being or has been paused changes nothing.

        Raises:
            FailedPreconditionError: It is being cancelled, or has ended.
            NotFoundError: There is no such job.
        """
        request = job_service_pb2.PauseJobRequest(name=self._name, request_id=request_id or requests.new_id())
        return convert.job_info(
            await self._connection.call(self._connection.jobs.PauseJob, request, timeout_s=timeout_s)
        )

    async def resume(self, *, request_id: str | None = None, timeout_s: float | None = None) -> JobInfo:
        """Go on from the last committed step of a paused job; a job that is not paused stays as it is.

        Raises:
            FailedPreconditionError: It is being cancelled, or has ended.
            NotFoundError: There is no such job.
        """
        request = job_service_pb2.ResumeJobRequest(name=self._name, request_id=request_id or requests.new_id())
        return convert.job_info(
            await self._connection.call(self._connection.jobs.ResumeJob, request, timeout_s=timeout_s)
        )

    async def retry(
        self, *, job_id: str | None = None, request_id: str | None = None, timeout_s: float | None = None
    ) -> AsyncJob:
        """Queue another job of the same wishes, labels and priority, which pays for no evaluation again.

        It has no deadline; `update` gives it one.

        Args:
            job_id: Of the new job; None lets the server choose.

        Returns:
            The new job. This one stays as it ended.

        Raises:
            FailedPreconditionError: This one neither failed nor was cancelled.
            AlreadyExistsError: The job_id is taken.
        """
        request = job_service_pb2.RetryJobRequest(
            name=self._name, job_id=job_id or "", request_id=request_id or requests.new_id()
        )
        created = await self._connection.call(self._connection.jobs.RetryJob, request, timeout_s=timeout_s)
        return AsyncJob(self._connection, created.name)

    async def update(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        deadline: datetime | None = None,
        no_deadline: bool = False,
        etag: str = "",
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> JobInfo:
        """Set some of labels, priority and deadline; None leaves them as they are.

        Args:
            labels: All of the labels that the job is to have.
            deadline: When the job is to end with its best model so far, with its time zone.
            no_deadline: Take the deadline away.
            etag: When given, the job must not have changed since it was read.

        Raises:
            InvalidArgumentError: Nothing is to be set, or a value is wrong.
            ConflictError: The job has changed since the etag was read.
            FailedPreconditionError: It has ended, and its priority or deadline was to be set.
        """
        request = requests.update_job(
            self._name,
            labels=labels,
            priority=priority,
            deadline=deadline,
            no_deadline=no_deadline,
            etag=etag,
            request_id=request_id,
        )
        return convert.job_info(
            await self._connection.call(self._connection.jobs.UpdateJob, request, timeout_s=timeout_s)
        )

    async def delete(self, *, etag: str = "", allow_missing: bool = False, timeout_s: float | None = None) -> None:
        """Forget a job that has ended, with its log; what was evaluated stays known to other jobs.

        Args:
            etag: When given, the job must not have changed since it was read.
            allow_missing: Whether a job that is not there counts as deleted.

        Raises:
            FailedPreconditionError: It has not ended.
            ConflictError: The job has changed since the etag was read.
            NotFoundError: There is no such job.
        """
        request = job_service_pb2.DeleteJobRequest(name=self._name, etag=etag, allow_missing=allow_missing)
        await self._connection.call(self._connection.jobs.DeleteJob, request, timeout_s=timeout_s)

    async def download(self, folder: Path | str) -> Path:
        """Write the result folder, each file checked against its SHA-256; resumes what an earlier try left.

        Args:
            folder: Made when it is missing. Must be empty, or hold this same result or a part of it.

        Returns:
            The folder.

        Raises:
            FailedPreconditionError: The job has no result (yet).
            FolderNotEmptyError: The folder holds something else; nothing was written.
            DownloadError: A file could not be fetched whole.
        """
        return await download(self._connection, requests.files_of(await self.info()), Path(folder))

    async def _follow(
        self, after_sequence: int, *, on_cut: Callable[[DiminuendoError], None] | None, until: float | None
    ) -> AsyncGenerator[Event, None]:
        """Events until the final state or `until`; what comes is checked for gaps and repeats."""
        seen = Position(self._name, after_sequence)
        backoff = self._connection.backoff()
        while True:
            messages = self._connection.stream(self._connection.jobs.WatchJob, seen.request, until=until, on_cut=on_cut)
            with contextlib.suppress(Gap):
                async with contextlib.aclosing(messages):
                    async for message in messages:
                        event = seen.take(message)
                        if event is None:
                            continue
                        backoff.progress()
                        yield event
                        if is_final(event):
                            return
            if (until is not None and time.monotonic() >= until) or seen.at_end_of(await self.info()):
                return
            if backoff.failing_s >= self._connection.config.patience_s:
                raise seen.lost()
            await self._connection.pause(backoff)
