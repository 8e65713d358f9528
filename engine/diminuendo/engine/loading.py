"""Loads a result folder: the compressed nn.Module back, without the search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from diminuendo.engine import bundle, surgery, zoo
from diminuendo.engine.plan import PLAN_VERSION, Choice, Plan, PlanError
from diminuendo.engine.task import TaskError
from diminuendo.engine.weights import from_bytes, load_into
from diminuendo.engine.workbench import UserCodeError
from diminuendo.engine.zoo.catalog import UnknownNetworkError

HalfName = Literal["fp16", "bf16"]
HALVES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}


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


def load(folder: Path | str, model: nn.Module | None = None, dtype: HalfName | None = None) -> nn.Module:
    """The compressed network of a result folder, in eval mode.

    Args:
        folder: Has plan.json and model.safetensors.
        model: The original architecture with any weights; needed when the plan's source cannot build it. It is not
            changed.
        dtype: ``fp16`` or ``bf16``: its floating-point weights are of that type, and so are its inputs to be. They come
            from the folder's ``model.fp16.safetensors`` or ``model.bf16.safetensors`` where there is one, else they
            are rounded. None: as they were compressed.

    Raises:
        PlanError: The plan does not fit the network, a file is missing, or there is no such type.
    """
    if dtype not in (None, *HALVES):
        raise PlanError(f"dtype: {dtype!r} is unknown; give {' or '.join(HALVES)}, or None for the weights as they are")
    folder = Path(folder)
    file = read_plan(folder / "plan.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise PlanError(f"{weights} is not there; download the result again")
    compressed = surgery.build(architecture(file.source) if model is None else model, file.plan())
    half = None if dtype is None else folder / f"model.{dtype}.safetensors"
    if dtype is not None and half is not None and half.is_file():
        weights, compressed = half, compressed.to(HALVES[dtype])
    load_into(compressed, from_bytes(weights.read_bytes()))
    return (compressed if dtype is None else compressed.to(HALVES[dtype])).eval()


def architecture(source: str) -> nn.Module:
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
