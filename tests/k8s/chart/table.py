"""Writes the table of values in helm/diminuendo/README.md from the comments in values.yaml.

python -m tests.k8s.chart.table
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[3] / "helm" / "diminuendo"
README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->", "<!-- values: end -->"
_LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):(?P<rest>.*)$")


@dataclass(frozen=True)
class Row:
    """One value.

    Attributes:
        key: Its path, with dots.
        default: As JSON.
        text: What its comment says.
    """

    key: str
    default: str
    text: str


def rows(path: Path = CHART / "values.yaml") -> Iterator[Row]:
    """The values that have a comment of their own, in their order; and, without words, leaves that have none."""
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    parents: list[tuple[int, str]] = []
    said, documented = "", -1
    for line in text.splitlines():
        if line.strip().startswith("# -- "):
            said = line.strip().removeprefix("# -- ")
            continue
        found = _LINE.match(line)
        if found is None:
            continue
        indent = len(found["indent"])
        if documented >= 0 and indent > documented:
            continue  # within a value that its comment has described whole
        documented = -1
        while parents and parents[-1][0] >= indent:
            parents.pop()
        key = ".".join([*(name for _, name in parents), found["key"]])
        parents.append((indent, found["key"]))
        if said or found["rest"].strip():
            yield Row(key, _shown(_value(values, key)), said)
            documented = indent
        said = ""


def _value(values: Any, key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values


def _shown(value: Any) -> str:
    return json.dumps(value).replace("|", "\\|")


def readme() -> str:
    """The README as it should be."""
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    lines = ["| value | default | what it is |", "|---|---|---|"]
    lines += [f"| `{row.key}` | `{row.default}` | {row.text} |" for row in rows()]
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
