"""Helms for the tests of the chart, and what it renders in each scenario."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
from tests.k8s.chart.helm import CASES, Helm, Helm3, Helm4, Manifest, case

SCENARIOS = [path.name.removesuffix("-values.yaml") for path in CASES]


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    """Helm 4."""
    if reason := Helm4.missing():
        pytest.skip(reason)
    with Helm4() as found:
        yield found


@pytest.fixture(scope="session")
def helm3() -> Helm:
    """Helm 3."""
    if reason := Helm3.missing():
        pytest.skip(reason)
    return Helm3()


@pytest.fixture(scope="session")
def rendered(helm: Helm) -> Callable[[str], list[Manifest]]:
    """The objects of a scenario."""
    return cache(lambda scenario: helm.template(case(scenario)))


@pytest.fixture(params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> str:
    """Each scenario of the chart in turn."""
    return str(request.param)
