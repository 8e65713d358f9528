"""What metrics are made of beside what is counted: figures of the whole database, as frozen records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diminuendo.services.conductor.records import Job, State, StoredCoordinator

MAX_JOBS, MAX_FLEETS = 100, 20
"""The newest jobs, running and succeeded ones, and the newest fleets, that are told of one by one."""
OUTCOMES = ("inside_delta", "outside_delta", "failed", "cancelled", "unfinished")
"""What may have become of a model."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Where jobs stand.

    Attributes:
        jobs: Number of jobs by project and state.
        queued_since: Since when the job waits that has waited longest for a coordinator; None: none waits.
        quiet_since: When the RUNNING job changed last that has changed least recently; None: none runs.
        held: The newest jobs in coordinators' hands, the newest first.
        finished: The newest jobs that SUCCEEDED, the newest first.
        coordinators: What coordinators told last, of those that were heard of lately.
    """

    jobs: Mapping[tuple[str, State], int]
    queued_since: int | None
    quiet_since: int | None
    held: Sequence[Job]
    finished: Sequence[Job]
    coordinators: Sequence[StoredCoordinator]


@dataclass(frozen=True, slots=True)
class FleetResult:
    """What a result saves; all 0 where it is not inside delta, or does not say."""

    inside_delta: bool = False
    original_params: int = 0
    compressed_params: int = 0
    original_bytes: int = 0
    compressed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FleetFigures:
    """A fleet.

    Attributes:
        name: ``projects/{project}/fleets/{fleet}``.
        models: Number of models by what became of their newest job, see `OUTCOMES`.
        saved: Sums over the results that are inside delta.
    """

    name: str
    models: Mapping[str, int]
    saved: FleetResult
