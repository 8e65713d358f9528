"""Histories of real runs: what was seen at the moments, and what the database holds."""

from __future__ import annotations

import threading

import grpc
from diminuendo.v1 import job_pb2
from sqlalchemy import create_engine, select
from tests.faults.history import History, Killed, Seen, Started, Wrote
from tests.faults.moments import Moment
from tests.faults.proxy import Call

from diminuendo.services.conductor.store.tables import events, jobs, reports, steps

WRITES = ("ReportEvaluation", "CommitStep", "ReleaseJob", "Heartbeat")


class Record:
    """What was seen since it was made. Safe to use from any thread."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = threading.Lock()
        self._seen: list[tuple[str, Seen]] = []

    def told(self, moment: Moment) -> None:
        """Take note of a work that starts."""
        if moment.where == "start":
            self._add("", Started(moment.key))

    def answered(self, call: Call) -> None:
        """Take note of a write that was answered."""
        if call.method not in WRITES:
            return
        request, accepted = call.request, call.code is grpc.StatusCode.OK
        key = request.evaluation.key if call.method == "ReportEvaluation" else ""
        self._add(request.job_name, Wrote(call.method, request.epoch, accepted, call.newest, key))

    def killed(self, who: str, loses: int, *, lasting: bool = False) -> None:
        """Take note of a kill."""
        self._add("", Killed(who, loses, lasting))

    def _add(self, job: str, seen: Seen) -> None:
        with self._lock:
            self._seen.append((job, seen))

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._seen.clear()

    def seen(self, job: str) -> tuple[Seen, ...]:
        """What concerns a job, in order."""
        with self._lock:
            return tuple(one for name, one in self._seen if name in ("", job))


def history(url: str, name: str, record: Record) -> History:
    """All that is known of a job.

    Args:
        url: Of the database, as SQLAlchemy writes it.
    """
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            job = connection.execute(select(jobs).where(jobs.c.name == name)).mappings().one_or_none()
            if job is None:
                return History(None, 0, 0, 0, (), (), (), record.seen(name))
            mine = job["id"]
            bodies = connection.execute(
                select(events.c.body).where(events.c.job_id == mine).order_by(events.c.sequence)
            ).scalars()
            log = tuple(job_pb2.JobEvent.FromString(body) for body in bodies)
            stored = connection.execute(
                select(steps.c.step, steps.c.epoch).where(steps.c.job_id == mine).order_by(steps.c.step)
            )
            noted = connection.execute(select(reports.c.work_index, reports.c.key).where(reports.c.job_id == mine))
            return History(
                job_pb2.JobState.Value(f"JOB_STATE_{job['state']}"),
                job["last_sequence"],
                job["epoch"],
                job["next_step"],
                log,
                tuple((int(number), int(epoch)) for number, epoch in stored),
                tuple((int(index), str(key)) for index, key in noted),
                record.seen(name),
            )
    finally:
        engine.dispose()
