"""Evaluators that cannot start: told apart by whether a bundle's packages may be the cause. With made-up evaluators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import ray.exceptions
from tests.services.coordinator.workers import evaluate, prepare

from diminuendo.engine.cost import Cost
from diminuendo.engine.search.drive import Done
from diminuendo.engine.search.work import Evaluated, Failed, Work, answer_to_bytes
from diminuendo.services.coordinator.bundles import COMMON, Environment
from diminuendo.services.coordinator.dispatcher import Dispatcher, Limits
from diminuendo.services.coordinator.line import Claim
from diminuendo.services.coordinator.post import Post
from diminuendo.services.evaluator.actor import Hello, Report

PACKAGES = Environment("1" * 64, ("no-such-package",))
BARE = Environment("2" * 64)


class MadeUp:
    """Starts, or fails to, and answers at once."""

    def __init__(self, name: str, error: Exception | None) -> None:
        self.name, self.error = name, error

    def ping(self) -> Future[Hello]:
        future: Future[Hello] = Future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            future.set_result(Hello(self.name, 1))
        return future

    def run(self, work: Work) -> Future[Report]:
        future: Future[Report] = Future()
        answer = Evaluated(float(work.index), 0.0, "w", Cost(1, 1), 1, 0.0)
        future.set_result(Report(self.name, answer_to_bytes(answer), 0.0))
        return future

    def kill(self) -> None:
        """It has no process."""


@contextmanager
def dispatching(fails: Callable[[Environment], Exception | None]) -> Iterator[tuple[Dispatcher, Post]]:
    """One evaluator, and one job."""

    def spawn(name: str, environment: Environment) -> MadeUp:
        return MadeUp(name, fails(environment))

    dispatcher, post = Dispatcher(["evaluator-0"], spawn, Limits(backoff_s=0.01)), Post()
    dispatcher.start()
    dispatcher.post(lambda: dispatcher.enter(Claim("job"), post))
    try:
        yield dispatcher, post
    finally:
        dispatcher.post(dispatcher.stop)
        dispatcher.join(10)


def answer_of(post: Post) -> Done:
    return post.outbox.get(timeout=10)


def test_packages_with_which_no_process_starts_end_their_job_and_no_others() -> None:
    def fails(environment: Environment) -> Exception | None:
        broken = ray.exceptions.RuntimeEnvSetupError("ERROR: No matching distribution found for no-such-package")
        return broken if environment == PACKAGES else None

    with dispatching(fails) as (dispatcher, post):
        dispatcher.post(lambda: dispatcher.submit("job", prepare(0), PACKAGES))
        answer = answer_of(post).answer
        assert isinstance(answer, Failed)
        assert "No matching distribution found for no-such-package" in answer.message
        assert "3 attempts" in answer.message
        assert [post.losses.get(timeout=1).cause for _ in range(3)] == ["EVALUATOR_LOST"] * 3
        dispatcher.post(lambda: dispatcher.submit("job", evaluate(1), COMMON))
        assert isinstance(answer_of(post).answer, Evaluated)
        assert dispatcher.usable.is_set()


def test_a_cluster_on_which_nothing_starts_is_on_nobodys_account() -> None:
    broken: list[Exception] = [RuntimeError("no room on the node")]

    def fails(environment: Environment) -> Exception | None:
        return broken[0] if broken else None

    with dispatching(fails) as (dispatcher, post):
        dispatcher.post(lambda: dispatcher.submit("job", prepare(0), BARE))
        while dispatcher.usable.is_set():  # the circuit breaker's own event has no "cleared"
            dispatcher.join(0.01)
        broken.clear()
        assert isinstance(answer_of(post).answer, Evaluated)
        assert post.losses.empty()
        assert dispatcher.usable.is_set()


def test_a_process_that_dies_as_it_starts_for_a_bundle_is_started_again() -> None:
    failures: list[Exception] = [RuntimeError("the node went away")]

    def fails(environment: Environment) -> Exception | None:
        return failures.pop() if environment == BARE and failures else None

    with dispatching(fails) as (dispatcher, post):
        dispatcher.post(lambda: dispatcher.submit("job", evaluate(3), BARE))
        done = answer_of(post)
        assert isinstance(done.answer, Evaluated)
        assert done.answer.score == 3.0
        assert post.losses.empty()
        assert not failures
