"""What is still to come of a search: works, and what they take of an evaluator. Estimates, told with every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diminuendo.engine.search import budget
from diminuendo.engine.search.settings import Settings
from diminuendo.engine.search.state import State

MADE = {"first": 1, "keep": 2, "bracket": 3}
"""How many of the rounds have been proposed, by the round of exploration that is under way."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is still to come.

    Attributes:
        works: That are still to be asked for, beyond the pending ones: about the most.
        seconds: That an evaluator takes for those and the pending ones; None before the first candidate is asked for.
    """

    works: int
    seconds: float | None


def outlook(state: State, settings: Settings) -> Outlook:
    """What is to come after a step.

    Args:
        state: Of a search that goes on.
        settings: As `budget.scaled` has them.
    """
    candidates = _candidates(state, settings)
    controls = int(state.stage != "certify")
    verdicts = int(not any(p.role in ("judge", "export") for p in state.pending))
    exports = int(bool(state.request.exports) and state.judged is None)
    works = sum(count for count, _ in candidates) + controls + verdicts + exports
    return Outlook(works, _seconds(state, settings, candidates))


def _candidates(state: State, settings: Settings) -> list[tuple[int, float]]:
    """Candidates that are still to be proposed and epochs of each, round by round."""
    request = state.request
    after = [(1, settings.after_epochs)] if request.follows_up else []
    if state.stage == "certify":
        return after if any(p.role == "final" for p in state.pending) else []
    finals = budget.finals(state, settings)
    room = max(0.0, budget.of(request, "evaluations") - budget.spent(state)[0] - finals.count - 1)
    *explored, (moves, move_epochs) = budget.rounds(request, settings)
    if state.stage in ("explore", "anneal"):
        explored = explored[MADE[state.round] :]
    candidates = []
    for count, epochs in (*explored, (max(0, moves - state.moves), move_epochs)):
        candidates.append((int(min(count, room)), epochs))
        room -= candidates[-1][0]
    return [*candidates, (finals.count, finals.epochs), *(after if room > 0 else [])]


def _seconds(state: State, settings: Settings, ahead: Sequence[tuple[int, float]]) -> float | None:
    speed = budget.pace_of_one(state)
    if state.stage in ("prepare", "survey") or speed is None:
        return None
    asked = [(p.role, p.work.question.epochs) for p in state.pending if p.work.question.kind == "evaluate"]
    candidates = [*ahead, *((1, epochs) for role, epochs in asked if role != "control")]
    controls = [epochs for role, epochs in asked if role == "control"]
    if state.stage != "certify":
        controls.append(budget.finals(state, settings).control_epochs(budget.longest(state)))
    control_s = sum(controls) * (budget.dense_epoch_s(state) or speed.epoch_s)
    affordable = budget.of(state.request, "epochs") - state.epochs - sum(controls)
    epochs = min(sum(count * epochs for count, epochs in candidates), max(0.0, affordable))
    scored = sum(count for count, _ in candidates) + len(controls)
    verdict_s = 0.0 if state.judged else budget.VERDICT * speed.beside_s
    return epochs * speed.epoch_s + control_s + scored * speed.beside_s + verdict_s
