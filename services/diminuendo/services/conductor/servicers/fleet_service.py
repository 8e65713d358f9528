"""FleetService: the API that clients use to run fleets."""

# ruff: noqa: N802 - the methods are named by the protos
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from diminuendo.v1 import fleet_pb2, fleet_service_pb2, fleet_service_pb2_grpc, job_pb2
from google.protobuf import empty_pb2
from grpc.aio import ServicerContext

from diminuendo.services.common import logs
from diminuendo.services.common.errors import DiminuendoError, InvalidFieldError
from diminuendo.services.common.spec import bundle_of
from diminuendo.services.conductor import validate_fleet as validate
from diminuendo.services.conductor.bundles import Bundles
from diminuendo.services.conductor.fleet_watch import Told, follow_fleet
from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.records import ModelOutcome, NewJob, WantedModel
from diminuendo.services.conductor.store.base import Store
from diminuendo.services.conductor.translate import Shown, to_fleet, to_job

MAX_WATCH_BYTES = 1024 * 1024
"""Of the jobs in one message of a watch; one that is larger comes by itself."""
MAX_ANSWER_BYTES = 3 * 1024 * 1024
MAX_TEXT = 1500
"""Characters of what one model's error says: those of all models have to fit into one answer."""
LOOKUPS = 8
"""Bundles that are looked for in the artifact store at a time."""
CHECKED_TOGETHER = 16
"""Models that are checked before other calls have their turn."""
_log = logs.get(__name__)
_Context = ServicerContext[Any, Any]


class FleetService(fleet_service_pb2_grpc.FleetServiceServicer):
    """Serves the fleets of a store."""

    def __init__(self, store: Store, notifier: Notifier, bundles: Bundles) -> None:
        """Read and write this store; wait with this notifier; take jobs on these bundles."""
        self._fleets, self._notifier, self._bundles = store.fleets, notifier, bundles
        self._shown = Shown()

    async def CreateFleet(self, request: fleet_service_pb2.CreateFleetRequest, context: _Context) -> fleet_pb2.Fleet:
        """Make a fleet without models."""
        fleet = await self._fleets.create(validate.create_fleet(request), allow_existing=request.allow_existing)
        _log.info("fleet_created", fleet=fleet.name, models=fleet.counts.models)
        return to_fleet(fleet)

    async def GetFleet(self, request: fleet_service_pb2.GetFleetRequest, context: _Context) -> fleet_pb2.Fleet:
        """One fleet."""
        return to_fleet(await self._fleets.get(validate.named_fleet(request)))

    async def ListFleets(
        self, request: fleet_service_pb2.ListFleetsRequest, context: _Context
    ) -> fleet_service_pb2.ListFleetsResponse:
        """A page of fleets; it may be shorter than asked where they have many labels."""
        project, after, limit = validate.list_fleets(request)
        found = await self._fleets.page(project, after=after, limit=limit + 1)
        page, size = list[fleet_pb2.Fleet](), 0
        for fleet in found[:limit]:
            message = to_fleet(fleet)
            size += message.ByteSize()
            if page and size > MAX_ANSWER_BYTES:
                break
            page.append(message)
        token = validate.page_token(request, found[len(page) - 1].id) if len(page) < len(found) else ""
        return fleet_service_pb2.ListFleetsResponse(fleets=page, next_page_token=token)

    async def DeleteFleet(self, request: fleet_service_pb2.DeleteFleetRequest, context: _Context) -> empty_pb2.Empty:
        """Forget a fleet and its jobs."""
        name = validate.named_fleet(request)
        await self._fleets.delete(name, allow_missing=request.allow_missing)
        _log.info("fleet_deleted", fleet=name)
        return empty_pb2.Empty()

    async def BatchCreateJobs(
        self, request: fleet_service_pb2.BatchCreateJobsRequest, context: _Context
    ) -> fleet_service_pb2.BatchCreateJobsResponse:
        """Create a job for each model that is to get one."""
        validate.batch(request)
        await self._fleets.get(request.parent)
        new, refused = await self._checked(request)
        missing = await self._missing_bundles(new.values())
        wanted = [WantedModel(job, missing.get(bundle_of(job.spec) or "")) for job in new.values()]
        made = await self._fleets.create_jobs(request.parent, wanted, replace_changed=request.replace_changed)
        outcomes = dict(zip(new, made, strict=True)) | refused
        in_order = [outcomes[i] for i in sorted(outcomes)]
        _log.info("fleet_jobs_created", fleet=request.parent, **_numbers(in_order))
        return fleet_service_pb2.BatchCreateJobsResponse(models=_statuses(in_order))

    async def _checked(
        self, request: fleet_service_pb2.BatchCreateJobsRequest
    ) -> tuple[dict[int, NewJob], dict[int, ModelOutcome]]:
        """The jobs of the models that are right, and what is to be said of the others, by their places."""
        new, refused = dict[int, NewJob](), dict[int, ModelOutcome]()
        for i, wanted in enumerate(request.models):
            if i % CHECKED_TOGETHER == CHECKED_TOGETHER - 1:
                await asyncio.sleep(0)
            try:
                new[i] = validate.model(request, i)
            except InvalidFieldError as error:
                refused[i] = ModelOutcome(wanted.model, error)
        return new, refused

    async def _missing_bundles(self, new: Iterable[NewJob]) -> Mapping[str, DiminuendoError]:
        """Why the jobs on some bundles could not be created, by the bundles' sha256s.

        Raises:
            StoreUnavailableError: The artifact store is away; no model was touched.
        """
        specs = {sha256: job.spec for job in new if (sha256 := bundle_of(job.spec))}
        found = dict[str, DiminuendoError]()
        turns = asyncio.Semaphore(LOOKUPS)

        async def look(sha256: str, spec: job_pb2.JobSpec) -> None:
            async with turns:
                try:
                    await self._bundles.check(spec)
                except DiminuendoError as error:
                    found[sha256] = error

        await asyncio.gather(*(look(sha256, spec) for sha256, spec in specs.items()))
        for error in found.values():
            if error.retried:
                raise error
        return found

    async def CancelFleet(self, request: fleet_service_pb2.CancelFleetRequest, context: _Context) -> fleet_pb2.Fleet:
        """Ask for the end of all that has not ended."""
        fleet = await self._fleets.cancel(validate.named_fleet(request))
        _log.info("fleet_cancel_asked", fleet=fleet.name)
        return to_fleet(fleet)

    async def RetryFleet(
        self, request: fleet_service_pb2.RetryFleetRequest, context: _Context
    ) -> fleet_service_pb2.RetryFleetResponse:
        """Try models again."""
        name, models = validate.retry_fleet(request)
        outcomes = await self._fleets.retry(name, models)
        _log.info("fleet_jobs_retried", fleet=name, **_numbers(outcomes))
        return fleet_service_pb2.RetryFleetResponse(models=_statuses(outcomes))

    async def WatchFleet(
        self, request: fleet_service_pb2.WatchFleetRequest, context: _Context
    ) -> AsyncIterator[fleet_service_pb2.WatchFleetResponse]:
        """A fleet's newest jobs, then what changes, until all have ended."""
        name = validate.named_fleet(request)
        async for told in follow_fleet(self._fleets, self._notifier, name):
            for message in self._messages(told):
                yield message

    def _messages(self, told: Told) -> Iterator[fleet_service_pb2.WatchFleetResponse]:
        """What is told, in messages that are not too large; only the last one may say that it is all."""
        fleet, some, size = to_fleet(told.fleet), list[job_pb2.Job](), 0
        for job in told.jobs:
            message = self._shown.of(job)
            size += message.ByteSize()
            if some and size > MAX_WATCH_BYTES:
                yield fleet_service_pb2.WatchFleetResponse(fleet=fleet, jobs=some)
                some, size = [], message.ByteSize()
            some.append(message)
        yield fleet_service_pb2.WatchFleetResponse(fleet=fleet, jobs=some, caught_up=told.caught_up)


