"""What computes: coordinators, their Ray clusters, and what each evaluator does, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class EvaluatorState(StrEnum):
    """What an evaluator does."""

    UNKNOWN = "UNKNOWN"
    """A state that this client is too old to know."""
    STARTING = "STARTING"
    """Its process is being started."""
    IDLE = "IDLE"
    BUSY = "BUSY"
    LOST = "LOST"
    """Its process is gone, or cannot be started; another is tried."""


@dataclass(frozen=True, slots=True)
class Evaluator:
    """One evaluator, as its coordinator last told.

    Attributes:
        name: Unique within its coordinator.
        job: Name of the job whose work it does, or of its last one; empty where there was none.
        kind: prepare, survey, evaluate, judge or export, while busy.
        index: Proposal order of the work within the job, from 0, while busy.
        subject: What it works on: a layer's name, or a plan's short form; empty when idle.
        attempt: Of this work under this lease, from 1, while busy.
        since: Since when it is in this state, or at this work, in UTC.
        node: The node that it is on; empty while it is not known.
        cpus: What Ray has given to it, as the next.
    """

    name: str
    state: EvaluatorState
    job: str = ""
    kind: str = ""
    index: int = 0
    subject: str = ""
    attempt: int = 0
    since: datetime | None = None
    node: str = ""
    cpus: float = 0.0
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node of a Ray cluster.

    Attributes:
        name: Host name or address.
        cpus: What Ray says that it has, as the next ones.
    """

    name: str
    alive: bool
    cpus: float
    gpus: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class Coordinator:
    """One coordinator with its Ray cluster, as it last told. Times are in UTC.

    Attributes:
        name: Unique among those alive.
        version: Of diminuendo.
        ray_address: ``local``, or the address of the Ray cluster.
        update_time: When it told this.
        works_waiting: Works of all jobs that wait for an evaluator.
        jobs: Names of the jobs that it works on.
    """

    name: str
    version: str
    ray_address: str
    start_time: datetime | None
    update_time: datetime | None
    evaluators: tuple[Evaluator, ...]
    nodes: tuple[ClusterNode, ...]
    works_waiting: int
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything that computes for a server: the coordinators that were heard of within the last 15 s, by name."""

    coordinators: tuple[Coordinator, ...]

    @property
    def evaluators(self) -> tuple[Evaluator, ...]:
        """Of all coordinators."""
        return tuple(evaluator for coordinator in self.coordinators for evaluator in coordinator.evaluators)

    @property
    def gpus(self) -> float:
        """Of all nodes that are alive."""
        return sum(node.gpus for coordinator in self.coordinators for node in coordinator.nodes if node.alive)

    def count(self, state: EvaluatorState) -> int:
        """Evaluators in a state."""
        return sum(evaluator.state is state for evaluator in self.evaluators)
