"""The store's contract: which content is referred to, what waits, what is due, and what comes back meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
from diminuendo.v1 import job_pb2

from diminuendo.services.conductor.records import NewJob, Report, SortedArtifacts
from diminuendo.services.conductor.store import artifacts
from diminuendo.services.conductor.store.base import Store

NewJobs = Callable[..., NewJob]
DAY = 86_400_000_000
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
NAME = "projects/p/jobs/a"


def reported(index: int, key: str, *sha256s: str, outcome: bytes = b"outcome") -> Report:
    evaluation = job_pb2.EvaluationFinished(index=index, key=key, kind="evaluate")
    return Report(evaluation, outcome, frozenset(sha256s))


async def run(store: Store, new: NewJob) -> None:
    await store.create_job(new)
    lease = await store.lease_job(coordinator=new.name, lease_us=DAY)
    assert lease is not None
    assert lease.job.name == new.name


async def end(store: Store, name: str, *sha256s: str) -> None:
    files = [job_pb2.ResultFile(name=f"file{i}", sha256=sha256) for i, sha256 in enumerate(sha256s)]
    await store.release_job(name, epoch=1, outcome=job_pb2.JobResult(files=files))


async def sort(store: Store, now: list[int], *sha256s: str, keep: int = 7 * DAY, dry_run: bool = False) -> str:
    """One letter for each: held, waiting or due."""
    found = await store.sort_artifacts(sha256s, unused_before=now[0] - keep, dry_run=dry_run)
    assert sorted((*found.held, *found.waiting, *found.due)) == sorted(sha256s)
    return "".join("h" if s in found.held else "w" if s in found.waiting else "d" for s in sha256s)


async def age(store: Store, now: list[int], keep: int = 7 * DAY, *, dry_run: bool = False) -> int:
    return await store.age_evaluations(unused_before=now[0] - keep, dry_run=dry_run)


async def known(store: Store, keys: Collection[str]) -> set[str]:
    return set(await store.get_evaluations(keys))


async def test_results_and_outcomes_of_jobs_that_are_there_hold_their_content(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A))
    await store.report_evaluation(NAME, epoch=1, report=reported(1, "large", B, outcome=b""))
    assert await sort(store, now, A, B, C, D) == "hhww"
    await end(store, NAME, C, C)
    now[0] += 100 * DAY
    assert await sort(store, now, A, B, C) == "hhh"
    assert await sort(store, now, D) == "d"


async def test_what_no_job_refers_to_is_due_when_its_time_is_over(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A))
    await store.report_evaluation(NAME, epoch=1, report=reported(1, "large", B, outcome=b""))
    await end(store, NAME, C)
    assert (await age(store, now), await sort(store, now, A, B, C)) == (0, "hhh")
    now[0] += 30 * DAY
    await store.delete_job(NAME)
    assert (await age(store, now), await sort(store, now, A, B, C)) == (0, "www"), "time counts from here on"
    now[0] += 7 * DAY - 1
    assert (await age(store, now), await sort(store, now, A, B, C)) == (0, "www")
    now[0] += 1
    assert (await age(store, now, dry_run=True), await sort(store, now, A, B, C, dry_run=True)) == (1, "ddd")
    assert await store.want_artifact(C), "a dry run marks nothing"
    assert (await age(store, now), await sort(store, now, A, B, C)) == (1, "ddw")
    assert await known(store, {"k"}) == set()
    await store.removed_artifacts([A, B])
    assert await sort(store, now, A, B) == "ww", "stored again, it waits anew"


async def test_outcomes_are_kept_for_each_job_that_reported_them(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    other = "projects/p/jobs/b"
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A))
    await run(store, new_job("b"))
    # It computed the same, and others weights came of it; of what it remembered it reports no outcome.
    await store.report_evaluation(other, epoch=1, report=reported(0, "k", B))
    await end(store, NAME)
    await end(store, other)
    await store.delete_job(NAME)
    now[0] += 100 * DAY
    assert (await age(store, now), await sort(store, now, A, B)) == (0, "hh")
    now[0] += 100 * DAY
    assert (await age(store, now), await sort(store, now, A, B)) == (0, "hh")
    await store.delete_job(other)
    assert (await age(store, now), await sort(store, now, A, B)) == (0, "ww")


async def test_a_job_that_comes_meanwhile_saves_what_it_reports(store: Store, new_job: NewJobs, now: list[int]) -> None:
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A))
    await end(store, NAME, C)
    await store.delete_job(NAME)
    assert (await age(store, now), await sort(store, now, A, C)) == (0, "ww")
    now[0] += 6 * DAY
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A, outcome=b""))
    await end(store, NAME, C)
    now[0] += 6 * DAY
    assert (await age(store, now), await sort(store, now, A, C)) == (0, "hh")
    await store.delete_job(NAME)
    now[0] += 6 * DAY
    assert (await age(store, now), await sort(store, now, A, C)) == (0, "ww"), "the time before does not count"


async def test_a_job_that_came_and_went_between_two_rounds_counts(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A))
    await end(store, NAME, C)
    await store.delete_job(NAME)
    assert (await age(store, now), await sort(store, now, A, C, D)) == (0, "www")
    now[0] += 6 * DAY
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A, outcome=b""))
    await end(store, NAME, C)
    await store.delete_job(NAME)
    now[0] += 6 * DAY
    assert (await age(store, now), await sort(store, now, A, C, D)) == (0, "wwd")


async def test_what_is_read_or_asked_for_waits_for_a_full_time_again(
    store: Store, new_job: NewJobs, now: list[int]
) -> None:
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A))
    await end(store, NAME)
    await store.delete_job(NAME)
    assert (await age(store, now), await sort(store, now, A, D)) == (0, "ww")
    now[0] += 6 * DAY
    assert await known(store, {"k"}) == {"k"}
    assert await store.want_artifact(D)
    assert await store.want_artifact(C), "never listed"
    now[0] += 6 * DAY
    assert (await age(store, now), await sort(store, now, A, D)) == (0, "ww")
    now[0] += DAY
    assert (await age(store, now), await sort(store, now, A, D)) == (1, "dd")
    assert not await store.want_artifact(D), "it is on its way out"
    await store.removed_artifacts([D])
    assert await store.want_artifact(D)


async def test_a_round_that_broke_off_is_made_good_by_the_next(store: Store, new_job: NewJobs, now: list[int]) -> None:
    assert await sort(store, now, A, B) == "ww"
    now[0] += 7 * DAY
    assert await sort(store, now, A, B) == "dd"
    await run(store, new_job("a"))
    await store.report_evaluation(NAME, epoch=1, report=reported(0, "k", A))  # stored again, and so referred to
    assert await sort(store, now, A, B) == "hd"
    assert await store.want_artifact(A)
    # B was removed, and nobody could say so any more.
    await store.forget_overdue_artifacts(due_before=now[0] - 8 * DAY)
    assert not await store.want_artifact(B)
    now[0] += DAY
    await store.forget_overdue_artifacts(due_before=now[0] - 8 * DAY)
    assert await store.want_artifact(B)


async def test_many_outcomes_and_orphans_are_aged_in_pages(
    store: Store, new_job: NewJobs, now: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "PAGE", 3)
    await run(store, new_job("a"))
    for i in range(10):
        outcome = b"outcome" if i % 2 else b""
        await store.report_evaluation(NAME, epoch=1, report=reported(i, f"k{i}", f"{i:064}", outcome=outcome))
    await end(store, NAME)
    assert await age(store, now) == 0
    await store.delete_job(NAME)
    assert await age(store, now) == 0
    assert len(await known(store, {f"k{i}" for i in range(10)})) == 5
    now[0] += 7 * DAY
    assert await age(store, now) == 5
    assert await known(store, {f"k{i}" for i in range(10)}) == set()


async def test_nothing_is_sorted_into_nothing(store: Store, now: list[int]) -> None:
    assert await store.sort_artifacts([], unused_before=now[0]) == SortedArtifacts()
    await store.removed_artifacts([])
