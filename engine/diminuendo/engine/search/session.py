"""The search session: a pure state machine that asks for works and is told their outcomes.

It does no I/O, reads no clock, and draws every random number from a key, so that the same request and the same
outcomes give the same decisions, however many evaluators answer and in whatever order they finish::

    session = Session(Request("zoo:digits", delta=1.0))
    while session.outcome is None:
        work = session.ask()[0]
        step = session.tell(worker.run(work))   # outcomes in proposal order
        save(session.dump())                    # Session.load goes on from here
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from diminuendo.engine.cost import Cost, ratio
from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.search import budget, doubts, exporting, feasible, patterns, propose, result, target
from diminuendo.engine.search import state as state_module
from diminuendo.engine.search.outlook import Outlook, outlook
from diminuendo.engine.search.propose import Proposal, Proposer
from diminuendo.engine.search.result import Finished, ResultFileContent
from diminuendo.engine.search.rng import keyed_seed
from diminuendo.engine.search.settings import EFFORTS, Settings
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.standing import Crowd, Standing
from diminuendo.engine.search.state import Pending, Request, Role, StageName, State, StateError, Trial
from diminuendo.engine.search.work import (
    AnyAnswer,
    AnyQuestion,
    Evaluate,
    Evaluated,
    ExportsMade,
    Failed,
    Judge,
    Judged,
    Prepare,
    Prepared,
    Surveyed,
    SurveyLayer,
    Tuned,
    Work,
)

RESERVES, RESERVE_STEP = 7, 1.3
"""Larger candidates inside delta that are judged beside the finalists, and how much larger each is at least than the
one before: all finalists descend from one candidate, and what the search half was too kind to is outside in all of
them. They are spread over all sizes up to the largest: with a step alone, nothing would stand between the last step and
that one."""

LEAST_AGAIN = 0.25
"""Where candidates are not tuned before the full tuning, one more follows the finalist if so much of that is left."""

LEAST_FOR_RIVAL = 4
"""Candidates of the first round from which one of them is a second tuning of another one's plan."""

__all__ = ["Best", "Finished", "Request", "ResultFileContent", "Session", "StageName", "StateError", "Step"]


@dataclass(frozen=True, slots=True)
class Best:
    """A candidate's figures: ratios to the original, and its drop on the search half in points."""

    params_ratio: float
    macs_ratio: float
    drop: float


@dataclass(frozen=True, slots=True)
class Step:
    """What one outcome changed.

    Attributes:
        index: Counts from 0; equals the index of the work whose outcome it was.
        key: Key of that work.
        stage: The stage after the step.
        works_expected: Works in all, as far as can be said now.
        seconds_done: That evaluators have taken.
        seconds_expected: That they will have taken in all, as far as can be said now; 0 while it cannot.
        best: The smallest candidate inside delta so far.
        candidate: The candidate that was told, if it was one and did not diverge.
        warnings: (reason in UPPER_SNAKE_CASE, message).
    """

    index: int
    key: str
    stage: StageName
    summary: str
    works_done: int
    works_expected: int
    seconds_done: float
    seconds_expected: float
    best: Best | None
    candidate: Best | None
    warnings: tuple[tuple[str, str], ...] = ()


