"""Which span of its user's a call belongs to, where the program that uses this client traces with OpenTelemetry."""

from __future__ import annotations

import sys
from typing import Any

from diminuendo.client.caller import Metadata


def trace_metadata() -> Metadata:
    """The current span as W3C ``traceparent``; nothing where there is none. OpenTelemetry is not imported for it."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ()
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ()
    return (("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"),)
