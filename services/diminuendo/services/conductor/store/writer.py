"""The one thread that changes the database.

Operations that wait in line are committed together, each within its own savepoint: one sync to disk serves them
all, and one that fails takes nothing with it. One that another conductor's transaction was in the way of is made
again by itself afterwards. A caller hears of its operation only after the commit.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from diminuendo.v1 import job_pb2
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.records import Changes, Job, Noted
from diminuendo.services.conductor.store.connect import is_conflict, unavailable

T = TypeVar("T")
MAX_WAITING = 4096
MAX_TOGETHER = 64
PATIENCE_S = 5.0
"""How long an operation is made again while others are in its way. Less than callers wait for an answer."""
BROKEN_RULES = 3
"""After so many times in a row, a rule of the tables was not broken by coincidence."""
_log = logs.get(__name__)


@dataclass(slots=True)
class Transaction:
    """What an operation works on: the connection, the time, and the list of what it changed.

    Attributes:
        jobs: Those that have new events, or are gone.
        models: (fleet, model) of those of them that belong to fleets.
        written: All whose rows were written, the others' too.
        noted: The new events.
    """

    connection: Connection
    now: int
    jobs: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    queue: bool = False
    parting: bool = False
    models: set[tuple[str, str]] = field(default_factory=set)
    noted: list[Noted] = field(default_factory=list)

    def tell(self, job: Job, events: Sequence[job_pb2.JobEvent] = ()) -> None:
        """Note that a job has new events, or is gone."""
        self.jobs.add(job.name)
        if events:
            self.noted.append(Noted(job, tuple(events)))
        if job.fleet:
            self.models.add((job.fleet, job.model))

    def absorb(self, other: Transaction) -> None:
        """Add the changes of an operation that went well."""
        self.jobs |= other.jobs
        self.written |= other.written
        self.queue |= other.queue
        self.parting |= other.parting
        self.models |= other.models
        self.noted += other.noted

    @property
    def changes(self) -> Changes:
        """What those who wait are told."""
        return Changes(
            frozenset(self.jobs),
            self.queue,
            self.parting,
            models=frozenset(self.models),
            noted=tuple(self.noted),
        )


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    """Undo what is done inside when it fails. SQLAlchemy's own ones are compiled anew each time, at twice the cost."""
    connection.exec_driver_sql("SAVEPOINT operation")
    try:
        yield
    except BaseException:
        if not connection.invalidated:  # there is nothing to go back to on a lost connection
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT operation")
            connection.exec_driver_sql("RELEASE SAVEPOINT operation")
        raise
    connection.exec_driver_sql("RELEASE SAVEPOINT operation")


Operation = Callable[[Transaction], T]


Announce = Callable[[Connection, Changes], None]


@dataclass(slots=True)
class _Waiting(Generic[T]):
    operation: Operation[T]
    future: Future[T]


@dataclass(slots=True)
class _Batch:
    """What became of operations that are committed together."""

    answers: list[Callable[[], None]] = field(default_factory=list)
    again: list[tuple[_Waiting[Any], DBAPIError]] = field(default_factory=list)


class Writer:
    """Takes operations from any thread and runs them in order of arrival."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], int],
        publish: Callable[[Changes], None],
        announce: Announce | None = None,
        written: Callable[[Collection[str] | None], None] | None = None,
    ) -> None:
        """Start the thread.

        Args:
            engine: Where to write.
            clock: Each transaction's time.
            publish: Called after every commit that changed something.
            announce: Called before it, within the transaction.
            written: Called first of all after every commit, with the jobs whose rows it wrote; None after one of which
                nobody knows whether it was made.
        """
        self._engine, self._clock, self._publish, self._announce = engine, clock, publish, announce
        self._written = written or (lambda _: None)
        self._line: queue.Queue[_Waiting[Any] | None] = queue.Queue(MAX_WAITING)
        self._closed = False
        self._failing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> bool:
        """Whether the database refused the newest transaction."""
        return self._failing

    def submit(self, operation: Operation[T]) -> Future[T]:
        """Put an operation in line. StoreUnavailableError when the line is full or closed."""
        waiting = _Waiting(operation, Future())
        with self._lock:
            if self._closed:
                raise StoreUnavailableError("the store is closed; try again when the conductor is back")
            try:
                self._line.put_nowait(waiting)
            except queue.Full:
                raise StoreUnavailableError(
                    f"{MAX_WAITING} changes are waiting for the database; try again in a moment"
                ) from None
        return waiting.future

    def close(self) -> None:
        """Run what is in line, then end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._line.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._line.get()) is not None:
            batch, last = [first], False
            while len(batch) < MAX_TOGETHER and not last:
                try:
                    following = self._line.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    last = True
                else:
                    batch.append(following)
            together = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            until = time.monotonic() + PATIENCE_S
            for waiting, error in self._commit(together):
                self._insist(waiting, error, until)
            if last:
                return

    def _commit(self, together: Sequence[_Waiting[Any]]) -> list[tuple[_Waiting[Any], DBAPIError]]:
        """One transaction for all; the answers go out once it is durable.

        Returns:
            Those that another transaction was in the way of, with what that led to.
        """
        batch = _Batch()
        try:
            with self._engine.begin() as connection:
                whole = Transaction(connection, self._clock())
                for waiting in together:
                    self._attempt(waiting, whole, batch)
                if self._announce is not None and whole.jobs:
                    self._announce(connection, whole.changes)
        except Exception as error:  # noqa: BLE001 - whatever it was, it goes to those who wait for an answer
            self._failing = True
            self._written(None)
            _log.warning("store_commit_failed", error=str(error), operations=len(together))
            for waiting in together:
                waiting.future.set_exception(unavailable(error) if isinstance(error, SQLAlchemyError) else error)
            return []
        self._failing = False
        self._written(whole.written)
        try:
            if whole.jobs:
                self._publish(whole.changes)  # first, so that who has an answer knows that everybody was told
        finally:
            for answer in batch.answers:
                answer()
        return batch.again

    def _attempt(self, waiting: _Waiting[Any], whole: Transaction, batch: _Batch) -> None:
        """Run one operation in a savepoint, and keep how it went."""
        own, future = Transaction(whole.connection, whole.now), waiting.future
        try:
            with _savepoint(whole.connection):
                result = waiting.operation(own)
        except DBAPIError as error:
            if is_conflict(error):
                batch.again.append((waiting, error))
            elif isinstance(error, DataError):
                batch.answers.append(partial(future.set_exception, error))
            else:
                raise  # the disk or the connection: nobody's changes can be trusted to be there
        except Exception as error:  # noqa: BLE001 - it belongs to the caller
            batch.answers.append(partial(future.set_exception, error))
        else:
            whole.absorb(own)
            batch.answers.append(partial(future.set_result, result))

    def _insist(self, waiting: _Waiting[Any], error: DBAPIError, until: float) -> None:
        """Make an operation again, by itself, until nothing is in its way or the time (monotonic) is over."""
        broken = 0
        while True:
            broken = broken + 1 if isinstance(error, IntegrityError) else 0
            if broken == BROKEN_RULES:
                waiting.future.set_exception(error)
                return
            if time.monotonic() > until:
                waiting.future.set_exception(unavailable(error))
                return
            if not isinstance(error, IntegrityError):
                time.sleep(random.uniform(0.0, 0.02))  # two that wait for each other must not do so in step
            met = self._commit([waiting])
            if not met:
                return
            error = met[0][1]
