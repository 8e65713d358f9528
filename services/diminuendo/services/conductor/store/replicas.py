"""Tells the other conductors on a PostgreSQL database what has changed, and hears from them."""

from __future__ import annotations

import json
import random
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any, TypeAlias

import psycopg
from sqlalchemy import Connection, Engine, text

from diminuendo.services.common import logs
from diminuendo.services.conductor.records import Changes
from diminuendo.services.conductor.store.connect import postgres_options

CHANNEL = "diminuendo"
NAMES = 40
"""Jobs, or models of a fleet, told of in one notification, whose text may have 8000 bytes."""
CHECK_S = 15.0
_FIRST_DELAY_S, _LAST_DELAY_S = 0.1, 2.0
_NOTIFY = text("SELECT pg_notify(:channel, :payload)")
_log = logs.get(__name__)
_Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"


def announce(connection: Connection, changes: Changes, *, sender: str) -> None:
    """Have the others told when this transaction is committed; if it is not, they hear nothing."""
    for payload in _payloads(changes, sender):
        connection.execute(_NOTIFY, {"channel": CHANNEL, "payload": payload})


def _payloads(changes: Changes, sender: str) -> Iterator[str]:
    told = {"sender": sender, "queue": changes.queue, "parting": changes.parting}
    for some in _some(sorted(changes.jobs)):
        yield _words({**told, "jobs": some})
    for fleet, pairs in groupby(sorted(changes.models), key=lambda pair: pair[0]):
        for some in _some([model for _, model in pairs]):
            yield _words({**told, "jobs": [], "queue": False, "parting": False, "fleet": fleet, "models": some})


def _some(names: Sequence[str]) -> Iterator[list[str]]:
    left = iter(names)
    while some := list(islice(left, NAMES)):
        yield some


def _words(told: dict[str, object]) -> str:
    return json.dumps(told, separators=(",", ":"))


def _parse(payload: str, sender: str) -> Changes | None:
    """What another conductor told; None for what this one said itself."""
    try:
        told = json.loads(payload)
        if told["sender"] == sender:
            return None
        models = frozenset((str(told["fleet"]), str(model)) for model in told.get("models", ()))
        return Changes(frozenset(told["jobs"]), bool(told["queue"]), bool(told["parting"]), models=models)
    except (ValueError, TypeError, KeyError):
        return Changes(everything=True)  # another version's words: look at everything


class Listener:
    """A thread with a connection of its own, on which the database tells of changes.

    While the connection is lost nothing is heard; once there is a new one, whoever waits is told to look at
    everything.
    """

    def __init__(self, engine: Engine, *, sender: str, publish: Callable[[Changes], None]) -> None:
        """Connect and listen: from here on nothing is missed.

        Args:
            engine: Of the database; only its URL is used.
            sender: Whose announcements are passed over.
            publish: Called with each change, from the thread.

        Raises:
            psycopg.Error: The database cannot be reached.
        """
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._url, self._sender, self._publish = url, sender, publish
        self._wake, self._asleep = socket.socketpair()
        self._closed = threading.Event()
        try:
            first = self._connect()
        except psycopg.Error:
            self._close_sockets()
            raise
        self._thread = threading.Thread(target=self._run, args=(first,), name="store-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and its connection."""
        self._closed.set()
        self._wake.send(b"x")
        self._thread.join()
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._wake.close()
        self._asleep.close()

    def _connect(self) -> _Connection:
        connection = psycopg.connect(self._url, autocommit=True, **postgres_options())
        try:
            connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error:
            connection.close()
            raise
        return connection

    def _run(self, connection: _Connection | None) -> None:
        while not self._closed.is_set():
            connection = connection or self._reconnect()
            if connection is None:
                return
            try:
                self._hear(connection)
            except (psycopg.Error, OSError) as error:
                _log.warning("listener_lost", error=str(error).strip())
            finally:
                connection.close()
            connection = None

    def _hear(self, connection: _Connection) -> None:
        """Pass on what comes, until the end or an error."""
        while not self._closed.is_set():
            quiet = not self._sleep([connection.fileno()], CHECK_S)
            if quiet:
                connection.execute("SELECT 1")  # a peer that is gone without a word is found out
            for notification in connection.notifies(timeout=0):
                changes = _parse(notification.payload, self._sender)
                if changes is not None:
                    self._publish(changes)

    def _reconnect(self) -> _Connection | None:
        delay = _FIRST_DELAY_S
        while not self._closed.is_set():
            try:
                connection = self._connect()
            except psycopg.Error as error:
                _log.warning("listener_away", error=str(error).strip(), again_in_s=delay)
                # Jitter, so that several conductors do not come back in step.
                self._sleep((), delay * random.uniform(0.5, 1.0))
                delay = min(2 * delay, _LAST_DELAY_S)
            else:
                self._publish(Changes(everything=True))
                return connection
        return None

    def _sleep(self, files: Sequence[int], timeout_s: float) -> bool:
        """Whether something came before the time was over. `close` ends the sleep."""
        with selectors.DefaultSelector() as selector:  # select() knows only the first 1024 files of a process
            for file in (self._asleep.fileno(), *files):
                selector.register(file, selectors.EVENT_READ)
            return bool(selector.select(timeout_s))
