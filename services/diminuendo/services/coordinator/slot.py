"""One evaluator as the dispatcher sees it: a name that lasts, and the actors that stand behind it in turn."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import ray

from diminuendo.engine.phases import Phase
from diminuendo.engine.search.work import Work
from diminuendo.services.coordinator.attempts import Loss
from diminuendo.services.coordinator.bundles import COMMON, Environment
from diminuendo.services.coordinator.cluster import Cluster
from diminuendo.services.coordinator.install import runtime_env
from diminuendo.services.coordinator.standing import Standing, StandingState
from diminuendo.services.coordinator.tracks import Try
from diminuendo.services.evaluator.actor import Evaluator, Hello, Report, work_to_bytes

SlotState = Literal["away", "starting", "idle", "busy"]


@dataclass
class Attempts:
    """A work in line or under way, and what became of the attempts before.

    Attributes:
        job: Whose it is.
        environment: What it is to run in.
        asked: When (seconds since the epoch, UTC) the search asked for it.
        begun: When (monotonic seconds) the present attempt began.
        parts: Micro-batches of each step of a tuning.
        tries: Attempts that are over.
    """

    work: Work
    job: str
    environment: Environment = COMMON
    begun: float = 0.0
    parts: int = 1
    losses: list[Loss] = field(default_factory=list)
    asked: float = 0.0
    tries: list[Try] = field(default_factory=list)

    def over(self, evaluator: str, now: float, *, error: str = "", phases: tuple[Phase, ...] = ()) -> None:
        """Keep what the present attempt was.

        Args:
            now: As `begun`.
        """
        ended = time.time()
        self.tries.append(Try(evaluator, ended - (now - self.begun), ended, error, phases))


class Handle(Protocol):
    """A running evaluator. Its futures fail when its process is lost."""

    def ping(self) -> Future[Hello]:
        """Done when it is ready for works."""
        ...

    def run(self, work: Work) -> Future[Report]:
        """Start a work."""
        ...

    def kill(self) -> None:
        """End its process, whatever it does."""
        ...


class Spawn(Protocol):
    """Starts evaluators."""

    def __call__(self, name: str, environment: Environment) -> Handle:
        """Start one; at once, without waiting until it is ready."""
        ...


@dataclass
class Slot:
    """One evaluator.

    Attributes:
        incarnation: Rises with every actor, so that news of an earlier one can be told apart.
        attempts: What it works on, when busy; when starting, what it is started for.
        environment: What its process has.
        due: When (monotonic seconds) to act if nothing happens: a start or a work has taken too long, or an
            evaluator that is away is to be started again. None: never.
        failed_starts: In a row.
        last_job: The job that it has worked on last; empty: its process has worked on none.
        lost: Its last process was lost, or could not be started, and no other is up yet.
        lost_job: Whose work was lost with it; empty: nobody's.
        node: Host name of the node that its process is on.
        idle_since: When (monotonic seconds) it had nothing more to do; of one that is idle.
        standing: What others were last told of it.
    """

    name: str
    state: SlotState = "away"
    handle: Handle | None = None
    incarnation: int = 0
    attempts: Attempts | None = None
    environment: Environment = COMMON
    due: float | None = None
    failed_starts: int = 0
    last_failure: str = ""
    last_job: str = ""
    lost: bool = False
    lost_job: str = ""
    node: str = ""
    idle_since: float = 0.0
    standing: Standing = field(init=False)

    def __post_init__(self) -> None:
        """It is being started."""
        self.standing = Standing(self.name, since=time.time())

    @property
    def is_gone(self) -> bool:
        """Whether it has no process, and none is to come by itself."""
        return self.state == "away" and self.due is None

    def stand(self, now: float) -> bool:
        """Say in `standing` what it does now; whether that is another thing than before.

        Args:
            now: Seconds since the epoch, UTC.
        """
        before, own = self.standing, self.attempts
        new = Standing(self.name, self._shown, before.since, self.node, self.last_job or self.lost_job)
        if own is not None:
            new = replace(new, claim=own.job, subject=own.work.subject)
            if self.state == "busy":
                new = replace(new, kind=own.work.question.kind, index=own.work.index, attempt=len(own.losses) + 1)
        if new == before:
            return False
        self.standing = new if new.what == before.what else replace(new, since=now)
        return True

    @property
    def _shown(self) -> StandingState:
        if self.state in ("idle", "busy"):
            return self.state
        return "lost" if self.lost else "starting"


class RayHandle:
    """A Ray actor."""

    def __init__(
        self,
        cluster: Cluster,
        name: str,
        artifacts: str,
        worker: str,
        memory_bytes: int | None = None,
        environment: Environment = COMMON,
    ) -> None:
        """Start it; the memory is what its process may have at the most."""
        share = cluster.share
        more = {} if (wanted := runtime_env(environment)) is None else {"runtime_env": wanted}
        remote: Any = ray.remote(Evaluator)  # Ray's own annotations know nothing of an actor's methods
        actor = remote.options(
            num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0, max_task_retries=0, max_concurrency=1, **more
        )
        self._actor: Any = actor.remote(name, artifacts, worker, memory_bytes)

    def ping(self) -> Future[Hello]:
        """Done when its process and its worker are up."""
        future: Future[Hello] = self._actor.ping.remote().future()
        return future

    def run(self, work: Work) -> Future[Report]:
        """Start a work."""
        future: Future[Report] = self._actor.run.remote(work_to_bytes(work)).future()
        return future

    def kill(self) -> None:
        """End its process."""
        ray.kill(self._actor, no_restart=True)
