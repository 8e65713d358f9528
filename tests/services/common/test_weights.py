"""Weights of projects, as a setting says them."""

from __future__ import annotations

import pytest

from diminuendo.services.common.errors import StartError
from diminuendo.services.common.weights import parsed, written
from diminuendo.services.conductor.settings import ConductorSettings


def test_by_flag_by_environment_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ConductorSettings.load(weights="vision=2, text=0.5").weights == {"vision": 2.0, "text": 0.5}
    monkeypatch.setenv("DIMINUENDO_CONDUCTOR_WEIGHTS", "vision=3")
    assert ConductorSettings.load().weights == {"vision": 3.0}
    assert ConductorSettings.load(weights={"a-1": 1 / 3}).weights == {"a-1": 1 / 3}
    assert parsed(written({"a": 0.1, "b": 1e-7})) == {"a": 0.1, "b": 1e-7}
    assert parsed("") == {}


@pytest.mark.parametrize("given", ["vision", "vision=", "=2", "vision=0", "a=-1", "a=nan", "a=inf", "V=1"])
def test_what_is_no_weight_is_refused(given: str) -> None:
    with pytest.raises(StartError, match=r"weights=.* is no weight; give PROJECT=NUMBER,.*set --weights or"):
        ConductorSettings.load(weights=given)


def test_two_weights_of_a_project_are_refused() -> None:
    with pytest.raises(StartError, match="'a' has two weights; give one"):
        ConductorSettings.load(weights="a=1,a=2")
