"""Fleets against a real conductor: safe to repeat, no model disturbs another, watches begin again, downloads go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diminuendo.client import (
    Client,
    ClientConfig,
    DiminuendoError,
    FailedPreconditionError,
    FleetModel,
    FleetUpdate,
    InvalidArgumentError,
    JobInfo,
    JobState,
    ModelStatus,
    NotFoundError,
    WaitTimeoutError,
)
from diminuendo.client.fleet.results import read_report

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.client.conductor import Conductor
    from tests.client.fleet.conductor import Player
    from tests.client.fleet.conftest import MakeBundle


def zoo(name: str, **wishes: object) -> FleetModel:
    return FleetModel(**{"name": name, "source": "zoo:digits", "effort": "quick", **wishes})  # type: ignore[arg-type]


def outcomes(statuses: Iterable[ModelStatus]) -> list[str]:
    """created, there, or why not, of each."""
    return [
        (each.refusal.reason or "INVALID") if each.refusal else "created" if each.created else "there"
        for each in statuses
    ]


def states(fleet_jobs: Iterable[JobInfo]) -> dict[str, str]:
    return {job.model: job.state.value for job in fleet_jobs}


def test_submitted_again_only_what_is_new_is_created(client: Client, project: str) -> None:
    fleet = client.fleet("again")
    first = fleet.submit([zoo("a"), zoo("b", labels={"k": "v"})], labels={"team": "vision"})
    assert outcomes(first) == ["created", "created"]
    second = fleet.submit([zoo("a"), zoo("c"), zoo("b", labels={"k": "v"})])
    assert outcomes(second) == ["there", "created", "there"]
    assert second[0].job is not None
    assert second[0].job.name == first[0].job.name if first[0].job else False
    info = fleet.info()
    assert (info.name, info.models, info.states) == (f"projects/{project}/fleets/again", 3, {JobState.QUEUED: 3})
    assert (info.labels, info.ended) == ({"team": "vision"}, 0)
    found = list(fleet.jobs())  # two to a page
    assert {job.model: (job.fleet, job.effort) for job in found} == dict.fromkeys("abc", (info.name, "quick"))
    assert client.get(found[0].name).model == found[0].model
    assert [each.fleet_id for each in client.fleets()] == ["again"]


def test_a_model_that_is_refused_disturbs_no_other(client: Client) -> None:
    fleet = client.fleet("mixed")
    statuses = fleet.submit(
        [zoo("a"), zoo("bad", formats=("sdv",)), zoo("lost", source=f"bundle:{'0' * 64}"), zoo("b")]
    )
    assert [each.created for each in statuses] == [True, False, False, True]
    bad, lost = statuses[1].refusal, statuses[2].refusal
    assert bad is not None
    assert lost is not None
    assert "sdv: unknown" in bad.message
    assert "svd" in bad.message
    assert "0" * 64 in lost.message
    assert states(fleet.jobs()) == {"a": "QUEUED", "b": "QUEUED"}


def test_a_changed_wish_is_refused_until_it_may_replace(client: Client) -> None:
    fleet = client.fleet("changed")
    fleet.submit([zoo("a")])
    (differs,) = fleet.submit([zoo("a", delta=2.0)])
    assert (differs.differs, differs.created) == (True, False)
    (early,) = fleet.submit([zoo("a", delta=2.0)], replace_changed=True)
    assert early.refusal is not None
    assert not early.differs
    fleet.cancel()
    (status,) = fleet.submit([zoo("a", delta=2.0)], replace_changed=True)
    assert (status.created, status.refusal) == (True, None)
    assert [job.delta for job in fleet.jobs()] == [2.0]


def test_nothing_is_sent_of_a_fleet_with_a_wrong_model(client: Client, make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fleet = client.fleet("wrong")
    with pytest.raises(InvalidArgumentError, match=r"models\['b'\].delta: 0 is not a tolerance"):
        fleet.submit([zoo("a"), zoo("b", delta=0.0)])
    with pytest.raises(InvalidArgumentError, match=r"empty has no task.py.*gone is not a folder"):
        fleet.submit(
            [
                zoo("c", source="", bundle=make_bundle("good")),
                zoo("a", source="", bundle=tmp_path / "empty"),
                zoo("b", source="", bundle=tmp_path / "gone"),
            ]
        )
    with pytest.raises(NotFoundError):
        fleet.info()
    assert list(client.fleets()) == []


def test_bundles_of_the_same_content_are_sent_once(client: Client, make_bundle: MakeBundle) -> None:
    sent: list[str] = []
    models = [
        zoo(name, source="", bundle=make_bundle(name, text)) for name, text in (("a", "x"), ("b", "x"), ("c", "y"))
    ]

    def submit() -> tuple[ModelStatus, ...]:
        return client.fleet("bundles").submit(models, on_sent=lambda folder, size: sent.append(folder.name))

    statuses = submit()
    assert sent == ["a", "c"]
    sources = [each.job.source for each in statuses if each.job]
    assert sources[0] == sources[1] != sources[2]
    assert outcomes(submit()) == ["there"] * 3
    assert sent == ["a", "c"], "the server has them"


def test_over_a_thousand_models_go_in_batches(client: Client) -> None:
    fleet = client.fleet("crowd")
    assert set(outcomes(fleet.submit([zoo(f"m{number}") for number in range(1001)]))) == {"created"}
    updates = fleet.watch()
    told: dict[str, JobInfo] = {}
    for update in updates:
        told |= {job.model: job for job in update.jobs}
        if update.caught_up:
            break
    assert (len(told), fleet.cancel().states) == (1001, {JobState.CANCELLED: 1001})


class Watching:
    """A watch in a thread of its own, which can be waited for."""

    def __init__(self, client: Client, fleet: str) -> None:
        self.updates: list[FleetUpdate] = []
        self.cuts: list[DiminuendoError] = []
        self._news = threading.Condition()
        self._fleet = client.fleet(fleet)
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        for update in self._fleet.watch(on_cut=self.cuts.append):
            with self._news:
                self.updates.append(update)
                self._news.notify_all()

    def told(self) -> dict[str, str]:
        """Each model's state, as the updates have it."""
        known: dict[str, str] = {}
        for update in self.updates:
            known = ({} if update.begins else known) | states(update.jobs)
        return known

    def wait_for(self, **wanted: str) -> None:
        """Until these models are in these states, and all has been told."""
        with self._news:
            assert self._news.wait_for(
                lambda: bool(self.updates) and self.updates[-1].caught_up and wanted.items() <= self.told().items(),
                timeout=40,
            ), self.told()


