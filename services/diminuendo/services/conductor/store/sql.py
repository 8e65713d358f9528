"""The store on SQLite or PostgreSQL: a writer thread, readers beside it, the event loop never blocked."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias, TypeVar

import psycopg
from diminuendo.v1 import job_pb2
from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, make_url, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from diminuendo.services.common.errors import StartError, StoreUnavailableError
from diminuendo.services.conductor.figures import Figures, FleetFigures, FleetResult
from diminuendo.services.conductor.records import (
    Changes,
    CommittedStep,
    EventPage,
    Job,
    Lease,
    Listing,
    NewJob,
    Outcome,
    Report,
    RequestId,
    SortedArtifacts,
    State,
    StoredCoordinator,
    Update,
)
from diminuendo.services.conductor.store import artifacts, coordinators, figures, held, owned, rows
from diminuendo.services.conductor.store.base import EVERY_JOB, HELD, Clock
from diminuendo.services.conductor.store.connect import POSTGRES, READERS, connect, is_postgres, unavailable
from diminuendo.services.conductor.store.fleet_store import SqlFleets
from diminuendo.services.conductor.store.fresh import Fresh
from diminuendo.services.conductor.store.listing import listing_query
from diminuendo.services.conductor.store.migrate import upgrade
from diminuendo.services.conductor.store.replicas import Listener, announce
from diminuendo.services.conductor.store.tables import evaluations, events, jobs
from diminuendo.services.conductor.store.together import Together
from diminuendo.services.conductor.store.writer import Announce, Operation, Transaction, Writer

T = TypeVar("T")
PROBE, PROBE_BYTES = "probe", 64 * 1024
"""Key of an evaluation, which is no sha256, and how much is written under it for a moment to see whether it can be."""
JOBS_TOGETHER, PAGES_TOGETHER, REPORTS_TOGETHER = 100, 20, 50
"""Jobs, and pages of events, that are read at a time; reports of coordinators that are written at a time."""
_Page: TypeAlias = "tuple[str, int, int]"
"""A job's name, the sequence number that its events are to be above, and how many."""
_EVENTS = (
    select(events.c.body)
    .where(events.c.job_id == bindparam("job"), events.c.sequence > bindparam("after"))
    .order_by(events.c.sequence)
    .limit(bindparam("most"))
)


