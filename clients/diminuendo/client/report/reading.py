"""All that a report tells, as plain data read from a result folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from diminuendo.client.display.folder import Certificate, ResultFolder, read_result
from diminuendo.client.report.fields import Fields


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that could be compressed, before and after.

    Attributes:
        form: Its form with its ranks, e.g. ``svd(12)``.
        macs_before: Multiply-adds of one sample; 0 where nobody counted them.
    """

    name: str
    form: str
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of a forward of one sample, both networks timed side by side.

    Attributes:
        ratio: How many times as fast as the original the compressed network is.
        spread: How far the measurements were apart, 0.1 is 10 %.
        predicted_ratio: What the table of latencies said that the search went by; None where there was none.
    """

    original_ms: float
    compressed_ms: float
    ratio: float
    spread: float
    machine: str
    predicted_ratio: float | None
    predicted_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked, and how it went, as far as the certificate tells; ResultFolder has the rest of it.

    Attributes:
        limits_exceeded: Figures whose limit the network breaks.
        ended: Why the search ended early; empty while it did not.
        search_drop: Drop on the search half, in points.
        tuned_epochs: Epochs of tuning that the compressed network has had.
    """

    objective: str
    limits: Mapping[str, float]
    limits_exceeded: tuple[str, ...]
    stage: int
    budget: Mapping[str, float]
    ended: str
    precision: str
    search_samples: int
    search_drop: float | None
    finalists_judged: int
    tuned_epochs: float | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One that the search tried.

    Attributes:
        index: Its name: the number of its work in the job.
        ratio: Original to candidate, of the figure that was made small; None where nothing of that is left.
        drop: On the search half, in points; None where it diverged.
        within_limits: Whether limits and target are kept.
    """

    index: int
    role: str
    stage: str
    parent: int | None
    epochs: float
    ratio: float | None
    params_ratio: float | None
    macs_ratio: float | None
    drop: float | None
    within_limits: bool

    @property
    def is_control(self) -> bool:
        """Whether it is the dense control, which is no candidate."""
        return self.role == "control"


@dataclass(frozen=True)
class Record:
    """The search, from search.json.

    Attributes:
        tried: Everything that was tuned, in proposal order, the dense control too.
        returned: Index of the candidate that came back.
        judged: Indices of the candidates that the sealed half judged.
    """

    tried: tuple[Candidate, ...]
    returned: int
    judged: tuple[int, ...]

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """Without the dense control."""
        return tuple(each for each in self.tried if not each.is_control)


@dataclass(frozen=True, slots=True)
class Report:
    """A result, as reports show it.

    Attributes:
        record: None where the folder has no search.json: an earlier version wrote it.
    """

    result: ResultFolder
    asked: Asked
    latency: Latency
    layers: tuple[Layer, ...]
    record: Record | None

    @property
    def certificate(self) -> Certificate:
        """The result's."""
        return self.result.certificate


def read(folder: Path) -> Report:
    """What a folder's report tells; ResultFolderError when a file or a field is missing or wrong."""
    result = read_result(folder)
    certificate = Fields.read(folder / "certificate.json") or Fields("certificate.json", {})
    profile = Fields.read(folder / "profile.json") or Fields("profile.json", {})
    record = Fields.read(folder / "search.json")
    return Report(
        result=result,
        asked=_asked(certificate),
        latency=_latency(result, certificate),
        layers=_layers(result, profile),
        record=None if record is None else _record(record),
    )


def _asked(data: Fields) -> Asked:
    return Asked(
        objective=data.text("objective", "params"),
        limits=data.numbers("limits"),
        limits_exceeded=tuple(str(name) for name in data.list("limits_exceeded")),
        stage=int(data.number("stage", 2)),
        budget=data.numbers("budget"),
        ended=data.text("ended"),
        precision=data.text("precision"),
        search_samples=int(data.number("search_samples", 0)),
        search_drop=data.number_or_none("search_drop"),
        finalists_judged=int(data.number("finalists_judged", 1)),
        tuned_epochs=data.number_or_none("tuned_epochs"),
    )


def _latency(result: ResultFolder, certificate: Fields) -> Latency:
    """As the certificate has it; of one that lacks it, as profiled."""
    data, before, after = certificate.child("latency"), result.original.time_ms, result.compressed.time_ms
    return Latency(
        original_ms=data.number("original_ms", before),
        compressed_ms=data.number("compressed_ms", after),
        ratio=data.number("ratio", before / after if after > 0 else 1.0),
        spread=data.number("spread", 0.0),
        machine=data.text("machine", result.machine),
        predicted_ratio=data.number_or_none("predicted_ratio"),
        predicted_on=tuple(str(machine) for machine in data.list("predicted_on")),
    )


def _layers(result: ResultFolder, profile: Fields) -> tuple[Layer, ...]:
    before, after = (profile.child(network).child("layers") for network in ("original", "compressed"))
    return tuple(
        Layer(
            name,
            form,
            result.original.layer_params.get(name, 0),
            result.compressed.layer_params.get(name, 0),
            int(before.child(name).number("macs", 0)),
            int(after.child(name).number("macs", 0)),
        )
        for name, form in result.forms.items()
    )


def _record(data: Fields) -> Record:
    return Record(
        tried=tuple(_candidate(each) for each in data.objects("trials")),
        returned=int(data.number("returned")),
        judged=tuple(int(each.number("index")) for each in data.objects("judged")),
    )


def _candidate(data: Fields) -> Candidate:
    parent = data.number_or_none("parent")
    return Candidate(
        index=int(data.number("index")),
        role=data.text("role"),
        stage=data.text("stage"),
        parent=None if parent is None else int(parent),
        epochs=data.number("epochs", 0.0),
        ratio=data.number_or_none("objective_ratio"),
        params_ratio=data.number_or_none("params_ratio"),
        macs_ratio=data.number_or_none("macs_ratio"),
        drop=data.number_or_none("drop"),
        within_limits=data.flag("within_limits"),
    )
