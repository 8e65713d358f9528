"""The dashboards' panels, and their queries as Prometheus takes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.observability.rig import ROOT

FOLDER = ROOT / "helm/diminuendo/dashboards"
BOARDS = ("operations", "compression")


@dataclass(frozen=True)
class Panel:
    """A panel that asks Prometheus.

    Attributes:
        queries: (expression, legend) with Grafana's variables.
        instant: Whether only the present counts.
    """

    board: str
    title: str
    kind: str
    question: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    instant: bool


def board(name: str) -> dict[str, Any]:
    """A dashboard as Grafana is given it."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def panels() -> Iterator[Panel]:
    """All panels with queries, in their order."""
    for name in BOARDS:
        for panel in board(name)["panels"]:
            if panel["type"] != "row":
                targets = panel["targets"]
                yield Panel(
                    name,
                    panel["title"],
                    panel["type"],
                    panel["description"],
                    panel["fieldConfig"]["defaults"]["unit"],
                    tuple((target["expr"], target["legendFormat"]) for target in targets),
                    all(target["instant"] for target in targets),
                )


def filled(expr: str, *, interval: str, whole: str) -> str:
    """A query with its variables filled in, for all namespaces."""
    return expr.replace("$__rate_interval", interval).replace("$__range", whole).replace("$namespace", ".*")


def legend(template: str, labels: dict[str, str]) -> str:
    """What Grafana calls a series."""
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return re.sub(r"{{\w+}}", "", template).strip()


def picture(panel: Panel) -> Path:
    """Where a panel's picture is."""
    words = "".join(c if c.isalnum() else "-" for c in panel.title.lower())
    return ROOT / "docs/img" / f"observability-{panel.board}-{words}.png"
