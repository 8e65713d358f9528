"""Reads the JSON files of a result folder into what the tables need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diminuendo.client.errors import DiminuendoError


class ResultFolderError(DiminuendoError):
    """A result folder that lacks a file or a field; the message names it."""


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """A network's figures.

    Attributes:
        size_mb: Weights, in MB of 2^20 bytes.
        memory_mb: Weights and the outputs of every module for one sample.
        time_ms: Median time of one forward per sample.
        layer_params: Params by the original layer's name, in the network's order.
    """

    params: int
    macs: int
    size_mb: float
    memory_mb: float
    time_ms: float
    layer_params: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Control:
    """The dense control: the original given the same fine-tuning."""

    score: float
    drop: float
    epochs: float


@dataclass(frozen=True, slots=True)
class ExportEntry:
    """A file that the result was exported to, or why there is none.

    Attributes:
        largest_difference: Between its outputs and the network's.
        metric: On the sealed half, in points, and `drop` against the original; None where they were not measured.
        batch: ``dynamic``, or ``static`` for one sample at a time.
        error: Why there is no file; empty when there is one.
    """

    file: str | None
    size_bytes: float | None
    largest_difference: float | None
    metric: float | None
    drop: float | None
    batch: str
    error: str

    @classmethod
    def of(cls, where: str, entry: object) -> ExportEntry:
        """Of the certificate's entry; ResultFolderError when it is none."""
        data = _Object.of(where, entry)
        return cls(
            file=str(data.data["file"]) if data.data.get("file") is not None else None,
            size_bytes=data.number_or_none("size_bytes"),
            largest_difference=data.number_or_none("largest_difference"),
            metric=data.number_or_none("metric"),
            drop=data.number_or_none("drop"),
            batch=str(data.data.get("batch") or ""),
            error=str(data.data.get("error") or ""),
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was measured on the sealed half. Scores and drops are in points of the metric.

    Attributes:
        delta: None where there was a target in its place.
        inside_delta: Whether all that was asked for is kept, delta or target and every limit.
        target: The most that a figure was to be; empty where there was a delta.
        warnings: (reason, message) of what was raised on the way.
        exports: What came of each form that was asked for.
    """

    metric: str
    original: float
    compressed: float
    drop: float
    drop_ci: tuple[float, float]
    delta: float | None
    accept: str
    inside_delta: bool
    sealed_samples: int
    evaluations: int
    epochs: float
    seconds: float
    seed: int
    control: Control | None
    target: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[tuple[str, str], ...] = ()
    exports: Mapping[str, ExportEntry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ResultFolder:
    """A result, as the tables show it.

    Attributes:
        forms: Form of every layer of the plan, e.g. ``svd(12)`` or ``dense``, in the network's order.
        left_dense: Why layers outside the plan stay as they are.
    """

    path: Path
    source: str
    machine: str
    certificate: Certificate
    original: NetworkProfile
    compressed: NetworkProfile
    forms: Mapping[str, str]
    left_dense: Mapping[str, str]


def read_result(folder: Path) -> ResultFolder:
    """The result in the folder; ResultFolderError when a file or a field is missing."""
    plan = _Object.read(folder / "plan.json")
    profile = _Object.read(folder / "profile.json")
    return ResultFolder(
        path=folder,
        source=str(plan.get("source")),
        machine=str(profile.get("machine")),
        certificate=_certificate(_Object.read(folder / "certificate.json")),
        original=_profile(profile.child("original")),
        compressed=_profile(profile.child("compressed")),
        forms={name: _form(layer) for name, layer in plan.children("layers").items()},
        left_dense={name: str(reason) for name, reason in plan.child("left_dense").data.items()},
    )


@dataclass(frozen=True, slots=True)
class _Object:
    """A JSON object that knows where it came from."""

    where: str
    data: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Object:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ResultFolderError(f"{path} is missing; download the result again") from None
        except ValueError:
            raise ResultFolderError(f"{path} is no JSON; download the result again") from None
        return cls.of(path.name, data)

    @classmethod
    def of(cls, where: str, data: object) -> _Object:
        if not isinstance(data, dict):
            raise ResultFolderError(f"{where} is not an object; the result was written by another version")
        return cls(where, data)

    def get(self, name: str) -> Any:
        if name not in self.data:
            raise ResultFolderError(f"{self.where} lacks {name!r}; the result was written by another version")
        return self.data[name]

    def number(self, name: str) -> float:
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ResultFolderError(f"{self.where}: {name} is {value!r}, not a number")
        return value

    def number_or_none(self, name: str) -> float | None:
        return None if self.data.get(name) is None else self.number(name)

    def child(self, name: str) -> _Object:
        return _Object.of(f"{self.where}: {name}", self.get(name))

    def children(self, name: str) -> dict[str, _Object]:
        parent = self.child(name)
        return {key: _Object.of(f"{parent.where}: {key}", value) for key, value in parent.data.items()}


def _certificate(data: _Object) -> Certificate:
    interval = data.get("drop_ci")
    if not isinstance(interval, list) or len(interval) != 2:
        raise ResultFolderError(f"{data.where}: drop_ci is {interval!r}, not [low, high]")
    wanted = data.child("target") if data.data.get("target") is not None else None
    target = {name: wanted.number(name) for name in wanted.data} if wanted else {}
    control = data.child("dense_control") if data.data.get("dense_control") is not None else None
    return Certificate(
        metric=str(data.get("metric")),
        original=data.number("original"),
        compressed=data.number("compressed"),
        drop=data.number("drop"),
        drop_ci=(float(interval[0]), float(interval[1])),
        delta=None if target else data.number("delta"),
        accept=str(data.data.get("accept", "estimate")),
        inside_delta=bool(data.get("inside_delta")),
        sealed_samples=int(data.number("sealed_samples")),
        evaluations=int(data.number("evaluations")),
        epochs=data.number("epochs"),
        seconds=data.number("seconds"),
        seed=int(data.number("seed")),
        control=None
        if control is None
        else Control(control.number("score"), control.number("drop"), control.number("epochs")),
        target=target,
        warnings=tuple(
            (str(warning.get("reason")), str(warning.get("message")))
            for warning in (_Object.of(f"{data.where}: warnings", each) for each in data.data.get("warnings") or ())
        ),
        exports={
            form: ExportEntry.of(f"{data.where}: exports: {form}", entry)
            for form, entry in (data.child("exports").data if data.data.get("exports") else {}).items()
        },
    )


def _profile(data: _Object) -> NetworkProfile:
    return NetworkProfile(
        params=int(data.number("params")),
        macs=int(data.number("macs")),
        size_mb=data.number("size_mb"),
        memory_mb=data.number("memory_mb"),
        time_ms=data.number("time_ms"),
        layer_params={name: int(layer.number("params")) for name, layer in data.children("layers").items()},
    )


def _form(layer: _Object) -> str:
    ranks = ",".join(str(rank) for rank in layer.data.get("ranks") or ())
    form = str(layer.get("format"))
    return f"{form}({ranks})" if ranks else form