def _numbers(outcomes: Sequence[ModelOutcome]) -> dict[str, int]:
    """What came of many models, for the log."""
    refused = sum(outcome.error is not None for outcome in outcomes)
    return {"models": len(outcomes), "created": sum(outcome.created for outcome in outcomes), "refused": refused}


def _statuses(outcomes: Sequence[ModelOutcome]) -> list[fleet_service_pb2.FleetModelStatus]:
    """What came of each model. Where that is too much for one answer, the jobs come without what is large of them."""
    statuses, size = list[fleet_service_pb2.FleetModelStatus](), 0
    for outcome in outcomes:
        status = fleet_service_pb2.FleetModelStatus(
            model=outcome.model,
            error=_error(outcome.error) if outcome.error else None,
            job=to_job(outcome.job) if outcome.job else None,
            created=outcome.created,
        )
        statuses.append(status)
        size += status.ByteSize()
    if size > MAX_ANSWER_BYTES:
        for status in filter(_has_job, statuses):
            for field in ("spec", "result", "failure", "labels", "progress"):
                status.job.ClearField(field)
    return statuses


def _has_job(status: fleet_service_pb2.FleetModelStatus) -> bool:
    return status.HasField("job")


def _error(error: DiminuendoError) -> fleet_service_pb2.FleetModelError:
    """The error that a call for this model alone would have had."""
    text = str(error)
    return fleet_service_pb2.FleetModelError(
        code=error.code.value[0],
        reason="" if isinstance(error, InvalidFieldError) else error.reason,
        message=text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}...",
    )
