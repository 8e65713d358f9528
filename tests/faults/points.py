"""The named points of a job at which somebody is killed."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.moments import Moment, Point


@dataclass(frozen=True)
class Named:
    """A point.

    Attributes:
        meant: Whether a moment is of the kind.
        skip: How many of the kind come before it.
        before_job: It comes before the job is there.
    """

    name: str
    meant: Point
    skip: int = 0
    before_job: bool = False


def _leased(moment: Moment) -> bool:
    return moment.where == "answer" and moment.name == "LeaseJob" and moment.answer.HasField("lease")


def _exploring(moment: Moment) -> bool:
    return moment.stage == "EXPLORE" and moment.name == "CommitStep"


POINTS = (
    # The job is stored; the coordinator's next request for a job is on its way.
    Named("queued", lambda m: m.where == "call" and m.name == "LeaseJob", before_job=True),
    # The conductor has given the job away; the coordinator has yet to hear of it.
    Named("leased", _leased),
    # The second layer's survey is under way on an evaluator.
    Named("surveying", lambda m: m.where == "start" and m.name == "survey", skip=1),
    # A candidate's outcome is stored under its key; the step that uses it is on its way.
    Named("reported", lambda m: m.where == "call" and _exploring(m), skip=2),
    # The step is stored; the coordinator has yet to hear of it.
    Named("committed", lambda m: m.where == "answer" and _exploring(m), skip=2),
    # A candidate of the annealing is under way on an evaluator.
    Named("annealing", lambda m: m.where == "start" and m.stage == "ANNEAL"),
    # A finalist is under way on an evaluator.
    Named("certifying", lambda m: m.where == "start" and m.stage == "CERTIFY"),
    # A candidate is tuned; its weights are not in the store yet.
    Named("uploading", lambda m: m.where == "upload", skip=2),
    # The result is in the store; the word of it is on its way.
    Named("releasing", lambda m: m.where == "call" and m.name == "ReleaseJob"),
)
BY_NAME = {point.name: point for point in POINTS}
