"""Helm 4, from the package helm-python-sdk, in a process of its own: a Go runtime has no place in that of the tests.

Reads one request a line from stdin, as JSON, and writes one answer a line to stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import helm_python
from helm_python import HelmError


def answer(chart: helm_python.Chart, path: str, request: dict[str, Any]) -> dict[str, Any]:
    """`template` or `lint`, as the command of that name would."""
    try:
        if request["do"] == "lint":
            found = helm_python.lint(path, request["values"], strict=True)
            return {"problems": [f"{m['path']}: {m['error']}" for m in found["messages"] if m["severity"] > 1]}
        rendered = chart.render(
            request["values"],
            name=request["release"],
            namespace=request["namespace"],
            is_install=not request["upgrade"],
            is_upgrade=request["upgrade"],
        )
    except HelmError as error:
        return {"error": str(error)}
    return {"rendered": rendered}


def main() -> None:
    """Answer until stdin ends."""
    path = sys.argv[1]
    with helm_python.Chart.load(path) as chart:
        for line in sys.stdin:
            print(json.dumps(answer(chart, path, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
