"""What a person sees: the live frame at two widths, plain lines, the tables of a result."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from diminuendo.client import (
    Candidate,
    Evaluator,
    EvaluatorState,
    Event,
    JobState,
    StateChanged,
    WarningRaised,
    convert,
)
from diminuendo.client.display import text
from diminuendo.client.display.folder import ResultFolderError, read_result
from diminuendo.client.display.follow import open_display
from diminuendo.client.display.frame import Frame
from diminuendo.client.display.inline import InlineFeed
from diminuendo.client.display.live import LiveDisplay
from diminuendo.client.display.plain import PlainDisplay
from diminuendo.client.display.result import show_result
from diminuendo.client.display.view import View, advance
from diminuendo.engine.cost import Cost
from diminuendo.engine.search.drive import Done
from diminuendo.engine.search.session import Best, Step
from diminuendo.engine.search.work import Evaluate, Evaluated, Work

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.client.conftest import Recorded


NOW = datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC)


@pytest.fixture
def events(recorded: Recorded) -> list[Event]:
    return [convert.event(message) for message in recorded.events()]


def render(
    view: View,
    *,
    width: int,
    height: int = 24,
    now: datetime | None = None,
    evaluators: tuple[Evaluator, ...] | None = None,
) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None, record=True
    )
    frame = Frame(view, now=lambda: now or NOW)
    frame.evaluators = evaluators
    console.print(frame)
    return console.export_text(styles=False).splitlines()


def after(events: list[Event], count: int) -> View:
    return reduce(advance, events[:count], View("projects/default/jobs/recorded", delta=1.0))


def busy(count: int) -> tuple[Evaluator, ...]:
    return tuple(
        Evaluator(f"evaluator-{i}", EvaluatorState.BUSY, "j", "evaluate", 40 + i, f"first {i}x", 1, NOW)
        for i in range(count)
    )


@pytest.mark.parametrize(("width", "height"), [(60, 15), (80, 24), (99, 40), (100, 24), (160, 50), (60, 60)])
def test_the_frame_keeps_its_height_and_width(events: list[Event], width: int, height: int) -> None:
    frames = [
        render(after(events, count), width=width, height=height, evaluators=evaluators)
        for count in range(len(events) + 1)
        for evaluators in (None, (), busy(2), busy(30))
    ]
    assert {len(frame) for frame in frames} == {min(height - 1, 28)}
    assert max(len(line) for frame in frames for line in frame) <= width


def test_the_frame_at_80_columns(events: list[Event]) -> None:
    lines = [line.rstrip() for line in render(after(events, len(events) - 1), width=80, evaluators=busy(2))]
    assert re.fullmatch(r"projects/default/jobs/recorded +1 warning  RUNNING  1:00", lines[0])
    assert re.fullmatch(r"anneal +━+  12 of 12 works, 2 running", lines[1])
    assert lines[2] == "best      7.50x params, 5.17x MACs, drop 0.69 of 1"
    assert re.fullmatch(r"left      under a minute \(estimate\)", lines[3])
    assert re.fullmatch(r"params ratio against drop: \d+ candidates, \d+ inside delta", lines[4])
    chart = "\n".join(lines[5:11])
    assert "┊" in chart
    assert "◆" in chart
    assert lines[10].split() == ["0", "delta", "1", "2.50", "drop"]
    assert lines[11] == "evaluators: 2 busy"
    assert re.fullmatch(r"evaluator-0   evaluate #40 first 0x +0:00", lines[12])
    assert lines[14].split() == ["#", "kind", "subject", "epochs", "params", "drop", "time", "by"]
    assert lines[21].split() == ["11", "evaluate", "first", "7.5x", "4", "7.50x", "0.69", "12.2", "s", "…tor-1"]


def test_the_frame_at_160_columns_shows_more(events: list[Event]) -> None:
    lines = render(after(events, len(events) - 1), width=160, height=50, evaluators=busy(2))
    assert lines[4].rstrip().endswith("evaluators: 2 busy"), "beside the chart"
    heading = next(i for i, line in enumerate(lines) if line.split()[:1] == ["#"])
    assert lines[heading].split() == ["#", "kind", "subject", "epochs", "params", "MACs", "drop", "time", "by"]
    last = lines[-2].split()
    assert last[-4:] == ["0.69", "12.2", "s", "evaluator-1"]
    assert "5.17x" in last


def test_of_many_evaluators_the_lost_ones_are_seen_and_the_others_counted(events: list[Event]) -> None:
    lost = Evaluator("evaluator-9", EvaluatorState.LOST, "j", since=NOW)
    lines = render(after(events, 10), width=80, evaluators=(*busy(9), lost))
    first = lines.index(next(line for line in lines if line.startswith("evaluators:")))
    assert lines[first].rstrip() == "evaluators: 1 lost, 9 busy"
    assert re.fullmatch(r"evaluator-9   lost +0:00", lines[first + 1].rstrip())
    assert lines[first + 4].rstrip() == "+7 more"


def test_a_small_terminal_leaves_the_chart_out(events: list[Event]) -> None:
    lines = render(after(events, len(events) - 1), width=60, height=15, evaluators=busy(1))
    assert not any("┊" in line for line in lines)
    assert any(line.startswith("evaluator-0") for line in lines)
    assert lines[-2].split()[:2] == ["11", "evaluate"]


def test_while_nothing_has_happened_it_says_what_it_waits_for(events: list[Event]) -> None:
    queued = "\n".join(render(after(events, 1), width=80))
    assert "QUEUED" in queued
    assert "waiting for a coordinator; evaluators take some seconds to start" in queued
    assert "nothing inside delta yet" in queued
    assert "the search has started" in "\n".join(render(after(events, 3), width=80))


def test_trouble_and_warnings_are_seen_and_trouble_passes(events: list[Event]) -> None:
    view = after(events, 10)
    assert "warning CANDIDATE_DIVERGED: candidate 3 diverged" in render(view, width=80)[-1]
    lost = replace(view, trouble="connection lost")
    assert render(lost, width=80)[-1].startswith("connection lost")
    passed = render(advance(lost, events[10]), width=80)
    assert "connection lost" not in passed[-1]
    stepped = render(advance(advance(lost, events[10]), events[11]), width=80)
    assert "diverged" not in stepped[-1]
    assert "1 warning  RUNNING" in stepped[0]


def test_the_clock_runs_until_the_end_and_no_further(events: list[Event]) -> None:
    later = datetime(2026, 1, 2, 5, 4, 5, tzinfo=UTC)
    assert render(after(events, 4), width=80, now=later)[0].rstrip().endswith("RUNNING  2:00:00")
    ended = f"{(len(events) - 1) * 2 // 60}:{(len(events) - 1) * 2 % 60:02}"
    assert render(after(events, len(events)), width=80, now=later)[0].rstrip().endswith(f"SUCCEEDED  {ended}")
    earlier = datetime(2025, 1, 1, tzinfo=UTC)  # a clock that is behind the server's
    assert render(after(events, 4), width=80, now=earlier)[0].rstrip().endswith("  0:00")


def test_text_from_the_wire_is_not_markup(events: list[Event]) -> None:
    view = advance(after(events, 5), WarningRaised(6, events[4].time, "ODD", "[red]not\x1b a\ntag[/red]"))
    assert "[red]not" in render(view, width=80)[-1]
    assert "\x1b" not in "".join(render(view, width=80))


def plain_lines(events: list[Event]) -> list[str]:
    lines: list[str] = []
    with PlainDisplay(lines.append, View("j", delta=1.0)) as display:
        for event in events:
            display.show(event)
    return lines


def test_plain_lines_one_for_each_step_and_state(events: list[Event]) -> None:
    lines = plain_lines(events)
    assert lines[0] == "   0:00  QUEUED"
    assert lines[1] == "   0:02  leased by coordinator-1"
    assert lines[3] == "   0:08  prepare  1/12  layer0.0.conv1: done"
    assert "   0:18  warning CANDIDATE_DIVERGED: candidate 3 diverged" in lines
    assert lines[-2].endswith("anneal   12/12  first 7.5x: done  best 7.50x params, 5.17x MACs, drop 0.69 of 1")
    assert lines[-1] == f"   0:{(len(events) - 1) * 2}  SUCCEEDED"
    assert len(lines) == 3 + 12 + 1 + 1
    assert not any(set(line) & {"\x1b", "\r", "\n"} for line in lines)


def test_a_note_is_written_once(events: list[Event]) -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append, View("j"))
    for _ in range(3):
        display.say(trouble="the connection was lost")
    assert [line.strip() for line in lines] == ["the connection was lost"]


def test_a_stream_that_is_no_terminal_gets_plain_lines_without_control_codes(events: list[Event]) -> None:
    out = io.StringIO()
    with open_display(Console(file=out, width=40), View("j", delta=1.0)) as display:
        assert isinstance(display, PlainDisplay)
        for event in events:
            display.show(event)
    assert out.getvalue().splitlines() == plain_lines(events)


def test_a_terminal_gets_the_live_view_and_its_last_frame_stays(events: list[Event]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=30, force_terminal=True, color_system=None)
    with open_display(console, View("j", delta=1.0)) as display:
        assert isinstance(display, LiveDisplay)
        display.say(note="loading the engine")
        for event in events:
            display.show(event)
    frame, _, rest = out.getvalue().rpartition("\x1b[?25h")  # the cursor is shown again
    assert "SUCCEEDED" in frame[-4000:]
    assert rest == "warning CANDIDATE_DIVERGED: candidate 3 diverged\n"


def test_a_note_stays_until_something_works_or_happens(events: list[Event]) -> None:
    out = io.StringIO()
    display = LiveDisplay(Console(file=out, width=80, height=30, force_terminal=True, color_system=None), View("j"))
    ends: list[Callable[[], None]] = [lambda: display.working(busy(1)), lambda: display.show(events[0])]
    for end in ends:
        display.say(note="loading the engine")
        assert display._frame.lines(80, 20)[-1].plain == "loading the engine"
        display.working(())
        assert display._frame.lines(80, 20)[-1].plain == "loading the engine"
        end()
        assert display._frame.lines(80, 20)[-1].plain.startswith("waiting for a coordinator")


def test_no_color_has_no_colours(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    console.print(Frame(after(events, 12)))
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert "drop" in written
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-7]m", written)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.9, "0:59"), (60, "1:00"), (3599, "59:59"), (3723, "1:02:03")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert text.clock(seconds) == shown


def test_a_stored_bundle_is_named_by_as_much_as_tells_it_from_others() -> None:
    assert text.source("bundle:" + "a1" * 32) == "bundle:a1a1a1a1a1a1"
    assert text.source("bundle:/somewhere/mine") == "bundle:/somewhere/mine"
    assert text.source("zoo:digits") == "zoo:digits"


def test_points_have_no_negative_zero_and_are_told_in_small_units_too() -> None:
    assert (text.points(-1e-9), text.points(-0.5), text.points(0.625)) == ("0.00", "-0.50", "0.62")
    assert (text.points(-0.0012), text.points(0.00314)) == ("-0.0012", "0.0031")


# --- results -----------------------------------------------------------------------------------------------


def shown(folder: Path, *, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    show_result(console, read_result(folder))
    return console.export_text(styles=False)


@pytest.mark.parametrize("width", [80, 160])
def test_the_tables_have_every_figure_and_fit(result_folder: Path, width: int) -> None:
    lines = shown(result_folder, width=width).splitlines()
    assert max(map(len, lines)) <= max(width, 100)
    words = [line.split() for line in lines]
    assert ["zoo:digits", "original", "compressed", "ratio"] in words
    assert ["top1,", "sealed", "half", "98.75", "98.50", "drop", "0.25"] in words
    assert ["params", "175,258", "22,128", "7.92x"] in words
    assert ["size", "0.669", "MB", "0.084", "MB", "7.92x"] in words
    assert ["MACs", "4,000,000", "784,000", "5.10x"] in words
    assert ["memory", "0.900", "MB", "0.300", "MB", "3.00x"] in words
    assert ["time", "1.500", "ms", "1.000", "ms", "1.50x"] in words
    assert ["layer", "form", "params", "after", "ratio"] in words
    assert ["stem.conv", "dense", "288", "288", "1.00x"] in words
    assert ["blocks.0.conv1", "svd(12)", "36,864", "4,608", "8.00x"] in words
    assert ["blocks.0.conv2", "tucker2(8,16)", "73,728", "2,048", "36.00x"] in words


def test_the_verdict_has_the_interval_and_the_control(result_folder: Path) -> None:
    out = shown(result_folder, width=160)
    assert "inside delta 1: drop 0.25 points, 95 % interval [-0.50, 1.00], on 400 sealed samples" in out
    assert "dense control: the original with the same tuning (20 epochs) scores 98.75, drop 0.00" in out
    assert "40 evaluations, 200 epochs of tuning, 1:03 of evaluators' time, seed 7" in out
    assert "blocks.1.depthwise was left as it is: grouped convolutions have no form" in out


def test_nothing_inside_delta_is_said(result_folder: Path, recorded_outside: Recorded) -> None:
    (result_folder / "certificate.json").write_bytes(recorded_outside.files["certificate.json"])
    out = shown(result_folder, width=160)
    assert "NOT inside delta 1: drop 1.75" in out
    assert "this is the nearest; try a larger delta or effort" in out


@pytest.mark.parametrize("met", [True, False])
def test_a_target_is_said_in_place_of_delta(result_folder: Path, met: bool) -> None:
    path = result_folder / "certificate.json"
    target = {"delta": None, "target": {"size": 0.1}, "target_met": met, "inside_delta": met, "objective": "size"}
    path.write_text(json.dumps(json.loads(path.read_text()) | target))
    out = shown(result_folder, width=160)
    word = "inside" if met else "NOT inside"
    assert f"\n{word} size 0.1 MB: drop 0.25 points, 95 % interval [-0.50, 1.00], on 400 sealed samples\n" in out
    assert "judged by" not in out
    assert ("nothing inside target was found: this is the nearest; try a larger target or effort" in out) is not met


def test_warnings_are_told_unless_they_were_shown_before(result_folder: Path) -> None:
    path = result_folder / "certificate.json"
    noise = {"reason": "DELTA_BELOW_NOISE", "message": "delta: 1 is less than the noise"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"warnings": [noise]}))
    assert "\nwarning DELTA_BELOW_NOISE: delta: 1 is less than the noise\n" in shown(result_folder, width=160)
    console = Console(file=io.StringIO(), width=160, record=True)
    show_result(console, read_result(result_folder), warnings=False)
    assert "warning" not in console.export_text()


def test_figures_have_their_units() -> None:
    assert text.figures({"size": 1.5, "macs": 5e7, "latency": 2.25}) == "size 1.5 MB, macs 50,000,000, latency 2.25 ms"
    assert text.best_line(None, None, text.figures({"params": 1e6})) == "nothing within params 1,000,000 yet"
    best = Candidate(8.0, 4.0, 0.5)
    assert text.best_line(best, None, "size 1 MB") == "8.00x params, 4.00x MACs, drop 0.50"


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("plan.json", None, "plan.json is missing; download the result again"),
        ("profile.json", "{", "profile.json is no JSON"),
        ("certificate.json", "[]", "certificate.json is not an object"),
        ("certificate.json", {"drop_ci": 3}, "certificate.json: drop_ci is 3, not [low, high]"),
        ("certificate.json", {"delta": "1"}, "certificate.json: delta is '1', not a number"),
        ("profile.json", {"machine": ...}, "profile.json lacks 'machine'; the result was written by another"),
        ("plan.json", {"layers": {"a": 1}}, "plan.json: layers: a is not an object"),
    ],
)
def test_a_broken_folder_names_file_and_field(
    result_folder: Path, name: str, change: str | dict[str, object] | None, text: str
) -> None:
    path = result_folder / name
    if change is None:
        path.unlink()
    elif isinstance(change, str):
        path.write_text(change)
    else:
        data = json.loads(path.read_text()) | {k: v for k, v in change.items() if v is not ...}
        path.write_text(json.dumps({k: v for k, v in data.items() if change.get(k) is not ...}))
    with pytest.raises(ResultFolderError) as caught:
        read_result(result_folder)
    assert text in str(caught.value)


# --- the engine's own steps --------------------------------------------------------------------------------


def test_inline_runs_show_the_engines_steps_in_the_same_way() -> None:
    shown: list[Event] = []
    working: list[Evaluator] = []

    class Recorder:
        def show(self, event: Event) -> None:
            shown.append(event)

        def say(self, *, note: str = "", trouble: str = "") -> None:
            raise AssertionError

        def working(self, evaluators: tuple[Evaluator, ...] | None) -> None:
            working.extend(evaluators or ())

    question = Evaluate(
        source="zoo:digits", task="t", choices=(), factors=(), parent=None, epochs=3, rate=1.0, tuning_seed=1, seed=0,
        threads=1,
    )  # fmt: skip
    work = Work(0, question, "first 3.0x")
    feed = InlineFeed(Recorder())
    feed.state(JobState.RUNNING)
    feed.on_start(work)
    (evaluator,) = working
    assert (evaluator.name, evaluator.state, evaluator.kind, evaluator.index) == (
        *("inline", EvaluatorState.BUSY),
        *("evaluate", 0),
    )
    feed.on_done(Done(work, Evaluated(98.0, 0.1, "w", Cost(1, 1), 400, 2.5), "inline", 2.5))
    assert len(shown) == 1
    best = Best(3.0, 2.0, 0.5)
    feed.on_step(Step(0, work.key, "explore", "first 3.0x: fine", 1, 9, 2.5, 40.0, best, best, (("W", "beware"),)))
    view = reduce(advance, shown, View("zoo:digits", delta=1.0))
    assert [event.sequence for event in shown] == [1, 2, 3, 4]
    assert (view.progress.stage.value, view.progress.works_done, view.progress.works_expected) == ("explore", 1, 9)
    assert (view.progress.seconds_done, view.progress.seconds_expected) == (2.5, 40.0)
    assert view.best is not None
    assert (view.best.params_ratio, view.best.drop) == (3.0, 0.5)
    (done,) = view.recent
    assert (done.kind, done.subject, done.epochs, done.seconds, done.evaluator) == (
        *("evaluate", "first 3.0x"),
        *(3.0, 2.5, "inline"),
    )
    assert view.warnings[0].message == "beware"


def test_only_the_last_evaluations_are_kept(events: list[Event]) -> None:
    view = after(events, len(events))
    for _ in range(3):
        for event in events:
            if not isinstance(event, StateChanged):
                view = advance(view, event)
    assert len(view.recent) == 12
    assert view.elapsed_s(events[0].time + timedelta(seconds=1)) > 1
