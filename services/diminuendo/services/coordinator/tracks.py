"""Traces of evaluations: what each waited for, every attempt at it, and what the evaluator's seconds went to.

Evaluators send no spans: what they did comes with their reports, and the coordinator tells it. So they need neither
OpenTelemetry nor a way to where spans go, and all is told by one clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diminuendo.engine.phases import Phase
from diminuendo.engine.search.work import Work
from diminuendo.services.common import tracing
from diminuendo.services.common.tracing import Span


@dataclass(frozen=True, slots=True)
class Try:
    """An attempt at a work that is over.

    Attributes:
        begun: Seconds since the epoch, UTC; as `ended`.
        error: Why it came to nothing; empty: it did not.
        phases: What the evaluator did.
    """

    evaluator: str
    begun: float
    ended: float
    error: str = ""
    phases: tuple[Phase, ...] = ()


def trace_id_of(claim: str, index: int) -> str:
    """Trace id of a job's work; the job as the line knows it, with its epoch."""
    job, _, epoch = claim.partition("#")
    return tracing.evaluation_trace_id(job, int(epoch or 0), index)


def ids(claim: str, index: int) -> dict[str, str]:
    """What a log line of a work says of its trace, where it is traced."""
    return {"trace_id": trace_id_of(claim, index)} if tracing.active() else {}


def tell(claim: str, work: Work, *, asked: float, tries: Sequence[Try], origin: str) -> None:
    """Send the trace of a work that came back, or was given up; it has had at least one attempt.

    Args:
        claim: Whose it is, as the line knows the job.
        asked: When the search asked for it, in seconds since the epoch, UTC.
        origin: traceparent of the call that created the job; empty: that was not traced.
    """
    if not tracing.active():
        return
    children, free = list[Span](), asked
    for number, one in enumerate(tries, 1):
        begun = max(free, one.begun)
        children.append(Span("queue", free, begun))
        children.append(_attempt(number, one, begun))
        free = max(begun, one.ended)
    job, _, epoch = claim.partition("#")
    attributes: dict[str, str | int] = {
        "diminuendo.job": job,
        "diminuendo.epoch": int(epoch or 0),
        "diminuendo.work": work.index,
        "diminuendo.kind": work.question.kind,
        "diminuendo.subject": work.subject,
        "diminuendo.key": work.key,
    }
    root = Span("evaluation", asked, free, attributes, tries[-1].error, children)
    tracing.tell(root, trace_id=trace_id_of(claim, work.index), link=origin)


def _attempt(number: int, one: Try, begun: float) -> Span:
    """An attempt with its phases, which are within it also where the evaluator's clock runs otherwise."""
    end = max(begun, one.ended)
    phases = [
        Span(phase.name, min(end, begun + phase.start_s), min(end, begun + phase.start_s + phase.seconds))
        for phase in one.phases
    ]
    attributes: dict[str, str | int] = {"diminuendo.evaluator": one.evaluator, "diminuendo.attempt": number}
    return Span("attempt", begun, end, attributes, one.error, phases)
