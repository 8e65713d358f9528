"""``fleet.yaml``: a fleet's name, what its models share, and its models. Every mistake is told at once."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from diminuendo.client.bundle import survey
from diminuendo.client.cli.words import limits_of
from diminuendo.client.errors import BundleError
from diminuendo.client.fleet import nodes
from diminuendo.client.fleet.models import FleetModel
from diminuendo.client.fleet.nodes import Problems, WrongError
from diminuendo.client.moments import moment
from diminuendo.client.types import bundle_sha256, check_delta, zoo_name

FIGURES = ("params", "macs", "size", "memory", "latency")
_TOP = ("name", "project", "labels", "defaults", "models")
_SOURCES = ("zoo", "source", "bundle", "bundles")
_MERGED = ("labels", "limits", "max_ratio")
"""Mappings whose keys are laid over those of the defaults; whatever else a model says replaces its default."""

_OF_DELTA = ("delta", "accept", "objective")
"""Defaults that are of no use to a model with a target of its own."""

Reader = Callable[[yaml.Node], Any]

_fleet_name = nodes.matching("[a-z0-9-]{1,40}", "1 to 40 characters a-z, 0-9 and '-'")
_project = nodes.matching("[a-z0-9-]{1,63}", "1 to 63 characters a-z, 0-9 and '-'")
_NAME = "[a-z0-9][a-z0-9._-]{0,62}"
_MODEL = "1 to 63 characters a-z, 0-9, '.', '_' and '-', a letter or digit first"
_model_name = nodes.matching(_NAME, _MODEL)


def _delta(node: yaml.Node) -> float:
    return check_delta(nodes.number(node))


def _figure(field: str) -> Callable[[str, yaml.Node], float]:
    """A reader of figures with units, as ``50M`` MACs or ``1.5MB``."""

    def read(name: str, node: yaml.Node) -> float:
        if name not in FIGURES:
            raise WrongError(f"{name!r} is no figure{nodes.nearest(name, FIGURES)}")
        most = limits_of([f"{name}={nodes.text(node)}"], field)[name]
        if most <= 0:
            raise WrongError(f"{nodes.shown(node)} is no limit; give a number over 0")
        return most

    return read


def _ratio(pattern: str, node: yaml.Node) -> float:
    most = nodes.number(node)
    if most < 1:
        raise WrongError(f"{most:g} is no ratio; give a number from 1 (the layer stays dense) up")
    return most


_BUDGETS: Final[Mapping[str, float]] = {"evaluations": 3, "epochs": 12, "minutes": 0}
"""The least of each."""


def _budget(name: str, node: yaml.Node) -> float:
    if name not in _BUDGETS:
        raise WrongError(f"{name!r} is no budget{nodes.nearest(name, _BUDGETS)}")
    most, least = nodes.number(node), _BUDGETS[name]
    if most < least or most <= 0 or (name == "evaluations" and most != int(most)):
        kind = "a whole number" if name == "evaluations" else "a number"
        enough = f"from {least:g} up" if least else "over 0"
        raise WrongError(f"{nodes.shown(node)} is too little; give {kind} {enough}")
    return most


def _label(key: str, node: yaml.Node) -> str:
    return nodes.text(node)


_VALUES: Final[Mapping[str, Reader]] = {
    "delta": _delta,
    "objective": nodes.one_of(*FIGURES),
    "effort": nodes.one_of("quick", "normal", "deep"),
    "accept": nodes.one_of("estimate", "strict"),
    "stage": nodes.whole(1, 2),
    "seed": nodes.whole(0, 2**63 - 1),
    "formats": nodes.texts,
    "freeze": nodes.texts,
    "exports": nodes.texts,
    "multiple": nodes.whole(1, 1024),
    "parallel": nodes.whole(1, 10_000),
    "priority": nodes.whole(-1000, 1000),
    "deadline": lambda node: moment(nodes.text(node), over=True),  # one that is over is no reason to refuse the rest
}
_MAPPINGS: Final[Mapping[str, Callable[[str, yaml.Node], Any]]] = {
    "target": _figure("target"),
    "limits": _figure("limits"),
    "max_ratio": _ratio,
    "budget": _budget,
    "labels": _label,
}
WISHES = (*_VALUES, *_MAPPINGS)
"""What defaults and models may say."""


@dataclass(frozen=True, slots=True)
class FleetFile:
    """A fleet as a file describes it.

    Attributes:
        path: The file.
        name: The fleet's id.
        project: None where the file does not say.
        labels: Of the fleet.
        models: In the file's order; those of a glob in the order of their names.
    """

    path: Path
    name: str
    project: str | None
    labels: Mapping[str, str]
    models: tuple[FleetModel, ...]

    @classmethod
    def read(cls, path: Path | str) -> FleetFile:
        """Read a file. Bundles are looked at as far as that shows without packing or running them.

        Raises:
            FleetFileError: There are mistakes; it has every one with its line.
            OSError: The file, or a bundle's, cannot be read.
        """
        path = Path(path)
        problems = Problems(path)
        root = nodes.compose(path, problems)
        found = _File(path, problems)
        if root is not None:
            found.take(root)
        problems.check()
        return cls(path, found.name, found.project, found.labels, tuple(found.models))


def names_in(path: Path | str) -> tuple[str, str | None]:
    """A file's name and project, whatever else is wrong with it.

    Raises:
        FleetFileError: It is no YAML, or has no name.
        OSError: It cannot be read.
    """
    path = Path(path)
    problems, others = Problems(path), Problems(path)
    root = nodes.compose(path, problems)
    found = _File(path, problems)
    if root is not None:
        found.take_names(root, dict(nodes.keys_of(root, "", _TOP, others)))
    problems.check()
    return found.name, found.project


@dataclass
class _File:
    """A file that is being read."""

    path: Path
    problems: Problems
    name: str = ""
    project: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    models: list[FleetModel] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    """Of each model's name."""

    def take(self, root: yaml.MappingNode) -> None:
        """Read all of it."""
        top = dict(nodes.keys_of(root, "", _TOP, self.problems))
        self.take_names(root, top)
        if "labels" in top and not nodes.is_null(top["labels"]):
            self.labels = _without_none(nodes.mapping(top["labels"], "labels", _label, self.problems))
        defaults: Mapping[str, Any] = {}
        if "defaults" in top and not nodes.is_null(top["defaults"]):
            defaults, _ = self._wishes(top["defaults"], "defaults", WISHES)
        models = top.get("models")
        if models is None:
            self.problems.add(1, "models", "is missing; list the fleet's models")
        elif not isinstance(models, yaml.SequenceNode) or not models.value:
            what = "the list is empty" if isinstance(models, yaml.SequenceNode) else f"{nodes.shown(models)} is no list"
            self.problems.add(nodes.line_of(models), "models", f"{what}; give one, with `- name: ...` for each model")
        else:
            for entry in models.value:
                self._entry(entry, defaults)

    def take_names(self, root: yaml.Node, top: Mapping[str, yaml.Node]) -> None:
        """Read what says which fleet it is."""
        if "name" in top:
            self.name = self.problems.read("name", top["name"], _fleet_name) or ""
        else:
            self.problems.add(nodes.line_of(root), "name", "is missing; name the fleet")
        if "project" in top and not nodes.is_null(top["project"]):
            self.project = self.problems.read("project", top["project"], _project)

    def _entry(self, entry: yaml.Node, defaults: Mapping[str, Any]) -> None:
        """One entry of the list: a model, or those of a glob."""
        own, rest = self._wishes(entry, "models", ("name", *_SOURCES, *WISHES))
        if not isinstance(entry, yaml.MappingNode):
            return
        wishes = merged(defaults, own)
        for name, line, source in self._named(entry, rest):
            if name in self.lines:
                told = f"{name!r} is there twice, in line {self.lines[name]} too; give each model a name of its own"
                self.problems.add(line, "name", told)
            else:
                self.lines[name] = line
                self.models.append(FleetModel(name=name, **source, **wishes))

    def _wishes(
        self, node: yaml.Node, field: str, known: tuple[str, ...]
    ) -> tuple[dict[str, Any], dict[str, yaml.Node]]:
        """What a mapping asks for, null as None; and the nodes of its other keys."""
        found: dict[str, Any] = {}
        rest: dict[str, yaml.Node] = {}
        for key, value in nodes.keys_of(node, field, known, self.problems):
            if key not in WISHES:
                rest[key] = value
            elif nodes.is_null(value):
                found[key] = None
            elif key in _VALUES:
                made = self.problems.read(key, value, _VALUES[key])
                if made is not None:
                    found[key] = made
            else:
                found[key] = nodes.mapping(value, key, _MAPPINGS[key], self.problems)
                if key == "target" and len(found[key]) > 1:
                    told = f"{', '.join(found[key])} are {len(found[key])} figures; give one, the others as limits"
                    self.problems.add(nodes.line_of(value), key, told)
        if found.get("target") and found.get("delta") is not None:
            self.problems.add(nodes.line_of(node), "target", "is beside a delta; give one of them")
        return found, rest

    def _named(
        self, entry: yaml.MappingNode, rest: Mapping[str, yaml.Node]
    ) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Name, line and source of every model of an entry."""
        line, name = nodes.line_of(entry), rest.get("name")
        given = [key for key in _SOURCES if key in rest]
        if len(given) != 1:
            what = f"{' and '.join(given)} are given" if given else "there is no source"
            self.problems.add(line, "models", f"{what}; give one of zoo, source, bundle and bundles")
        made = self.problems.read("name", name, _model_name) if name is not None else None
        if given == ["bundles"]:
            if name is not None:
                told = f"{nodes.shown(name)} is beside bundles, which are named after their folders; leave it out"
                self.problems.add(nodes.line_of(name), "name", told)
            yield from self._globbed(rest["bundles"])
            return
        if name is None:
            self.problems.add(line, "name", "is missing; name the model")
        source = self.problems.read(given[0], rest[given[0]], self._reader(given[0])) if len(given) == 1 else None
        if made is not None and name is not None:
            yield made, nodes.line_of(name), source or {}

    def _reader(self, kind: str) -> Callable[[yaml.Node], dict[str, Any]]:
        """What reads a source of a kind."""
        return {"zoo": _of_the_zoo, "source": _of_a_source, "bundle": self._bundle}[kind]

    def _bundle(self, node: yaml.Node) -> dict[str, Any]:
        return {"bundle": self._looked_at(self.path.parent / nodes.text(node))}

    def _looked_at(self, folder: Path) -> Path:
        try:
            survey(folder)
        except BundleError as error:
            raise WrongError(error.message.removeprefix("bundle: ")) from None
        return folder

    def _globbed(self, node: yaml.Node) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """A model for each folder that a glob matches."""
        line = nodes.line_of(node)
        pattern = self.problems.read("bundles", node, nodes.text)
        if pattern is None:
            return
        within = Path(glob.escape(str(self.path.parent)))
        paths = [Path(each) for each in glob.glob(str(within / pattern), recursive=True)]
        folders = sorted(path for path in paths if path.is_dir())
        if not folders:
            self.problems.add(
                line, "bundles", f"{pattern!r} matches no folder in {self.path.parent.resolve()}; correct it"
            )
        for folder in folders:
            name = folder.resolve().name
            if not re.fullmatch(_NAME, name):
                told = f"{name!r} is no model's name: {_MODEL}; rename the folder, or list it with `name` and `bundle`"
                self.problems.add(line, "bundles", told)
            elif self.problems.read("bundles", node, lambda _, folder=folder: self._looked_at(folder)) is not None:  # type: ignore[misc]
                yield name, line, {"bundle": folder}


def _of_the_zoo(node: yaml.Node) -> dict[str, Any]:
    name = nodes.text(node)
    return {"source": name if name.startswith("zoo:") else f"zoo:{name}"}


def _of_a_source(node: yaml.Node) -> dict[str, Any]:
    source = nodes.text(node)
    if bundle_sha256(source) is None:
        zoo_name(source)
    return {"source": source}


def merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a model asks for: its own words over the defaults. Of both, None takes away."""
    found = _without_none({key: _whole(value) for key, value in defaults.items()})
    if own.get("target"):
        found = {key: value for key, value in found.items() if key not in _OF_DELTA}
    if own.get("delta") is not None:
        found.pop("target", None)
    for key, value in own.items():
        if value is None:
            found.pop(key, None)
        elif key in _MERGED:
            found[key] = _without_none({**found.get(key, {}), **value})
        else:
            found[key] = _whole(value)
    return found


def _whole(value: Any) -> Any:
    """A value; of a mapping, what is not taken away in it."""
    return _without_none(value) if isinstance(value, Mapping) else value


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
