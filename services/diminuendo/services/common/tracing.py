"""Traces by OpenTelemetry: off unless an endpoint is given; then spans go there by OTLP.

What is traced: calls that create jobs, and calls whose caller traces; and each evaluation, as a trace of its own with a
link to the call that created its job. An evaluation's trace id follows from its job, lease and number, so that whoever
tells of the evaluation knows the id without having been told it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError
from diminuendo.services.common.version import own_version

TRACE_PARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, version 00: trace id, span id, flags."""
INSTALL = "pip install 'diminuendo[traces]'"


@dataclass(frozen=True, slots=True)
class Span:
    """A span that is over.

    Attributes:
        start: Seconds since the epoch, UTC.
        end: Likewise.
        error: What went wrong, for a person; empty: nothing.
        children: Spans within it.
    """

    name: str
    start: float
    end: float
    attributes: Mapping[str, str | int] = field(default_factory=dict)
    error: str = ""
    children: Sequence[Span] = ()


class Exporter(Protocol):
    """Where spans go; see `otlp`."""

    @contextmanager
    def serving(self, method: str, parent: str) -> Iterator[str]:
        """A span around a call of the server; gives its traceparent."""
        ...

    def tell(self, span: Span, *, trace_id: str, link: str) -> None:
        """Send a span that is over, with its children, as a trace of its own."""
        ...

    def close(self) -> None:
        """Send what is left, for a moment at most."""
        ...


_exporter: Exporter | None = None
_trace_parent: ContextVar[str] = ContextVar("trace_parent", default="")


def configure(*, service: str, endpoint: str) -> None:
    """Send this process's spans to an endpoint from now on.

    Args:
        service: Name of the process, as `logs.configure` is given it.
        endpoint: ``http://HOST:PORT`` of a receiver of OTLP by gRPC, ``https://`` by TLS; empty: no spans.

    Raises:
        StartError: The endpoint is none, or OpenTelemetry is not installed.
    """
    global _exporter
    close()
    if not endpoint:
        return
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StartError(f"traces={endpoint!r} is no endpoint of OTLP; give http://HOST:PORT, or https:// with TLS")
    try:
        from diminuendo.services.common import otlp  # OpenTelemetry is an extra
    except ModuleNotFoundError as error:
        raise StartError(
            f"traces={endpoint!r} needs OpenTelemetry ({error.name} is not installed); {INSTALL}, or leave it out"
        ) from None
    _exporter = otlp.Otlp(f"diminuendo-{service}", own_version(), endpoint)


def close() -> None:
    """Send what is left, for a moment at most; no spans from now on."""
    global _exporter
    exporter, _exporter = _exporter, None
    if exporter is not None:
        exporter.close()


def active() -> bool:
    """Whether spans go anywhere."""
    return _exporter is not None


def trace_parent() -> str:
    """W3C traceparent of the call that is being served; empty where neither we nor the caller trace it."""
    return _trace_parent.get()


@contextmanager
def serving(method: str, parent: str, *, root: bool) -> Iterator[None]:
    """Around a call of the server: a span, where spans go anywhere and the call is to be traced.

    Args:
        method: Name of the method.
        parent: The caller's traceparent as it came; empty: none.
        root: Whether the call is to be traced also where its caller does not.
    """
    given = parent if TRACE_PARENT.fullmatch(parent) else ""
    if _exporter is None or not (given or root):
        if not given:
            yield
            return
        with _within(given):
            yield
        return
    with _exporter.serving(method, given) as own, _within(own):
        yield


@contextmanager
def _within(parent: str) -> Iterator[None]:
    token = _trace_parent.set(parent)
    try:
        with logs.bound(trace_id=parent.split("-")[1]):
            yield
    finally:
        _trace_parent.reset(token)


def exemplar(trace_id: str = "") -> dict[str, str] | None:
    """The exemplar of what is observed: of a trace, or of the call that is being served; None where none is traced."""
    if _exporter is None:
        return None
    if not trace_id:
        own = _trace_parent.get()
        trace_id = own.split("-")[1] if own else ""
    return {"trace_id": trace_id} if trace_id else None


def evaluation_trace_id(job: str, epoch: int, index: int) -> str:
    """Trace id of an evaluation: of the work of a number, under a lease of a job."""
    return hashlib.sha256(f"{job}#{epoch}:{index}".encode()).hexdigest()[:32]


def tell(span: Span, *, trace_id: str, link: str = "") -> None:
    """Send a span that is over as the root of a trace, if spans go anywhere.

    Args:
        link: traceparent of what it belongs to, in another trace; empty: nothing.
    """
    if _exporter is not None:
        _exporter.tell(span, trace_id=trace_id, link=link)
