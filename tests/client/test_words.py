"""Options written as NAME=NUMBER words."""

from __future__ import annotations

import pytest

from diminuendo.client.cli.words import budget_of, limits_of, ratios_of
from diminuendo.client.errors import InvalidArgumentError


def test_limits_take_suffixes_in_the_figures_own_units() -> None:
    assert limits_of(["macs=50e6"]) == {"macs": 50e6}
    assert limits_of(["macs=1.5G", "params=200k"]) == {"macs": 1.5e9, "params": 200e3}
    assert limits_of(["size=1.5", "memory=512k"]) == {"size": 1.5, "memory": 0.5}
    assert limits_of(["size=2M", "memory=1G"]) == {"size": 2.0, "memory": 1024.0}


def test_patterns_may_hold_anything_before_the_last_equals_sign() -> None:
    assert ratios_of(["layer1.*=4", "[a=b]=2.5"]) == {"layer1.*": 4.0, "[a=b]": 2.5}


def test_budgets() -> None:
    assert budget_of(["evaluations=20", "minutes=0.5"]) == {"evaluations": 20.0, "minutes": 0.5}
    assert budget_of([]) == {}


@pytest.mark.parametrize("word", ["", "=", "macs", "macs=", "=5", "macs=many", "macs=nan", "macs=inf", "macs=M"])
def test_what_is_no_pair_is_refused(word: str) -> None:
    with pytest.raises(InvalidArgumentError, match="is not FIGURE=NUMBER"):
        limits_of([word])
