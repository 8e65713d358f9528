"""Random sequences of calls, crashes and lapsing leases: the store and a simple model of it say the same throughout."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from diminuendo.v1 import coordinator_service_pb2, job_pb2
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.contract.model import OUTCOMES, Model
from tests.postgres import Postgres

from diminuendo.services.common.errors import DiminuendoError
from diminuendo.services.conductor.records import CommittedStep, Lease, NewJob, Outcome, Report, Update
from diminuendo.services.conductor.store.sql import SqlStore

T = TypeVar("T")
LEASE_S, SECOND = 30, 1_000_000
MOST_JOBS = 4
COORDINATORS = st.sampled_from(("c1", "c2"))
PRIORITIES = st.sampled_from((-1, 0, 1))
WHICH = st.integers(0, MOST_JOBS)
"""Which job, or which lease: the newest ones first."""
OUTCOME: dict[str, Outcome | None] = {
    "none": None,
    "result": job_pb2.JobResult(drop=0.5, inside_delta=True),
    "failure": job_pb2.JobFailure(reason="INTERNAL", message="m"),
    "cancelled": coordinator_service_pb2.Cancelled(),
}


class StoreMachine(RuleBasedStateMachine):
    """Does everything twice: to the store, and to the model."""

    url: ClassVar[Callable[[], Any]]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.names: list[str] = []
        self.leases: list[tuple[str, int]] = []
        self.read: dict[str, int] = {}
        self.runner = asyncio.Runner()
        self.database = type(self).url()
        self.address: str = self.database.__enter__()

    @initialize()
    def start(self) -> None:
        self.store = SqlStore.open(self.address, clock=lambda: self.model.now * SECOND)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.runner.close()
        self.database.__exit__(None, None, None)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def same(self, real: Coroutine[Any, Any, object], modelled: Callable[[], object]) -> None:
        """Both do it, or both refuse for the same reason."""
        expected, answer = _tried(modelled), _tried(lambda: self.run(real))
        if isinstance(expected, bool | type) or isinstance(answer, type):
            assert answer is expected

    def name(self, which: int) -> str:
        return self.names[-1 - which % len(self.names)]

    def lease_of(self, which: int) -> tuple[str, int]:
        return self.leases[-1 - which % len(self.leases)]

    def new_name(self) -> str:
        self.names.append(f"projects/p/jobs/j{len(self.names)}")
        return self.names[-1]

    # --- the owner -----------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.jobs) < MOST_JOBS)
    @rule(priority=PRIORITIES)
    def create(self, priority: int) -> None:
        name = self.new_name()
        spec = job_pb2.JobSpec(zoo="digits", delta=1.0)
        new = NewJob(name=name, project="p", spec=spec, labels={}, priority=priority)
        self.same(self.store.create_job(new), lambda: self.model.create(name, priority))

    @precondition(lambda self: self.names)
    @rule(which=WHICH, method=st.sampled_from(("cancel", "pause", "resume")))
    def ask(self, which: int, method: str) -> None:
        name = self.name(which)
        self.same(getattr(self.store, f"{method}_job")(name), lambda: getattr(self.model, method)(name))

    @precondition(lambda self: self.names)
    @rule(which=WHICH, priority=PRIORITIES)
    def update(self, which: int, priority: int) -> None:
        name = self.name(which)
        self.same(self.store.update_job(name, Update(priority=priority)), lambda: self.model.update(name, priority))

    @precondition(lambda self: self.names and len(self.model.jobs) < MOST_JOBS)
    @rule(which=WHICH)
    def retry(self, which: int) -> None:
        name = self.name(which)
        new = self.new_name()
        self.same(self.store.retry_job(name, new), lambda: self.model.retry(name, new))

    @precondition(lambda self: self.names)
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        name = self.name(which)
        self.same(self.store.delete_job(name), lambda: self.model.delete(name))

    # --- coordinators --------------------------------------------------------------------------------------

    @rule(coordinator=COORDINATORS)
    def lease(self, coordinator: str) -> None:
        given: Lease | None = self.run(self.store.lease_job(coordinator=coordinator, lease_us=LEASE_S * SECOND))
        self.model.part(coordinator)
        may_be = self.model.to_lease(coordinator)
        assert (given is None) == (not may_be)
        if given is None:
            return
        assert given.job.name in may_be
        self.model.lease(given.job.name, coordinator, LEASE_S)
        self.leases.append((given.job.name, given.job.epoch))
        steps = self.model.jobs[given.job.name].steps
        assert given.session_state == (steps[-1].encode() if steps else b"")

    @precondition(lambda self: self.leases)
    @rule(which=WHICH)
    def heartbeat(self, which: int) -> None:
        name, epoch = self.lease_of(which)
        real = self.store.heartbeat(name, epoch=epoch, lease_us=LEASE_S * SECOND)
        self.same(real, lambda: self.model.heartbeat(name, epoch, LEASE_S))

    @precondition(lambda self: self.leases)
    @rule(which=WHICH, index=st.integers(0, 2), key=st.sampled_from("ab"), outcome=st.sampled_from((b"", b"x", b"y")))
    def report(self, which: int, index: int, key: str, outcome: bytes) -> None:
        name, epoch = self.lease_of(which)
        report = Report(job_pb2.EvaluationFinished(index=index, key=key), outcome)
        real = self.store.report_evaluation(name, epoch=epoch, report=report)
        self.same(real, lambda: self.model.report(name, epoch, index, key, outcome))

    @precondition(lambda self: self.leases)
    @rule(which=WHICH, off=st.sampled_from((0, 0, 0, -1, 1)), text=st.sampled_from("st"))
    def commit(self, which: int, off: int, text: str) -> None:
        name, epoch = self.lease_of(which)
        job = self.model.jobs.get(name)
        number = max(0, (len(job.steps) if job else 0) + off)
        progress = job_pb2.JobProgress(steps=number + 1)
        step = CommittedStep(job_pb2.StepCommitted(step=number, summary=text, progress=progress), text.encode())
        real = self.store.commit_step(name, epoch=epoch, step=step)
        self.same(real, lambda: self.model.commit(name, epoch, number, text))

    @precondition(lambda self: self.leases)
    @rule(which=WHICH, outcome=st.sampled_from(OUTCOMES))
    def release(self, which: int, outcome: str) -> None:
        name, epoch = self.lease_of(which)
        real = self.store.release_job(name, epoch=epoch, outcome=OUTCOME[outcome])
        self.same(real, lambda: self.model.release(name, epoch, outcome))

    # --- what chance alone seldom does ---------------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(which=WHICH, method=st.sampled_from(("cancel", "pause", "resume")))
    def ask_of_the_lost(self, which: int, method: str) -> None:
        """Of a job whose coordinator is gone, where anybody still holds it."""
        self.model.now += LEASE_S
        name, _ = self.lease_of(which)
        self.same(getattr(self.store, f"{method}_job")(name), lambda: getattr(self.model, method)(name))

    @precondition(lambda self: self.leases)
    @rule(coordinator=COORDINATORS)
    def write_as_a_zombie(self, coordinator: str) -> None:
        """Under the newest lease, when another one may have been given since."""
        self.model.now += LEASE_S
        name, epoch = self.leases[-1]
        self.lease(coordinator)
        real = self.store.heartbeat(name, epoch=epoch, lease_us=LEASE_S * SECOND)
        self.same(real, lambda: self.model.heartbeat(name, epoch, LEASE_S))

    # --- the world -----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from((1, LEASE_S - 1, LEASE_S)))
    def wait(self, seconds: int) -> None:
        self.model.now += seconds

    @rule()
    def sweep(self) -> None:
        self.run(self.store.end_lapsed())
        self.model.part()

    @rule()
    def crash(self) -> None:
        self.run(self.store.close())
        self.start()

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        real = {job.name: job for job in self.run(self.store.list_jobs())}
        assert set(real) == set(self.model.jobs)
        for name, expected in self.model.jobs.items():
            job = real[name]
            told = (job.state.name, job.coordinator, job.epoch, job.next_step, job.priority, job.last_sequence)
            holds = expected.state, expected.holder, expected.epoch, len(expected.steps), expected.priority
            assert told == (*holds, expected.events)
            assert job.retry_of == expected.retry_of
            assert (job.lease_expire_time is not None) == bool(expected.holder)
            assert job.lease_expire_time in (None, expected.until * SECOND)
            if self.read.get(name) == expected.events:
                continue
            self.read[name] = expected.events
            page = self.run(self.store.read_events(name))
            assert [event.sequence for event in page.events] == list(range(1, expected.events + 1))
            done = [e.step_committed.summary for e in page.events if e.HasField("step_committed")]
            assert done == expected.steps
        assert self.run(self.store.get_evaluations(["a", "b"])) == self.model.known


def _tried(call: Callable[[], object]) -> object:
    """What came of it; of a refusal, its class."""
    try:
        return call()
    except DiminuendoError as error:
        return type(error)


class _Copy:
    """A SQLite database with our tables, copied from one that was migrated once."""

    def __init__(self, template: Path) -> None:
        self._template = template

    def __enter__(self) -> str:
        self._folder = Path(tempfile.mkdtemp(prefix="diminuendo-model-"))
        shutil.copy(self._template, self._folder / "store.db")
        return f"sqlite:///{self._folder / 'store.db'}"

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder)


def run_machine(url: Callable[[], Any], *, examples: int) -> None:
    machine = type("Machine", (StoreMachine,), {"url": staticmethod(url)})
    checks = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=checks)


def test_sqlite_is_as_the_model(tmp_path: Path) -> None:
    template = tmp_path / "template.db"
    store = SqlStore.open(f"sqlite:///{template}", clock=lambda: 0)
    asyncio.run(store.close())
    run_machine(lambda: _Copy(template), examples=30)


def test_postgresql_is_as_the_model(postgres: Postgres) -> None:
    run_machine(postgres.database, examples=6)
