"""The rig of the crash matrix: processes, the proxy between them, the gate of the evaluators, and who is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import psutil
from diminuendo.v1 import coordinator_service_pb2_grpc, job_pb2, job_service_pb2, job_service_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from tests.faults.gate import Gate
from tests.faults.history import FINAL, History
from tests.faults.moments import Hold, Moment, Moments
from tests.faults.processes import Conductor, Coordinator
from tests.faults.proxy import Proxy
from tests.faults.record import Record, history
from tests.faults.workers import WORLD
from tests.postgres import Postgres
from tests.waiting import until

from diminuendo.engine.store import DirectoryStore
from diminuendo.services.coordinator.rpc import reason_of

Database = Literal["sqlite", "postgres"]
Victim = Literal["conductor", "coordinator", "evaluator", "ray_head", "postgres"]
LOSES: dict[Victim, int] = {"conductor": 0, "coordinator": 4, "evaluator": 1, "ray_head": 4, "postgres": 0}
"""The most evaluations that may be lost with each. With a coordinator and its two evaluators: the two under way, and,
where it is held in a call meanwhile, two that were done and that it had yet to report."""
TIMES = ("seconds", "time_ratio", "latency")
"""What of a certificate the clock says."""


@dataclass(frozen=True)
class Decided:
    """What a job decided: its steps, its plan, its figures, its network."""

    steps: tuple[str, ...]
    figures: tuple[bool, float, float, float, float]
    plan: str
    network: str
    certificate: dict[str, Any]


class Rig:
    """One conductor after another, each on a fresh database, and coordinators that stay as long as they live."""

    def __init__(self, folder: Path, *, worker: str = WORLD) -> None:
        """Nothing runs yet."""
        self.record = Record()
        self.moments = Moments(self.record.told)
        self.coordinators: dict[str, Coordinator] = {}
        self._gate, self._proxy = Gate(self.moments), Proxy(self.moments, self.record.answered)
        self._folder, self._artifacts, self._worker = folder, folder / "artifacts", worker
        self._server: Postgres | None = None
        self._conductor: Conductor | None = None
        self._channel: grpc.Channel | None = None
        self._url, self._cells = "", 0
        self._headless: Coordinator | None = None

    def close(self) -> None:
        """End everything."""
        self._end_conductor()
        for coordinator in self.coordinators.values():
            coordinator.kill()
        self._proxy.close()
        self._gate.close()
        if self._server is not None:
            self._server.close()

    # --- a cell --------------------------------------------------------------------------------------------

    def fresh(self, database: Database, *, lease_s: float = 30.0) -> None:
        """A new conductor on an empty database, of which no coordinator knows yet; an empty artifact store."""
        self._end_conductor()
        self.record.clear()
        self._cells += 1
        for content in self._artifacts.glob("*") if self._artifacts.exists() else ():
            shutil.rmtree(content) if content.is_dir() else content.unlink()
        folder = self._folder / f"cell{self._cells}"
        folder.mkdir()
        self._url = f"sqlite:///{folder / 'diminuendo.db'}" if database == "sqlite" else self.postgres.empty_database()
        self._conductor = Conductor(folder, database=self._url, artifacts=self._artifacts, lease_s=lease_s)
        self._start_conductor()
        if self._headless is not None and self._headless.running():
            self._headless.kill()  # it ends within seconds, and is not to lease this cell's job before
        self._headless = None
        self.coordinate("one")

    def open(self) -> None:
        """Let coordinators reach the conductor."""
        self._proxy.lead_to(self._target)

    def coordinate(self, name: str) -> Coordinator:
        """See to it that a coordinator of the name runs."""
        there = self.coordinators.get(name)
        if there is None or not there.running():
            if there is not None:
                there.kill()  # what it has left behind
            self.moments.evaluators.clear()
            self.coordinators[name] = Coordinator(
                self._folder / f"coordinator-{name}.log",
                conductor=self._proxy.target,
                artifacts=self._artifacts,
                name=name,
                worker=self._worker,
                gate=self._gate.address,
            )
        return self.coordinators[name]

    def create(self, spec: job_pb2.JobSpec, *, request_id: str = "one") -> str:
        """Submit a job; its name."""
        request = job_service_pb2.CreateJobRequest(
            parent="projects/p", job=job_pb2.Job(spec=spec), request_id=request_id
        )
        return str(self._ask("CreateJob", request).name)

    def finish(self, name: str, *, timeout_s: float = 90.0) -> job_pb2.Job:
        """The job when it has ended. A coordinator that has ended meanwhile is started again, as `serve` does."""
        deadline = time.monotonic() + timeout_s
        while True:
            request = job_service_pb2.WaitJobRequest(name=name, timeout=Duration(seconds=1))
            job: job_pb2.Job = self._ask("WaitJob", request)
            if job.state in FINAL:
                return job
            assert time.monotonic() < deadline, self.said(name)
            for coordinator in [known for known, one in self.coordinators.items() if not one.running()]:
                self.coordinators[coordinator].kill()
                self.record.killed(coordinator, LOSES["ray_head"])
                self.coordinate(coordinator)

    def refusal_of(self, late: Moment) -> str:
        """Send a call that was held to the conductor now; the reason of its refusal, empty when it is accepted."""
        assert self._channel is not None
        stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(self._channel)
        try:
            getattr(stub, late.name)(late.message, timeout=10)
        except grpc.RpcError as error:
            return reason_of(error)
        return ""

    def history(self, name: str) -> History:
        """All that is known of the job."""
        return history(self._url, name, self.record)

    def decided(self, name: str) -> Decided:
        """What the job decided."""
        result = self._ask("GetJob", job_service_pb2.GetJobRequest(name=name)).result
        files = {file.name: file.sha256 for file in result.files}
        certificate = json.loads(DirectoryStore(self._artifacts).get(files["certificate.json"]))
        log = self.history(name).events
        return Decided(
            tuple(e.step_committed.summary for e in log if e.HasField("step_committed")),
            (result.inside_delta, result.drop, result.params_ratio, result.macs_ratio, result.objective_ratio),
            files["plan.json"],
            files["model.safetensors"],
            {name: value for name, value in certificate.items() if name not in TIMES},
        )

    def said(self, name: str) -> str:
        """For whoever has to find out why it went wrong."""
        logs = [self._folder / f"coordinator-{one}.log" for one in self.coordinators]
        logs.append(self._folder / f"cell{self._cells}" / "conductor.log")
        tails = "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs if log.exists())
        return f"{name} has not ended\n{self.history(name).events[-5:]}\n{tails}"

    # --- kills ---------------------------------------------------------------------------------------------

    def kill(self, victim: Victim, hold: Hold) -> None:
        """Kill somebody while all hold still, start again what nobody else does, and let the held go on."""
        getattr(self, f"_kill_{victim}")(hold)

    def _kill_conductor(self, hold: Hold) -> None:
        assert self._conductor is not None
        self._proxy.lead_to(None)
        self._conductor.kill()
        self.record.killed("the conductor", LOSES["conductor"])
        held_answer = hold.moment is not None and hold.moment.where == "answer"
        hold.let_go("drop" if held_answer else "go")
        self._start_conductor()
        self.open()

    def _kill_coordinator(self, hold: Hold) -> None:
        self.coordinators["one"].kill()
        self.record.killed("the coordinator", LOSES["coordinator"])
        hold.let_go()
        self.coordinate("one")

    def _kill_evaluator(self, hold: Hold) -> None:
        pid = hold.moment.pid if hold.moment is not None else 0
        assert pid or until(lambda: bool(self._evaluators()))  # one that the cell before killed is replaced by now
        self.record.killed("an evaluator", LOSES["evaluator"])  # first: it is replaced at once
        os.kill(pid or self._evaluators()[-1], signal.SIGKILL)
        hold.let_go()

    def _evaluators(self) -> list[int]:
        """Pids of the evaluators that live, the newest last."""
        return [pid for pid in self.moments.evaluators if psutil.pid_exists(pid)]

    def _kill_ray_head(self, hold: Hold) -> None:
        self.coordinators["one"].ray_head().kill()
        self._headless = self.coordinators["one"]
        self.record.killed("the Ray head", LOSES["ray_head"], lasting=True)  # the rest of Ray ends within seconds
        hold.let_go()

    def _kill_postgres(self, hold: Hold) -> None:
        self.postgres.stop(signal.SIGQUIT)
        self.record.killed("PostgreSQL", LOSES["postgres"])
        hold.let_go()
        self.postgres.start()

    @property
    def postgres(self) -> Postgres:
        """A server of the rig's own, which may be killed."""
        if self._server is None:
            self._server = Postgres()
        return self._server

    # --- the conductor -------------------------------------------------------------------------------------

    def _start_conductor(self) -> None:
        assert self._conductor is not None
        if self._channel is not None:
            self._channel.close()
        self._target = self._conductor.start()
        self._channel = grpc.insecure_channel(self._target)

    def _end_conductor(self) -> None:
        self._proxy.lead_to(None)
        if self._conductor is not None:
            self._conductor.kill()
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _ask(self, method: str, request: object) -> Any:
        """Call JobService; while the database is away, again."""
        deadline = time.monotonic() + 30
        while True:
            assert self._channel is not None
            stub = job_service_pb2_grpc.JobServiceStub(self._channel)
            try:
                return getattr(stub, method)(request, timeout=10, wait_for_ready=True)
            except grpc.RpcError as error:
                code = error.code() if isinstance(error, grpc.Call) else None
                if code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@contextmanager
def rigged(folder: Path, *, worker: str = WORLD) -> Iterator[Rig]:
    """A rig while inside."""
    rig = Rig(folder, worker=worker)
    try:
        yield rig
    finally:
        rig.close()
