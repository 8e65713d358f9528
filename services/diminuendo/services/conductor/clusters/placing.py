"""Keeps one coordinator running in one Ray cluster, through its Jobs REST API.

Not as a container of the head's pod: a coordinator counts its cluster when it begins, so it is to begin once workers
are there, and again when there are more; and what the kubelet starts again it starts up to five minutes later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diminuendo.services.common import logs
from diminuendo.services.common.rayjobs import DRAIN_S
from diminuendo.services.conductor.clusters.backoff import Backoff
from diminuendo.services.conductor.clusters.planner import renewal
from diminuendo.services.conductor.clusters.rayjobs import RayJob, RayJobs, RayJobsError
from diminuendo.services.conductor.notify import wait

log = logs.get(__name__)

LOOK_S, SOON_S = 2.0, 0.25
"""Between two looks, while nothing is to come, and while something is."""
FIRST_DELAY_S, LAST_DELAY_S = 0.5, 30.0
REMEMBERED = 3
"""Ended coordinators that a cluster goes on to remember, for people who look."""
WITHDRAW_S = DRAIN_S + 15.0
"""After this long, a coordinator that was to end is taken to have ended: its cluster does not answer any more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a coordinator is to be.

    Attributes:
        address: URL of the cluster's dashboard.
        ready: Evaluators that there is room for now; 0: not known.
        asked: Evaluators that there will be room for.
    """

    address: str
    ready: int = 0
    asked: int = 0


class Placement:
    """One coordinator. Belongs to one event loop; `run` does the work.

    Attributes:
        state: ``absent``, ``starting``, ``running``, ``stopping``, ``unreachable``.
        trouble: Why it is not as it should be; empty when it is.
    """

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        *,
        clock: Callable[[], float],
        settle_s: float,
        changed: Callable[[], None],
    ) -> None:
        """Nothing is wanted yet.

        Args:
            name: The coordinator's, unique among those alive.
            options: Its flags.
            clock: Seconds that only go forward.
            settle_s: See `ClusterSettings`.
            changed: Called when `state` is another one.
        """
        self.name, self.state, self.trouble = name, "absent", ""
        self._options, self._clock, self._settle_s, self._changed = options, clock, settle_s, changed
        self._wanted: Wanted | None = None
        self._last: Wanted | None = None
        self._wake = asyncio.Event()
        self._backoff = Backoff(FIRST_DELAY_S, LAST_DELAY_S)
        self._not_before = self._ready_since = self._withdrawn = 0.0
        self._running, self._stopping, self._told = "", "", ""
        self._began, self._looked = 0.0, False

    def want(self, wanted: Wanted) -> None:
        """Have it run there."""
        if wanted == self._wanted:
            return
        if self._wanted is None or wanted.ready != self._wanted.ready:
            self._ready_since = self._clock()
        self._wanted = self._last = wanted
        self._wake.set()

    def withdraw(self, address: str = "") -> bool:
        """Have it end; whether it has.

        Args:
            address: Where one may run that was placed there before our time; empty: nowhere.
        """
        unseen = address and self._last is None and not self._looked
        if self._wanted is not None or unseen:
            self._last = self._wanted or Wanted(address)
            self._wanted, self._withdrawn = None, self._clock()
            self._be("stopping")
            self._wake.set()
        if self.state != "absent" and self._clock() >= self._withdrawn + WITHDRAW_S:
            log.warning("coordinator_given_up", coordinator=self.name, after_s=WITHDRAW_S, reason=self.trouble)
            self._last, self._looked = None, True
            self._be("absent")
        return self.state == "absent"

    def forget(self) -> None:
        """The cluster is gone, and the coordinator with it."""
        self._wanted = self._last = None
        self._looked = False
        self._be("absent")

    async def run(self) -> None:
        """Look, act, wait, until cancelled. The coordinator goes on without us."""
        while True:
            self._wake.clear()
            where = self._wanted or self._last
            pause: float | None = None
            if where is not None:
                try:
                    pause = await self._step(RayJobs(where.address, self.name))
                except RayJobsError as error:
                    pause = self._backoff.next()
                    self._be("unreachable", str(error))
                    log.warning("ray_jobs_failed", coordinator=self.name, reason=str(error), again_in_s=round(pause, 2))
            await wait(self._wake, pause)

    async def _step(self, jobs: RayJobs) -> float | None:
        """One look, and what follows from it; for how long there is nothing to do after that, None: for ever."""
        found = await asyncio.to_thread(jobs.list)
        self._looked = True
        job = next((job for job in found if not job.ended), None)
        if job is None:
            return await self._start(jobs, found)
        if self._running != job.id:
            self._running, self._began = job.id, self._clock()
        if self._wanted is None or self._is_due(job):
            if self._stopping != job.id:
                log.info("coordinator_stopping", coordinator=self.name, ray_job=job.id, wanted=self._wanted is not None)
                await asyncio.to_thread(jobs.stop, job)
                self._stopping = job.id
            self._be("stopping")
            return SOON_S
        self._be("running" if job.status == "RUNNING" else "starting")
        if self._clock() >= self._began + self._settle_s:
            self._backoff.reset()
        return LOOK_S if job.status == "RUNNING" else SOON_S

    def _is_due(self, job: RayJob) -> bool:
        """Whether it is to begin anew, with another number of evaluators."""
        wanted = self._wanted
        if wanted is None or not job.evaluators:
            return False
        due = renewal(
            began_with=job.evaluators,
            began=self._began,
            ready=wanted.ready,
            ready_since=self._ready_since,
            asked=wanted.asked,
            settle_s=self._settle_s,
        )
        return due is not None and self._clock() >= due

    async def _start(self, jobs: RayJobs, ended: Sequence[RayJob]) -> float | None:
        """None runs: start one, if one is wanted and it is time."""
        self._tell_of_end(ended)
        if self._wanted is None:
            self._last = None
            self._be("absent")
            return None
        self._be("starting", self.trouble)
        if (early := self._not_before - self._clock()) > 0:
            return early
        number = 1 + max((job.number for job in ended), default=0)
        ready = self._wanted.ready
        self._running = await asyncio.to_thread(jobs.submit, self._options, number=number, evaluators=ready)
        self._began = self._clock()
        log.info(
            "coordinator_submitted",
            coordinator=self.name,
            ray_job=self._running,
            evaluators=ready,
        )
        for job in ended[REMEMBERED:]:
            await asyncio.to_thread(jobs.forget, job)
        return 0.0

    def _tell_of_end(self, ended: Sequence[RayJob]) -> None:
        """Note how the one that ran has ended; one that ended by itself is started again later each time."""
        if not ended or ended[0].id == self._told:
            return
        last = ended[0]
        self._told = last.id
        if last.id == self._stopping or last.id != self._running:  # as asked, or before our time
            log.info("coordinator_stopped", coordinator=self.name, ray_job=last.id, status=last.status)
            self._not_before, self.trouble = 0.0, ""
            return
        delay = self._backoff.next()
        self._not_before = self._clock() + delay
        self.trouble = f"it ended by itself: {last.status} {last.message}".strip()
        log.warning(
            "coordinator_ended",
            coordinator=self.name,
            ray_job=last.id,
            status=last.status,
            said=last.message,
            again_in_s=round(delay, 2),
        )

    def _be(self, state: str, trouble: str = "") -> None:
        self.trouble = trouble
        if state != self.state:
            self.state = state
            self._changed()
