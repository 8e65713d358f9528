"""A lease as its holder sees it: how long it may still be ours, and what the conductor wants."""

from __future__ import annotations

import threading
import time
from datetime import datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from diminuendo.services.coordinator.rpc import ConductorAwayError, code_of, reason_of

_LONGEST_S = 3600.0


class LeaseLostError(Exception):
    """Raised by whoever writes under a lease that is over. Stop working on the job, and write nothing more."""


class HeldLease:
    """The right to write about one job. Safe to use from several threads.

    Attributes:
        cancel_requested: The job is to be stopped and released as cancelled.
        pause_requested: The job is to be stopped and released without an outcome.
        lost: The lease is over.
        deadline: When the job is to end with its best model; None: it has no deadline.
        priority: The job's.
    """

    def __init__(
        self,
        job_name: str,
        epoch: int,
        expire_time: Timestamp,
        *,
        asked_at: float,
        deadline: datetime | None = None,
        priority: int = 0,
    ) -> None:
        """Take note of a lease that was given.

        Args:
            asked_at: When (time.monotonic) it was asked for; after a wait for a job, when it came.
        """
        self.job_name, self.epoch = job_name, epoch
        self.cancel_requested, self.pause_requested = threading.Event(), threading.Event()
        self.lost, self.deadline, self.priority = threading.Event(), deadline, priority
        self.duration_s = _left_s(expire_time)
        self._until = asked_at + self.duration_s

    @property
    def until(self) -> float:
        """When (time.monotonic) the lease ends unless it is extended."""
        return self._until

    @property
    def unwanted(self) -> bool:
        """Whether the job is to be stopped."""
        return self.lost.is_set() or self.cancel_requested.is_set() or self.pause_requested.is_set()

    def left_s(self) -> float | None:
        """Seconds until the deadline, by this machine's clock; None: the job has no deadline."""
        return None if self.deadline is None else self.deadline.timestamp() - time.time()

    def extended(self, expire_time: Timestamp, *, asked_at: float) -> None:
        """The conductor extended it."""
        self._until = max(self._until, asked_at + _left_s(expire_time))  # from when it was asked for: the safe side

    def refused(self, error: grpc.RpcError) -> None:
        """Look at a refusal: when it says that the lease is over, remember it.

        Raises:
            LeaseLostError: It says so.
        """
        if reason_of(error) == "STALE_EPOCH" or code_of(error) is grpc.StatusCode.NOT_FOUND:
            self.lost.set()
            raise LeaseLostError(f"epoch {self.epoch} of {self.job_name} is over") from error

    def away(self, error: ConductorAwayError) -> LeaseLostError:
        """The conductor was away until the lease ended, or until this process was told to stop."""
        if time.monotonic() >= self._until:
            self.lost.set()
        return LeaseLostError(f"{self.job_name}: {error}")


def _left_s(expire_time: Timestamp) -> float:
    """Seconds left. Clocks of two machines differ, so it is kept between limits; the conductor has the last word."""
    return min(max(expire_time.ToMicroseconds() / 1e6 - time.time(), 1.0), _LONGEST_S)