def test_a_watch_tells_changes_and_begins_again_at_a_conductor_that_was_killed(
    conductor: Conductor, client: Client, player: Player
) -> None:
    fleet = client.fleet("watched")
    fleet.submit([zoo("a", priority=30), zoo("b", priority=20), zoo("c", priority=10)])
    watching = Watching(client, "watched")
    watching.wait_for(a="QUEUED", b="QUEUED", c="QUEUED")
    assert player.lease(2) == ["a", "b"]
    watching.wait_for(a="RUNNING", b="RUNNING")
    player.succeed("a")
    watching.wait_for(a="SUCCEEDED")
    assert [update.begins for update in watching.updates].count(True) == 1
    conductor.kill()
    conductor.start()
    player.fail("b")
    watching.wait_for(b="FAILED")
    assert watching.cuts
    begun = [number for number, update in enumerate(watching.updates) if update.begins]
    assert len(begun) >= 2
    anew = states(job for update in watching.updates[begun[-1] :] for job in update.jobs)
    assert sorted(anew) == ["a", "b", "c"], "everything is told again"
    player.lease(1)
    player.succeed("c", inside=False)
    watching.thread.join(30)
    assert not watching.thread.is_alive(), "it ends once all have ended"
    info = fleet.wait(timeout_s=10)
    assert (info.ended, info.inside_delta, info.outside, info.failed) == (3, 1, 1, 1)


def test_a_wait_that_is_too_short_says_how_far_it_came(client: Client) -> None:
    fleet = client.fleet("slow")
    fleet.submit([zoo("a")])
    with pytest.raises(WaitTimeoutError, match=r"0 of 1 models .* have ended after 0.5 s; the others go on"):
        fleet.wait(timeout_s=0.5)
    with pytest.raises(NotFoundError):
        client.fleet("nowhere").wait(timeout_s=5)


def test_retry_cancel_and_delete(client: Client, player: Player) -> None:
    fleet = client.fleet("ended")
    fleet.submit([zoo("a", priority=30), zoo("b", priority=20), zoo("c", priority=10)])
    player.lease(1)
    player.fail("a")
    with pytest.raises(FailedPreconditionError):
        fleet.delete()
    assert fleet.cancel().states == {JobState.FAILED: 1, JobState.CANCELLED: 2}
    statuses = fleet.retry()
    assert [(each.model, each.created) for each in statuses] == [("a", True)]
    assert states(fleet.jobs()) == {"a": "QUEUED", "b": "CANCELLED", "c": "CANCELLED"}
    named = fleet.retry(["b", "nobody"])
    assert [(each.model, each.created, each.refusal is None) for each in named] == [
        ("b", True, True),
        ("nobody", False, False),
    ]
    fleet.cancel()
    fleet.delete()
    with pytest.raises(NotFoundError):
        fleet.delete()
    fleet.delete(allow_missing=True)
    assert list(client.fleets()) == []


def test_a_download_goes_on_where_it_was(client: Client, player: Player, tmp_path: Path) -> None:
    fleet = client.fleet("fetched")
    fleet.submit([zoo("a", priority=30), zoo("b", priority=20), zoo("c", priority=10), zoo("d")])
    player.lease(3)
    player.succeed("a")
    player.succeed("b", inside=False, figures=False)
    player.fail("c")
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "b" / "notes.txt").write_text("mine")
    told: list[str] = []
    done = fleet.download(out, on_model=lambda each: told.append(each.model))
    assert told == ["a", "b", "c", "d"]
    assert [(each.folder, each.error is None) for each in done] == [
        (out / "a", True),
        (None, False),
        (None, True),
        (None, True),
    ]
    assert "notes.txt is not of this result" in str(done[1].error)
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "fleet.json"]
    before = {path: path.stat().st_mtime_ns for path in (out / "a").iterdir()}
    assert len(before) == 2

    (out / "b" / "notes.txt").unlink()
    done = fleet.download(out)
    assert [each.folder for each in done] == [out / "a", out / "b", None, None]
    assert {path: path.stat().st_mtime_ns for path in (out / "a").iterdir()} == before, "not fetched again"
    assert read_report(out) == fleet.report()
    row = fleet.report().rows[0]
    assert (row.metric, row.drop_ci, row.inside) == ("top1", (-0.5, 1.0), True)
    assert row.original is not None
    assert row.original.params == 40_000
    old = fleet.report().rows[1]
    assert (old.original, old.drop, old.inside) == (None, 3.5, False)


def test_a_client_that_calls_nobody_says_so(free_port: int) -> None:
    with (
        Client(f"127.0.0.1:{free_port}", config=ClientConfig(connect_s=0.3)) as client,
        pytest.raises(DiminuendoError, match="no Diminuendo server answers"),
    ):
        client.fleet("f").submit([zoo("a")])
