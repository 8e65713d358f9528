"""The store in a few lines: what jobs are, and what each operation makes of them. Written apart from the real rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from diminuendo.services.common.errors import (
    CancelNotRequestedError,
    JobActiveError,
    JobCancellingError,
    JobEndedError,
    JobNotFoundError,
    JobNotRetriedError,
    StaleEpochError,
    StepOutOfOrderError,
)

ENDED = ("CANCELLED", "SUCCEEDED", "FAILED")
HELD = ("RUNNING", "PAUSING", "CANCELLING")
PARTED = {"PAUSING": "PAUSED", "CANCELLING": "CANCELLED"}
OUTCOMES = ("none", "result", "failure", "cancelled")


@dataclass
class ModelJob:
    """A job. `events` counts its log's; `steps` has the text of each; `until` is the lease's end, in seconds."""

    order: int
    priority: int = 0
    retry_of: str = ""
    state: str = "QUEUED"
    holder: str = ""
    epoch: int = 0
    until: int = 0
    events: int = 1
    steps: list[str] = field(default_factory=list)
    reports: set[tuple[int, str]] = field(default_factory=set)
    released: tuple[int, str] | None = None

    def enter(self, state: str) -> None:
        self.state, self.events = state, self.events + 1
        if state not in HELD:
            self.holder = ""


@dataclass
class Model:
    """All jobs. Every method does what the store's does, or raises the same class of error."""

    now: int = 0
    made: int = 0
    jobs: dict[str, ModelJob] = field(default_factory=dict)
    known: dict[str, bytes] = field(default_factory=dict)

    def job(self, name: str) -> ModelJob:
        if name not in self.jobs:
            raise JobNotFoundError(name)
        return self.jobs[name]

    # --- the owner -----------------------------------------------------------------------------------------

    def create(self, name: str, priority: int, retry_of: str = "") -> None:
        self.made += 1
        self.jobs[name] = ModelJob(self.made, priority, retry_of)

    def cancel(self, name: str) -> None:
        job = self.job(name)
        if job.state in ("SUCCEEDED", "FAILED"):
            raise JobEndedError(name)
        if job.state in ("QUEUED", "PAUSED"):
            job.enter("CANCELLED")
        elif job.state in ("RUNNING", "PAUSING"):
            job.enter("CANCELLING")
            self._part_if_lost(job)

    def pause(self, name: str) -> None:
        job = self.job(name)
        self._refuse(name, job.state)
        if job.state == "QUEUED":
            job.enter("PAUSED")
        elif job.state == "RUNNING":
            job.enter("PAUSING")
            self._part_if_lost(job)

    def resume(self, name: str) -> None:
        job = self.job(name)
        self._refuse(name, job.state)
        self._part_if_lost(job)
        if job.state == "PAUSING":
            job.enter("RUNNING")
        elif job.state == "PAUSED":
            job.enter("QUEUED")

    def update(self, name: str, priority: int) -> None:
        job = self.job(name)
        if job.state in ENDED:
            raise JobEndedError(name)
        job.priority, job.events = priority, job.events + 1

    def retry(self, name: str, new: str) -> None:
        job = self.job(name)
        if job.state not in ("FAILED", "CANCELLED"):
            raise JobNotRetriedError(name)
        self.create(new, job.priority, name)

    def delete(self, name: str) -> None:
        if self.job(name).state not in ENDED:
            raise JobActiveError(name)
        del self.jobs[name]

    # --- the coordinator -----------------------------------------------------------------------------------

    def part(self, coordinator: str = "") -> None:
        """Jobs that nobody lets go of any more are let go of; those of this coordinator too."""
        for job in self.jobs.values():
            if job.state in PARTED and (self._lost(job) or job.holder == coordinator):
                job.enter(PARTED[job.state])

    def to_lease(self, coordinator: str) -> list[str]:
        """Any of these may be given to it: its own running one, or one of somebody who is gone, or the next queued."""
        running = {name: job for name, job in self.jobs.items() if job.state == "RUNNING"}
        own = [name for name, job in running.items() if job.holder == coordinator]
        lost = [name for name, job in running.items() if self._lost(job)]
        queued = [(-job.priority, job.order, name) for name, job in self.jobs.items() if job.state == "QUEUED"]
        return own or lost or [name for *_, name in sorted(queued)[:1]]

    def lease(self, name: str, coordinator: str, lease_s: int) -> None:
        job = self.job(name)
        if job.state == "QUEUED":
            job.enter("RUNNING")
        job.holder, job.epoch, job.until = coordinator, job.epoch + 1, self.now + lease_s
        job.events += 1

    def heartbeat(self, name: str, epoch: int, lease_s: int) -> None:
        self._fenced(name, epoch).until = self.now + lease_s

    def report(self, name: str, epoch: int, index: int, key: str, outcome: bytes) -> bool:
        job = self._fenced(name, epoch)
        if outcome:
            self.known.setdefault(key, outcome)
        if (index, key) in job.reports:
            return False
        job.reports.add((index, key))
        job.events += 1
        return True

    def commit(self, name: str, epoch: int, number: int, text: str) -> bool:
        job = self._fenced(name, epoch)
        if job.steps and number == len(job.steps) - 1 and job.steps[-1] == text:
            return False
        if number != len(job.steps):
            raise StepOutOfOrderError(name)
        job.steps.append(text)
        job.events += 1
        return True

    def release(self, name: str, epoch: int, outcome: str) -> None:
        job = self.job(name)
        if job.released == (epoch, outcome):
            return
        self._fenced(name, epoch)
        if outcome == "result":
            state = "SUCCEEDED"
        elif job.state == "CANCELLING":
            state = "CANCELLED"
        elif outcome == "failure":
            state = "FAILED"
        elif outcome == "none":
            state = "PAUSED" if job.state == "PAUSING" else "QUEUED"
        else:
            raise CancelNotRequestedError(name)
        job.enter(state)
        job.released = (epoch, outcome)

    # --- both ----------------------------------------------------------------------------------------------

    def _lost(self, job: ModelJob) -> bool:
        return job.state in HELD and job.until <= self.now

    def _part_if_lost(self, job: ModelJob) -> None:
        if job.state in PARTED and self._lost(job):
            job.enter(PARTED[job.state])

    def _fenced(self, name: str, epoch: int) -> ModelJob:
        job = self.job(name)
        if job.state not in HELD or job.epoch != epoch:
            raise StaleEpochError(name)
        return job

    def _refuse(self, name: str, state: str) -> None:
        if state in ENDED:
            raise JobEndedError(name)
        if state == "CANCELLING":
            raise JobCancellingError(name)
