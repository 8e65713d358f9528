"""Writes the panels' part of docs/observability.md from the dashboards: ``python -m tests.observability.document``."""

from __future__ import annotations

from tests.observability import boards
from tests.observability.rig import ROOT

DOC = ROOT / "docs/observability.md"
BEGIN, END = "<!-- panels: made by tests/observability/document.py -->\n", "<!-- end of panels -->\n"
TITLES = {"operations": "Dashboard: operations", "compression": "Dashboard: compression"}


def plain(expr: str) -> str:
    """A query without the choice of a namespace."""
    return expr.replace('namespace=~"$namespace", ', "").replace('{namespace=~"$namespace"}', "")


def panels() -> str:
    """Each panel's question, queries and picture, as Markdown."""
    lines, last = list[str](), ""
    for panel in boards.panels():
        if panel.board != last:
            lines += [f"## {TITLES[panel.board]}", ""]
            last = panel.board
        lines += [f"### {panel.title}", "", panel.question, "", "```promql"]
        lines += [plain(expr) for expr, _ in panel.queries]
        lines += ["```", "", f"![{panel.title}](img/{boards.picture(panel).name})", ""]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Put them in their place."""
    before, _, rest = DOC.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOC.write_text(f"{before}{BEGIN}\n{panels()}{END}{after}")


if __name__ == "__main__":
    main()
