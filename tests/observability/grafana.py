"""Checks dashboards against the models that Grafana's own generator makes of its schema (grafana-foundation-sdk)."""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def problems(board: dict[str, Any]) -> list[str]:
    """What is not as the schema has it: keys that it does not know, and values of another type."""
    register_default_plugins()
    model = Dashboard.from_json(board)
    read = json.loads(JSONEncoder(sort_keys=True).encode(model))
    return [*_lost(board, read, ""), *_mistyped(model, "")]


def _lost(given: Any, read: Any, where: str) -> Iterator[str]:
    """What the models have no place for."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key in read:
                yield from _lost(value, read[key], f"{where}.{key}")
            else:
                yield f"{where}.{key} is not known"
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for i, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from _lost(one, other, f"{where}[{i}]")
    elif given != read:
        yield f"{where}: {given!r} was read as {read!r}"


def _mistyped(model: Any, where: str) -> Iterator[str]:
    hints = typing.get_type_hints(type(model))
    for name, value in vars(model).items():
        if name in hints and not _fits(value, hints[name]):
            yield f"{where}.{name}: {value!r} is no {hints[name]}"
        for i, one in enumerate(value if isinstance(value, list) else [value]):
            if hasattr(one, "from_json"):
                yield from _mistyped(one, f"{where}.{name}[{i}]")


def _fits(value: Any, wanted: Any) -> bool:
    origin = typing.get_origin(wanted)
    if wanted is Any or wanted is object or isinstance(wanted, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(wanted))
    if origin is list:
        return isinstance(value, list) and all(_fits(one, typing.get_args(wanted)[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict)
    if origin is typing.Literal:
        return value in typing.get_args(wanted)
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return value in {one.value for one in wanted} or isinstance(value, wanted)
    if wanted is types.NoneType:
        return value is None
    return isinstance(value, wanted) if isinstance(wanted, type) else True
