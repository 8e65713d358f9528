"""What came of a fleet: a row for each model and what was saved in all, also as JSON that can be read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from diminuendo.client.display import text
from diminuendo.client.display.folder import ResultFolder, read_result
from diminuendo.client.errors import DiminuendoError, InvalidArgumentError
from diminuendo.client.types import Figures, JobInfo, JobState

FLEET_FILE = "fleet.json"
"""Name of a report's data in the folder of a fleet's results."""

_CERTIFICATE = "certificate.json"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model of a fleet.

    Attributes:
        source: ``zoo:NAME`` or ``bundle:SHA256``.
        state: Of its newest job.
        wanted: ``delta 1``, or a target: ``size 0.1 MB``.
        reason: Why it has no result, in one line; empty where it has one, or may still get one.
        inside: Whether its result keeps what was asked for; None without a result.
        metric: Its name; empty where that is not known.
        original: None where it is not known, as for what follows.
        drop: On the sealed half, in points; positive is worse.
        drop_ci: 95 % interval of the drop, (low, high).
        params_ratio: original / compressed.
        job: Name of its newest job; empty where the row is of a folder alone.
    """

    model: str
    source: str
    state: JobState
    wanted: str
    reason: str = ""
    inside: bool | None = None
    metric: str = ""
    original: Figures | None = None
    compressed: Figures | None = None
    drop: float | None = None
    drop_ci: tuple[float, float] | None = None
    params_ratio: float | None = None
    macs_ratio: float | None = None
    job: str = ""


@dataclass(frozen=True, slots=True)
class Totals:
    """What all results are together.

    Attributes:
        models: Results whose figures are known: those that are summed up.
        params: Of the originals, and `params_after` of the compressed networks.
        size_mb: Of the originals' weights, in MB of 2^20 bytes, and `size_mb_after` of the compressed networks'.
    """

    models: int = 0
    params: int = 0
    params_after: int = 0
    size_mb: float = 0.0
    size_mb_after: float = 0.0

    @property
    def params_saved(self) -> int:
        """Params that the compressed networks do not have."""
        return self.params - self.params_after

    @property
    def size_mb_saved(self) -> float:
        """MB that the compressed networks do not need."""
        return self.size_mb - self.size_mb_after


@dataclass(frozen=True, slots=True)
class FleetReport:
    """What came of a fleet.

    Attributes:
        name: ``projects/{project}/fleets/{fleet}``, or the path of a folder of results.
        rows: One for each model.
    """

    name: str
    rows: tuple[ModelRow, ...]

    @property
    def states(self) -> dict[JobState, int]:
        """Models by state; states that none is in are left out."""
        return {state: found for state in JobState if (found := sum(row.state is state for row in self.rows))}

    @property
    def inside(self) -> int:
        """Models whose result keeps what was asked for."""
        return sum(row.inside is True for row in self.rows)

    @property
    def totals(self) -> Totals:
        """Sums over the results whose figures are known."""
        return totals_of((row.original, row.compressed) for row in self.rows)

    def to_json(self) -> str:
        """As indented JSON, with the totals; `read_report` reads it again."""
        totals = self.totals
        saved = {"params_saved": totals.params_saved, "size_mb_saved": totals.size_mb_saved}
        data = {"name": self.name, "models": [asdict(row) for row in self.rows], "totals": asdict(totals) | saved}
        return json.dumps(data, indent=2)


def totals_of(pairs: Iterable[tuple[Figures | None, Figures | None]]) -> Totals:
    """Sums over originals and compressed networks of which both are known."""
    known = [(before, after) for before, after in pairs if before and after]
    return Totals(
        models=len(known),
        params=sum(before.params for before, _ in known),
        params_after=sum(after.params for _, after in known),
        size_mb=sum(before.size_bytes for before, _ in known) / 2**20,
        size_mb_after=sum(after.size_bytes for _, after in known) / 2**20,
    )


def report_of(name: str, jobs: Iterable[JobInfo]) -> FleetReport:
    """The report of a fleet's newest jobs, in the order of the models' names."""
    return FleetReport(name, tuple(sorted(map(row_of, jobs), key=lambda row: row.model)))


def row_of(job: JobInfo) -> ModelRow:
    """What came of one model, as its newest job says; an old job's result has no figures."""
    result = job.result
    return ModelRow(
        model=job.model,
        source=job.source,
        state=job.state,
        wanted=text.figures(job.target) if job.delta is None else f"delta {job.delta:g}",
        reason=_reason(job),
        inside=None if result is None else result.inside_delta,
        metric="" if result is None else result.metric,
        original=None if result is None else result.original,
        compressed=None if result is None else result.compressed,
        drop=None if result is None else result.drop,
        drop_ci=None if result is None else result.drop_ci,
        params_ratio=None if result is None else result.params_ratio,
        macs_ratio=None if result is None else result.macs_ratio,
        job=job.name,
    )


def _reason(job: JobInfo) -> str:
    if job.failure is not None:
        return f"{job.failure.reason}: {text.one_line(job.failure.message)}"
    return "cancelled on request" if job.state is JobState.CANCELLED else ""


def read_report(folder: Path) -> FleetReport:
    """The report of a folder that a fleet was downloaded into, or of any folder of result folders.

    Raises:
        InvalidArgumentError: It is neither.
        DiminuendoError: ``fleet.json`` is not of its form, or a file of a result is missing.
    """
    if (folder / FLEET_FILE).is_file():
        return _from_json(folder / FLEET_FILE)
    found = sorted(path.parent for path in folder.glob(f"*/{_CERTIFICATE}"))
    if not found:
        raise InvalidArgumentError.of(
            "folder",
            f"{folder} has neither {FLEET_FILE} nor result folders; fetch them with `diminuendo fleet download`",
        )
    return FleetReport(str(folder), tuple(_row_of_folder(read_result(path)) for path in found))


def _row_of_folder(result: ResultFolder) -> ModelRow:
    certificate = result.certificate
    before, after = (
        Figures(
            score=score,
            params=network.params,
            macs=network.macs,
            size_bytes=round(network.size_mb * 2**20),
            memory_bytes=round(network.memory_mb * 2**20),
            time_ms=network.time_ms,
        )
        for score, network in (
            (certificate.original, result.original),
            (certificate.compressed, result.compressed),
        )
    )
    return ModelRow(
        model=result.path.resolve().name,
        source=result.source,
        state=JobState.SUCCEEDED,
        wanted=text.figures(certificate.target) if certificate.delta is None else f"delta {certificate.delta:g}",
        inside=certificate.inside_delta,
        metric=certificate.metric,
        original=before,
        compressed=after,
        drop=certificate.drop,
        drop_ci=certificate.drop_ci,
        params_ratio=before.params / after.params if after.params else None,
        macs_ratio=before.macs / after.macs if after.macs else None,
    )


def _from_json(path: Path) -> FleetReport:
    try:
        data = json.loads(path.read_bytes())
        return FleetReport(str(data["name"]), tuple(map(_row_from, data["models"])))
    except (ValueError, KeyError, TypeError) as error:
        raise DiminuendoError(
            f"{path} is not what `diminuendo fleet download` writes ({type(error).__name__}: {error}); fetch the fleet "
            "again"
        ) from error


def _row_from(data: Mapping[str, Any]) -> ModelRow:
    known = {field.name: data[field.name] for field in fields(ModelRow)}
    interval = known["drop_ci"]
    networks = {name: None if known[name] is None else Figures(**known[name]) for name in ("original", "compressed")}
    return ModelRow(
        **known
        | networks
        | {"state": JobState(known["state"]), "drop_ci": None if interval is None else (interval[0], interval[1])}
    )
