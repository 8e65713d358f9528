"""The session's whole state as plain data, and its bytes."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from diminuendo.engine.cost import Cost
from diminuendo.engine.search.objective import Goal, Limits, ObjectiveName
from diminuendo.engine.search.settings import EffortName
from diminuendo.engine.search.work import OWN, Choices, Judged, Prepared, Surveyed, Work

STATE_VERSION = 9

AcceptName = Literal["estimate", "strict"]
StageName = Literal["prepare", "survey", "explore", "anneal", "certify", "done"]
StageNumber = Literal[1, 2]
Role = Literal[
    "prepare",
    "survey",
    "first",
    "rival",
    "keep",
    "bracket",
    "move",
    "polish",
    "final",
    "squeeze",
    "ease",
    "control",
    "judge",
    "export",
]


class StateError(ValueError):
    """A dumped state that this version cannot go on from; discard it and start again."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of a session.

    Attributes:
        source: Where network and data come from, e.g. ``zoo:digits``.
        delta: Tolerance, in points of the metric; None where there is a target in its place.
        threads: Threads of every evaluation; part of the numerics, hence of the decisions.
        formats: Forms that layers may take; empty: those of the effort.
        objective: The figure that gets as small as it can; the target's where there is one.
        limits: (figure, the most it may be): in params, MACs, MB of 2^20 bytes, or ms for one sample.
        freeze: Shell patterns over the names of layers that stay dense.
        max_ratio: (pattern, the most by which the params of such a layer may shrink).
        multiple: What ranks are multiples of, but for the lowest and the highest of a format.
        stage: 1 stops after the exploration, 2 anneals.
        budget: (``evaluations``, ``epochs`` or ``minutes``, the most of it); see `search.budget`.
        target: In place of delta: (figure, the most it may be), in the units of the limits. The least drop within it
            is looked for.
        exports: Forms that the result is exported in, see `exports.forms`.
    """

    source: str
    delta: float | None
    seed: int = 0
    effort: EffortName = "normal"
    accept: AcceptName = "estimate"
    threads: int = 1
    formats: tuple[str, ...] = ()
    objective: ObjectiveName = "params"
    limits: Limits = ()
    freeze: tuple[str, ...] = ()
    max_ratio: tuple[tuple[str, float], ...] = ()
    multiple: int = 1
    stage: StageNumber = 2
    budget: tuple[tuple[Literal["evaluations", "epochs", "minutes"], float], ...] = ()
    target: tuple[ObjectiveName, float] | None = None
    exports: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        """Delta, in points; infinite where a target stands in its place."""
        return math.inf if self.delta is None else self.delta

    @property
    def follows_up(self) -> bool:
        """Whether finalists that have missed delta are followed by smaller or larger candidates."""
        return self.stage == 2 and self.target is None

    @property
    def goal(self) -> Goal:
        """What is made small and what is kept inside limits."""
        return Goal(self.objective, self.limits, None if self.target is None else self.target[1])


@dataclass(frozen=True, slots=True)
class Pending:
    """A work that was asked for and not told.

    Attributes:
        parent: Work index of the trial that it starts from.
        lineage_epochs: Epochs of tuning that its weights will have had, its ancestors' included.
    """

    work: Work
    role: Role
    parent: int | None = None
    lineage_epochs: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A tuned candidate. One that diverged has no drop, no divergence and no weights."""

    index: int
    role: Role
    choices: Choices
    parent: int | None
    epochs: float
    lineage_epochs: float
    cost: Cost
    drop: float | None
    divergence: float | None
    weights: str | None


@dataclass
class State:
    """Everything that a session knows.

    Attributes:
        pending: Asked and not told, in proposal order; the first one is told next.
        asked: Works asked so far; the index of the next one.
        own: Weight of the owner's loss that the search has settled on.
        round: Which round of exploration is under way.
        step: Step of the annealing, in log of the objective.
        moves: Annealing proposals made so far.
        epochs: Epochs of fine-tuning so far.
        seconds: Evaluator seconds so far; reported only.
        tuning_s: Those of the evaluations.
        beside_s: Those of them that were not for tuning, as far as evaluators said.
        elapsed_s: Seconds that the job has taken, as far as its driver told.
        surveyed_s: Those of them before the first candidate.
        end_s: What they are to be at the most: the job's deadline, as its driver told.
        ended: Why the search was told to end early; empty while it was not.
        warnings: All that were raised, as in `Step.warnings`.
        judged: The finalists' verdicts, while exports of the winner are made.
    """

    request: Request
    stage: StageName = "prepare"
    prepared: Prepared | None = None
    surveys: list[Surveyed] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    asked: int = 0
    own: float = OWN
    trials: list[Trial] = field(default_factory=list)
    round: Literal["first", "keep", "bracket"] = "first"
    step: float = 0.0
    moves: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    tuning_s: float = 0.0
    beside_s: float = 0.0
    elapsed_s: float = 0.0
    surveyed_s: float = 0.0
    end_s: float | None = None
    ended: str = ""
    warnings: list[tuple[str, str]] = field(default_factory=list)
    judged: Judged | None = None
    version: int = STATE_VERSION


_ADAPTER: TypeAdapter[State] = TypeAdapter(State)


def dump(state: State) -> bytes:
    """The state's bytes: zlib over JSON."""
    return zlib.compress(_ADAPTER.dump_json(state), level=6)


def load(data: bytes) -> State:
    """The state back.

    Raises:
        StateError: The bytes are damaged or of another version.
    """
    try:
        state = _ADAPTER.validate_json(zlib.decompress(data))
    except (zlib.error, ValidationError) as error:
        raise StateError(f"the search state cannot be read ({type(error).__name__}); start the search again") from error
    if state.version != STATE_VERSION:
        raise StateError(f"the search state has version {state.version}, this engine reads {STATE_VERSION}")
    return state
