"""The thread that keeps a lease alive, shows what the evaluators do, and hears what the conductor wants."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import grpc
from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import job_pb2

from diminuendo.services.common import logs
from diminuendo.services.coordinator import translate
from diminuendo.services.coordinator.lease import HeldLease, LeaseLostError
from diminuendo.services.coordinator.rpc import Conductor, ConductorAwayError

log = logs.get(__name__)

SPACING_S = 0.5
"""Least time between two heartbeats: short works change the evaluators' status many times a second."""


class Heartbeat:
    """Beats while inside: `with Heartbeat(...):`.

    Attributes:
        beside: Called after each beat that was answered; it may write under the lease.
    """

    def __init__(
        self,
        conductor: Conductor,
        lease: HeldLease,
        *,
        statuses: Callable[[], tuple[tuple[str, str], ...]],
        changed: threading.Event,
        on_priority: Callable[[int], object] = int,
    ) -> None:
        """Keep a lease.

        Args:
            statuses: (evaluator, what it works on).
            changed: Set when they change; cleared here.
            on_priority: Called when the job's priority is another one.
        """
        self._conductor, self._lease = conductor, lease
        self._statuses, self._changed, self._on_priority = statuses, changed, on_priority
        self.beside: Callable[[], object] = bool
        self._over = threading.Event()
        bound = contextvars.copy_context()  # so that its lines name the job, too
        self._thread = threading.Thread(target=lambda: bound.run(self._run), name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; a beat that is under way ends first."""
        self._over.set()
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.is_set() and not self._lease.lost.is_set():
            self._beat()
            self._over.wait(SPACING_S)
            self._changed.wait(max(0.0, self._lease.duration_s / 3 - SPACING_S))

    def _beat(self) -> None:
        self._changed.clear()
        evaluators = [job_pb2.EvaluatorStatus(evaluator=name, work=work) for name, work in self._statuses()]
        request = v1.HeartbeatRequest(job_name=self._lease.job_name, epoch=self._lease.epoch, evaluators=evaluators)
        asked_at = time.monotonic()
        try:
            response = self._conductor.call(self._conductor.stub.Heartbeat, request, until=self._lease.until)
        except ConductorAwayError as error:
            log.warning("heartbeat_failed", detail=str(self._lease.away(error)))
        except grpc.RpcError as error:
            self._refused(error)
        else:
            self._lease.extended(response.expire_time, asked_at=asked_at)
            self._lease.deadline = translate.deadline_of(response)
            self._told(response.priority)
            if response.cancel_requested:
                self._lease.cancel_requested.set()
            if response.pause_requested:
                self._lease.pause_requested.set()
            self._write_beside()

    def _write_beside(self) -> None:
        try:
            self.beside()
        except LeaseLostError as error:
            log.warning("lease_lost", detail=str(error))
        except grpc.RpcError as error:
            log.error("write_refused", detail=str(error))

    def _told(self, priority: int) -> None:
        if priority != self._lease.priority:
            self._lease.priority = priority
            self._on_priority(priority)

    def _refused(self, error: grpc.RpcError) -> None:
        try:
            self._lease.refused(error)
        except LeaseLostError:
            log.warning("lease_lost")
        else:
            log.error("heartbeat_refused", detail=str(error))
