"""Fleets as the client hands them out, and what is asked of them: frozen dataclasses. Imports no gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from diminuendo.client.errors import DiminuendoError
from diminuendo.client.types import Accept, Effort, JobInfo, JobState

MODEL_DIFFERS = "MODEL_DIFFERS"
"""Reason of a refusal: the model has a job already, and another one was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetModel:
    """A model that a fleet is to have. All but name, source and bundle is as in `Client.submit`.

    Attributes:
        name: Unique within the fleet: 1 to 63 characters ``[a-z0-9._-]``, a letter or digit first.
        source: ``zoo:NAME``, or ``bundle:SHA256`` of a stored one.
        bundle: In place of a source the folder of a bundle, which is uploaded first.
    """

    name: str
    source: str = ""
    bundle: Path | None = None
    delta: float | None = None
    target: Mapping[str, float] | None = None
    effort: Effort = "normal"
    accept: Accept = "estimate"
    seed: int = 0
    formats: tuple[str, ...] = ()
    objective: str | None = None
    limits: Mapping[str, float] | None = None
    freeze: tuple[str, ...] = ()
    max_ratio: Mapping[str, float] | None = None
    multiple: int = 1
    stage: int = 2
    budget: Mapping[str, float] | None = None
    exports: tuple[str, ...] = ()
    parallel: int | None = None
    labels: Mapping[str, str] | None = None
    priority: int = 0
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True)
class FleetInfo:
    """A fleet as the server last knew it. Times are in UTC.

    Attributes:
        name: ``projects/{project}/fleets/{fleet}``.
        models: How many models it has.
        states: Models by the state of their newest job; states that no job is in are left out.
        inside_delta: Of the models that SUCCEEDED, those whose result keeps what was asked for.
        update_time: When the fleet or one of its jobs changed last.
    """

    name: str
    models: int = 0
    states: Mapping[JobState, int] = field(default_factory=dict)
    inside_delta: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime | None = None
    update_time: datetime | None = None

    @property
    def fleet_id(self) -> str:
        """Last component of the name."""
        return self.name.rpartition("/")[2]

    @property
    def ended(self) -> int:
        """Models whose newest job has ended."""
        return sum(count for state, count in self.states.items() if state.final)

    @property
    def outside(self) -> int:
        """Models that succeeded and whose result does not keep what was asked for."""
        return self.states.get(JobState.SUCCEEDED, 0) - self.inside_delta

    @property
    def failed(self) -> int:
        """Models that ended without a result."""
        return self.ended - self.states.get(JobState.SUCCEEDED, 0)


@dataclass(frozen=True, slots=True)
class ModelRefusal:
    """Why a model did not get what was asked for.

    Attributes:
        code: Number of the gRPC status that a call for this model alone would have had.
        reason: UPPER_SNAKE_CASE and stable, for programs; empty when a field is wrong.
        message: For a person, with field, value and remedy.
    """

    code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What came of one model of a submission or of a retry.

    Attributes:
        job: Its newest job; None where it has none.
        created: Whether this call created the job.
        refusal: Why the model did not get what was asked for; None when it did.
    """

    model: str
    job: JobInfo | None = None
    created: bool = False
    refusal: ModelRefusal | None = None

    @property
    def differs(self) -> bool:
        """Whether the model has a job of another wish than the one that was asked for."""
        return self.refusal is not None and self.refusal.reason == MODEL_DIFFERS


@dataclass(frozen=True, slots=True)
class FleetUpdate:
    """What a watch tells at a time.

    Attributes:
        fleet: The fleet as of now; its counts are right where it is `caught_up`.
        jobs: Newest jobs that are new or changed since the last update.
        begins: Whether the watch begins here, again after a cut: what was told before is told again, and what is not
            told again is no longer there.
        caught_up: Whether everything has been told for now.
    """

    fleet: FleetInfo
    jobs: tuple[JobInfo, ...]
    begins: bool
    caught_up: bool


@dataclass(frozen=True, slots=True)
class ModelDownload:
    """What came of one model of a download.

    Attributes:
        job: The model's newest job.
        folder: Its result folder; None where it has no result, or it could not be fetched.
        error: Why it could not be fetched.
    """

    model: str
    job: JobInfo
    folder: Path | None = None
    error: DiminuendoError | None = None