class Session:
    """One search, from the original network to the certified result.

    Attributes:
        outcome: None while the search goes on.
    """

    def __init__(self, request: Request) -> None:
        """Start a search."""
        self.outcome: Finished | Failed | None = None
        self._warnings: list[tuple[str, str]] = []
        self._state = State(request)
        question = Prepare(request.source, request.seed, request.threads)
        self._push(question, "prepare", "the original network")

    @classmethod
    def load(cls, data: bytes) -> Session:
        """A session that goes on from a dumped state.

        Raises:
            StateError: The bytes are damaged or of another version; discard them and start again.
        """
        session = cls.__new__(cls)
        session.outcome = None
        session._warnings = []
        session._state = state_module.load(data)
        return session

    def dump(self) -> bytes:
        """The whole state; `load` goes on from it with the same decisions. Empty once the session has ended."""
        if self.outcome is not None:
            return b""
        return state_module.dump(self._state)

    @property
    def request(self) -> Request:
        """What was asked."""
        return self._state.request

    @property
    def next_index(self) -> int:
        """Index of the work whose outcome is told next."""
        return self._state.pending[0].work.index if self._state.pending else self._state.asked

    def ask(self) -> list[Work]:
        """Every work that is wanted now and whose outcome has not been told, in proposal order."""
        return [] if self.outcome is not None else [pending.work for pending in self._state.pending]

    @property
    def timed(self) -> bool:
        """Whether the job has a budget of minutes or a deadline, so that its driver is to call `elapse`."""
        return math.isfinite(budget.minutes_of(self._state))

    @property
    def elapsed_s(self) -> float:
        """Seconds that the job has taken, as far as was told."""
        return self._state.elapsed_s

    @property
    def end_s(self) -> float | None:
        """Seconds that the job is to have taken at the most, as was told last; None: it has no deadline."""
        return self._state.end_s

    def end_by(self, end_s: float | None) -> None:
        """Be told of the job's deadline, as the seconds that it is to have taken then; None: there is none.

        The search is made to fit, as to a budget of minutes. Like `elapse` an input that is part of the state.
        """
        self._state.end_s = end_s

    def elapse(self, elapsed_s: float) -> bool:
        """Be told how long the job has taken: when the minutes are spent, certify the best so far.

        An input like any other: it is part of the state, so that whoever goes on from a dump decides alike.

        Returns:
            True when the works that were asked for are not wanted any more: their indices are given to others.
        """
        state = self._state
        state.elapsed_s = max(state.elapsed_s, elapsed_s)
        searching = state.stage in ("explore", "anneal") and bool(state.pending) and self.outcome is None
        if not searching or not budget.due(state, self._settings) or not self._standing.trials:
            return False
        minutes = budget.of(state.request, "minutes")
        by_deadline = budget.minutes_of(state) < minutes
        state.ended = "the deadline" if by_deadline else f"the budget of {minutes:g} minutes"
        state.asked = state.pending[0].work.index
        state.pending.clear()
        self._trials_changed()
        self._start_certify()
        return True

    def tell(self, answer: AnyAnswer, *, elapsed_s: float = 0.0) -> Step:
        """Apply the outcome of work number `next_index`.

        Args:
            elapsed_s: How long the job has taken until now, see `elapse`.

        Raises:
            ValueError: No work is waiting for an outcome, or the outcome is of another kind.
        """
        if self.outcome is not None or not self._state.pending:
            raise ValueError("no work is waiting for an outcome: the session has ended")
        pending = self._state.pending.pop(0)
        self._state.elapsed_s = max(self._state.elapsed_s, elapsed_s)
        self._warnings = []
        self._trials_changed()
        candidate: Best | None = None
        if pending.role == "export" and isinstance(answer, Failed) and exporting.is_lost(answer):
            answer = exporting.lost(self._state.request, answer)
        if isinstance(answer, Failed):
            self.outcome = answer
            summary = f"failed: {answer.message}"
        else:
            self._state.seconds += answer.seconds
            candidate, summary = self._apply(pending, answer)
            if self.outcome is None and not isinstance(answer, Judged | ExportsMade):
                self._advance()
        return self._step(pending, candidate, summary)

    # --- applying outcomes ---------------------------------------------------------------------------------

    def _apply(
        self, pending: Pending, answer: Prepared | Surveyed | Evaluated | Judged | ExportsMade
    ) -> tuple[Best | None, str]:
        kind = (pending.work.question.kind, answer.kind)
        if kind not in (
            ("prepare", "prepared"),
            ("survey", "surveyed"),
            ("evaluate", "evaluated"),
            ("judge", "judged"),
            ("export", "exported"),
        ):
            raise ValueError(f"work {pending.work.index} is of kind {kind[0]!r}, its outcome of kind {kind[1]!r}")
        if isinstance(answer, Prepared):
            return None, self._apply_prepared(answer)
        if isinstance(answer, Surveyed):
            self._state.surveys.append(answer)
            for view in ("_space", "_crowd"):
                self.__dict__.pop(view, None)
            return None, f"{answer.layer}: {len(answer.options)} forms"
        if isinstance(answer, Evaluated):
            return self._apply_evaluated(pending, answer)
        return None, self._apply_judged(answer) if isinstance(answer, Judged) else self._apply_exported(answer)

    def _apply_prepared(self, answer: Prepared) -> str:
        self._state.prepared = answer
        if not answer.layers:
            reasons = "; ".join(f"{name}: {why}" for name, why in answer.left_dense) or "it has no layers with weights"
            self.outcome = Failed("USER_CODE", f"the network has no layer that can be compressed ({reasons})")
        elif complaint := doubts.hopeless(answer) or feasible.misnamed(self._state.request, answer):
            self.outcome = Failed("USER_CODE", complaint)
        else:
            for reason, message in doubts.doubts(self._state.request, answer):
                self._warn(reason, message)
        return f"original: {result.points(answer.baseline)} {answer.metric}, {answer.total.params:,} params"

    def _warn(self, reason: str, message: str) -> None:
        """Tell the owner with this step, and in the certificate."""
        self._warnings.append((reason, message))
        self._state.warnings.append((reason, message))

    def _apply_evaluated(self, pending: Pending, answer: Evaluated) -> tuple[Best | None, str]:
        question, prepared = pending.work.question, self._prepared
        if not isinstance(question, Evaluate):
            raise ValueError(f"work {pending.work.index} is no evaluation")
        drop = None
        if answer.score is not None:
            loss = prepared.baseline - answer.score
            drop = loss if prepared.higher_is_better else -loss
        trial = Trial(
            pending.work.index, pending.role, question.choices, pending.parent, question.epochs,
            pending.lineage_epochs, self._space.timed(answer.cost, Plan(question.choices)), drop, answer.divergence,
            answer.weights,
        )  # fmt: skip
        before = propose.base_of(self._standing, self._settings)
        self._crowd.add(trial)
        self._state.trials.append(trial)
        self._state.epochs += question.epochs
        self._state.tuning_s += answer.seconds
        self._state.beside_s += answer.beside_s
        self._trials_changed()
        if pending.role in ("move", "polish"):
            self._cool(before)
        if drop is None:
            self._warn("CANDIDATE_DIVERGED", f"candidate {trial.index} diverged while it was tuned")
            return None, f"{pending.work.subject}: diverged"
        smaller = ratio(self._space.amount(self._space.total), self._space.amount(trial.cost))
        figure = f"{smaller:.2f}x {self._space.goal.objective}"
        return self._figures(trial.cost, drop), f"{pending.work.subject}: {figure} at a drop of {result.points(drop)}"

    def _apply_judged(self, answer: Judged) -> str:
        finished = self._finished(answer, result.NO_EXPORTS)
        if others := [machine for machine in result.timed_on(self._state) if machine != answer.machine]:
            told = (
                f"latencies were told by a table of {'; '.join(others)}, the finalists were timed on {answer.machine}"
            )
            self._warnings.append(("TIMED_ELSEWHERE", told))
        if exports := self._state.request.exports:
            self._state.judged = answer
            winner = self._finals()[result.pick(answer, self._state.request)]
            question = exporting.question(self._state.request, self._prepared, winner)
            self._push(question, "export", ", ".join(exports))
        else:
            self._end(finished)
        where = "inside" if finished.inside_delta else "outside"
        smaller = f"{finished.objective_ratio:.2f}x {self._state.request.objective}"
        wanted = "delta" if self._state.request.target is None else "the target"
        return f"{smaller} at a sealed drop of {result.points(finished.drop)}, {where} {wanted}"

    def _apply_exported(self, answer: ExportsMade) -> str:
        if self._state.judged is None:
            raise ValueError("exports were made before there was a verdict")
        for complaint in exporting.complaints(answer):
            self._warn(exporting.REASON, complaint)
        self._end(self._finished(self._state.judged, answer))
        return exporting.summary(answer)

    def _finished(self, judged: Judged, exports: ExportsMade) -> Finished:
        control = next(t for t in self._state.trials if t.role == "control")
        return result.finish(self._state, self._prepared, self._finals(), control, judged, exports)

    def _end(self, finished: Finished) -> None:
        self.outcome = finished
        self._state.stage = "done"

    def _finals(self) -> list[Trial]:
        """The finalists that did not diverge, the smallest first; for a target the ones with the least drop.

        Of those that were squeezed only the ones inside delta are judged. So are, as they are, larger candidates inside
        delta, from the next one to the largest: they are there, should the sealed half be stricter.
        """
        finals = self._tuned_in_full()
        if self._state.request.target is not None:
            standing = self._standing
            return sorted(finals, key=lambda t: (standing.estimates[t.index], t.index))
        finals += self._reserves(finals)
        return sorted(finals, key=lambda t: (self._space.amount(t.cost), t.index))

    def _tuned_in_full(self) -> list[Trial]:
        standing = self._standing
        return [
            t
            for t in self._state.trials
            if t.weights is not None
            and (t.role in ("final", "ease") or (t.role == "squeeze" and standing.inside(t, standing.delta)))
        ]

    def _reserves(self, finals: Sequence[Trial]) -> list[Trial]:
        """Candidates inside delta that are larger than the finalists inside it, none where there is no finalist."""
        if not finals:
            return []
        standing = self._standing
        least = max((standing.amount(t) for t in finals if standing.inside(t, standing.delta)), default=0)
        inside = (t for t in standing.inside_all if t.weights is not None and t not in finals)
        larger = [t for t in inside if standing.amount(t) > least]
        if not larger:
            return []
        span = standing.amount(larger[-1]) / standing.amount(larger[0])
        step = max(RESERVE_STEP, math.pow(span, 1 / (RESERVES - 1)))
        chosen = larger[:1]
        for trial in larger:
            if standing.amount(trial) >= step * standing.amount(chosen[-1]):
                chosen.append(trial)
        return chosen if chosen[-1] is larger[-1] else [*chosen, larger[-1]]

    def _cool(self, before: Trial | None) -> None:
        """A step that brought nothing better was too long: the next ones are shorter."""
        after = propose.base_of(self._standing, self._settings)
        if (after.index if after else -1) == (before.index if before else -1):
            self._state.step *= self._settings.cooling

    # --- what comes next -----------------------------------------------------------------------------------

    def _advance(self) -> None:
        state = self._state
        if state.stage == "anneal":
            self._anneal()
        if state.pending:
            return
        if state.stage == "prepare":
            state.stage = "survey"
            for spec, _ in self._prepared.layers:
                if not patterns.matches(state.request.freeze, spec.name):
                    self._push_survey(spec.name)
        elif state.stage == "survey":
            state.stage, state.surveyed_s = "explore", state.elapsed_s
            if complaint := feasible.impossible(self._space):
                self.outcome = Failed("USER_CODE", complaint)
                return
            room = self._room(self._settings.first_epochs, 0)
            count = min(self._settings.budgets, -(-room // budget.FIRST_SHARE))
            contest = self._prepared.own is None and count >= LEAST_FOR_RIVAL and not self._settings.untuned
            plans = self._propose.first(self._standing, replace(self._settings, budgets=count - contest))
            self._push_all([*plans, propose.rival(plans)] if contest and plans else plans)
        elif state.stage == "explore":
            self._explore()
        elif state.stage == "certify":
            self._certify()
        if not state.pending and self.outcome is None:
            self._advance_past_nothing()

    def _room(self, epochs: float, before: float) -> int:
        """How many candidates the budget has room for, of so many epochs after so many of their parents'."""
        return budget.room(self._state, self._settings, epochs, before + epochs)

    def _advance_past_nothing(self) -> None:
        """Nothing was proposed: go to the next stage, or give up when no candidate survived."""
        if self._state.stage in ("explore", "anneal") and self._standing.trials:
            self._start_certify()
        elif not self._standing.trials:
            self.outcome = Failed("INTERNAL", "every candidate diverged; lower the recipe's learning rate")

    def _explore(self) -> None:
        state, settings = self._state, self._settings
        if state.round == "first":
            state.round = "keep"
            state.own = propose.settled(self._standing)
            count = min(settings.kept, self._room(settings.kept_epochs, budget.longest(state)))
            self._push_all(self._propose.kept(self._standing, replace(settings, kept=count)))
        if state.round == "keep" and not state.pending:
            state.round = "bracket"
            count = min(settings.bracket, self._room(settings.bracket_epochs, budget.longest(state)))
            self._push_all(self._propose.bracket(self._standing, replace(settings, bracket=count)))
        if state.pending or not self._standing.trials:
            return
        if state.request.stage == 1:
            self._start_certify()
            return
        state.stage, state.step = "anneal", propose.first_step(self._standing, settings)
        self._anneal()

    def _anneal(self) -> None:
        """Keep the window of proposals full until the moves are spent or the step has become too small.

        The window slides by one for each outcome, never by arrival, so that proposal k depends on the outcomes up
        to k - window alone.
        """
        state, settings = self._state, self._settings
        while len(state.pending) < settings.window and state.moves < settings.moves:
            if state.step < settings.least_step or not self._room(settings.move_epochs, 0):
                break
            proposal = self._propose.move(self._standing, settings)
            state.moves += 1
            parent = proposal.parent if proposal else None
            if proposal is None:
                continue
            if not self._room(proposal.epochs, parent.lineage_epochs if parent else 0):
                break
            self._push_all([proposal])
            self._trials_changed()
        if not state.pending:
            self._start_certify()

    def _start_certify(self) -> None:
        state = self._state
        state.stage = "certify"
        finals, settings = budget.affordable(state, self._settings), self._settings
        settings = replace(settings, growths=settings.growths[: finals.count], final_epochs=finals.epochs)
        proposals = self._propose.finalists(self._standing, settings)
        lineage = max(p.parent.lineage_epochs if p.parent else 0.0 for p in proposals)
        control = Proposal(self._space.dense, "control", None, finals.control_epochs(lineage))
        self._push_all([control, *proposals])

    def _certify(self) -> None:
        state, prepared = self._state, self._prepared
        finals = self._finals()
        control = next(t for t in state.trials if t.role == "control")
        if not finals or control.weights is None:
            self.outcome = Failed("INTERNAL", "every finalist diverged in its full tuning; lower the learning rate")
            return
        if state.request.follows_up:
            again = self._again(self._tuned_in_full())
            if again is not None:
                self._push_all([again])
                return
        question = Judge(
            state.request.source,
            prepared.task,
            tuple(Tuned(t.choices, t.weights) for t in finals if t.weights is not None),
            Tuned(control.choices, control.weights),
            state.request.threads,
            state.request.seed,
        )
        self._push(question, "judge", f"{len(finals)} finalists on the sealed half")

    def _again(self, finals: Sequence[Trial]) -> Proposal | None:
        """One more candidate before the verdict, where finalists have missed delta on either side."""
        state, settings = self._state, self._settings
        left = budget.left(state)
        if left < (settings.move_epochs or LEAST_AGAIN * settings.final_epochs):
            return None
        epochs = settings.final_epochs if left >= settings.final_epochs else budget.whole(left)
        smaller = propose.squeeze(self._standing, settings, finals, settings.move_epochs or epochs)
        return smaller or propose.ease(self._standing, settings, finals, epochs)

    # --- asking --------------------------------------------------------------------------------------------

    def _push(
        self,
        question: AnyQuestion,
        role: Role,
        subject: str,
        *,
        parent: int | None = None,
        lineage_epochs: float = 0.0,
    ) -> None:
        state = self._state
        state.pending.append(Pending(Work(state.asked, question, subject), role, parent, lineage_epochs))
        state.asked += 1

    def _push_survey(self, layer: str) -> None:
        request, prepared = self._state.request, self._prepared
        question = SurveyLayer(
            request.source,
            prepared.task,
            prepared.moments,
            layer,
            request.seed,
            request.threads,
            formats=request.formats or EFFORTS[request.effort].formats,
            multiple=request.multiple,
            latency=request.goal.timed,
        )
        self._push(question, "survey", layer)

    def _push_all(self, proposals: Sequence[Proposal]) -> None:
        for proposal in proposals:
            self._push_proposal(proposal)

    def _push_proposal(self, proposal: Proposal) -> None:
        state, request = self._state, self._state.request
        parent = proposal.parent
        start = Tuned(parent.choices, parent.weights) if parent and parent.weights else None
        epochs, before = float(proposal.epochs), parent.lineage_epochs if parent else 0.0
        question = Evaluate(
            source=request.source,
            task=self._prepared.task,
            choices=proposal.plan.choices,
            factors=self._factors(proposal.plan),
            parent=start,
            epochs=epochs,
            rate=proposal.rate,
            tuning_seed=keyed_seed(request.seed, "tune", state.asked),
            seed=request.seed,
            threads=request.threads,
            numerics=self._prepared.numerics,
            start=before,
            own=state.own if proposal.own is None else proposal.own,
        )
        cost = self._space.cost(proposal.plan)
        amount = self._space.amount
        subject = f"{proposal.role} {ratio(amount(self._space.total), amount(cost)):.1f}x"
        self._push(
            question, proposal.role, subject, parent=parent.index if parent else None, lineage_epochs=before + epochs
        )

    def _factors(self, plan: Plan) -> tuple[tuple[str, str, str], ...]:
        stored = {survey.layer: dict(survey.factors) for survey in self._state.surveys}
        return tuple(
            (name, choice.format, stored[name][choice.format]) for name, choice in plan.items() if choice != DENSE
        )

    # --- views ---------------------------------------------------------------------------------------------

    @property
    def _propose(self) -> Proposer:
        """What makes the proposals: for a tolerance, or for a target."""
        return propose if self._state.request.target is None else target

    @property
    def _settings(self) -> Settings:
        return budget.scaled(self._state, EFFORTS[self._state.request.effort])

    @property
    def _prepared(self) -> Prepared:
        if self._state.prepared is None:
            raise ValueError("the original has not been prepared yet")
        return self._state.prepared

    @cached_property
    def _space(self) -> Space:
        return Space.of(self._prepared, self._state.surveys, self._state.request)

    @cached_property
    def _standing(self) -> Standing:
        return Standing(self._state, self._space, self._crowd)

    @cached_property
    def _crowd(self) -> Crowd:
        return Crowd(self._space, self._state.request.tolerance, self._state.trials)

    def _trials_changed(self) -> None:
        """Have the standing made anew when it is next asked for."""
        self.__dict__.pop("_standing", None)

    def _figures(self, cost: Cost, drop: float) -> Best:
        total = self._prepared.total
        return Best(ratio(total.params, cost.params), ratio(total.macs, cost.macs), drop)

    def _step(self, pending: Pending, candidate: Best | None, summary: str) -> Step:
        state = self._state
        done = pending.work.index + 1
        best: Best | None = None
        if state.stage in ("explore", "anneal", "certify", "done") and self._standing.incumbent:
            incumbent = self._standing.incumbent
            best = self._figures(incumbent.cost, incumbent.drop or 0.0)
        to_come = Outlook(0, 0.0) if self.outcome is not None else outlook(state, self._settings)
        return Step(
            index=pending.work.index,
            key=pending.work.key,
            stage=state.stage,
            summary=summary,
            works_done=done,
            works_expected=done + len(state.pending) + to_come.works,
            seconds_done=state.seconds,
            seconds_expected=0.0 if to_come.seconds is None else state.seconds + to_come.seconds,
            best=best,
            candidate=candidate,
            warnings=tuple(self._warnings),
        )
