"""JobService: the API that clients use."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from diminuendo.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc
from google.protobuf import empty_pb2
from grpc.aio import ServicerContext

from diminuendo.services.common import logs
from diminuendo.services.common.spec import source_of
from diminuendo.services.conductor import validate, validate_listing
from diminuendo.services.conductor.bundles import Bundles
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.store.base import Clock, Store
from diminuendo.services.conductor.translate import Shown, to_job
from diminuendo.services.conductor.waiting import ended_within, follow

MAX_PAGE_BYTES = 3 * 1024 * 1024
_log = logs.get(__name__)
_Context = ServicerContext[Any, Any]


class JobService(job_service_pb2_grpc.JobServiceServicer):
    """Serves the jobs of a store."""

    def __init__(self, store: Store, notifier: Notifier, clock: Clock, bundles: Bundles) -> None:
        """Read and write this store; wait with this notifier; take jobs on these bundles."""
        self._store, self._notifier, self._clock, self._bundles = store, notifier, clock, bundles
        self._shown = Shown()

    async def CreateJob(self, request: job_service_pb2.CreateJobRequest, context: _Context) -> job_pb2.Job:
        """Store a job and queue it."""
        new, request_id = validate.create_job(request)
        await self._bundles.check(new.spec)
        job = await self._store.create_job(new, request_id)
        _log.info("job_created", job=job.name, source=source_of(job.spec), delta=job.spec.delta)
        return to_job(job)

    async def GetJob(self, request: job_service_pb2.GetJobRequest, context: _Context) -> job_pb2.Job:
        """One job."""
        return self._shown.of(await self._store.get_job(validate.get_job(request)))

    async def ListJobs(
        self, request: job_service_pb2.ListJobsRequest, context: _Context
    ) -> job_service_pb2.ListJobsResponse:
        """A page of jobs; it may be shorter than asked where jobs are large."""
        listing = validate_listing.list_jobs(request)
        found = await self._store.list_jobs(replace(listing, limit=listing.limit + 1))
        page, size = list[job_pb2.Job](), 0
        for job in found[: listing.limit]:
            message = to_job(job)
            size += message.ByteSize()
            if page and size > MAX_PAGE_BYTES:
                break
            page.append(message)
        more = len(page) < len(found)
        token = validate_listing.page_token(request, listing, found[len(page) - 1]) if more else ""
        return job_service_pb2.ListJobsResponse(jobs=page, next_page_token=token)

    async def CancelJob(self, request: job_service_pb2.CancelJobRequest, context: _Context) -> job_pb2.Job:
        """Ask for a job's end."""
        name, request_id = validate.named_job(request)
        job = await self._store.cancel_job(name, request_id)
        _log.info("job_cancel_asked", job=job.name, state=job.state.name)
        return to_job(job)

    async def PauseJob(self, request: job_service_pb2.PauseJobRequest, context: _Context) -> job_pb2.Job:
        """Ask that nobody works on a job for a while."""
        name, request_id = validate.named_job(request)
        job = await self._store.pause_job(name, request_id)
        _log.info("job_pause_asked", job=job.name, state=job.state.name)
        return to_job(job)

    async def ResumeJob(self, request: job_service_pb2.ResumeJobRequest, context: _Context) -> job_pb2.Job:
        """Ask to go on with a job."""
        name, request_id = validate.named_job(request)
        job = await self._store.resume_job(name, request_id)
        _log.info("job_resumed", job=job.name, state=job.state.name)
        return to_job(job)

    async def RetryJob(self, request: job_service_pb2.RetryJobRequest, context: _Context) -> job_pb2.Job:
        """Try a job again, as another one."""
        name, new_name, request_id = validate.retry_job(request)
        job = await self._store.retry_job(name, new_name, request_id)
        _log.info("job_created", job=job.name, source=source_of(job.spec), delta=job.spec.delta, retry_of=name)
        return to_job(job)

    async def UpdateJob(self, request: job_service_pb2.UpdateJobRequest, context: _Context) -> job_pb2.Job:
        """Set what a job's owner may set."""
        name, wanted, request_id = validate.update_job(request)
        job = await self._store.update_job(name, wanted, request_id)
        _log.info("job_updated", job=job.name, fields=wanted.fields)
        return to_job(job)

    async def DeleteJob(self, request: job_service_pb2.DeleteJobRequest, context: _Context) -> empty_pb2.Empty:
        """Forget a job."""
        name = validate.delete_job(request)
        await self._store.delete_job(name, etag=request.etag, allow_missing=request.allow_missing)
        _log.info("job_deleted", job=name)
        return empty_pb2.Empty()

    async def WaitJob(self, request: job_service_pb2.WaitJobRequest, context: _Context) -> job_pb2.Job:
        """A job once it has ended, or when the time is over."""
        name, wait_us = validate.wait_job(request)
        return to_job(await ended_within(self._store, self._notifier, self._clock, name, wait_us=wait_us))

    async def WatchJob(
        self, request: job_service_pb2.WatchJobRequest, context: _Context
    ) -> AsyncIterator[job_pb2.JobEvent]:
        """A job's events, to the one that ends it."""
        name, after = validate.watch_job(request)
        async for event in follow(self._store, self._notifier, name, after=after):
            yield event
