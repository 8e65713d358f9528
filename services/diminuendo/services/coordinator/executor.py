"""The executor: `diminuendo.engine.search.drive.Executor` over evaluators on Ray, for each of several jobs."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from diminuendo.engine.search.drive import Done
from diminuendo.engine.search.work import Work
from diminuendo.services.coordinator.attempts import AttemptLost
from diminuendo.services.coordinator.bundles import COMMON, Environment
from diminuendo.services.coordinator.cluster import Cluster
from diminuendo.services.coordinator.dispatcher import Dispatcher, Limits
from diminuendo.services.coordinator.ledger import Stats
from diminuendo.services.coordinator.line import Claim
from diminuendo.services.coordinator.post import Accounts, Post
from diminuendo.services.coordinator.slot import Handle, RayHandle
from diminuendo.services.coordinator.standing import Standing
from diminuendo.services.coordinator.stopping import Stop
from diminuendo.services.evaluator.actor import WORKER

T = TypeVar("T")
_ANSWER_S = 30.0
"""How long the dispatcher, which never blocks for long, may take to do what it is asked."""


class ClusterLostError(RuntimeError):
    """Raised by the executor when the Ray cluster itself is gone. The job is not to blame: connect again."""


class EvaluatorsAwayError(RuntimeError):
    """Raised by the executor when no evaluator can be started. The job is not to blame: let another one have it."""


class RayExecutor:
    """Evaluators that several jobs share. A context manager.

    It outlives jobs, so that models and factors stay in the evaluators' memory. An evaluator that is lost is
    replaced, and its work tried again, three times in all.
    """

    def __init__(self, cluster: Cluster, artifacts: str, *, worker: str = WORKER, limits: Limits | None = None) -> None:
        """Start the evaluators; they take works as they become ready.

        Args:
            artifacts: Where the artifact store is, the same on every node: see `diminuendo.engine.stores`.
            worker: ``module:Class`` of the evaluators' worker.
        """

        bounds = limits or Limits()

        def spawn(name: str, environment: Environment) -> Handle:
            return RayHandle(cluster, name, artifacts, worker, bounds.memory_bytes, environment)

        names = [f"evaluator-{i}" for i in range(cluster.evaluators)]
        self._dispatcher = Dispatcher(names, spawn, bounds)
        self._dispatcher.start()
        self.evaluators, self.share = cluster.evaluators, cluster.share

    def job(self, claim: Claim, trace_parent: str = "") -> JobExecutor:
        """The executor of one more job; close it when the job is over.

        Args:
            trace_parent: W3C traceparent of the call that created the job, to which its evaluations are linked.
        """
        return JobExecutor(self, self._dispatcher, claim, trace_parent)

    @property
    def statuses(self) -> tuple[tuple[str, str], ...]:
        """(evaluator, what it works on; empty when idle)."""
        return tuple((one.evaluator, one.subject) for one in self.standings)

    @property
    def standings(self) -> tuple[Standing, ...]:
        """What each evaluator does."""
        return self._dispatcher.standings

    @property
    def works_waiting(self) -> int:
        """Works of all jobs that wait for an evaluator."""
        return self._dispatcher.works_waiting

    @property
    def changed(self) -> threading.Event:
        """Set whenever `standings` changes; whoever waits for it clears it: there may be one."""
        return self._dispatcher.changed

    def wait_until_usable(self, stop: Stop) -> bool:
        """Wait as long as no evaluator can be started; False when the process is to end."""
        with stop.calling(self._dispatcher.usable.set):
            self._dispatcher.usable.wait()
        return not stop.event.is_set()

    def revive(self) -> None:
        """Start again the evaluators that a job's end has ended, ahead of the next one."""
        self._dispatcher.post(self._dispatcher.revive)

    def stats(self) -> Stats:
        """What the evaluators have done so far."""
        return self.ask(self._dispatcher.ledger.stats)

    def close(self) -> None:
        """End the evaluators."""
        self._dispatcher.post(self._dispatcher.stop)
        self._dispatcher.join(_ANSWER_S)

    def __enter__(self) -> Self:
        """The executor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def ask(self, question: Callable[[], T]) -> T:
        """The dispatcher's answer, after everything that it was told before."""
        answers: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._dispatcher.post(lambda: answers.put(question()))
        deadline = time.monotonic() + _ANSWER_S
        while True:
            try:
                return answers.get(timeout=0.2)
            except queue.Empty:
                self.check()
                if time.monotonic() > deadline:
                    raise ClusterLostError(f"the Ray cluster has not answered for {_ANSWER_S:g} s") from None

    def check(self) -> None:
        """Raises ClusterLostError when the evaluators cannot be reached any more."""
        if not self._dispatcher.is_alive():
            raise ClusterLostError("the evaluators cannot be reached any more") from self._dispatcher.error


