"""Jobs by project: how many there are to do, and a coordinator of one project only. On every backend."""

from __future__ import annotations

from collections.abc import Callable

from diminuendo.services.conductor.records import NewJob
from diminuendo.services.conductor.store.base import Store

LEASE = 30_000_000


async def test_what_is_to_be_done_is_counted_by_project(store: Store, new_job: Callable[..., NewJob]) -> None:
    assert await store.count_active() == {}
    for job_id, project in (("a", "p"), ("b", "p"), ("c", "q"), ("d", "q"), ("e", "r")):
        await store.create_job(new_job(job_id, project))
    assert await store.lease_job(coordinator="c1", lease_us=LEASE) is not None
    await store.pause_job("projects/q/jobs/d")
    await store.cancel_job("projects/r/jobs/e")
    assert await store.count_active() == {"p": 2, "q": 1}, "held, or in the queue; neither paused nor ended"


async def test_a_coordinator_of_one_project(store: Store, new_job: Callable[..., NewJob], now: list[int]) -> None:
    for job_id, project in (("a", "p"), ("b", "q"), ("c", "q")):
        await store.create_job(new_job(job_id, project))
    assert await store.lease_job(coordinator="c0", lease_us=LEASE, project="r") is None
    first = await store.lease_job(coordinator="c1", lease_us=LEASE, project="q")
    assert first is not None
    assert first.job.name == "projects/q/jobs/b"
    other = await store.lease_job(coordinator="c2", lease_us=LEASE)
    assert other is not None
    assert other.job.name == "projects/p/jobs/a", "who has no project of its own takes from all"
    now[0] += LEASE
    again = await store.lease_job(coordinator="c3", lease_us=LEASE, project="p")
    assert again is not None
    assert (again.job.name, again.job.epoch) == ("projects/p/jobs/a", 2), "of what is lost, too, only its project's"
