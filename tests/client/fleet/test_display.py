"""What a person sees of a fleet: the live frame at several widths, plain lines, a watch that begins again."""

from __future__ import annotations

import io
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import reduce

import pytest
from rich.console import Console
from tests.client.fleet.test_results import NAME, job, result

from diminuendo.client import Candidate, Failure, FleetInfo, FleetUpdate, JobInfo, JobState, Progress, Stage
from diminuendo.client.display.fleet import LOST, FleetFrame, FleetView, LiveFleet, PlainFleet, advance

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = START + timedelta(seconds=75)
EMPTY = FleetView(FleetInfo(NAME))


def running(number: int) -> JobInfo:
    """A model that is worked on."""
    best = Candidate(4.0 + number, 3.0, 0.5) if number else None
    progress = Progress(Stage.EXPLORE, number, number, 20, best)
    return job(f"run-{number:02}", JobState.RUNNING, progress=progress, start_time=START + timedelta(seconds=number))


def ended(model: str, *, inside: bool = True, at: int = 60) -> JobInfo:
    """A model with a result."""
    times = {"start_time": START, "end_time": START + timedelta(seconds=at)}
    return job(model, JobState.SUCCEEDED, result=result(inside=inside), **times)


def failed(model: str) -> JobInfo:
    """A model without one."""
    return job(model, JobState.FAILED, failure=Failure("USER_CODE", "it [red]breaks[/red]; mend it"), end_time=START)


def update(*jobs: JobInfo, begins: bool = False, caught_up: bool = True) -> FleetUpdate:
    states = Counter(each.state for each in jobs)
    return FleetUpdate(FleetInfo(NAME, models=len(jobs), states=states), jobs, begins=begins, caught_up=caught_up)


def render(view: FleetView, *, width: int, rows: int = 10) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=40, force_terminal=True, color_system=None, record=True)
    console.print(FleetFrame(view, rows=rows, now=lambda: NOW))
    return [line.rstrip() for line in console.export_text(styles=False).splitlines()]


MANY = update(
    *map(running, range(14)), ended("done"), ended("far", inside=False), failed("bad"), job("later"), begins=True
)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_frame_keeps_its_height_and_width(width: int) -> None:
    updates = [MANY, update(ended("run-00")), update(failed("run-01")), update(ended("later"))]
    views = [EMPTY, *(reduce(advance, updates[:count], EMPTY) for count in range(1, len(updates) + 1))]
    frames = [render(view, width=width) for view in views]
    assert {len(frame) for frame in frames} == {17}
    assert max(len(line) for frame in frames for line in frame) <= width


def test_the_frame_at_80_columns() -> None:
    lines = render(advance(EMPTY, MANY), width=80)
    assert re.fullmatch(r"projects/default/fleets/vision +RUNNING  1:15", lines[0])
    assert re.fullmatch(r"━+╸? +3 of 18 models ended", lines[1])
    assert lines[2] == "1 queued, 14 running, 2 succeeded, 1 failed, 1 of them outside"
    assert lines[4].split() == ["model", "stage", "works", "params", "drop"]
    assert lines[6].split() == ["run-01", "explore", "1/20", "5.00x", "0.50", "of", "1"]
    assert lines[14].split() == ["and", "5", "more"]
    assert lines[15] == "80,000 -> 20,000 params (4.00x), 0.23 of 0.31 MB saved, by 2 models"
    assert lines[16] == "bad failed: USER_CODE: it [red]breaks[/red]; mend it"


def test_the_frame_at_160_columns_shows_more() -> None:
    lines = render(advance(EMPTY, MANY), width=160)
    assert lines[4].split() == ["model", "source", "stage", "works", "params", "MACs", "drop"]
    assert lines[6].split() == ["run-01", "zoo:digits", "explore", "1/20", "5.00x", "3.00x", "0.50", "of", "1"]


def test_the_clock_stands_once_all_have_ended() -> None:
    view = advance(EMPTY, update(ended("a", at=60), ended("b", at=30), begins=True))
    assert view.over
    assert render(view, width=80)[0].endswith("ENDED  1:00")


def test_while_nobody_works_it_says_what_it_waits_for() -> None:
    assert render(EMPTY, width=80)[0].endswith("READING  0:00")
    lines = render(advance(EMPTY, update(job("a"), begins=True)), width=80)
    assert lines[0].endswith("WAITING  0:00")
    assert lines[-1] == "waiting for a coordinator; evaluators take some seconds to start"


def test_a_watch_that_begins_again_forgets_what_is_no_longer_told() -> None:
    view = reduce(advance, [MANY, update(ended("a"), begins=True, caught_up=False), update(job("b"))], EMPTY)
    assert sorted(view.jobs) == ["a", "b"]


def test_a_live_view_that_is_told_anew_is_drawn_once_it_is_whole() -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True)
    with LiveFleet(console, EMPTY) as display:
        display.show(update(ended("a"), begins=True, caught_up=False))
        assert sorted(display.view.jobs) == ["a"], "at first it is drawn as it comes"
        display.show(update(job("b")))
        display.trouble(LOST)
        assert display.view.trouble == LOST
        display.show(update(ended("a"), begins=True, caught_up=False))
        assert sorted(display.view.jobs) == ["a", "b"]
        display.show(update(ended("b")))
        assert (display.view.ended, display.view.trouble) == (2, "")


def plain(*updates: FleetUpdate | str) -> list[str]:
    """Lines for updates, and for troubles."""
    lines: list[str] = []
    with PlainFleet(lines.append, EMPTY, now=lambda: NOW) as display:
        for each in updates:
            display.trouble(each) if isinstance(each, str) else display.show(each)
    return lines


def test_plain_lines_one_for_each_change() -> None:
    first = update(running(1), job("b"), job("c"), begins=True)
    again = update(ended("run-01"), running(2), failed("c"), job("b"), begins=True)
    lines = plain(first, update(ended("run-01")), LOST, LOST, again, update(ended("b", inside=False), ended("run-02")))
    assert lines == [
        "   1:14  2 queued, 1 running",
        "   1:15  run-01: SUCCEEDED, 4.00x params, drop 0.25, inside delta 1  (1 of 3 ended)",
        f"         {LOST}",
        "   1:15  c: FAILED, USER_CODE: it [red]breaks[/red]; mend it  (2 of 4 ended)",
        "   1:15  run-02: RUNNING",
        "   1:00  b: SUCCEEDED, 4.00x params, drop 0.25, nothing inside delta 1  (4 of 4 ended)",
        "   1:00  run-02: SUCCEEDED, 4.00x params, drop 0.25, inside delta 1  (4 of 4 ended)",
    ]


def test_of_a_crowd_of_changes_only_the_counts_are_told() -> None:
    crowd = [f"m{number}" for number in range(30)]
    lines = plain(update(*map(job, crowd), begins=True), update(*map(ended, crowd)))
    assert lines == ["   0:00  30 queued", "   1:00  30 succeeded"]
