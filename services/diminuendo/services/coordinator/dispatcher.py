"""The thread that owns the evaluators: gives them works, replaces lost ones, tries lost works again.

Everything that happens comes in through one queue and is handled in order by one thread, so there is no lock and
no moment at which two sides disagree. Works of all jobs stand in one line (see `line`) and go to whichever evaluator
becomes free first: none waits for the search to think, and none waits behind another's long work.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from diminuendo.engine.search.drive import AnyAnswer, Done
from diminuendo.engine.search.work import Failed, Work, answer_from_bytes
from diminuendo.services.common import logs
from diminuendo.services.coordinator import failures, tracks, translate
from diminuendo.services.coordinator.attempts import AttemptLost, Loss
from diminuendo.services.coordinator.bundles import COMMON, Environment
from diminuendo.services.coordinator.ledger import Ledger
from diminuendo.services.coordinator.line import Claim, Line
from diminuendo.services.coordinator.post import Post
from diminuendo.services.coordinator.slot import Attempts, Slot, Spawn
from diminuendo.services.coordinator.standing import Standing
from diminuendo.services.evaluator.actor import Hello, Report

log = logs.get(__name__)

MAX_FAILED_STARTS = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """What things may take.

    Attributes:
        work_s: Seconds of one attempt at one work.
        start_s: Seconds from the start of an evaluator to its first answer; on a full cluster it waits for room.
        backoff_s: Seconds before an evaluator that could not be started is started again; doubles up to 30 s.
        memory_bytes: Host memory of one evaluator; None: as much as there is.
        look_s: Seconds between two looks whether an evaluator that has nothing to do is still there.
        idle_s: Seconds without work after which an evaluator is let go; they are started as works wait. None: never,
            and all are started at once.
    """

    work_s: float = 3600.0
    start_s: float = 180.0
    backoff_s: float = 0.5
    memory_bytes: int | None = None
    look_s: float = 3.0
    idle_s: float | None = None


class Dispatcher(threading.Thread):
    """Use `post` from any thread; where nothing else is said, the other methods belong to this one.

    Attributes:
        usable: Cleared, as by a circuit breaker, once no evaluator can be started; set again when one has. Whatever
            stands in line then waits for nothing.
        trouble: Why it was cleared last.
        changed: Set whenever an evaluator does another thing than before; whoever waits for it clears it.
        works_waiting: Works of all jobs that stand in line.
    """

    def __init__(
        self, names: Sequence[str], spawn: Spawn, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Prepare; `start` starts the thread, and the evaluators with it."""
        super().__init__(name="dispatcher", daemon=True)
        self.error: BaseException | None = None
        self.usable, self.trouble = threading.Event(), ""
        self.usable.set()
        self.ledger = Ledger(tuple(names), clock)
        self.changed, self.works_waiting = threading.Event(), 0
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._slots = [Slot(name) for name in names]
        self._touched: dict[str, Slot] = {}
        self._line: Line[Attempts] = Line(len(names))
        self._posts: dict[str, Post] = {}
        self._spawn, self._limits, self._clock = spawn, limits, clock
        self._stopping = False

    def post(self, event: Callable[[], None]) -> None:
        """Have this thread do something, after everything posted before. From any thread."""
        self._inbox.put(event)

    @property
    def standings(self) -> tuple[Standing, ...]:
        """What each evaluator does; of those that come and go, the ones that are there or to come. From any thread."""
        slots = self._slots if self._limits.idle_s is None else [slot for slot in self._slots if not slot.is_gone]
        return tuple(slot.standing for slot in slots)

    def run(self) -> None:
        """Handle events until told to stop."""
        try:
            self.revive()
            while not self._stopping:
                self._publish()
                self._next_event()
        except BaseException as error:  # kept for the thread that waits for outcomes
            self.error = error
            log.exception("dispatcher_failed")
        finally:
            for slot in self._slots:
                self._drop(slot)

    # --- what others ask for -------------------------------------------------------------------------------

    def enter(self, claim: Claim, post: Post) -> None:
        """Let a job have works done, or change what it may have."""
        self._line.join(claim)
        self._posts[claim.job] = post
        self._dispatch()

    def submit(self, job: str, work: Work, environment: Environment = COMMON) -> None:
        """Put a work in line."""
        self.ledger.asked(job)
        self.revive()
        self._enqueue(Attempts(work, job, environment, asked=time.time()))

    def cancel(self, job: str) -> None:
        """Forget what a job has in line and end what is under way of it.

        Lost evaluators come back at once for other jobs' works, else with the next work or `revive`.
        """
        self._line.clear(job, self._clock())
        self.ledger.waiting(job)
        for slot in self._slots:
            if slot.attempts is not None and slot.attempts.job == job:
                self._drop(slot)
        if len(self._line):
            self.revive()
        self._dispatch()

    def leave(self, job: str) -> None:
        """Forget a job."""
        if job in self._posts:
            self.cancel(job)
            self._line.leave(job)
            del self._posts[job]

    def revive(self) -> None:
        """Start evaluators that are away without being due: all, or of those that come and go as many as are wanted."""
        gone = [slot for slot in self._slots if slot.is_gone]
        if self._limits.idle_s is not None:
            coming = sum(slot.state == "starting" and slot.attempts is None for slot in self._slots)
            gone = gone[: max(0, self._line.ready - coming)]
        for slot in gone:
            self._start(slot)

    def stop(self) -> None:
        """End the thread, and the evaluators with it."""
        self._stopping = True

    # --- events --------------------------------------------------------------------------------------------

    def _next_event(self) -> None:
        dues = [slot.due for slot in self._slots if slot.due is not None]
        timeout = max(0.0, min(dues) - self._clock()) if dues else None
        try:
            event = self._inbox.get(timeout=timeout)
        except queue.Empty:
            self._overdue()
        else:
            event()

    def _overdue(self) -> None:
        now = self._clock()
        for slot in self._slots:
            if slot.due is None or slot.due > now:
                continue
            if slot.state == "away":
                self._start(slot)
            elif slot.state == "starting":
                self._start_failed(slot, f"no answer within {self._limits.start_s:g} s; is there room in the cluster?")
            elif slot.state == "idle":
                self._look(slot, now)
            else:
                self._lost(slot, Loss("TIMEOUT", f"took longer than {self._limits.work_s:g} s"))

    def _look(self, slot: Slot, now: float) -> None:
        """See whether an idle evaluator is still there, as nobody else would, and whether it is to go."""
        if self._limits.idle_s is not None and now - slot.idle_since >= self._limits.idle_s:
            log.info("evaluator_let_go", evaluator=slot.name, idle_s=self._limits.idle_s)
            self._drop(slot)
            return
        incarnation, slot.due = slot.incarnation, None
        self._ping(slot, lambda future: self._looked(slot, incarnation, future.exception()))

    def _looked(self, slot: Slot, incarnation: int, error: BaseException | None) -> None:
        if incarnation != slot.incarnation or slot.state != "idle":
            return
        if error is not None:
            self._lost(slot, failures.loss_of(error))
        elif slot.due is None:
            slot.due = self._clock() + self._limits.look_s

    def _ready(self, slot: Slot, incarnation: int, future: Future[Hello]) -> None:
        if incarnation != slot.incarnation:
            return
        error = future.exception()
        if error is not None:
            self._start_failed(slot, failures.loss_of(error).detail)
            return
        slot.failed_starts, slot.lost, slot.lost_job, slot.node = 0, False, "", future.result().node
        self.usable.set()
        log.info("evaluator_ready", evaluator=slot.name)
        if slot.attempts is None:
            self._free(slot)
        else:
            self._run(slot, slot.attempts)

    def _returned(self, slot: Slot, incarnation: int, future: Future[Report]) -> None:
        if incarnation != slot.incarnation or slot.attempts is None:
            return
        error = future.exception()
        if error is not None:
            self._lost(slot, failures.loss_of(error))
            return
        report, attempts = future.result(), slot.attempts
        answer = answer_from_bytes(report.answer)
        if isinstance(answer, Failed) and answer.reason in ("OUT_OF_MEMORY", "GPU_OUT_OF_MEMORY"):
            if answer.reason == "GPU_OUT_OF_MEMORY":
                attempts.parts *= 2  # the next attempt has half the micro-batch
            self._lost(slot, Loss(answer.reason, answer.message, answer.traceback))
            return
        attempts.over(slot.name, self._clock(), phases=report.phases)
        self._free(slot)
        self._deliver(attempts, answer, slot.name, report.seconds)

    # --- evaluators ----------------------------------------------------------------------------------------

    def _start(self, slot: Slot) -> None:
        slot.incarnation += 1
        incarnation = slot.incarnation
        slot.handle, slot.state = self._spawn(slot.name, slot.environment), "starting"
        slot.due = self._clock() + self._limits.start_s
        self._ping(slot, lambda future: self._ready(slot, incarnation, future))
        self._touch(slot)

    def _ping(self, slot: Slot, then: Callable[[Future[Hello]], None]) -> None:
        """Have this thread do something once the evaluator has answered, or is found lost."""
        if slot.handle is None:
            raise RuntimeError(f"{slot.name} has no process to be asked")
        slot.handle.ping().add_done_callback(lambda future: self.post(lambda: then(future)))

    def _start_failed(self, slot: Slot, reason: str) -> None:
        attempts, slot.environment = slot.attempts, COMMON
        self._drop(slot)
        slot.lost = True
        if attempts is not None and attempts.environment.packages:  # they are to blame, so it is on the job's account
            slot.due = self._clock()
            log.warning(
                "evaluator_start_failed", evaluator=slot.name, reason=reason, bundle=attempts.environment.bundle
            )
            self._lost_attempt(attempts, slot.name, Loss("EVALUATOR_LOST", f"the evaluator cannot start: {reason}"))
            return
        if attempts is not None:
            self._enqueue(attempts)
        slot.failed_starts += 1
        slot.last_failure = reason
        delay = min(30.0, self._limits.backoff_s * 2 ** (slot.failed_starts - 1))
        slot.due = self._clock() + delay
        log.warning("evaluator_start_failed", evaluator=slot.name, reason=reason, again_in_s=delay)
        self._break_if_none_starts()

    def _break_if_none_starts(self) -> None:
        if self.usable.is_set() and all(slot.failed_starts >= MAX_FAILED_STARTS for slot in self._slots):
            self.trouble = self._slots[0].last_failure
            self.usable.clear()
            log.error("no_evaluator_starts", reason=self.trouble)

    def _drop(self, slot: Slot) -> None:
        """End the slot's process, and ignore whatever news of it is still to come."""
        slot.incarnation += 1
        if slot.handle is not None:
            slot.handle.kill()
        self._put_down(slot)
        slot.handle, slot.due, slot.state, slot.last_job, slot.node = None, None, "away", "", ""
        self.ledger.away(slot.name)

    def _put_down(self, slot: Slot) -> None:
        """The slot works on nothing any more."""
        if slot.attempts is not None:
            now, own = self._clock(), slot.attempts
            self._line.ended(own.job, own.begun, now)
            self._posts[own.job].accounts.busy_s += now - own.begun
        slot.attempts = None
        self._touch(slot)

    def _free(self, slot: Slot) -> None:
        self._put_down(slot)
        slot.state, slot.due, slot.idle_since = "idle", self._clock() + self._limits.look_s, self._clock()
        self.ledger.idle(slot.name)
        self._dispatch()

    # --- works ---------------------------------------------------------------------------------------------

    def _enqueue(self, attempts: Attempts) -> None:
        self._line.add(attempts.job, attempts.work.index, attempts, self._clock())
        self._dispatch()

    def _dispatch(self) -> None:
        """Give works to the evaluators that are idle, each the one whose turn it is."""
        for slot in self._slots:
            if slot.state == "idle":
                taken = self._line.take(self._clock(), slot.last_job)
                if taken is None:
                    break
                self._give(slot, taken)
        if self._limits.idle_s is not None:
            self.revive()
        self.ledger.line(self._line.ready)
        self.works_waiting = len(self._line)
        self._publish()

    def _give(self, slot: Slot, attempts: Attempts) -> None:
        attempts.begun = self._clock()
        if slot.environment != attempts.environment:
            self._drop(slot)
            slot.environment, slot.attempts = attempts.environment, attempts
            self._start(slot)
        else:
            self._run(slot, attempts)

    def _run(self, slot: Slot, attempts: Attempts) -> None:
        """Have a ready evaluator do a work."""
        if slot.handle is None:
            raise RuntimeError(f"{slot.name} is idle without a process")
        incarnation = slot.incarnation
        slot.state, slot.attempts, slot.last_job = "busy", attempts, attempts.job
        slot.due = self._clock() + self._limits.work_s
        self.ledger.busy(slot.name)
        self._touch(slot)

        def returned(future: Future[Report]) -> None:
            self.post(lambda: self._returned(slot, incarnation, future))

        slot.handle.run(replace(attempts.work, parts=attempts.parts)).add_done_callback(returned)

    def _lost(self, slot: Slot, loss: Loss) -> None:
        """An attempt came to nothing: replace the evaluator, and try elsewhere or give up."""
        attempts = slot.attempts
        if attempts is None:
            log.warning("evaluator_lost", evaluator=slot.name, cause=loss.cause, detail=loss.detail)
        self._drop(slot)
        if attempts is None and self._limits.idle_s is not None:
            return  # nothing waits for it: perhaps its node was taken away
        slot.lost, slot.lost_job = True, "" if attempts is None else attempts.job
        self._start(slot)
        if attempts is not None:
            self._lost_attempt(attempts, slot.name, loss)

    def _lost_attempt(self, attempts: Attempts, evaluator: str, loss: Loss) -> None:
        """Try it elsewhere, or give up."""
        attempts.losses.append(loss)
        attempts.over(evaluator, self._clock(), error=f"{loss.cause}: {loss.detail}")
        self.ledger.attempts_lost += 1
        self._posts[attempts.job].accounts.attempts_lost += 1
        work, count = attempts.work, len(attempts.losses)
        log.warning(
            "attempt_lost",
            job=translate.job_of(attempts.job),
            evaluator=evaluator,
            work=work.index,
            key=work.key,
            subject=work.subject,
            attempt=count,
            cause=loss.cause,
            detail=loss.detail,
            **tracks.ids(attempts.job, work.index),
        )
        self._posts[attempts.job].losses.put(
            AttemptLost(work.index, work.subject, evaluator, count, loss.cause, loss.detail)
        )
        if count < failures.MAX_ATTEMPTS:
            self._enqueue(attempts)
            return
        answer = failures.give_up(work, loss, attempts=count)
        if not isinstance(answer, Failed):
            text = f"candidate {work.index} ({work.subject}) is left out after {count} attempts: {loss.detail}"
            self._posts[attempts.job].warnings.put(("CANDIDATE_INFEASIBLE", text))
        self._publish()
        self._deliver(attempts, answer, "", 0.0)

    def _deliver(self, attempts: Attempts, answer: AnyAnswer, evaluator: str, seconds: float) -> None:
        self.ledger.works_done += 1
        post = self._posts[attempts.job]
        post.accounts.works_done += 1
        tracks.tell(attempts.job, attempts.work, asked=attempts.asked, tries=attempts.tries, origin=post.trace_parent)
        post.outbox.put(Done(attempts.work, answer, evaluator, seconds))

    def _touch(self, slot: Slot) -> None:
        self._touched[slot.name] = slot

    def _publish(self) -> None:
        """Tell of what has changed since the last time."""
        if not self._touched:
            return
        now = time.time()
        news = [slot.stand(now) for slot in self._touched.values()]
        self._touched.clear()
        if any(news):
            self.changed.set()
            for post in self._posts.values():
                post.changed.set()
