"""A YAML file as nodes that know their lines, and readers that make values of them; every mistake is collected."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import yaml

from diminuendo.client.errors import FleetFileError, InvalidArgumentError

_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_WHOLE = re.compile(r"[-+]?[0-9]+")


Value = TypeVar("Value")


class WrongError(Exception):
    """A value that cannot be meant: what it is, and the remedy. Caught by `Problems.read`.

    Attributes:
        node: Where it is; None: where the value as a whole is.
    """

    def __init__(self, text: str, node: yaml.Node | None = None) -> None:
        """Say what is wrong."""
        super().__init__(text)
        self.node = node


class Problems:
    """The mistakes of a file, as they are found."""

    def __init__(self, path: Path) -> None:
        """None so far."""
        self._path = path
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, field: str, text: str) -> None:
        """Note a mistake; the line counts from 1."""
        self._found.append((line, f"{self._path}:{line}: {f'{field}: ' if field else ''}{text}"))

    def read(self, field: str, node: yaml.Node, reader: Callable[[yaml.Node], Value]) -> Value | None:
        """What a reader makes of a node; None where that is noted as wrong."""
        try:
            return reader(node)
        except WrongError as wrong:
            self.add(line_of(wrong.node or node), field, str(wrong))
        except InvalidArgumentError as error:
            for each in error.violations:
                self.add(line_of(node), field, each.description)
        return None

    def check(self) -> None:
        """Raise FleetFileError with all that was found, by line."""
        if self._found:
            raise FleetFileError([text for _, text in sorted(self._found, key=lambda each: each[0])])


def line_of(node: yaml.Node) -> int:
    """The line that a node begins in, from 1."""
    return int(node.start_mark.line) + 1


def compose(path: Path, problems: Problems) -> yaml.MappingNode | None:
    """The mapping that a file has at its top; None where that is noted as wrong.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        root = yaml.compose(path.read_bytes().decode(), yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problems.add(line, "", f"byte {error.object[error.start]:#04x} is no UTF-8; save the file as UTF-8")
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ", ".join(part for part in (error.context, error.problem) if part)
        problems.add(mark.line + 1 if mark else 1, "", f"this is no YAML: {told}; correct it")
        return None
    except yaml.YAMLError as error:  # a character that YAML does not take
        line = int(getattr(error, "position", 0))
        problems.add(path.read_bytes().decode()[:line].count("\n") + 1, "", f"this is no YAML: {_first(error)}")
        return None
    except RecursionError:
        problems.add(1, "", "this is nested too deeply; a fleet needs five levels")
        return None
    if not isinstance(root, yaml.MappingNode):
        what = "the file is empty" if root is None else f"{shown(root)} is no mapping"
        problems.add(1 if root is None else line_of(root), "", f"{what}; begin with `name:` and `models:`")
        return None
    return root


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def keys_of(
    node: yaml.Node, field: str, known: Collection[str] | None, problems: Problems
) -> Iterator[tuple[str, yaml.Node]]:
    """Keys of a mapping with their nodes: known ones, each once. What is wrong is noted.

    Args:
        node: Should be a mapping.
        field: Whose it is.
        known: Keys that it may have; None: any.
        problems: Where mistakes go.
    """
    if not isinstance(node, yaml.MappingNode):
        problems.add(line_of(node), field, f"{shown(node)} is no mapping; give one, as `{{key: value}}`")
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        if key.tag == _MERGE:
            problems.add(line_of(key), field, "'<<' is not taken; write what models share under `defaults:`")
        elif not isinstance(key, yaml.ScalarNode):
            problems.add(line_of(key), field, f"{shown(key)} is no key; give a text")
        elif key.value in lines:
            twice = f"is there twice, in line {lines[key.value]} too; give it once"
            problems.add(line_of(key), key.value, twice)
        elif known is not None and key.value not in known:
            problems.add(line_of(key), key.value, f"this key is not known{nearest(key.value, known)}")
        else:
            lines[key.value] = line_of(key)
            yield key.value, value


def nearest(word: str, known: Collection[str]) -> str:
    """``; did you mean ...?``, or what there is to choose from."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; give one of {', '.join(known)}"


def shown(node: yaml.Node) -> str:
    """A node as a message shows it."""
    if isinstance(node, yaml.ScalarNode):
        return "null" if is_null(node) else repr(node.value[:60])
    return "a mapping" if isinstance(node, yaml.MappingNode) else "a list"


def is_null(node: yaml.Node) -> bool:
    """Whether it is empty, ``~`` or ``null``."""
    return bool(node.tag == _NULL)


def text(node: yaml.Node) -> str:
    """Any scalar as it is written: ``no`` and ``1.10`` are texts."""
    if not isinstance(node, yaml.ScalarNode) or is_null(node):
        raise WrongError(f"{shown(node)} is no text; give one")
    return str(node.value)


def number(node: yaml.Node) -> float:
    """A finite number."""
    try:
        found = float(text(node))
    except (ValueError, WrongError):
        found = math.nan
    if not math.isfinite(found):
        raise WrongError(f"{shown(node)} is no number; give one")
    return found


def whole(least: int, most: int) -> Callable[[yaml.Node], int]:
    """A reader of whole numbers in a range."""

    def read(node: yaml.Node) -> int:
        written = text(node) if isinstance(node, yaml.ScalarNode) and not is_null(node) else ""
        if not _WHOLE.fullmatch(written) or not least <= int(written) <= most:
            raise WrongError(f"{shown(node)} is no whole number from {least} to {most}; give one")
        return int(written)

    return read


def one_of(*choices: str) -> Callable[[yaml.Node], str]:
    """A reader of one of some words."""

    def read(node: yaml.Node) -> str:
        written = text(node)
        if written not in choices:
            raise WrongError(f"{written!r} is not known{nearest(written, choices)}")
        return written

    return read


def matching(pattern: str, form: str) -> Callable[[yaml.Node], str]:
    """A reader of texts of a form, which is told in words."""

    def read(node: yaml.Node) -> str:
        written = text(node)
        if not re.fullmatch(pattern, written):
            raise WrongError(f"{written!r} is not {form}; give another")
        return written

    return read


def texts(node: yaml.Node) -> tuple[str, ...]:
    """A list of texts, each once."""
    if not isinstance(node, yaml.SequenceNode):
        example = node.value if isinstance(node, yaml.ScalarNode) and not is_null(node) else "a, b"
        raise WrongError(f"{shown(node)} is no list; give one, as [{example}]")
    found: list[str] = []
    for each in node.value:
        written = text(each)
        if written in found:
            raise WrongError(f"{written!r} is there twice; give it once", each)
        found.append(written)
    return tuple(found)


def mapping(
    node: yaml.Node, field: str, read: Callable[[str, yaml.Node], Value], problems: Problems
) -> Mapping[str, Value | None]:
    """A mapping of any keys; a key of null is None, which takes that of the defaults away."""
    found: dict[str, Value | None] = {}
    for key, value in keys_of(node, field, None, problems):
        if is_null(value):
            found[key] = None
        else:
            made = problems.read(f"{field}.{key}", value, lambda each, key=key: read(key, each))  # type: ignore[misc]
            if made is not None:
                found[key] = made
    return found
