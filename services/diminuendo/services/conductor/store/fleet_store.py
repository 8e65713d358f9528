"""The fleets of the SQL store: what concerns many jobs, a few of them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import Connection

from diminuendo.services.common.errors import FleetNotFoundError
from diminuendo.services.conductor.records import Fleet, Job, ModelOutcome, NewFleet, WantedModel
from diminuendo.services.conductor.store import fleets
from diminuendo.services.conductor.store.together import Together
from diminuendo.services.conductor.store.writer import Operation

T = TypeVar("T")
READ_TOGETHER, PAGES_TOGETHER = 250, 2
"""Models, and pages of them, that are read at a time for whoever watches."""
_Model: TypeAlias = "tuple[str, str]"
"""A fleet's name, and a model of it."""
_Page: TypeAlias = "tuple[str, str, int]"
"""A fleet's name, the model that others are to be behind, and how many."""


class Write(Protocol):
    """Runs an operation in the writer's thread, as a transaction of its own."""

    def __call__(self, operation: Operation[T], /) -> Awaitable[T]:
        """The operation's answer, once it is durable."""
        ...


class Read(Protocol):
    """Runs a query in a reader's thread."""

    def __call__(self, query: Callable[[Connection], T], /) -> Awaitable[T]:
        """The query's answer."""
        ...


class SqlFleets:
    """Fleets in the database of a store; see `base.FleetStore` for what each method promises."""

    def __init__(self, write: Write, read: Read) -> None:
        """Write and read with these."""
        self._write, self._read = write, read
        self._models = Together[_Model, Job | None](
            lambda asked: self._read(lambda connection: _models(connection, asked)), most=READ_TOGETHER
        )
        self._pages = Together[_Page, Sequence[Job]](
            lambda asked: self._read(lambda connection: _pages(connection, asked)), most=PAGES_TOGETHER
        )

    async def create(self, new: NewFleet, *, allow_existing: bool = False) -> Fleet:
        """Store a fleet without models."""
        return await self._write(lambda tx: fleets.create(tx, new, allow_existing=allow_existing))

    async def get(self, name: str) -> Fleet:
        """One fleet."""
        return await self._read(lambda connection: fleets.load(connection, name))

    async def page(self, project: str | None = None, *, after: int | None = None, limit: int = 50) -> Sequence[Fleet]:
        """Fleets, the newest first."""
        return await self._read(lambda connection: fleets.page(connection, project, after, limit))

    async def delete(self, name: str, *, allow_missing: bool = False) -> None:
        """Forget a fleet and its jobs."""
        try:
            while not await self._write(lambda tx: fleets.remove_some(tx, name)):
                pass
        except FleetNotFoundError:
            if not allow_missing:
                raise

    async def create_jobs(
        self, name: str, wanted: Sequence[WantedModel], *, replace_changed: bool = False
    ) -> Sequence[ModelOutcome]:
        """Create a job for each of some models that is to get one."""
        outcomes, left = list[ModelOutcome](), iter(wanted)
        while some := list(islice(left, fleets.JOBS_TOGETHER)):
            outcomes += await self._write(
                partial(fleets.create_jobs, name=name, wanted=some, replace_changed=replace_changed)
            )
        return outcomes

    async def retry(self, name: str, models: Sequence[str] = ()) -> Sequence[ModelOutcome]:
        """Try models again."""
        await self.get(name)
        outcomes = list[ModelOutcome]()
        left = iter(models or await self._read(lambda connection: fleets.failed(connection, name)))
        while some := list(islice(left, fleets.JOBS_TOGETHER)):
            outcomes += await self._write(partial(fleets.retry, name=name, models=some))
        return outcomes

    async def cancel(self, name: str) -> Fleet:
        """Ask for the end of every newest job that has not ended."""
        last: int | None = 0
        while last is not None:
            last = await self._write(partial(fleets.cancel, name=name, after=last))
        return await self.get(name)

    async def models_after(self, name: str, model: str = "", *, limit: int) -> Sequence[Job]:
        """The newest job of each model behind a model."""
        return await self._pages.get((name, model, limit))

    async def newest(self, name: str, models: Collection[str]) -> Mapping[str, Job]:
        """The newest job of each of these models that has any."""
        found = await asyncio.gather(*(self._models.get((name, model)) for model in models))
        return {job.model: job for job in found if job is not None}


def _models(connection: Connection, asked: Sequence[_Model]) -> dict[_Model, Any]:
    """The newest job, if there is one, of every model of every fleet."""
    models = dict[str, list[str]]()
    for fleet, model in asked:
        models.setdefault(fleet, []).append(model)
    found = {fleet: fleets.newest(connection, fleet, some) for fleet, some in models.items()}
    return {(fleet, model): found[fleet].get(model) for fleet, model in asked}


def _pages(connection: Connection, asked: Sequence[_Page]) -> dict[_Page, Any]:
    return {page: fleets.models_after(connection, *page) for page in asked}
