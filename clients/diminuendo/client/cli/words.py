"""Options written as NAME=NUMBER words, for example ``--limit macs=50M``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from diminuendo.client.errors import InvalidArgumentError

_DECIMAL: Mapping[str, float] = {"k": 1e3, "M": 1e6, "G": 1e9}
_MEGABYTES: Mapping[str, float] = {"k": 2.0**-10, "M": 1.0, "G": 2.0**10}
_IN_MEGABYTES = ("size", "memory")


def limits_of(words: Sequence[str]) -> dict[str, float]:
    """Limits by figure: params and MACs with k, M, G for 10^3, 10^6, 10^9; size and memory in MB.

    Of size and memory, k, M and G are 2^10, 2^20 and 2^30 bytes.
    """

    def value(name: str, text: str) -> float:
        suffixes = _MEGABYTES if name in _IN_MEGABYTES else _DECIMAL
        return _number(text[:-1]) * suffixes[text[-1]] if text[-1:] in suffixes else _number(text)

    return _pairs("limit", words, value, "FIGURE=NUMBER; for example macs=50M or size=1.5")


def ratios_of(words: Sequence[str]) -> dict[str, float]:
    """Largest ratios by pattern."""
    return _pairs("max_ratio", words, lambda _, text: _number(text), "PATTERN=RATIO; for example 'layer1.*=4'")


def budget_of(words: Sequence[str]) -> dict[str, float]:
    """Budgets by kind."""
    return _pairs("budget", words, lambda _, text: _number(text), "KIND=NUMBER; for example evaluations=20")


def _pairs(option: str, words: Sequence[str], value: Callable[[str, str], float], form: str) -> dict[str, float]:
    """Every word's name and number; InvalidArgumentError for one that is not of the form or comes twice."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        try:
            number = value(name, text)
        except ValueError:
            number = math.nan
        if not name or not equals or not math.isfinite(number):
            raise InvalidArgumentError.of(option, f"{word!r} is not {form}")
        if name in found:
            raise InvalidArgumentError.of(option, f"{name!r} is given twice; give it once")
        found[name] = number
    return found


def _number(text: str) -> float:
    return float(text)
