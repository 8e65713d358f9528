"""What a report says in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from diminuendo.client.display import text
from diminuendo.client.report.reading import Candidate, Report

_FIGURES = {"params": "params", "macs": "MACs", "size": "size", "memory": "memory", "latency": "latency"}


def figure_of(objective: str) -> str:
    """A figure's name as people write it."""
    return _FIGURES.get(objective, objective)


def wanted(report: Report) -> str:
    """``delta 2``, or the target: ``size 0.1 MB``."""
    certificate = report.certificate
    return text.figures(certificate.target) if certificate.delta is None else f"delta {certificate.delta:g}"


def inside(candidate: Candidate, report: Report) -> bool:
    """Whether a candidate keeps all that was asked for on the search half."""
    if candidate.drop is None or not candidate.within_limits:
        return False
    return report.certificate.delta is None or candidate.drop <= report.certificate.delta


def headline(report: Report) -> str:
    """The result in a few words."""
    certificate = report.certificate
    verdict = "inside" if certificate.inside_delta else "not inside"
    smaller = ratio(report.result.original.params, report.result.compressed.params)
    return f"{smaller} fewer params, {verdict} {wanted(report)}"


def ratio(before: float, after: float) -> str:
    """Original to compressed."""
    return text.times(before / after) if after > 0 else "all of it"


def asked(report: Report) -> Iterator[str]:
    """What was asked."""
    certificate, ask = report.certificate, report.asked
    metric, figure = text.one_line(certificate.metric), figure_of(ask.objective)
    if certificate.delta is None:
        yield f"Lose as little {metric} as possible with at most {wanted(report)}."
    else:
        most = f"at most {certificate.delta:g} points of {metric}"
        if certificate.evaluations > 1:
            yield f"Make the network's {figure} as small as possible and lose {most}."
        else:
            yield f"Put one given plan into the network, and say whether it loses {most}."
    if ask.limits:
        yield f"Limits: at most {text.figures(ask.limits)}."
    if ask.budget:
        yield "Budget: at most " + ", ".join(f"{most:g} {kind}" for kind, most in ask.budget.items()) + "."
    if ask.stage == 1:
        yield "Only stage 1, the exploration, was wanted."


def found(report: Report) -> Iterator[str]:
    """What was found."""
    certificate, old, new = report.certificate, report.result.original, report.result.compressed
    low, high = certificate.drop_ci
    yield (
        f"A network with {new.params:,} of {old.params:,} params ({ratio(old.params, new.params)}) and"
        f" {new.macs:,} of {old.macs:,} MACs ({ratio(old.macs, new.macs)})."
    )
    yield (
        f"It scores {text.points(certificate.compressed)}, the original {text.points(certificate.original)}:"
        f" a drop of {text.points(certificate.drop)} points, 95 % interval [{text.points(low)}, {text.points(high)}],"
        f" on {certificate.sealed_samples:,} samples that the search never saw."
    )
    yield f"That is {'inside' if certificate.inside_delta else 'NOT inside'} {wanted(report)}{_but(report)}."
    if report.asked.ended:
        yield f"The search ended early, by {text.one_line(report.asked.ended)}; this is its best until then."


def _but(report: Report) -> str:
    """Why it is not what was asked for, and what to do."""
    certificate, exceeded = report.certificate, report.asked.limits_exceeded
    if exceeded:
        return f"; it breaks the limit of {', '.join(map(figure_of, exceeded))}, and nothing that keeps it was found"
    if certificate.inside_delta or certificate.evaluations <= 1:
        return ""
    kind = "delta" if certificate.delta is not None else "target"
    return f": nothing inside was found and this is the nearest; try a larger {kind} or effort"


def judged(report: Report) -> Iterator[str]:
    """The certificate: how this was judged, and by what."""
    certificate, ask = report.certificate, report.asked
    low, high = certificate.drop_ci
    if certificate.delta is not None:
        rule = (
            "the upper end of the drop's 95 % interval has to be inside delta"
            if certificate.accept == "strict"
            else "the drop as estimated has to be inside delta"
        )
        yield f"Judged by the {certificate.accept} rule: {rule}."
    finalists = "1 finalist was" if ask.finalists_judged == 1 else f"{ask.finalists_judged:,} finalists were"
    yield (
        f"{ask.search_samples:,} evaluation samples steered the search. The other {certificate.sealed_samples:,} were"
        f" sealed: {finalists} judged on them once, at the end."
    )
    if ask.search_drop is not None:
        yield f"On the search half the drop of the returned network was {text.points(ask.search_drop)} points."
    if low <= 0.0 <= high:
        yield "The interval contains 0: on so many samples this drop cannot be told from none."
    if certificate.delta is not None and certificate.inside_delta and high > certificate.delta:
        yield "Its upper end is above delta: more evaluation samples would narrow it."
    yield from _control(report)
    yield (
        f"{certificate.evaluations:,} evaluations, {certificate.epochs:g} epochs of tuning,"
        f" {text.clock(certificate.seconds)} of evaluators' time, seed {certificate.seed}."
    )
    if ask.precision:
        yield f"Tuning computed in {text.one_line(ask.precision)}; scores are in the weights' own type."


def _control(report: Report) -> Iterator[str]:
    """What the same tuning does to the original."""
    control = report.certificate.control
    if control is None:
        return
    tuned = report.asked.tuned_epochs
    had = "" if tuned is None else f"; the compressed network has had {tuned:g}"
    yield (
        f"Dense control: the original with the same tuning ({control.epochs:g} epochs{had}) scores"
        f" {text.points(control.score)}, a drop of {text.points(control.drop)}. What tuning alone gains or loses is"
        " no merit of the compression."
    )


def latency(report: Report) -> Iterator[str]:
    """How fast it is, as measured."""
    told = report.latency
    faster = f"{text.times(told.ratio)} as fast" if told.ratio >= 1 else f"slower: {text.times(told.ratio)} as fast"
    yield (
        f"The compressed network is {faster} here: {told.compressed_ms:.3f} ms for one sample, the original"
        f" {told.original_ms:.3f} ms, timed side by side; from round to round that varied by {told.spread:.0%}."
    )
    if told.ratio < 1 < report.result.original.macs / max(1, report.result.compressed.macs):
        yield (
            "It has fewer multiply-adds all the same: in small networks the work of starting a layer outweighs them,"
            " and a compressed layer is two or three."
        )
    if told.predicted_ratio is not None:
        where = f" (of {text.one_line('; '.join(told.predicted_on))})" if told.predicted_on else ""
        yield f"The table of latencies that the search went by{where} had said {text.times(told.predicted_ratio)}."
    yield f"Measured on {text.one_line(told.machine)}."
