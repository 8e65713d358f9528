"""Loads a result folder: the compressed nn.Module back, without the search."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from diminuendo.engine import bundle, surgery, zoo
from diminuendo.engine.plan import PLAN_VERSION, Choice, Plan, PlanError
from diminuendo.engine.task import TaskError
from diminuendo.engine.weights import from_bytes, load_into
from diminuendo.engine.workbench import UserCodeError
from diminuendo.engine.zoo.catalog import UnknownNetworkError


class ChoiceEntry(BaseModel):
    """One layer of plan.json."""

    model_config = ConfigDict(extra="forbid")
    format: str
    ranks: list[int] = []


class PlanFile(BaseModel):
    """Content of plan.json."""

    model_config = ConfigDict(extra="forbid")
    version: Literal[1]
    source: str
    layers: dict[str, ChoiceEntry]
    left_dense: dict[str, str] = {}

    def plan(self) -> Plan:
        """The plan that the file describes."""
        return Plan(tuple((name, Choice(entry.format, tuple(entry.ranks))) for name, entry in self.layers.items()))


def read_plan(path: Path | str) -> PlanFile:
    """Read a plan.json.

    Raises:
        PlanError: The file is not there, not JSON, or an entry is wrong; the message names the entry.
    """
    path = Path(path)
    try:
        return PlanFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PlanError(f"{path} is not there; name a plan.json, or a result folder that has one") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise PlanError(
            f"{path}: {where}: {first['msg']} (got {str(first['input'])[:80]!r}); this version reads plans of "
            f"version {PLAN_VERSION}"
        ) from error


def load(folder: Path | str, model: nn.Module | None = None) -> nn.Module:
    """The compressed network of a result folder, in eval mode.

    Args:
        folder: Has plan.json and model.safetensors.
        model: The original architecture with any weights; needed when the plan's source cannot build it. It is not
            changed.

    Raises:
        PlanError: The plan does not fit the network, or a file is missing.
    """
    folder = Path(folder)
    file = read_plan(folder / "plan.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise PlanError(f"{weights} is not there; download the result again")
    compressed = surgery.build(_architecture(file.source) if model is None else model, file.plan())
    load_into(compressed, from_bytes(weights.read_bytes()))
    return compressed.eval()


def _architecture(source: str) -> nn.Module:
    """The network that a source names, with any weights."""
    kind, _, name = source.partition(":")
    remedy = "pass the original architecture as load(folder, model)"
    try:
        if kind == "zoo":
            return zoo.network(name)
        if kind == "bundle" and Path(name).is_dir():
            return bundle.load(name).model
    except (UnknownNetworkError, TaskError, UserCodeError) as error:
        raise PlanError(f"source {source!r}: {error}; {remedy}") from error
    raise PlanError(f"source {source!r} cannot be built here; {remedy}")
