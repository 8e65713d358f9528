"""JSON objects of a result folder, read field by field; what is wrong is said with file and field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from diminuendo.client.display.folder import ResultFolderError


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object that knows where it came from. A field that is null counts as one that is not there.

    Attributes:
        where: File, and the path in it.
    """

    where: str
    data: Mapping[str, object]

    @classmethod
    def read(cls, path: Path) -> Fields | None:
        """A file's object; None when there is no such file, ResultFolderError when it is no object."""
        try:
            return cls.of(path.name, json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except ValueError:
            raise ResultFolderError(f"{path} is no JSON; download the result again") from None

    @classmethod
    def of(cls, where: str, value: object) -> Fields:
        """A value that has to be an object."""
        if not isinstance(value, dict):
            raise ResultFolderError(f"{where} is {value!r:.40}, not an object; download the result again")
        return cls(where, value)

    def has(self, name: str) -> bool:
        """Whether there is such a field."""
        return self.data.get(name) is not None

    def text(self, name: str, default: str = "") -> str:
        """A field as text."""
        return str(self.data[name]) if self.has(name) else default

    def flag(self, name: str) -> bool:
        """Whether a field is true."""
        return self.data.get(name) is True

    def number(self, name: str, default: float | None = None) -> float:
        """A finite number; without a default the field has to be there."""
        value = self.data.get(name) if self.has(name) else default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ResultFolderError(f"{self.where}: {name} is {value!r:.40}, not a number; download the result again")
        return value

    def number_or_none(self, name: str) -> float | None:
        """A finite number, or None where there is none."""
        return self.number(name) if self.has(name) else None

    def child(self, name: str) -> Fields:
        """An object in a field; empty where there is none."""
        return Fields.of(f"{self.where}: {name}", self.data[name] if self.has(name) else {})

    def numbers(self, name: str) -> dict[str, float]:
        """The numbers of an object in a field, by name; empty where there is none."""
        child = self.child(name)
        return {key: child.number(key) for key in child.data}

    def list(self, name: str) -> tuple[object, ...]:
        """The values of an array in a field; empty where there is none."""
        value = self.data.get(name) if self.has(name) else []
        if not isinstance(value, list):
            raise ResultFolderError(f"{self.where}: {name} is {value!r:.40}, not a list; download the result again")
        return tuple(value)

    def objects(self, name: str) -> tuple[Fields, ...]:
        """The objects of an array in a field; empty where there is none."""
        return tuple(Fields.of(f"{self.where}: {name}: {i}", each) for i, each in enumerate(self.list(name)))
