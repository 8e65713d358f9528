"""What the client hands out: jobs, results and events as frozen dataclasses. Imports no gRPC."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal, get_args

from diminuendo.client.errors import InvalidArgumentError

DEFAULT_DELTA = 1.0
"""In points, where neither delta nor a target is given."""

Effort = Literal["quick", "normal", "deep"]
Accept = Literal["estimate", "strict"]


class JobState(StrEnum):
    """States of a job; see diminuendo.v1.JobState for what is true in each."""

    UNKNOWN = "UNKNOWN"
    """A state that this client is too old to know."""
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"

    @property
    def final(self) -> bool:
        """Whether a job stays in this state for ever."""
        return self in (JobState.CANCELLED, JobState.SUCCEEDED, JobState.FAILED)


class Stage(StrEnum):
    """Stages of a running job, in order."""

    NONE = ""
    """Not started, or a stage that this client is too old to know."""
    PREPARE = "prepare"
    SURVEY = "survey"
    EXPLORE = "explore"
    ANNEAL = "anneal"
    CERTIFY = "certify"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that was tuned and scored.

    Attributes:
        params_ratio: params(original) / params(candidate); 2.0 is half the size.
        macs_ratio: The same for multiply-adds.
        drop: Loss of the metric on the search half, in points; positive is worse.
    """

    params_ratio: float
    macs_ratio: float
    drop: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search has come.

    Attributes:
        steps: Committed steps.
        works_done: Works finished.
        works_expected: Works expected in all; an estimate that grows and shrinks.
        best: The best candidate inside delta so far.
        seconds_done: That evaluators have taken.
        seconds_expected: That they will have taken in all; an estimate that grows and shrinks, 0 while there is none.
    """

    stage: Stage = Stage.NONE
    steps: int = 0
    works_done: int = 0
    works_expected: int = 0
    best: Candidate | None = None
    seconds_done: float = 0.0
    seconds_expected: float = 0.0


@dataclass(frozen=True, slots=True)
class Artifact:
    """Content on a server: its SHA-256 in lower-case hex, its bytes."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on a server.

    Attributes:
        name: ``projects/{project}/bundles/{sha256}``.
        sha256: Of its archive, lower-case hex.
        size_bytes: Of its archive.
        files: Paths in it, sorted.
        ignored: Paths of its folder that ``.gitignore`` leaves out.
    """

    name: str
    sha256: str
    size_bytes: int
    files: tuple[str, ...]
    ignored: tuple[str, ...]

    @property
    def source(self) -> str:
        """What `Client.submit` takes as source."""
        return f"bundle:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Garbage:
    """What a server removed because no job refers to it, or would remove.

    Attributes:
        removed_artifacts: Content that was removed; in a dry run, that would be.
        removed_evaluations: Outcomes of evaluations that were forgotten; in a dry run, that would be.
        waiting_artifacts: Content that no job refers to and that is kept for now.
        kept_artifacts: Content that a job refers to.
    """

    removed_artifacts: int
    removed_bytes: int
    removed_evaluations: int
    waiting_artifacts: int
    waiting_bytes: int
    kept_artifacts: int
    kept_bytes: int


@dataclass(frozen=True, slots=True)
class ResultFile:
    """One file of a result folder: its name, the SHA-256 of its content in lower-case hex, its bytes."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What a network scores and costs.

    Attributes:
        score: The metric on the sealed half, in its points.
        params: Of all layers.
        macs: Multiply-adds of one sample.
        size_bytes: Of the weights.
        memory_bytes: Of weights and outputs, at batch 1.
        time_ms: For one sample, as measured; 0 where it was not.
    """

    score: float
    params: int
    macs: int
    size_bytes: int
    memory_bytes: int
    time_ms: float = 0.0

    @property
    def size_mb(self) -> float:
        """Of the weights, in MB of 2^20 bytes."""
        return self.size_bytes / 2**20


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a job that succeeded.

    Attributes:
        inside_delta: Whether all that was asked for is kept: the drop is inside delta under the job's accept rule, or
            the figure within the target in its place; and every limit holds. If not, the result is the nearest.
        drop: Loss of the metric on the sealed half, in points; positive is worse.
        objective_ratio: original / compressed of the job's objective.
        metric: Its name. Empty where an older coordinator said none of what follows.
        original: The original network; None where that was not said.
        compressed: The compressed one; None where that was not said.
        drop_ci: 95 % interval of the drop, (low, high); None where that was not said.
    """

    inside_delta: bool
    drop: float
    params_ratio: float
    macs_ratio: float
    files: tuple[ResultFile, ...]
    objective_ratio: float = 1.0
    metric: str = ""
    original: Figures | None = None
    compressed: Figures | None = None
    drop_ci: tuple[float, float] | None = None

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from diminuendo.client.notebook import result_html

        return result_html(self)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed.

    Attributes:
        reason: USER_CODE, EVALUATOR_LOST, OUT_OF_MEMORY, TIMEOUT, INTERNAL.
        message: What happened and what to do.
        traceback: When user code or the engine raised; else empty.
    """

    reason: str
    message: str
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as the server last knew it. Times are in UTC.

    Attributes:
        name: ``projects/{project}/jobs/{job}``.
        source: ``zoo:NAME``, or ``bundle:`` and the sha256 of a bundle.
        delta: Tolerance in points of the metric; None where there is a target in its place.
        target: The most that one figure may be, by its name; empty where there is a delta.
        objective: The figure that gets small.
        limits: The most that figures may be.
        formats: Forms that layers may take; empty: those of the effort.
        freeze: Patterns of layers that stay dense.
        max_ratio: The most by which layers may shrink, by pattern.
        multiple: What ranks are multiples of.
        stage: 1 without the annealing, else 2.
        budget: The most ``evaluations``, ``epochs``, ``minutes``.
        parallel: The most evaluations at a time; None: as many as there are evaluators.
        progress: None until the job is first leased.
        result: Set when it succeeded.
        failure: Set when it failed.
        last_sequence: Sequence number of its newest event.
        epoch: Number of leases that it has had.
        priority: Jobs of a higher one are leased first.
        retry_of: Name of the job that it is another try of; empty when it is none.
        deadline: When it is to end with its best model so far; None: it has no deadline.
        exports: Files to be made of the result beside its safetensors, e.g. ``onnx``.
        fleet: ``projects/{project}/fleets/{fleet}`` of the fleet that it belongs to; empty: none.
        model: Which model of the fleet it is of.
    """

    name: str
    source: str
    delta: float | None
    effort: str
    accept: str
    seed: int
    state: JobState
    progress: Progress | None = None
    result: Result | None = None
    failure: Failure | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    update_time: datetime | None = None
    etag: str = ""
    last_sequence: int = 0
    epoch: int = 0
    target: Mapping[str, float] = field(default_factory=dict)
    objective: str = "params"
    limits: Mapping[str, float] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    max_ratio: Mapping[str, float] = field(default_factory=dict)
    multiple: int = 1
    stage: int = 2
    budget: Mapping[str, float] = field(default_factory=dict)
    parallel: int | None = None
    priority: int = 0
    retry_of: str = ""
    deadline: datetime | None = None
    exports: tuple[str, ...] = ()
    fleet: str = ""
    model: str = ""

    @property
    def job_id(self) -> str:
        """Last component of the name."""
        return self.name.rpartition("/")[2]

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from diminuendo.client.notebook import job_html

        return job_html(self)


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a job's log. One of this very class is of a kind that this client is too old to know.

    Attributes:
        sequence: 1, 2, 3, ... without gaps within a job.
        time: When it was logged, in UTC.
    """

    sequence: int
    time: datetime


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """The job entered a state."""

    state: JobState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepCommitted(Event):
    """The search took one step; everything up to it survives any loss."""

    step: int
    progress: Progress
    summary: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationFinished(Event):
    """One work came back from an evaluator.

    Attributes:
        index: Proposal order within the job, from 0.
        kind: prepare, survey, evaluate or judge.
        subject: A layer's name, or a plan's short form.
        seconds: Wall-clock seconds on the evaluator; 0 when remembered.
        evaluator: Which one; empty when remembered.
        remembered: Whether the outcome was known from an earlier evaluation.
        epochs: Epochs of fine-tuning.
        candidate: For kind evaluate; None when it diverged.
    """

    index: int
    key: str
    kind: str
    subject: str
    seconds: float
    evaluator: str
    remembered: bool
    epochs: float
    candidate: Candidate | None = None


@dataclass(frozen=True, slots=True)
class AttemptLost(Event):
    """An attempt at a work came to nothing; the work is tried again, or given up.

    Attributes:
        index: Proposal order of the work within the job, from 0.
        subject: A layer's name, or a plan's short form.
        evaluator: Which one had it.
        attempt: Of this work under this lease, from 1.
        cause: OUT_OF_MEMORY, GPU_OUT_OF_MEMORY, EVALUATOR_LOST or TIMEOUT.
        detail: One line.
    """

    index: int
    subject: str
    evaluator: str
    attempt: int
    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class WarningRaised(Event):
    """Something that the owner should know; the job goes on."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Leased(Event):
    """A coordinator took the job."""

    coordinator: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Updated(Event):
    """The owner changed the job; labels, priority and deadline are what they are since then.

    Attributes:
        fields: Names of what was set.
    """

    fields: tuple[str, ...]
    labels: Mapping[str, str]
    priority: int
    deadline: datetime | None = None


