"""A gRPC proxy between coordinators and the conductor, at which every call of CoordinatorService comes to a moment.

Coordinators know its address only, so that a conductor may come back anywhere, and so that a call can be held or lost
on its way there or back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import job_pb2
from tests.faults.moments import Moment, Moments

_PREFIX = "/diminuendo.v1.CoordinatorService/"
_LONGEST_S = 60.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was answered, as the conductor answered it.

    Attributes:
        newest: The newest epoch of the request's job that any coordinator had been given when this call was passed on.
    """

    method: str
    request: Any
    code: grpc.StatusCode
    answer: Any
    newest: int


class Proxy(grpc.GenericRpcHandler):
    """Passes on calls. While there is no conductor they wait."""

    def __init__(self, moments: Moments, answered: Callable[[Call], None]) -> None:
        """Listen on a port of 127.0.0.1.

        Args:
            answered: Called with every call that the conductor answered, in order.
        """
        self._moments, self._answered = moments, answered
        self._there = threading.Condition()
        self._channel: grpc.Channel | None = None
        self._epochs: dict[str, int] = {}
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def lead_to(self, target: str | None) -> None:
        """From now on the conductor is there; None: nowhere."""
        with self._there:
            if self._channel is not None:
                self._channel.close()
            self._channel = None if target is None else grpc.insecure_channel(target)
            self._there.notify_all()

    def close(self) -> None:
        """Fail what is under way, and listen no more."""
        self.lead_to(None)
        self._server.stop(0).wait()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """How a method is handled; None: there is none such."""
        if not details.method.startswith(_PREFIX):
            return None
        name = details.method.removeprefix(_PREFIX)

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            return self._pass_on(name, request, context)

        return grpc.unary_unary_rpc_method_handler(handle)

    def _pass_on(self, name: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        message = getattr(v1, f"{name}Request").FromString(request)
        if self._moments.come_to(Moment("call", name, self._moments.stage, message=message)) == "drop":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke on the way")
        channel = self._await_conductor(context)
        with self._there:
            newest = self._epochs.get(getattr(message, "job_name", ""), 0)
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PREFIX + name)
        call = method.future(request, timeout=_left_s(context))
        if not context.add_callback(lambda: _void(call.cancel())):
            call.cancel()  # its coordinator is gone: the conductor is to hear of it
        try:
            raw: bytes = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            self._failed(name, message, error, newest, context)
        answer = getattr(v1, f"{name}Response").FromString(raw)
        self._note(Call(name, message, grpc.StatusCode.OK, answer, newest))
        if self._moments.come_to(Moment("answer", name, self._moments.stage, message=message, answer=answer)) == "drop":
            context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke on the way back")
        return raw

    def _await_conductor(self, context: grpc.ServicerContext) -> grpc.Channel:
        with self._there:
            if not context.is_active() or not self._there.wait_for(lambda: self._channel, _left_s(context)):
                context.abort(grpc.StatusCode.UNAVAILABLE, "there is no conductor")
            assert self._channel is not None
            return self._channel

    def _failed(self, name: str, message: Any, error: Any, newest: int, context: grpc.ServicerContext) -> None:
        code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.CANCELLED
        if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED):
            self._note(Call(name, message, code, None, newest))
        if isinstance(error, grpc.Call) and error.trailing_metadata():
            context.set_trailing_metadata(error.trailing_metadata())
        if code is grpc.StatusCode.CANCELLED:
            code = grpc.StatusCode.UNAVAILABLE  # by us, who led elsewhere
        context.abort(code, str(error.details()) if isinstance(error, grpc.Call) else "cancelled")

    def _note(self, call: Call) -> None:
        ok = call.code is grpc.StatusCode.OK
        leased = ok and call.method == "LeaseJob" and call.answer.HasField("lease")
        with self._there:
            if leased:
                self._epochs[call.answer.lease.job.name] = call.answer.lease.epoch
            self._answered(call)
        if ok and call.method == "CommitStep":
            self._moments.enter(job_pb2.Stage.Name(call.request.step.progress.stage).removeprefix("STAGE_"))
        elif leased and not call.answer.lease.next_step:
            self._moments.enter("")


def _void(_answer: object) -> None:
    """Nothing, whatever was answered."""


def _left_s(context: grpc.ServicerContext) -> float:
    left = context.time_remaining()
    return _LONGEST_S if left is None else max(0.0, min(left, _LONGEST_S))
