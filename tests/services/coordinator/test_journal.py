"""Journal and heartbeat against a real conductor in another process, which is killed now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import job_pb2
from tests.engine.search.world import World
from tests.services.coordinator.conftest import Server, serving
from tests.waiting import until

from diminuendo.engine.cost import Cost
from diminuendo.engine.search.drive import Done
from diminuendo.engine.search.session import Session
from diminuendo.engine.search.work import Evaluate, Evaluated, Failed, Work, artifacts_of
from diminuendo.services.coordinator import journal as journal_module
from diminuendo.services.coordinator import translate
from diminuendo.services.coordinator.heartbeat import Heartbeat
from diminuendo.services.coordinator.journal import ConductorJournal
from diminuendo.services.coordinator.lease import HeldLease, LeaseLostError


def hold(given: v1.Lease) -> HeldLease:
    return HeldLease(given.job.name, given.epoch, given.expire_time, asked_at=time.monotonic())


def journal_of(server: Server, given: v1.Lease, lease: HeldLease, **options: object) -> ConductorJournal:
    request = translate.to_request(given.job.spec)
    return ConductorJournal(
        server.connection,
        lease,
        request,
        next_step=given.next_step,
        stop=server.stop,
        **options,  # type: ignore[arg-type]
    )


def play(session: Session, journal: ConductorJournal, count: int) -> list[Work]:
    """Answer, record and commit so many works as one evaluator would."""
    world, works = World(), []
    for _ in range(count):
        work = session.ask()[0]
        works.append(work)
        answer = world.run(work)
        journal.record(Done(work, answer, "evaluator-0", 0.5))
        journal.commit(session.tell(answer), session)
    return works


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "data", lease_s=1.0) as server:
        yield server


def test_what_is_written_is_there_for_the_successor(server: Server) -> None:
    job = server.create()
    given = server.lease()
    session = Session(translate.to_request(given.job.spec))
    asides = [("CANDIDATE_INFEASIBLE", "candidate 7 is left out")]

    def take() -> list[tuple[str, str]]:
        return [asides.pop()] if asides else []

    journal = journal_of(server, given, hold(given), take_warnings=take)
    works = play(session, journal, 9)  # the original, four layers, and candidates
    again = server.lease()
    assert again.epoch == given.epoch + 1
    assert again.next_step == 9
    assert Session.load(again.session_state).ask() == session.ask()
    successor = journal_of(server, again, hold(again))
    known = successor.recall([work.key for work in works] + ["0" * 64])
    assert set(known) == {work.key for work in works}
    assert known[works[5].key] == World().run(works[5])

    server.cancel(job.name)
    release = v1.ReleaseJobRequest(job_name=job.name, epoch=again.epoch, cancelled=v1.Cancelled())
    server.coordinators.ReleaseJob(release, timeout=10)
    events = server.events(job.name)
    steps = [e.step_committed for e in events if e.WhichOneof("kind") == "step_committed"]
    assert [s.step for s in steps] == list(range(9))
    assert steps[-1].progress.steps == 9
    evaluations = [e.evaluation_finished for e in events if e.WhichOneof("kind") == "evaluation_finished"]
    assert [e.kind for e in evaluations] == ["prepare"] + 4 * ["survey"] + 4 * ["evaluate"]
    assert evaluations[5].evaluator == "evaluator-0"
    answer = World().run(works[5])
    assert isinstance(answer, Evaluated)
    assert answer.score is not None
    assert evaluations[5].candidate.drop == pytest.approx(98.0 - answer.score)
    assert evaluations[5].candidate.params_ratio == pytest.approx(World().total().params / answer.cost.params)
    warnings = [e.warning for e in events if e.WhichOneof("kind") == "warning"]
    assert [w.reason for w in warnings] == ["CANDIDATE_INFEASIBLE"]


def test_the_content_that_outcomes_name_is_told_also_of_those_that_are_too_large(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.create()
    given = server.lease()
    session = Session(translate.to_request(given.job.spec))
    reports: list[v1.ReportEvaluationRequest] = []
    real = server.connection.call

    def call(method: Any, request: Any, **options: Any) -> Any:
        if isinstance(request, v1.ReportEvaluationRequest):
            reports.append(request)
        return real(method, request, **options)

    monkeypatch.setattr(server.connection, "call", call)
    works = play(session, journal_of(server, given, hold(given)), 6)
    monkeypatch.setattr(journal_module, "_MAX_OUTCOME", 1)
    works += play(session, journal_of(server, given, hold(given)), 1)
    world = World()
    assert [tuple(r.artifacts) for r in reports] == [artifacts_of(world.run(work)) for work in works]
    assert all(report.artifacts for report in reports)
    assert [bool(report.outcome) for report in reports] == [True] * 6 + [False]


def test_a_successor_tells_a_candidates_figures_too(server: Server) -> None:
    server.create()
    given = server.lease()
    session = Session(translate.to_request(given.job.spec))
    play(session, journal_of(server, given, hold(given)), 5)
    again = server.lease()
    session = Session.load(again.session_state)
    work = session.ask()[0]
    journal = journal_of(server, again, hold(again))  # has seen no Prepared of its own
    journal.record(Done(work, World().run(work), "evaluator-1", 0.5))
    server.cancel(given.job.name)
    release = v1.ReleaseJobRequest(job_name=given.job.name, epoch=again.epoch, cancelled=v1.Cancelled())
    server.coordinators.ReleaseJob(release, timeout=10)
    last = [e for e in server.events(given.job.name) if e.WhichOneof("kind") == "evaluation_finished"][-1]
    assert last.evaluation_finished.index == work.index
    assert last.evaluation_finished.candidate.params_ratio > 1


def test_failures_and_substitutes_are_not_remembered(server: Server) -> None:
    server.create()
    given = server.lease()
    session = Session(translate.to_request(given.job.spec))
    journal = journal_of(server, given, hold(given))
    (work,) = session.ask()
    journal.record(Done(work, Failed("OUT_OF_MEMORY", "too large"), "evaluator-0", 1.0))
    assert journal.recall([work.key]) == {}
    question = play(session, journal, 6)[5].question
    assert isinstance(question, Evaluate)
    changed = Work(1, replace(question, tuning_seed=77), "another")
    journal.record(Done(changed, Evaluated(None, None, None, Cost(0, 0), 0, 0.0), "", 0.0))
    assert journal.recall([changed.key]) == {}
    # What an evaluator did find, a divergence included, is remembered.
    journal.record(Done(changed, Evaluated(None, None, None, Cost(5, 5), 1, 1.0), "evaluator-0", 1.0))
    assert set(journal.recall([changed.key])) == {changed.key}


def test_a_zombie_is_refused_and_stops(server: Server) -> None:
    server.create()
    given = server.lease()
    session = Session(translate.to_request(given.job.spec))
    lease = hold(given)
    journal = journal_of(server, given, lease)
    play(session, journal, 1)
    successor = server.lease()
    with pytest.raises(LeaseLostError, match="epoch 1"):
        play(session, journal, 1)
    assert lease.lost.is_set()
    assert journal.stopped()
    with pytest.raises(LeaseLostError):
        journal.recall(["0" * 64])
    assert successor.next_step == 1


def test_a_search_that_starts_again_passes_over_committed_steps(server: Server) -> None:
    server.create()
    given = server.lease()
    request = translate.to_request(given.job.spec)
    play(Session(request), journal_of(server, given, hold(given)), 3)
    again = server.lease()
    assert again.next_step == 3
    play(Session(request), journal_of(server, again, hold(again)), 5)  # steps 0 to 4: only 3 and 4 are new
    assert server.lease().next_step == 5


def test_a_conductor_that_is_killed_and_comes_back(mortal: Server) -> None:
    mortal.create()
    given = mortal.lease()
    session = Session(translate.to_request(given.job.spec))
    journal = journal_of(mortal, given, hold(given))
    play(session, journal, 2)
    mortal.conductor.kill()
    back = threading.Thread(target=play, args=(session, journal, 3))
    back.start()
    mortal.conductor.start()
    back.join(60)
    assert not back.is_alive()
    assert mortal.lease().next_step == 5


def test_a_conductor_that_stays_away_costs_the_lease(short: Server) -> None:
    short.create()
    given = short.lease()
    session = Session(translate.to_request(given.job.spec))
    lease = hold(given)
    journal = journal_of(short, given, lease)
    short.conductor.kill()
    started = time.monotonic()
    with pytest.raises(LeaseLostError, match="has not answered in time"):
        play(session, journal, 1)
    assert 0.5 < time.monotonic() - started < 5
    assert lease.lost.is_set()


def test_a_request_to_stop_ends_the_retries(mortal: Server) -> None:
    mortal.create()
    given = mortal.lease()
    lease = hold(given)
    journal = journal_of(mortal, given, lease)
    mortal.conductor.kill()
    timer = threading.Timer(0.3, mortal.stop.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(LeaseLostError, match="stopping"):
        play(Session(translate.to_request(given.job.spec)), journal, 1)
    timer.join()
    assert time.monotonic() - started < 10  # of a lease of 30 s
    assert not lease.lost.is_set()
    assert journal.stopped()


def test_heartbeats_keep_the_lease_and_hear_of_cancellation(short: Server) -> None:
    job = short.create()
    given = short.lease()
    lease = hold(given)
    first = lease.until
    changed = threading.Event()
    with Heartbeat(short.connection, lease, statuses=lambda: (("evaluator-0", "svd(3)"),), changed=changed):
        assert until(lambda: lease.until > first + 2.0)  # twice the lease's duration
        assert not lease.lost.is_set()
        assert not lease.cancel_requested.is_set()
        short.cancel(job.name)
        assert lease.cancel_requested.wait(5)
    assert short.get(job.name).state == job_pb2.JOB_STATE_CANCELLING


def test_a_change_of_status_is_told_within_a_second(server: Server) -> None:
    server.create()
    given = server.lease()
    lease = hold(given)
    statuses = [(("evaluator-0", ""),)]
    changed = threading.Event()
    with Heartbeat(server.connection, lease, statuses=lambda: statuses[-1], changed=changed):
        before = lease.until
        assert until(lambda: lease.until > before)  # the first one, at once; the next only in 10 s
        told = lease.until
        statuses.append((("evaluator-0", "layer1"),))
        changed.set()
        started = time.monotonic()
        assert until(lambda: lease.until > told, 5)
        assert time.monotonic() - started < 1.5


def test_a_heartbeat_notices_that_the_lease_is_lost(server: Server) -> None:
    server.create()
    lease = hold(server.lease())
    changed = threading.Event()
    with Heartbeat(server.connection, lease, statuses=tuple, changed=changed):
        server.lease()
        changed.set()
        assert lease.lost.wait(5)
