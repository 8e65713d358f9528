from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.bench import service
from tests.bench.service import Line, main, table
from tests.bench.service_calls import percentile


def test_a_figure_outside_its_bound_is_marked() -> None:
    lines = [Line("calls", 299, "/s", least=300), Line("p99", 100, "ms", most=100), Line("p50", 7.25, "ms")]
    assert [line.held for line in lines] == [False, True, True]
    assert table(lines).splitlines() == [
        "  calls         299 /s   at least 300  MISSED",
        "  p99           100 ms   at most 100",
        "  p50          7.25 ms",
    ]


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(n) for n in range(200, 0, -1)]
    assert (percentile(values, 0.99), percentile(values, 0.5), percentile([3.0], 0.99)) == (198, 100, 3)


@pytest.mark.parametrize("part", ["watches", "stored"])
def test_a_part_measures_and_records(part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--only", part, "--quick", "--out", str(tmp_path)])
    found = json.loads((tmp_path / f"service-{part}.json").read_text())
    assert found["command"] == f"python -m tests.bench.service --only {part} --quick"
    assert all(line["value"] >= 0 for line in found["asked"] if "memory" not in line["what"])
    assert all(line["what"] in capsys.readouterr().out for line in found["asked"][:1])
    if part == "watches":
        assert found["figures"]["abandoned"]["cancelled"] == 20
    else:
        pages = {one["listing"]: one["pages"] for one in found["figures"]["pages"]}
        assert pages["all"] == 5  # 201 jobs
        assert pages["a label of 1 % of the jobs"] == pages["a label that no job has"] == 1
    assert set(service.PARTS) == {"calls", "watches", "stored", "works"}