def check_delta(value: float | str) -> float:
    """The tolerance as a number over 0 and up to 100; InvalidArgumentError otherwise."""
    remedy = "give a number over 0 and up to 100, in points of the metric"
    try:
        delta = float(value)
    except (TypeError, ValueError):
        raise InvalidArgumentError.of("delta", f"{value!r} is not a number; {remedy}") from None
    if math.isnan(delta) or not 0 < delta <= 100:
        shown = value if isinstance(value, str) else f"{delta:g}"
        raise InvalidArgumentError.of("delta", f"{shown} is not a tolerance; {remedy}")
    return delta


def check_number(field_name: str, name: str, value: object) -> float:
    """The number of a name, such as a limit; InvalidArgumentError when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidArgumentError.of(field_name, f"{name}={value!r} is no finite number; give one")
    return float(value)


def check_names(field_name: str, values: Sequence[str]) -> Sequence[str]:
    """Names or patterns; InvalidArgumentError for what is no sequence of texts, such as one text alone."""
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise InvalidArgumentError.of(field_name, f"{values!r} is no list of texts; give one, such as ['svd']")
    return values


def check_whole(field_name: str, value: object) -> int:
    """A whole number that the wire can carry; InvalidArgumentError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or abs(value) >= 2**31:
        raise InvalidArgumentError.of(field_name, f"{value!r} is no whole number below 2^31; give one")
    return int(value)


