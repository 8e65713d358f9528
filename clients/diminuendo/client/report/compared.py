"""Results side by side: figures, and the layers that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diminuendo.client.display import text
from diminuendo.client.report import words
from diminuendo.client.report.reading import Report

NOT_THERE = "-"
"""Form of a layer that a result's plan does not have."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results as people read them.

    Attributes:
        names: Of the results: their folders', told apart.
        rows: (figure, its value in every result).
        layers: Forms in every result, of layers that they do not all have in the same form.
        same: How many layers have the same form in all of them.
        notes: Why figures should not be compared, where they should not.
    """

    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    layers: Mapping[str, tuple[str, ...]]
    same: int
    notes: tuple[str, ...]


def compare(reports: Sequence[Report]) -> Comparison:
    """Several results, in the order given."""
    layers, same = differing(reports)
    rows = {
        "source": [text.one_line(text.source(each.result.source)) for each in reports],
        "metric": [text.one_line(each.certificate.metric) for each in reports],
        "original": [text.points(each.certificate.original) for each in reports],
        "compressed": [text.points(each.certificate.compressed) for each in reports],
        "drop": [text.points(each.certificate.drop) for each in reports],
        "95 % interval": [_interval(each) for each in reports],
        "asked for": [words.wanted(each) for each in reports],
        "kept": ["yes" if each.certificate.inside_delta else "no" for each in reports],
        "params": [f"{each.result.compressed.params:,}" for each in reports],
        "params ratio": [_ratio(each, "params") for each in reports],
        "size": [f"{each.result.compressed.size_mb:.3f} MB" for each in reports],
        "MACs": [f"{each.result.compressed.macs:,}" for each in reports],
        "MACs ratio": [_ratio(each, "macs") for each in reports],
        "memory": [f"{each.result.compressed.memory_mb:.3f} MB" for each in reports],
        "memory ratio": [_ratio(each, "memory_mb") for each in reports],
        "time": [f"{each.latency.compressed_ms:.3f} ms" for each in reports],
        "time ratio": [text.times(each.latency.ratio) for each in reports],
        "evaluations": [f"{each.certificate.evaluations:,}" for each in reports],
        "epochs": [f"{each.certificate.epochs:g}" for each in reports],
        "evaluators' time": [text.clock(each.certificate.seconds) for each in reports],
        "seed": [str(each.certificate.seed) for each in reports],
    }
    return Comparison(
        names=names_of(reports),
        rows=tuple((name, tuple(values)) for name, values in rows.items()),
        layers=layers,
        same=same,
        notes=tuple(_notes(reports)),
    )


def names_of(reports: Sequence[Report]) -> tuple[str, ...]:
    """Names of results: of their folders; whole paths where those are not all different."""
    short = [each.result.path.resolve().name for each in reports]
    names = short if len(set(short)) == len(short) else [str(each.result.path) for each in reports]
    return tuple(text.one_line(name) for name in names)


def differing(reports: Sequence[Report]) -> tuple[dict[str, tuple[str, ...]], int]:
    """Forms of the layers that differ, and how many layers do not."""
    names = dict.fromkeys(name for each in reports for name in each.result.forms)
    forms = {name: tuple(each.result.forms.get(name, NOT_THERE) for each in reports) for name in names}
    found = {text.one_line(name): values for name, values in forms.items() if len(set(values)) > 1}
    return found, len(forms) - len(found)


def as_json(reports: Sequence[Report]) -> dict[str, object]:
    """The same for programs: ratios are original to compressed, drops in points, sizes in MB of 2^20 bytes."""
    layers, same = differing(reports)
    results = [_entry(name, each) for name, each in zip(names_of(reports), reports, strict=True)]
    return {
        "results": results,
        "layers": {name: list(forms) for name, forms in layers.items()},
        "layers_same": same,
        "notes": list(_notes(reports)),
    }


def _entry(name: str, report: Report) -> dict[str, object]:
    certificate, old, new = report.certificate, report.result.original, report.result.compressed
    return {
        "name": name,
        "folder": str(report.result.path),
        "source": report.result.source,
        "metric": certificate.metric,
        "original": certificate.original,
        "compressed": certificate.compressed,
        "drop": certificate.drop,
        "drop_ci": list(certificate.drop_ci),
        "delta": certificate.delta,
        "target": dict(certificate.target) or None,
        "inside_delta": certificate.inside_delta,
        "params": new.params,
        "macs": new.macs,
        "size_mb": new.size_mb,
        "memory_mb": new.memory_mb,
        "time_ms": report.latency.compressed_ms,
        "params_ratio": old.params / new.params if new.params else None,
        "macs_ratio": old.macs / new.macs if new.macs else None,
        "size_ratio": old.size_mb / new.size_mb if new.size_mb else None,
        "memory_ratio": old.memory_mb / new.memory_mb if new.memory_mb else None,
        "time_ratio": report.latency.ratio,
        "sealed_samples": certificate.sealed_samples,
        "evaluations": certificate.evaluations,
        "epochs": certificate.epochs,
        "seconds": certificate.seconds,
        "seed": certificate.seed,
        "machine": report.latency.machine,
    }


def _notes(reports: Sequence[Report]) -> list[str]:
    """What makes figures hard to compare."""
    notes = []
    if len({(each.certificate.metric, each.certificate.sealed_samples) for each in reports}) > 1:
        notes.append("metric or sealed samples differ: scores and drops are of different things")
    elif len({each.certificate.original for each in reports}) > 1:
        notes.append("the originals score differently: the networks or the sealed samples are not the same")
    if len({each.result.original.params for each in reports}) > 1:
        notes.append("the originals have different params: ratios are of different networks")
    if len({each.latency.machine for each in reports}) > 1:
        notes.append("times were measured on different machines: compare their ratios alone")
    return notes


def _interval(report: Report) -> str:
    low, high = report.certificate.drop_ci
    return f"[{text.points(low)}, {text.points(high)}]"


def _ratio(report: Report, name: str) -> str:
    return words.ratio(getattr(report.result.original, name), getattr(report.result.compressed, name))
