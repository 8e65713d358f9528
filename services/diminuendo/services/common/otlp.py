"""Spans to a receiver of OTLP, by OpenTelemetry's SDK. Imported only where traces are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from diminuendo.services.common.tracing import Span

EXPORT_S, FLUSH_MS = 5, 2000
"""How long one export may take, and how long the process waits at its end for the last one."""
_NS = 1_000_000_000


class _Ids(RandomIdGenerator):
    """Random ids, but for the next trace where one was given."""

    def __init__(self) -> None:
        self.next_trace_id: int | None = None

    def generate_trace_id(self) -> int:
        """The id of a new trace."""
        given, self.next_trace_id = self.next_trace_id, None
        return super().generate_trace_id() if given is None else given


class Otlp:
    """The exporter of a process; spans go out from a thread of its own."""

    def __init__(self, service: str, version: str, endpoint: str) -> None:
        """Nothing is sent before the first span."""
        self._ids = _Ids()
        resource = Resource.create({"service.name": service, "service.version": version})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("diminuendo", version)

    @contextmanager
    def serving(self, method: str, parent: str) -> Iterator[str]:
        """A span around a call of the server; gives its traceparent."""
        context = Context() if not parent else trace.set_span_in_context(NonRecordingSpan(_context(parent)))
        attributes = {"rpc.system": "grpc", "rpc.method": method}
        with self._tracer.start_as_current_span(method, context, kind=SpanKind.SERVER, attributes=attributes) as span:
            own = span.get_span_context()
            yield f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def tell(self, span: Span, *, trace_id: str, link: str) -> None:
        """Send a span that is over, with its children, as a trace of its own."""
        self._ids.next_trace_id = int(trace_id, 16)
        self._tell(span, Context(), [Link(_context(link))] if link else [])

    def _tell(self, span: Span, parent: Context, links: list[Link]) -> None:
        made = self._tracer.start_span(
            span.name, parent, attributes=dict(span.attributes), links=links, start_time=round(span.start * _NS)
        )
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error))
        for child in span.children:
            self._tell(child, trace.set_span_in_context(made, parent), [])
        made.end(round(span.end * _NS))

    def close(self) -> None:
        """Send what is left, for a moment at most."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


def _context(parent: str) -> SpanContext:
    """What a W3C traceparent names."""
    _, trace_id, span_id, flags = parent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
