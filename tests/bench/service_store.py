"""A database as it is after long use: 10,000 jobs, 1,000,000 evaluations, and a search far on among them.

The rows are written in bulk into the tables that our migrations make; what they hold is what the conductor would write.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from diminuendo.v1 import job_pb2
from sqlalchemy import Connection, create_engine, insert
from tests.engine.search.world import World

from diminuendo.engine.plan import Plan
from diminuendo.engine.search import state as search
from diminuendo.engine.search.session import Request, Session
from diminuendo.engine.search.work import Evaluated, answer_to_bytes
from diminuendo.services.conductor import jobs as rules
from diminuendo.services.conductor import leases
from diminuendo.services.conductor.records import Job, NewJob, State
from diminuendo.services.conductor.store import rows
from diminuendo.services.conductor.store.connect import connect, sqlite_url
from diminuendo.services.conductor.store.migrate import upgrade
from diminuendo.services.conductor.store.tables import evaluations, reports, session_states, steps

PROJECTS, TEAMS = 20, ("vision", "speech", "search", "ads")
FIRST_US, BETWEEN_US = 1_760_000_000_000_000, 60_000_000
"""When the first job was made, and how long after it each further one."""

SEARCHED = "projects/p0/jobs/long"
_AT_A_TIME = 5000
_STATES = (*(State.SUCCEEDED,) * 74, *(State.FAILED,) * 10, *(State.CANCELLED,) * 10, *(State.PAUSED,) * 6)
"""How the states of jobs are distributed, out of 100."""


def fill(folder: Path, *, count: int, known: int, trials: int, seed: int) -> None:
    """Write the database of a conductor whose data folder this is.

    Args:
        folder: Without a database.
        count: Jobs besides the one with the long search.
        known: Evaluations by key.
        trials: Candidates of the long search, on top of what its start has.
        seed: Of states, labels and priorities.
    """
    folder.mkdir(parents=True, exist_ok=True)
    url = sqlite_url(str(folder / "diminuendo.db"))
    writer, reader = connect(url)
    upgrade(writer)
    writer.dispose()
    reader.dispose()
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
        _fill_evaluations(connection, known)
        chance = random.Random(seed)
        for number in range(count):
            _add_job(connection, number, chance)
        _add_search(connection, trials, chance)
        connection.commit()
    engine.dispose()
    with (folder / "diminuendo.db").open("rb+") as file:
        os.fsync(file)  # or the conductor's first write waits for all of ours


def key_of(number: int) -> str:
    """Key of an evaluation."""
    return hashlib.sha256(b"%d" % number).hexdigest()


def _outcome(key: str) -> bytes:
    return answer_to_bytes(Evaluated(97.5, 0.01, key, World().total(), 100, 12.5))


def _fill_evaluations(connection: Connection, known: int) -> None:
    own = key_of(0)
    body = _outcome(own)
    made: Iterator[dict[str, object]] = (
        {"key": key, "outcome": body.replace(own.encode(), key.encode()), "time": FIRST_US}
        for key in sorted(map(key_of, range(known)))  # in order: in any other it takes several times as long
    )
    while some := list(islice(made, _AT_A_TIME)):
        connection.execute(insert(evaluations), some)


def _add_job(connection: Connection, number: int, chance: random.Random) -> None:
    """A job as it is in the state that it is in, with its events."""
    state, project = chance.choice(_STATES), f"p{number % PROJECTS}"
    new = NewJob(
        name=f"projects/{project}/jobs/job-{number}",
        project=project,
        spec=job_pb2.JobSpec(zoo="digits", delta=1.0, effort=job_pb2.EFFORT_QUICK),
        labels={"team": chance.choice(TEAMS), "sweep": str(number // 100)},
        priority=chance.choice((0, 0, 0, 10, -10)),
    )
    now = FIRST_US + number * BETWEEN_US
    drafts = [rules.create(new, now)]
    if state in (State.SUCCEEDED, State.FAILED):
        granted = leases.grant(drafts[0].job, now, coordinator="c", request_id="", lease_us=30_000_000)
        best = job_pb2.Candidate(params_ratio=9.5, macs_ratio=4.5, drop=0.75)
        granted.job = replace(granted.job, progress=job_pb2.JobProgress(steps=100, best=best))
        outcome = _result() if state is State.SUCCEEDED else job_pb2.JobFailure(reason="USER_CODE", message="no")
        drafts += [granted, leases.release(granted.job, now + chance.randrange(10**10), epoch=1, outcome=outcome)]
    else:
        rule = rules.cancel if state is State.CANCELLED else rules.pause
        drafts.append(rule(drafts[0].job, now + chance.randrange(10**10)))
    _store(connection, drafts)


def _store(connection: Connection, drafts: list[rules.Draft]) -> Job:
    job = drafts[-1].job
    job = replace(job, id=rows.add(connection, job))
    for draft in drafts:
        rows.append(connection, job.id, draft)
    return job


def _result() -> job_pb2.JobResult:
    names = ("model.safetensors", "plan.json", "certificate.json", "profile.json")
    files = [job_pb2.ResultFile(name=name, sha256=key_of(0), size_bytes=10**6) for name in names]
    return job_pb2.JobResult(params_ratio=9.5, macs_ratio=4.5, drop=0.8, inside_delta=True, files=files)


def _add_search(connection: Connection, trials: int, chance: random.Random) -> None:
    """A queued job whose search has come far: its state, and a report and a step for everything that it was told."""
    state = far_search(trials, chance)
    told = state.pending[0].work.index
    now = FIRST_US
    spec = job_pb2.JobSpec(zoo="digits", delta=1.0, effort=job_pb2.EFFORT_DEEP)
    new = NewJob(name=SEARCHED, project="p0", spec=spec, labels={}, priority=1000)
    draft = rules.create(new, now)
    draft.job = replace(draft.job, next_step=told, progress=job_pb2.JobProgress(steps=told))
    for index in range(told):
        draft.note(job_pb2.JobEvent(evaluation_finished=_evaluation(index)))
        draft.note(job_pb2.JobEvent(step_committed=_step(index)))
    job = _store(connection, [draft])
    noted = [{"job_id": job.id, "work_index": index, "key": key_of(index)} for index in range(told)]
    connection.execute(insert(reports), noted)
    bodies = [(index, _step(index).SerializeToString()) for index in range(told)]
    kept = [{"job_id": job.id, "step": index, "epoch": 1, "time": now, "body": body} for index, body in bodies]
    connection.execute(insert(steps), kept)
    connection.execute(insert(session_states), {"job_id": job.id, "step": told - 1, "body": search.dump(state)})


def _evaluation(index: int) -> job_pb2.EvaluationFinished:
    return job_pb2.EvaluationFinished(
        index=index, key=key_of(index), kind="evaluate", subject="move 9.5x", evaluator="evaluator-0", seconds=12.5
    )


def _step(index: int) -> job_pb2.StepCommitted:
    return job_pb2.StepCommitted(step=index, progress=job_pb2.JobProgress(steps=index + 1))


def far_search(trials: int, chance: random.Random) -> search.State:
    """The state of a search that anneals and has been told of so many candidates more than it would have by itself."""
    world, session = World(), Session(Request("zoo:digits", 1.0, effort="deep"))
    while not any(pending.role == "move" for pending in search.load(session.dump()).pending):
        session.tell(world.run(session.ask()[0]))
    state = search.load(session.dump())
    first = state.pending[0].work.index
    forms = {survey.layer: [option.choice for option in survey.options] for survey in state.surveys}
    for number in range(trials):
        plan = Plan(tuple((name, chance.choice(forms[name])) for name, _ in state.trials[0].choices))
        drop = world.drop(plan) + chance.random()
        state.trials.append(
            search.Trial(
                index=first + number,
                role="move",
                choices=plan.choices,
                parent=None,
                epochs=4.0,
                lineage_epochs=8.0,
                cost=replace(world.plan_cost(plan), latency_ns=0),
                drop=drop,
                divergence=world.divergence(plan),
                weights=key_of(number),
            )
        )
    state.asked += trials
    state.pending = [replace(p, work=replace(p.work, index=p.work.index + trials)) for p in state.pending]
    return state
