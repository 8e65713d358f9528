"""Options written as NAME=NUMBER words."""

from __future__ import annotations

import pytest

from diminuendo.client.cli.words import budget_of, limits_of, names_of, ratios_of
from diminuendo.client.errors import InvalidArgumentError


def test_limits_take_suffixes_in_the_figures_own_units() -> None:
    assert limits_of(["macs=50e6"]) == {"macs": 50e6}
    assert limits_of(["macs=1.5G", "params=200k"]) == {"macs": 1.5e9, "params": 200e3}
    assert limits_of(["size=1.5", "memory=512k"]) == {"size": 1.5, "memory": 0.5}
    assert limits_of(["size=2M", "memory=1G"]) == {"size": 2.0, "memory": 1024.0}
    assert limits_of(["latency=5"]) == {"latency": 5.0}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("size=1MB", 1.0),
        ("size=1 MiB", 1.0),
        ("size=256kB", 0.25),
        ("size=256KiB", 0.25),
        ("size=512K", 0.5),
        ("size=2GB", 2048.0),
        ("memory=1048576B", 1.0),
        ("size=.5e1MB", 5.0),
        ("latency=2ms", 2.0),
        ("latency=250us", 0.25),
        ("latency=0.5s", 500.0),
        ("params=2.5e6", 2.5e6),
        ("params=1E3k", 1e6),
    ],
)
def test_units_are_what_people_write(word: str, value: float) -> None:
    assert limits_of([word]) == {word.partition("=")[0]: value}


@pytest.mark.parametrize("word", ["macs=1MB", "size=1ms", "latency=1MB", "params=1e", "size=1 2", "size=0x1"])
def test_a_unit_of_another_figure_is_refused(word: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^target: .* is not FIGURE=NUMBER; for example"):
        limits_of([word], "target")


def test_names_stand_alone_or_between_commas() -> None:
    assert names_of(["svd,tucker2", "cp"]) == ["svd", "tucker2", "cp"]
    assert names_of(["svd,"]) == ["svd", ""]


def test_patterns_may_hold_anything_before_the_last_equals_sign() -> None:
    assert ratios_of(["layer1.*=4", "[a=b]=2.5"]) == {"layer1.*": 4.0, "[a=b]": 2.5}


def test_budgets() -> None:
    assert budget_of(["evaluations=20", "minutes=0.5"]) == {"evaluations": 20.0, "minutes": 0.5}
    assert budget_of([]) == {}


@pytest.mark.parametrize("word", ["", "=", "macs", "macs=", "=5", "macs=many", "macs=nan", "macs=inf", "macs=M"])
def test_what_is_no_pair_is_refused(word: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not FIGURE=NUMBER"):
        limits_of([word])