def check_seed(seed: int) -> int:
    """The seed, when it is from 0 to 2^63 - 1; InvalidArgumentError otherwise."""
    if not 0 <= seed < 2**63:
        raise InvalidArgumentError.of("seed", f"{seed} is out of range; give a whole number from 0 to 2^63 - 1")
    return seed


def bundle_sha256(source: str) -> str | None:
    """What follows ``bundle:``; None where the source is no stored bundle.

    Raises:
        InvalidArgumentError: It is no sha256.
    """
    scheme, _, sha256 = source.partition(":")
    if scheme != "bundle":
        return None
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise InvalidArgumentError.of(
            "source", f"{source!r} is not bundle:SHA256; give the bundle's folder as bundle, or what upload_bundle gave"
        )
    return sha256


def zoo_name(source: str) -> str:
    """What follows ``zoo:``, NAME or NAME?classes=N; InvalidArgumentError otherwise."""
    scheme, colon, name = source.partition(":")
    if scheme != "zoo" or not colon or not name:
        near = f"; did you mean zoo:{source}?" if source and not colon else "; for example zoo:digits"
        raise InvalidArgumentError.of("source", f"{source!r} is not of the form zoo:NAME{near}")
    return name


def check_choice(field_name: str, value: str, choices: object) -> str:
    """The value, when it is among the choices of a Literal type; InvalidArgumentError otherwise."""
    known = get_args(choices)
    if value not in known:
        raise InvalidArgumentError.of(field_name, f"{value!r} is not known; give one of {', '.join(known)}")
    return value
