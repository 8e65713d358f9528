"""Runs sessions in the simulated world, for the tests of what a request may ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from tests.engine.search.world import World

from diminuendo.engine.plan import Choice, Plan
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.session import Finished, Request, Session, Step
from diminuendo.engine.search.work import Evaluate, Failed, SurveyLayer, Work

QUICK = Request("zoo:made-up", delta=1.0, effort="quick")


@dataclass
class Run:
    """A session that was driven to its end, one work after the other."""

    outcome: Finished | Failed | None = None
    works: list[Work] = field(default_factory=list)
    answers: list[AnyAnswer] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def finished(self) -> Finished:
        assert isinstance(self.outcome, Finished), self.outcome
        return self.outcome

    @property
    def failure(self) -> str:
        assert isinstance(self.outcome, Failed), self.outcome
        return self.outcome.message

    @property
    def evaluations(self) -> list[Evaluate]:
        return [w.question for w in self.works if isinstance(w.question, Evaluate)]

    @property
    def plans(self) -> list[Plan]:
        return [Plan(question.choices) for question in self.evaluations]

    @property
    def surveyed(self) -> list[SurveyLayer]:
        return [w.question for w in self.works if isinstance(w.question, SurveyLayer)]

    def file(self, name: str) -> dict[str, Any]:
        content = next(f.content for f in self.finished.files if f.name == name)
        assert content is not None
        loaded = json.loads(content)
        assert isinstance(loaded, dict)
        return loaded

    @property
    def certificate(self) -> dict[str, Any]:
        return self.file("certificate.json")

    @property
    def plan(self) -> Plan:
        layers = self.file("plan.json")["layers"]
        return Plan.of({name: Choice(c["format"], tuple(c["ranks"])) for name, c in layers.items()})


def search(world: World | None = None, *, reload: bool = False, **wishes: Any) -> Run:
    """One search.

    Args:
        world: What answers.
        reload: Whether to dump and load the session before each step.
        wishes: Fields of the request, beside those of `QUICK`.
    """
    world, run, session = world or World(), Run(), Session(replace(QUICK, **wishes))
    while session.outcome is None:
        if reload:
            session = Session.load(session.dump())
        work = session.ask()[0]
        run.works.append(work)
        run.answers.append(world.run(work))
        run.steps.append(session.tell(run.answers[-1]))
    run.outcome = session.outcome
    return run
