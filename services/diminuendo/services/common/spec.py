"""What a job's spec asks of the engine: the one reading of it that conductor and coordinator share."""

from __future__ import annotations

from typing import cast

from diminuendo.v1 import job_pb2
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from diminuendo.engine.search.budget import BUDGETS, BudgetName
from diminuendo.engine.search.objective import ObjectiveName
from diminuendo.engine.search.settings import EffortName
from diminuendo.engine.search.state import AcceptName, Request, StageNumber

EFFORTS: dict[int, EffortName] = {
    job_pb2.EFFORT_UNSPECIFIED: "normal",
    job_pb2.EFFORT_QUICK: "quick",
    job_pb2.EFFORT_NORMAL: "normal",
    job_pb2.EFFORT_DEEP: "deep",
}
ACCEPTS: dict[int, AcceptName] = {
    job_pb2.ACCEPT_UNSPECIFIED: "estimate",
    job_pb2.ACCEPT_ESTIMATE: "estimate",
    job_pb2.ACCEPT_STRICT: "strict",
}

BUNDLE = "bundle:"
"""How the source of a job on a bundle begins; the sha256 of its archive follows."""


def unknown_fields(spec: job_pb2.JobSpec) -> list[int]:
    """Numbers of the fields, of the spec and of what is in it, that this version does not know."""
    parts: list[Message] = [spec, *spec.limits, *spec.max_ratio]
    parts += [getattr(spec, name) for name in ("target", "budget") if spec.HasField(name)]
    sets = [UnknownFieldSet(part) for part in parts]
    return sorted({found[i].field_number for found in sets for i in range(len(found))})


def to_request(spec: job_pb2.JobSpec) -> Request:
    """The spec as the engine takes it, unchecked; what it leaves out has its default.

    Raises:
        KeyError: Effort or accept is of a newer version.
    """
    target = _pair(spec.target) if spec.HasField("target") else None
    objective = spec.objective or (target[0] if target else "params")
    return Request(
        source=source_of(spec),
        delta=spec.delta if spec.HasField("delta") else None,
        seed=spec.seed,
        effort=EFFORTS[spec.effort],
        accept=ACCEPTS[spec.accept],
        formats=tuple(spec.formats),
        objective=cast("ObjectiveName", objective),
        limits=tuple(_pair(limit) for limit in spec.limits),
        freeze=tuple(spec.freeze),
        max_ratio=tuple((ratio.pattern, ratio.most) for ratio in spec.max_ratio),
        multiple=spec.multiple if spec.HasField("multiple") else 1,
        stage=cast("StageNumber", spec.stage if spec.HasField("stage") else 2),
        budget=tuple(_budget(spec.budget)),
        target=target,
        exports=tuple(spec.exports),
    )


def source_of(spec: job_pb2.JobSpec) -> str:
    """The source as the engine names it: ``zoo:NAME`` or ``bundle:SHA256``."""
    sha256 = bundle_of(spec)
    return f"zoo:{spec.zoo}" if sha256 is None else f"{BUNDLE}{sha256}"


def bundle_of(spec: job_pb2.JobSpec) -> str | None:
    """sha256 of the bundle that the job is about; None where it is about a network of the zoo."""
    return spec.bundle.rpartition("/")[2] if spec.WhichOneof("source") == "bundle" else None


def _pair(limit: job_pb2.Limit) -> tuple[ObjectiveName, float]:
    return cast("ObjectiveName", limit.figure), limit.most


def _budget(budget: job_pb2.Budget) -> list[tuple[BudgetName, float]]:
    """Every budget that was given, by the name that the engine has for it."""
    return [(name, float(getattr(budget, name))) for name in BUDGETS if budget.HasField(name)]
