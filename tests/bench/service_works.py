"""The coordinator on a real Ray: works a second, and what it takes more than bare calls of Ray actors.

The evaluators' worker sleeps for as long as the work's subject says. The bare calls are of actors that do the same with
no coordinator, in two ways: one at a time of each actor, the next when the last has answered, as the coordinator gives
works and as `ray.util.ActorPool` does; and all at once, each actor's in its own queue, so that no call has to wait for
its way to the actor. The second is no way to do works of which nobody knows beforehand who will be free first; it tells
what Ray itself takes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diminuendo.services.coordinator.environment import isolate

isolate()  # before ray is imported

import ray  # noqa: E402

from diminuendo.engine.cost import Cost  # noqa: E402
from diminuendo.engine.search.work import Evaluate, Evaluated, Work  # noqa: E402
from diminuendo.engine.store import ArtifactStore  # noqa: E402
from diminuendo.services.coordinator.cluster import Cluster, connected  # noqa: E402
from diminuendo.services.coordinator.executor import JobExecutor, RayExecutor  # noqa: E402
from diminuendo.services.coordinator.line import Claim  # noqa: E402

EVALUATORS = 2
WORKER = "tests.bench.service_works:Sleeper"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Compared:
    """Works against bare calls that take as long.

    Attributes:
        work_s: What the evaluator does for each.
        works: In each round.
        ours_s: Median of a round through the coordinator.
        bare_s: Median of a round of bare calls, one at a time.
        queued_s: Median of a round of bare calls, all at once.
        overhead: Median over the rounds of ours against bare in the same round, 0.1 is 10 %.
        overhead_queued: The same against those all at once.
    """

    work_s: float
    works: int
    ours_s: float
    bare_s: float
    queued_s: float
    overhead: float
    overhead_queued: float


@dataclass(frozen=True)
class Worked:
    """What the coordinator can do.

    Attributes:
        no_ops_per_s: Works that do nothing, a second.
        no_op_calls_per_s: Bare calls that do nothing, one at a time of each actor, a second.
    """

    no_ops_per_s: float
    no_op_calls_per_s: float
    compared: tuple[Compared, ...]


class Sleeper:
    """The evaluators' worker."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def run(self, work: Work) -> Evaluated:
        """Sleep for the seconds that the subject tells."""
        if work.subject != "0":
            time.sleep(float(work.subject))
        return Evaluated(97.5, 0.0, "w", Cost(1, 1), 1, 0.0)


class Bare:
    """An actor with no coordinator."""

    def run(self, seconds: float) -> float:
        """Sleep."""
        if seconds:
            time.sleep(seconds)
        return seconds


def _work(index: int, seconds: float) -> Work:
    return Work(index, Evaluate("zoo:digits", "task", (), (), None, 0, 1.0, index, 0, 1), f"{seconds:g}")


def _ours(executor: JobExecutor, works: int, seconds: float) -> float:
    """Seconds for so many works, as many at a time as the executor asks for."""
    start, asked, done = time.perf_counter(), 0, 0
    while done < works:
        while asked < works and asked - done < executor.slots:
            executor.submit(_work(asked, seconds))
            asked += 1
        arrived = executor.wait(_PATIENCE_S)
        if not arrived or not all(isinstance(one.answer, Evaluated) for one in arrived):
            raise RuntimeError(f"works did not come back as they should: {arrived}")
        done += len(arrived)
    return time.perf_counter() - start


def _bare(actors: list[Any], calls: int, seconds: float) -> float:
    """Seconds for so many calls, one at a time of each actor."""
    start, made = time.perf_counter(), len(actors)
    running = {actor.run.remote(seconds): actor for actor in actors[:calls]}
    while running:
        answered, _ = ray.wait(list(running), num_returns=1, timeout=_PATIENCE_S)
        ray.get(answered)
        actor = running.pop(answered[0])
        if made < calls:
            running[actor.run.remote(seconds)] = actor
            made += 1
    return time.perf_counter() - start


def _queued(actors: list[Any], calls: int, seconds: float) -> float:
    """Seconds for so many calls, made at once."""
    start = time.perf_counter()
    ray.get([actors[number % len(actors)].run.remote(seconds) for number in range(calls)], timeout=_PATIENCE_S)
    return time.perf_counter() - start


def _compare(executor: JobExecutor, actors: list[Any], works: int, seconds: float, rounds: int) -> Compared:
    """All in turn."""
    ways = [
        (_ours(executor, works, seconds), _bare(actors, works, seconds), _queued(actors, works, seconds))
        for _ in range(rounds)
    ]
    ours, bare, queued = (statistics.median(way) for way in zip(*ways, strict=True))
    overhead = statistics.median(own / other - 1 for own, other, _ in ways)
    overhead_queued = statistics.median(own / other - 1 for own, _, other in ways)
    return Compared(seconds, works, ours, bare, queued, overhead, overhead_queued)


@contextmanager
def _importable() -> Iterator[None]:
    """Inside, processes that are started find this module."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), *([before] if before else [])])
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def worked(*, no_ops: int = 1000, short: int = 400, long: int = 6, rounds: int = 5) -> Worked:
    """Works that do nothing, works of 10 ms, works of 1 s.

    Args:
        no_ops: In each round, as the others.
        short: Of 10 ms.
        long: Of 1 s.
        rounds: Of each comparison; ours and bare take turns.
    """
    # Room for the evaluators and for the bare actors: both wait, they do not compute.
    with (
        _importable(),
        tempfile.TemporaryDirectory(prefix="diminuendo-bench-") as folder,
        connected(address=None, evaluators=2 * EVALUATORS) as cluster,
        RayExecutor(Cluster(EVALUATORS, cluster.share), folder, worker=WORKER) as evaluators,
        evaluators.job(Claim("bench")) as executor,
    ):
        remote: Any = ray.remote(Bare)
        actors = [remote.options(num_cpus=1).remote() for _ in range(EVALUATORS)]
        _ours(executor, 20 * EVALUATORS, 0.0)
        _bare(actors, 20 * EVALUATORS, 0.0)
        none = _compare(executor, actors, no_ops, 0.0, rounds)
        compared = (
            _compare(executor, actors, short, 0.01, rounds),
            _compare(executor, actors, long, 1.0, max(3, rounds // 2)),
        )
    return Worked(no_ops / none.ours_s, no_ops / none.bare_s, compared)
