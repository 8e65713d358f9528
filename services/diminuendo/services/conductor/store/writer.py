"""The one thread that changes the database.

Operations that wait in line are committed together, each within its own savepoint: one sync to disk serves them
all, and one that fails takes nothing with it. A caller hears of its operation only after the commit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.records import Changes

T = TypeVar("T")
MAX_WAITING = 4096
MAX_TOGETHER = 64
_log = logs.get(__name__)


@dataclass(slots=True)
class Transaction:
    """What an operation works on: the connection, the time, and the list of what it changed."""

    connection: Connection
    now: int
    jobs: set[str] = field(default_factory=set)
    queue: bool = False
    cancelling: bool = False

    def absorb(self, other: Transaction) -> None:
        """Add the changes of an operation that went well."""
        self.jobs |= other.jobs
        self.queue |= other.queue
        self.cancelling |= other.cancelling

    @property
    def changes(self) -> Changes:
        """What those who wait are told."""
        return Changes(frozenset(self.jobs), self.queue, self.cancelling)


Operation = Callable[[Transaction], T]


@dataclass(slots=True)
class _Waiting(Generic[T]):
    operation: Operation[T]
    future: Future[T]


class Writer:
    """Takes operations from any thread and runs them in order of arrival."""

    def __init__(self, engine: Engine, *, clock: Callable[[], int], publish: Callable[[Changes], None]) -> None:
        """Start the thread; `publish` is called after every commit that changed something."""
        self._engine, self._clock, self._publish = engine, clock, publish
        self._line: queue.Queue[_Waiting[Any] | None] = queue.Queue(MAX_WAITING)
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

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
            self._commit([waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()])
            if last:
                return

    def _commit(self, batch: Sequence[_Waiting[Any]]) -> None:
        """One transaction for all; the answers go out once it is durable."""
        answers: list[Callable[[], None]] = []
        try:
            with self._engine.begin() as connection:
                whole = Transaction(connection, self._clock())
                for waiting in batch:
                    answers.append(self._attempt(waiting, whole))
        except Exception as error:  # noqa: BLE001 - whatever it was, it goes to those who wait for an answer
            _log.warning("store_commit_failed", error=str(error), operations=len(batch))
            for waiting in batch:
                waiting.future.set_exception(unavailable(error) if isinstance(error, SQLAlchemyError) else error)
            return
        try:
            if whole.jobs:
                self._publish(whole.changes)  # first, so that who has an answer knows that everybody was told
        finally:
            for answer in answers:
                answer()

    def _attempt(self, waiting: _Waiting[Any], whole: Transaction) -> Callable[[], None]:
        """Run one operation in a savepoint, and return what tells its caller how it went."""
        own = Transaction(whole.connection, whole.now)
        try:
            with whole.connection.begin_nested():
                result = waiting.operation(own)
        except DBAPIError as error:
            if not isinstance(error, IntegrityError):
                raise  # the disk or the connection: nobody's changes can be trusted to be there
            return _failure(waiting.future, error)
        except Exception as error:  # noqa: BLE001 - it belongs to the caller
            return _failure(waiting.future, error)
        whole.absorb(own)
        return lambda: waiting.future.set_result(result)


def _failure(future: Future[Any], error: Exception) -> Callable[[], None]:
    return lambda: future.set_exception(error)


def unavailable(error: SQLAlchemyError) -> StoreUnavailableError:
    """A database that cannot be used now, in words for people."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return StoreUnavailableError(f"the database cannot be used now ({cause}); nothing was changed; try again")