class JobExecutor:
    """Runs one job's works: as many at a time as its claim and other jobs leave it, and as many next in line."""

    def __init__(self, shared: RayExecutor, dispatcher: Dispatcher, claim: Claim, trace_parent: str = "") -> None:
        """Take part under a claim; the job's evaluations are linked to the call that created it."""
        self._shared, self._dispatcher = shared, dispatcher
        self._post = Post(trace_parent=trace_parent)
        self._environment = COMMON
        self.claim(claim)

    @property
    def slots(self) -> int:
        """One running and one next in line for each evaluator that it may have."""
        evaluators = self._shared.evaluators
        return 2 * min(evaluators, self._claim.most or evaluators)

    @property
    def statuses(self) -> tuple[tuple[str, str], ...]:
        """(evaluator, what it works on; empty when idle), for all jobs."""
        return self._shared.statuses

    @property
    def changed(self) -> threading.Event:
        """Set whenever `statuses` changes; whoever waits for it clears it."""
        return self._post.changed

    def prioritise(self, priority: int) -> None:
        """Change its priority."""
        self.claim(replace(self._claim, priority=priority))

    def run_in(self, environment: Environment) -> None:
        """Have its works, from the next one on, run in an environment."""
        self._environment = environment

    def claim(self, claim: Claim) -> None:
        """Change what it may have."""
        self._claim = claim
        self._dispatcher.post(lambda: self._dispatcher.enter(claim, self._post))

    def submit(self, work: Work) -> None:
        """Put the work in line; it starts as soon as it is its turn and an evaluator is free."""
        environment = self._environment
        self._dispatcher.post(lambda: self._dispatcher.submit(self._claim.job, work, environment))

    def wait(self, timeout_s: float) -> list[Done]:
        """Block until at least one work is done, or the time is over.

        Raises:
            ClusterLostError: The Ray cluster is gone.
            EvaluatorsAwayError: No evaluator can be started.
        """
        ledger, job = self._dispatcher.ledger, self._claim.job
        self._dispatcher.post(lambda: ledger.waiting(job))
        deadline = time.monotonic() + timeout_s
        arrived = self._arrived(deadline)
        if arrived:
            self._dispatcher.post(lambda: ledger.thinking(job))
        return arrived

    def cancel(self) -> None:
        """Give up every work that is not done. When this returns nothing of them runs, and nothing of them comes."""
        self._shared.ask(lambda: self._dispatcher.cancel(self._claim.job))
        _drain(self._post.outbox)
        _drain(self._post.warnings)

    def accounts(self) -> Accounts:
        """What the job has had of the evaluators so far."""
        return self._shared.ask(lambda: replace(self._post.accounts))

    def take_warnings(self) -> list[tuple[str, str]]:
        """(reason, message) of what the job's owner should know, since the last call."""
        return _drain(self._post.warnings)

    def take_losses(self) -> list[AttemptLost]:
        """Attempts that came to nothing, since the last call."""
        return _drain(self._post.losses)

    def close(self) -> None:
        """Take part no more; what is under way of it ends."""
        self._dispatcher.post(lambda: self._dispatcher.leave(self._claim.job))

    def __enter__(self) -> Self:
        """The executor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _arrived(self, deadline: float) -> list[Done]:
        while True:
            left = deadline - time.monotonic()
            try:
                # In pieces, so that a dispatcher that has ended is noticed.
                first = self._post.outbox.get(timeout=max(0.0, min(1.0, left)))
            except queue.Empty:
                self._shared.check()
                if not self._dispatcher.usable.is_set():
                    raise EvaluatorsAwayError(f"no evaluator can be started: {self._dispatcher.trouble}") from None
                if left <= 0:
                    return []
            else:
                return [first, *_drain(self._post.outbox)]


def _drain(source: queue.SimpleQueue[T]) -> list[T]:
    items: list[T] = []
    while True:
        try:
            items.append(source.get_nowait())
        except queue.Empty:
            return items
