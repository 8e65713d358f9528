"""The dashboards: as Grafana's schema has them, told of in the docs panel by panel; every alert has its runbook."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from tests.observability import boards
from tests.observability.rig import ALERTS, ROOT

DOCS, RUNBOOKS = ROOT / "docs/observability.md", ROOT / "docs/runbooks.md"


@pytest.mark.parametrize("name", boards.BOARDS)
def test_a_dashboard_is_as_grafanas_schema_has_it(name: str) -> None:
    grafana = pytest.importorskip("tests.observability.grafana", reason="grafana-foundation-sdk is not installed")
    board = boards.board(name)
    assert grafana.problems(board) == []
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert all(panel["type"] == "row" or panel["description"].endswith("?") for panel in board["panels"])


def test_what_the_schema_does_not_have_is_found() -> None:
    grafana = pytest.importorskip("tests.observability.grafana", reason="grafana-foundation-sdk is not installed")
    board = copy.deepcopy(boards.board("operations"))
    board["refreshEvery"] = "1s"
    board["panels"][1]["title"] = 7
    board["panels"][1]["options"]["legend"]["displayMode"] = "grid"
    found = "\n".join(grafana.problems(board))
    assert ".refreshEvery is not known" in found
    assert "title: 7 is no" in found
    assert "'grid' is no" in found


def test_no_two_panels_of_a_dashboard_lie_on_one_another() -> None:
    for name in boards.BOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in boards.board(name)["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert max(x for x, _ in cells) < 24
            assert not cells & taken, (name, panel["title"])
            taken |= cells


def test_the_docs_show_every_panel_with_its_question_its_queries_and_a_picture() -> None:
    text = DOCS.read_text()
    for panel in boards.panels():
        assert f"### {panel.title}\n" in text, panel.title
        assert panel.question in text, panel.title
        for expr, _ in panel.queries:
            assert expr.replace('namespace=~"$namespace", ', "").replace('{namespace=~"$namespace"}', "") in text, expr
        assert boards.picture(panel).exists(), boards.picture(panel)
        assert f"img/{boards.picture(panel).name}" in text


def test_every_alert_has_a_runbook_that_its_url_leads_to() -> None:
    titles = re.findall(r"^## (.+)$", RUNBOOKS.read_text(), re.MULTILINE)
    alerts = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    for rule in alerts:
        assert rule["alert"] in titles
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{rule['alert'].lower()}"
    assert {title for title in titles if title.startswith("Diminuendo")} == {rule["alert"] for rule in alerts}
