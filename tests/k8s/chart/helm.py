"""Renders the chart by a real Helm: 4 from a package of Python, 3 from one of npm."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "diminuendo"
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
HELM3 = ROOT / ".build" / "helm3" / "package" / "bin" / "helm"
"""Where `make test-k8s` puts it."""
KUBERNETES = "1.31.0"
"""What Helm 3, which is older than the chart's least version, is told that it renders for."""

Manifest = Mapping[str, Any]
Values = Mapping[str, Any]


class RefusedError(Exception):
    """Helm did not render: the text that an administrator sees."""


class Helm(Protocol):
    """One version of Helm."""

    def template(
        self, values: Values, *, release: str = "rel", namespace: str = "prod", upgrade: bool = False
    ) -> list[Manifest]:
        """The objects; RefusedError when the values are not accepted."""
        ...

    def lint(self, values: Values) -> Sequence[str]:
        """What `helm lint --strict` finds wrong."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def case(name: str) -> Values:
    """The values of one of the chart's scenarios."""
    loaded: Values = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text(encoding="utf-8"))
    return loaded


def merged(base: Values, over: Values) -> dict[str, Any]:
    """Values over others, as Helm merges files."""
    both = dict(base)
    for key, value in over.items():
        before = both.get(key)
        both[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both


def objects(text: str) -> list[Manifest]:
    """The objects of a rendered stream."""
    return [loaded for loaded in yaml.safe_load_all(text) if loaded]


class Helm4:
    """See `helm4`."""

    def __init__(self, chart: Path = CHART) -> None:
        """Start its process."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.k8s.chart.helm4", str(chart)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    @staticmethod
    def missing() -> str:
        """Why it cannot be had here, or nothing."""
        if importlib.util.find_spec("helm_python") is None:
            return "no Helm 4 here: pip install helm-python-sdk, which has wheels for Linux, macOS and Windows"
        return ""

    def template(
        self, values: Values, *, release: str = "rel", namespace: str = "prod", upgrade: bool = False
    ) -> list[Manifest]:
        """The objects, in the order of their templates' names."""
        told = self._ask(do="template", values=values, release=release, namespace=namespace, upgrade=upgrade)
        texts = [text for path, text in sorted(told["rendered"].items()) if path.endswith(".yaml")]
        return [one for text in texts for one in objects(text)]

    def lint(self, values: Values) -> Sequence[str]:
        """What is wrong."""
        problems: Sequence[str] = self._ask(do="lint", values=values)["problems"]
        return problems

    def close(self) -> None:
        """End its process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _ask(self, **request: object) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process was started without pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "error" in told:
            raise RefusedError(told["error"])
        return told


class Helm3:
    """The command."""

    @staticmethod
    def missing() -> str:
        """Why it cannot be had here, or nothing."""
        if not HELM3.exists():
            return f"no Helm 3 at {HELM3}: `make test-k8s` fetches it where npm is"
        return ""

    def template(
        self, values: Values, *, release: str = "rel", namespace: str = "prod", upgrade: bool = False
    ) -> list[Manifest]:
        """The objects."""
        more = ["--is-upgrade"] if upgrade else []
        return objects(
            self._run(values, "template", release, str(CHART), "-n", namespace, "--kube-version", KUBERNETES, *more)
        )

    def lint(self, values: Values) -> Sequence[str]:
        """What is wrong."""
        try:
            self._run(values, "lint", "--strict", str(CHART))
        except RefusedError as error:
            return str(error).splitlines()
        return []

    def close(self) -> None:
        """Nothing runs."""

    def _run(self, values: Values, *arguments: str) -> str:
        with tempfile.TemporaryDirectory() as home:
            file = Path(home) / "values.yaml"
            file.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
            done = subprocess.run(
                [str(HELM3), *arguments, "-f", str(file)],
                env={"HOME": home, "PATH": os.environ["PATH"]},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        if done.returncode != 0:
            raise RefusedError(done.stdout + done.stderr)
        return done.stdout
