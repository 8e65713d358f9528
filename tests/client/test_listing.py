"""Long lists: their lines come while rows still do, lined up, and fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from diminuendo.client import JobInfo, JobState
from diminuendo.client.cli.report import jobs_as_json
from diminuendo.client.display.listing import BLOCK, listed


def test_columns_are_lined_up_and_numbers_flush_right() -> None:
    lines = list(listed(["job", "drop", "created"], [["a", "1.5", ""], ["longer", "10.25", "x"]], right=["drop"]))
    assert lines == ["job       drop   created", "a          1.5", "longer   10.25   x"]


def test_the_first_block_is_there_before_the_others_are_asked_for() -> None:
    taken = 0

    def rows() -> Iterator[list[str]]:
        nonlocal taken
        for number in range(3 * BLOCK):
            taken += 1
            yield [f"j{number:0{number // BLOCK + 1}}"]

    lines = listed(["job"], rows())
    assert [next(lines), next(lines)] == ["job", "j0"]
    assert taken == BLOCK
    assert len(list(lines)) == 3 * BLOCK - 1
    assert list(listed(["job"], [])) == ["job"]


@pytest.mark.parametrize("width", [5, 20])
def test_a_line_is_cut_where_there_is_no_room(width: int) -> None:
    (_, line) = listed(["a", "b"], [["漢字" * 3, "y" * 30]], width=width)
    assert line.endswith("…")
    assert len(line.encode("utf-16-le")) // 2 <= width


def test_text_of_the_wire_makes_no_lines_of_its_own() -> None:
    assert list(listed(["a"], [["x\n\x1b[31m[b]y"]]))[1] == "x [31m[b]y"


def test_the_stream_of_json_is_one_array() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    names = [f"projects/p/jobs/{i}" for i in range(3)]
    jobs = [
        JobInfo(name, "zoo:digits", 1.0, "quick", "estimate", 0, JobState.QUEUED, create_time=when) for name in names
    ]
    for count in range(4):
        read = json.loads("\n".join(jobs_as_json(jobs[:count])))
        assert [job["name"] for job in read] == [job.name for job in jobs[:count]]
    assert read[0]["create_time"] == when.isoformat()
    assert list(jobs_as_json(jobs[:1]))[1].startswith('  {\n    "name": "projects/p/jobs/0",')
