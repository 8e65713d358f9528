"""JobService: the API that clients use."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from diminuendo.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from grpc.aio import ServicerContext

from diminuendo.services.common import logs
from diminuendo.services.conductor import validate
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.store.base import Store
from diminuendo.services.conductor.translate import to_job
from diminuendo.services.conductor.waiting import follow

MAX_PAGE_BYTES = 3 * 1024 * 1024
_log = logs.get(__name__)
_Context = ServicerContext[Any, Any]


class JobService(job_service_pb2_grpc.JobServiceServicer):
    """Serves the jobs of a store."""

    def __init__(self, store: Store, notifier: Notifier) -> None:
        """Read and write this store; wait with this notifier."""
        self._store, self._notifier = store, notifier

    async def CreateJob(self, request: job_service_pb2.CreateJobRequest, context: _Context) -> job_pb2.Job:
        """Store a job and queue it."""
        new, request_id = validate.create_job(request)
        job = await self._store.create_job(new, request_id)
        _log.info("job_created", job=job.name, zoo=job.spec.zoo, delta=job.spec.delta)
        return to_job(job)

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: _Context) -> job_pb2.Job:
        """One job."""
        return to_job(await self._store.get_job(validate.get_job(request)))

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: _Context
    ) -> job_service_pb2.ListJobsResponse:
        """A page of jobs; it may be shorter than asked where jobs are large."""
        listing = validate.list_jobs(request)
        found = await self._store.list_jobs(
            project=listing.project,
            states=listing.states,
            before_id=listing.before_id,
            limit=listing.page_size + 1,
        )
        page, size = list[job_pb2.Job](), 0
        for job in found[: listing.page_size]:
            message = to_job(job)
            size += message.ByteSize()
            if page and size > MAX_PAGE_BYTES:
                break
            page.append(message)
        more = len(page) < len(found)
        token = validate.page_token(request, found[len(page) - 1].id) if more else ""
        return job_service_pb2.ListJobsResponse(jobs=page, next_page_token=token)

    async def CancelJob(self, request: job_service_pb2.CancelJobRequest, context: _Context) -> job_pb2.Job:
        """Ask for a job's end."""
        name, request_id = validate.cancel_job(request)
        job = await self._store.cancel_job(name, request_id)
        _log.info("job_cancel_asked", job=job.name, state=job.state.name)
        return to_job(job)

    async def WatchJob(
        self, request: job_service_pb2.WatchJobRequest, context: _Context
    ) -> AsyncIterator[job_pb2.JobEvent]:
        """A job's events, to the one that ends it."""
        name, after = validate.watch_job(request)
        async for event in follow(self._store, self._notifier, name, after=after):
            yield event
