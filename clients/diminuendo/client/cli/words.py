"""Options written as NAME=NUMBER words, for example ``--limit macs=50M``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from diminuendo.client.errors import InvalidArgumentError

_DECIMAL: Mapping[str, float] = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_POWERS = {"k": -10, "K": -10, "M": 0, "G": 10}
_MEGABYTES: Mapping[str, float] = {"": 1.0, "B": 2.0**-20} | {
    f"{letter}{rest}": 2.0**power for letter, power in _POWERS.items() for rest in ("", "B", "iB")
}
_MILLISECONDS: Mapping[str, float] = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}
_UNITS = {"size": _MEGABYTES, "memory": _MEGABYTES, "latency": _MILLISECONDS}
_NUMBER = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z]*)\s*")


def limits_of(words: Sequence[str], option: str = "limit") -> dict[str, float]:
    """Limits by figure, as the engine takes them: a number, with or without a unit.

    Params and MACs take k, M, G for 10^3, 10^6, 10^9. Size and memory are in MB, or in what is said: kB, MB, GB, or k,
    M, G for short, are 2^10, 2^20 and 2^30 bytes, B is one. Latency is in ms, or in us or s.
    """
    return _pairs(option, words, _with_unit, "FIGURE=NUMBER; for example macs=50M or size=1.5MB")


def _with_unit(name: str, text: str) -> float:
    found = _NUMBER.fullmatch(text)
    units = _UNITS.get(name, _DECIMAL)
    if not found or found[2] not in units:
        raise ValueError(text)
    return float(found[1]) * units[found[2]]


def ratios_of(words: Sequence[str]) -> dict[str, float]:
    """Largest ratios by pattern."""
    return _pairs("max_ratio", words, lambda _, text: float(text), "PATTERN=RATIO; for example 'layer1.*=4'")


def budget_of(words: Sequence[str]) -> dict[str, float]:
    """Budgets by kind."""
    return _pairs("budget", words, lambda _, text: float(text), "KIND=NUMBER; for example evaluations=20")


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


def names_of(words: Sequence[str]) -> list[str]:
    """Names, each in a word of its own or several with commas between."""
    return [name for word in words for name in word.split(",")]
