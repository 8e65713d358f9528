"""A network in the laboratory: surveyed once, its plans tuned and judged by the engine's own worker.

Outcomes are kept in files under the keys of their works, so that what was computed once, by any method and in any
process, is not computed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tests.bench.compare.course import Account, Candidate
from tests.bench.compare.subjects import FORMATS, Subject

from diminuendo.engine.cost import ratio
from diminuendo.engine.evaluate import Worker
from diminuendo.engine.plan import DENSE, Plan
from diminuendo.engine.search import state as states
from diminuendo.engine.search.check import request_of
from diminuendo.engine.search.drive import AnyAnswer, Done
from diminuendo.engine.search.rng import keyed_seed
from diminuendo.engine.search.session import Session
from diminuendo.engine.search.space import Space
from diminuendo.engine.search.state import Request, State
from diminuendo.engine.search.work import (
    Evaluate,
    Evaluated,
    Judge,
    Judged,
    Prepared,
    Tuned,
    Work,
)
from diminuendo.engine.workfolder import WorkFolder

DELTA = 1.0


class Lab:
    """One network under one seed, for one method.

    Attributes:
        folder: Has weights, factors and outcomes of all methods.
        account: The method's epochs.
        seconds: That the method's works took, when they were computed.
    """

    def __init__(self, subject: Subject, folder: Path, *, method: str, seed: int, epochs: float, threads: int) -> None:
        """A method that has so many epochs.

        Args:
            subject: The network.
            folder: As a work folder of `compress`; the same for all methods.
            method: Keys its random choices.
            seed: Of the split of the evaluation data too.
            epochs: The most that it may spend.
            threads: Torch's.
        """
        self.subject, self.method, self.seed, self.threads, self.folder = subject, method, seed, threads, folder
        self.account = Account(epochs)
        self.seconds = 0.0
        self._kept = WorkFolder(folder)
        self._worker = Worker(self._kept.store, tasks={subject.source: subject.task})
        self._asked = 0

    @property
    def request(self) -> Request:
        """What our own search is asked for."""
        return request_of(
            self.subject.source,
            DELTA,
            seed=self.seed,
            threads=self.threads,
            formats=FORMATS,
            budget={"epochs": self.account.most},
        )

    def answer(self, work: Work) -> AnyAnswer:
        """The outcome of a work, remembered or computed."""
        known = self._kept.recall([work.key])
        answer = known.get(work.key) or self._worker.run(work)
        self._kept.record(Done(work, answer, self.method, 0.0, remembered=work.key in known))
        self.seconds += 0.0 if answer.kind == "failed" else answer.seconds
        return answer

    @cached_property
    def survey(self) -> State:
        """The state of our own search when every layer has been surveyed."""
        session = Session(self.request)
        while session.tell(self.answer(session.ask()[0])).stage in ("prepare", "survey"):
            pass
        return states.load(session.dump())

    @property
    def prepared(self) -> Prepared:
        """What is known of the original."""
        if self.survey.prepared is None:
            raise RuntimeError("the survey ended without an original")
        return self.survey.prepared

    @cached_property
    def space(self) -> Space:
        """The search space: of every method that has plans."""
        return Space.of(self.prepared, self.survey.surveys, self.request)

    def tuned(
        self, plan: Plan, epochs: float, *, rate: float, parent: Candidate[Tuned] | None = None
    ) -> Candidate[Tuned]:
        """A plan after tuning, from the stored factors or from a candidate's weights; the epochs are charged."""
        self.account.charge(epochs)
        answer = self._evaluated(plan, epochs, rate, parent)
        size = ratio(self.prepared.total.params, answer.cost.params)
        lineage = (parent.epochs if parent else 0) + epochs
        if answer.score is None or answer.weights is None:
            return Candidate(size, math.inf, lineage, Tuned(plan.choices, ""))
        return Candidate(size, self._drop(answer.score), lineage, Tuned(plan.choices, answer.weights))

    def tuned_on(self, candidate: Candidate[Tuned], epochs: float) -> Candidate[Tuned]:
        """A candidate after further tuning at the recipe's rate."""
        return self.tuned(Plan(candidate.made.choices), epochs, rate=1.0, parent=candidate)

    def sealed_drops(self, candidates: Sequence[Candidate[Tuned]]) -> list[float]:
        """Drops on the sealed half. The control is the original itself: these methods spend no epochs on it."""
        dense = self._evaluated(self.space.dense, 0, 1.0, None)
        if dense.weights is None:
            raise RuntimeError("the original network gives outputs that are not finite")
        question = Judge(
            source=self.subject.source,
            task=self.prepared.task,
            finalists=tuple(candidate.made for candidate in candidates),
            control=Tuned(self.space.dense.choices, dense.weights),
            threads=self.threads,
            seed=self.seed,
        )
        answer = self.answer(Work(0, question, "judge"))
        if not isinstance(answer, Judged):
            raise RuntimeError(f"judging came back with {answer}")
        return [verdict.drop for verdict in answer.finalists]

    def _evaluated(self, plan: Plan, epochs: float, rate: float, parent: Candidate[Tuned] | None) -> Evaluated:
        stored = {survey.layer: dict(survey.factors) for survey in self.survey.surveys}
        self._asked += 1
        question = Evaluate(
            source=self.subject.source,
            task=self.prepared.task,
            choices=plan.choices,
            factors=tuple((n, c.format, stored[n][c.format]) for n, c in plan.items() if c != DENSE),
            parent=parent.made if parent else None,
            epochs=epochs,
            rate=rate,
            tuning_seed=keyed_seed(self.seed, self.method, "tune", self._asked),
            seed=self.seed,
            threads=self.threads,
            start=parent.epochs if parent else 0.0,
            numerics=self.prepared.numerics,
        )
        answer = self.answer(Work(self._asked, question, "candidate"))
        if not isinstance(answer, Evaluated):
            raise RuntimeError(f"a candidate came back with {answer}")
        return answer

    def _drop(self, score: float) -> float:
        sign = 1.0 if self.prepared.higher_is_better else -1.0
        return sign * (self.prepared.baseline - score)
