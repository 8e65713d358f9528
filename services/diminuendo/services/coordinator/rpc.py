"""Calls to the conductor: each with a deadline, tried again while the conductor is away."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import grpc
from diminuendo.v1 import coordinator_service_pb2_grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped, unused-ignore]
from grpc_status import rpc_status  # type: ignore[import-untyped, unused-ignore]

from diminuendo.services.common import logs
from diminuendo.services.coordinator.caller import Caller

log = logs.get(__name__)
Answer = TypeVar("Answer")

ATTEMPT_S = 5.0
_FIRST_DELAY_S, _LAST_DELAY_S = 0.1, 2.0
_NO_TOKEN = grpc.StatusCode.UNAUTHENTICATED
"""The token has expired, or was taken away: there may be another one in its file, or in the conductor's, by and by."""
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, _NO_TOKEN)
_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 2**20),
    ("grpc.max_send_message_length", 4 * 2**20),
    # A conductor that comes back is to be found at once; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)


class ConductorAwayError(Exception):
    """Raised by `call`: the conductor did not answer for as long as it made sense to try. Retried by nobody."""


class Conductor:
    """A connection to the conductor. Safe to use from several threads."""

    def __init__(self, target: str, stop: threading.Event, caller: Caller | None = None) -> None:
        """Connect when the first call is made.

        Args:
            target: HOST:PORT.
            stop: Once set, calls are not tried again any more.
            caller: What calls say of who calls; None: nothing, and without TLS.
        """
        self._caller = caller
        if caller is None:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        else:
            self._channel = caller.channel(target, _OPTIONS)
        self._stop = stop
        self.stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._channel.close()

    def renew_token(self, error: grpc.RpcError) -> None:
        """After a call that failed: where it was for its token, read that again."""
        if self._caller is not None and code_of(error) is _NO_TOKEN:
            log.error("token_refused", said=details_of(error))
            self._caller.renew()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Any, Answer],
        request: object,
        *,
        until: float,
        attempt_s: float = ATTEMPT_S,
    ) -> Answer:
        """Make a call; while the conductor is away, make it again.

        Args:
            until: When (time.monotonic) it makes no sense any more.
            attempt_s: Deadline of each attempt.

        Raises:
            ConductorAwayError: No answer in time, or the process is stopping.
            grpc.RpcError: The conductor's refusal.
        """
        delay = _FIRST_DELAY_S
        while True:
            timeout = min(attempt_s, until - time.monotonic())
            if timeout <= 0:
                raise ConductorAwayError("the conductor has not answered in time")
            try:
                return method(request, timeout=timeout)
            except grpc.RpcError as error:
                if code_of(error) not in _AWAY:
                    raise
                self.renew_token(error)
                log.warning("conductor_away", code=str(code_of(error)), again_in_s=round(delay, 2))
            # Jitter, so that several coordinators do not come back in step.
            if self._stop.wait(min(delay * random.uniform(0.5, 1.0), max(0.0, until - time.monotonic()))):
                raise ConductorAwayError("the conductor is away, and this process is stopping")
            delay = min(2 * delay, _LAST_DELAY_S)


def details_of(error: grpc.RpcError) -> str:
    """What the conductor said of a failed call."""
    return (error.details() or "") if isinstance(error, grpc.Call) else ""


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """The status code of a failed call."""
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN


def reason_of(error: grpc.RpcError) -> str:
    """ErrorInfo.reason of a failed call; empty when it has none."""
    status = rpc_status.from_call(error) if isinstance(error, grpc.Call) else None
    details: Sequence[Any] = status.details if status else ()
    for detail in details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""