def wall_clock() -> int:
    """Microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def _untimed(_operation: str, _seconds: float) -> None:
    """Nobody wants to know."""


class SqlStore:
    """A `Store` in SQLite, of one process at a time, or in PostgreSQL, of as many as there are.

    See `base.Store` for what each method promises.
    """

    def __init__(
        self, writer_engine: Engine, reader_engine: Engine, clock: Clock, timed: Callable[[str, float], None]
    ) -> None:
        """Use `open` instead."""
        self._timed = timed
        self._engines = (writer_engine, reader_engine)
        self._listeners: list[Callable[[Changes], None]] = []
        self._replicas: Listener | None = None
        tell: Announce | None = None
        if is_postgres(writer_engine):
            sender = secrets.token_hex(8)
            self._replicas = Listener(writer_engine, sender=sender, publish=self._publish)
            tell = partial(announce, sender=sender)
        self._fresh = None if is_postgres(writer_engine) else Fresh()
        written = None if self._fresh is None else self._fresh.written
        self._writer = Writer(writer_engine, clock=clock, publish=self._publish, announce=tell, written=written)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        self._jobs = Together[str, Job](
            lambda names: self._read(lambda connection: rows.load_all(connection, names)), most=JOBS_TOGETHER
        )
        self._pages = Together[_Page, EventPage](
            lambda asked: self._read(lambda connection: _event_pages(connection, asked)), most=PAGES_TOGETHER
        )
        self._told: dict[str, bytes] = {}
        self._reports = Together[str, None](self._store_reports, most=REPORTS_TOGETHER)
        self._fleets = SqlFleets(self._write, self._read)

    @classmethod
    def open(cls, url: str, *, clock: Clock = wall_clock, timed: Callable[[str, float], None] = _untimed) -> SqlStore:
        """Connect, migrate, start. Blocks for as long as that takes.

        Args:
            url: Where the database is, as SQLAlchemy writes it, e.g. ``sqlite:///diminuendo.db`` or
                ``postgresql+psycopg://user@host/diminuendo``.
            clock: Where the store takes the time from.
            timed: Told of each operation, ``read`` or ``write``, how many seconds its caller waited.

        Raises:
            StartError: The database cannot be opened, or a newer version wrote it.
        """
        engines = connect(url)
        try:
            upgrade(engines[0])
            return cls(*engines, clock, timed)
        except (SQLAlchemyError, psycopg.Error) as error:
            _dispose(engines)
            raise _cannot_open(url, error) from None
        except StartError:
            _dispose(engines)
            raise

    @property
    def fleets(self) -> SqlFleets:
        """Fleets of these jobs."""
        return self._fleets

    def subscribe(self, listener: Callable[[Changes], None]) -> None:
        """Call the listener after every commit that changed a job."""
        self._listeners.append(listener)

    def _publish(self, changes: Changes) -> None:
        for listener in self._listeners:
            listener(changes)

    async def _write(self, operation: Operation[T]) -> T:
        start = time.perf_counter()
        try:
            return await asyncio.wrap_future(self._writer.submit(operation))
        finally:
            self._timed("write", time.perf_counter() - start)

    async def _read(self, query: Callable[[Connection], T]) -> T:
        def run() -> T:
            try:
                with self._engines[1].connect() as connection:
                    return query(connection)
            except SQLAlchemyError as error:
                raise unavailable(error) from error

        start = time.perf_counter()
        try:
            reading = self._readers.submit(run)
        except RuntimeError:
            raise StoreUnavailableError("the store is closed; try again when the conductor is back") from None
        try:
            return await asyncio.wrap_future(reading)
        finally:
            self._timed("read", time.perf_counter() - start)

    async def create_job(self, new: NewJob, request: RequestId | None = None) -> Job:
        """Store a job, queued."""
        return await self._write(lambda tx: owned.create(tx, new, request))

    async def cancel_job(self, name: str, request: RequestId | None = None) -> Job:
        """Ask for the job's end."""
        return await self._write(lambda tx: owned.cancel(tx, name, request))

    async def get_job(self, name: str) -> Job:
        """One job."""
        if self._fresh is None:
            return await self._jobs.get(name)
        job = self._fresh.get(name)
        if job is None:
            mark = self._fresh.mark()
            job = await self._jobs.get(name)
            self._fresh.keep(job, mark)
        return job

    async def pause_job(self, name: str, request: RequestId | None = None) -> Job:
        """Ask that nobody works on the job for a while."""
        return await self._write(lambda tx: owned.pause(tx, name, request))

    async def resume_job(self, name: str, request: RequestId | None = None) -> Job:
        """Ask to go on with the job."""
        return await self._write(lambda tx: owned.resume(tx, name, request))

    async def update_job(self, name: str, wanted: Update, request: RequestId | None = None) -> Job:
        """Set some of labels, priority and deadline."""
        return await self._write(lambda tx: owned.update(tx, name, wanted, request))

    async def retry_job(self, name: str, new_name: str, request: RequestId | None = None) -> Job:
        """Store another try of a job that failed or was cancelled, queued."""
        return await self._write(lambda tx: owned.retry(tx, name, new_name, request))

    async def delete_job(self, name: str, *, etag: str = "", allow_missing: bool = False) -> None:
        """Forget a job that has ended."""
        await self._write(lambda tx: owned.delete(tx, name, etag, allow_missing=allow_missing))

    async def list_jobs(self, listing: Listing = EVERY_JOB) -> Sequence[Job]:
        """Jobs in the order asked for."""
        query = listing_query(listing)
        return await self._read(lambda c: [rows.to_job(row) for row in c.execute(query).mappings()])

    async def count_jobs(self) -> Mapping[State, int]:
        """Number of jobs in each state that has any."""
        query = select(jobs.c.state, func.count()).group_by(jobs.c.state)
        return await self._read(lambda c: {State[state]: number for state, number in c.execute(query)})

    async def count_active(self) -> Mapping[str, int]:
        """Number of jobs, by project, that are queued or in a coordinator's hands."""
        active = [state.name for state in (State.QUEUED, *HELD)]
        found = select(jobs.c.project, func.count().label("number")).where(jobs.c.state.in_(active))
        query = found.group_by(jobs.c.project)
        return await self._read(lambda c: {row.project: row.number for row in c.execute(query)})

    async def read_events(self, name: str, *, after: int = 0, limit: int = 500) -> EventPage:
        """Events with a sequence number above `after`, in order."""
        return await self._pages.get((name, after, limit))

    async def lease_job(
        self,
        *,
        coordinator: str,
        request_id: str = "",
        lease_us: int,
        holding: Collection[str] = (),
        weights: Mapping[str, float] | None = None,
        project: str = "",
    ) -> Lease | None:
        """Give the next job to a coordinator, or None when there is none."""
        return await self._write(
            lambda tx: held.lease(
                tx,
                coordinator=coordinator,
                request_id=request_id,
                lease_us=lease_us,
                holding=holding,
                weights=weights,
                project=project,
            )
        )

    async def next_lease_end(self, states: Collection[State] = HELD) -> int | None:
        """When the first of the leases of jobs in these states ends, if nobody extends it."""
        query = select(func.min(jobs.c.lease_expire_time)).where(jobs.c.state.in_([s.name for s in states]))
        return await self._read(lambda c: c.execute(query).scalar_one())

    async def end_lapsed(self) -> int:
        """Take parting jobs from coordinators whose lease has ended."""
        return await self._write(held.end_lapsed)

    async def heartbeat(self, name: str, *, epoch: int, lease_us: int) -> Job:
        """Extend the lease."""
        return await self._write(lambda tx: held.heartbeat(tx, name, epoch=epoch, lease_us=lease_us))

    async def get_evaluations(self, keys: Collection[str]) -> Mapping[str, bytes]:
        """Outcomes of the keys that are known."""
        query = select(evaluations.c.key, evaluations.c.outcome, evaluations.c.unused_since)
        found = await self._read(lambda c: c.execute(query.where(evaluations.c.key.in_(keys))).all())
        unused = [row.key for row in found if row.unused_since is not None]
        if unused:
            await self._write(lambda tx: artifacts.want_evaluations(tx, unused))
        return {row.key: row.outcome for row in found}

    async def report_evaluation(self, name: str, *, epoch: int, report: Report) -> bool:
        """Store an outcome under its key and note it in the job's log."""
        return await self._write(lambda tx: held.report(tx, name, epoch=epoch, report=report))

    async def report_attempt(self, name: str, *, epoch: int, attempt: job_pb2.AttemptLost) -> bool:
        """Note an attempt in the job's log."""
        return await self._write(lambda tx: held.report_attempt(tx, name, epoch=epoch, attempt=attempt))

    async def commit_step(self, name: str, *, epoch: int, step: CommittedStep) -> bool:
        """Store a step."""
        return await self._write(lambda tx: held.commit(tx, name, epoch=epoch, step=step))

    async def release_job(self, name: str, *, epoch: int, outcome: Outcome | None, reason: str = "") -> Job:
        """End the lease, and with an outcome the job."""
        return await self._write(lambda tx: held.release(tx, name, epoch=epoch, outcome=outcome, reason=reason))

    async def age_evaluations(self, *, unused_before: int, dry_run: bool = False) -> int:
        """Forget outcomes that no job has reported for long, and say how many."""
        if dry_run:
            return await self._read(lambda c: artifacts.count_due_evaluations(c, unused_before))
        count, after = 0, ""
        while keys := await self._read(
            partial(artifacts.changed_evaluations, after=after, unused_before=unused_before)
        ):
            count += await self._write(partial(artifacts.age_evaluations, keys=keys, unused_before=unused_before))
            after = keys[-1]
        while orphans := await self._read(artifacts.orphans):
            await self._write(partial(artifacts.forget_orphans, keys=orphans))
        return count

    async def sort_artifacts(
        self, sha256s: Collection[str], *, unused_before: int, dry_run: bool = False
    ) -> SortedArtifacts:
        """Say which of some content jobs refer to, and which is due to be removed."""
        result, stale = await self._read(lambda c: artifacts.sort(c, sha256s, unused_before))
        if dry_run or not stale:
            return result
        return await self._write(lambda tx: artifacts.sort_and_list(tx, sha256s, unused_before))

    async def removed_artifacts(self, sha256s: Collection[str]) -> None:
        """Content that was due has left the artifact store, or has to wait for another full time."""
        await self._write(lambda tx: artifacts.removed(tx, sha256s))

    async def forget_overdue_artifacts(self, *, due_before: int) -> None:
        """Take off the list what has been on its way out for so long that it must be gone."""
        if await self._read(lambda c: artifacts.has_overdue(c, due_before)):
            await self._write(lambda tx: artifacts.forget_overdue(tx, due_before))

    async def want_artifact(self, sha256: str) -> bool:
        """Have content that no job refers to wait for a full time from now; False when it is being removed."""
        if not await self._read(lambda c: artifacts.is_listed(c, sha256)):
            return True
        return await self._write(lambda tx: artifacts.want(tx, sha256))

    async def report_coordinator(self, name: str, body: bytes) -> None:
        """Store what a coordinator tells of itself, together with what others tell at about the same time."""
        self._told[name] = body
        await self._reports.get(name)

    async def _store_reports(self, names: Sequence[str]) -> Mapping[str, None]:
        await asyncio.sleep(coordinators.GATHER_S)
        told = {name: self._told[name] for name in names if name in self._told}
        await self._write(lambda tx: coordinators.report(tx, told))
        for name, body in told.items():
            if self._told.get(name) is body:  # not the next one, which came meanwhile
                del self._told[name]
        return dict.fromkeys(names)

    async def forget_coordinator(self, name: str) -> None:
        """Forget a coordinator, if it is known."""
        self._told.pop(name, None)
        await self._write(lambda tx: coordinators.forget(tx, name))

    async def list_coordinators(self, *, since: int) -> Sequence[StoredCoordinator]:
        """What coordinators told last, of those that told it at or after a time; by name."""
        return await self._read(lambda c: coordinators.heard_since(c, since))

    async def read_figures(self, *, coordinators_since: int) -> Figures:
        """Where jobs stand."""
        return await self._read(lambda c: figures.read(c, coordinators_since=coordinators_since))

    async def read_fleet_figures(
        self, known: Mapping[int, FleetResult]
    ) -> tuple[tuple[FleetFigures, ...], dict[int, FleetResult]]:
        """The newest fleets, and the results that they have."""
        return await self._read(lambda c: figures.read_fleets(c, known))

    async def ping(self) -> None:
        """Return when the store can be read, and, if the newest change failed, written again."""
        await self._read(lambda connection: connection.execute(select(jobs.c.id).limit(1)).all())
        if self._writer.failing:
            await self._write(_occupy)
            await self._write(_vacate)

    async def close(self) -> None:
        """Finish what was begun and let go of everything."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.close()
        if self._replicas is not None:
            self._replicas.close()
            self._replicas = None
        self._readers.shutdown()
        _dispose(self._engines)


def _event_pages(connection: Connection, asked: Sequence[_Page]) -> dict[_Page, EventPage | Exception]:
    """The events of every page, or the error of its job."""
    found = rows.load_all(connection, sorted({name for name, _, _ in asked}))
    pages = dict[_Page, EventPage | Exception]()
    for name, after, limit in asked:
        job = found[name]
        if isinstance(job, Exception):
            pages[name, after, limit] = job
            continue
        values = {"job": job.id, "after": after, "most": limit}
        bodies = connection.execute(_EVENTS, values).scalars()
        pages[name, after, limit] = EventPage(job, tuple(job_pb2.JobEvent.FromString(one) for one in bodies))
    return pages


def _occupy(tx: Transaction) -> None:
    """Write so much that a full disk refuses it."""
    _vacate(tx)
    tx.connection.execute(insert(evaluations), {"key": PROBE, "outcome": bytes(PROBE_BYTES), "time": tx.now})


def _vacate(tx: Transaction) -> None:
    tx.connection.execute(delete(evaluations).where(evaluations.c.key == PROBE))


def _dispose(engines: Sequence[Engine]) -> None:
    for engine in engines:
        engine.dispose()


def _cannot_open(url: str, error: SQLAlchemyError | psycopg.Error) -> StartError:
    shown = make_url(url).render_as_string(hide_password=True)
    cause = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
    remedy = "see that its folder is there, writable and not full"
    if make_url(url).get_backend_name() == POSTGRES:
        remedy = "see that the server runs and that this user may use and change the database"
    return StartError(f"database {shown!r} cannot be opened ({cause}); {remedy}")
