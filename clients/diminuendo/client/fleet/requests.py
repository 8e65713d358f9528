"""Requests of fleets as messages, and answers as the client's types. Pure: every client of ours is built on these."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from diminuendo.v1 import fleet_pb2, job_pb2, job_service_pb2
from diminuendo.v1 import fleet_service_pb2 as pb

from diminuendo.client import convert
from diminuendo.client.errors import InvalidArgumentError, Violation, WaitTimeoutError
from diminuendo.client.fleet.models import FleetInfo, FleetModel, FleetUpdate, ModelRefusal, ModelStatus
from diminuendo.client.types import JobInfo, check_whole

MOST_MODELS, MOST_BYTES = 1000, 3 * 2**20
"""The most of one batch: what the server takes, and what stays below gRPC's limit of 4 MiB for a message."""

BATCH_S = 60.0
"""Deadline of a batch, where a client's own is shorter: a thousand jobs are written in one go."""

_FLEET_ID, _FLEET_NAME = re.compile(r"[a-z0-9-]{1,40}"), re.compile(r"projects/[^/\s]+/fleets/[a-z0-9-]{1,40}")
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SOURCES = ("name", "source", "bundle")
_OF_THE_JOB = ("labels", "priority", "deadline")
_WISHES = tuple(each.name for each in fields(FleetModel) if each.name not in (*_SOURCES, *_OF_THE_JOB))


def fleet_name(project: str, name_or_id: str) -> str:
    """``projects/{project}/fleets/{fleet}``, from that or from the id alone; InvalidArgumentError for any other."""
    if _FLEET_NAME.fullmatch(name_or_id):
        return name_or_id
    if not _FLEET_ID.fullmatch(name_or_id):
        raise InvalidArgumentError.of(
            "fleet",
            f"{name_or_id!r} is neither a fleet's id, 1 to 40 characters a-z, 0-9 and -, nor "
            "projects/PROJECT/fleets/FLEET",
        )
    return f"projects/{project}/fleets/{name_or_id}"


def parts(name: str) -> tuple[str, str]:
    """``projects/{project}`` and the fleet's id, of its name."""
    parent, _, fleet_id = name.rpartition("/fleets/")
    return parent, fleet_id


def is_model_name(name: str) -> bool:
    """Whether a model may have this name, and a folder with it."""
    return bool(_MODEL.fullmatch(name))


def check_models(models: Sequence[FleetModel]) -> None:
    """That names are names and unique, and that each model has one source.

    Raises:
        InvalidArgumentError: They are not; every wrong one is in its violations.
    """
    wrong: list[Violation] = []
    seen: set[str] = set()
    for model in models:
        where = f"models[{model.name!r}]"
        if not is_model_name(model.name):
            text = f"{model.name!r} is no model's name; give 1 to 63 characters a-z, 0-9, '.', '_' and '-'"
            wrong.append(Violation("models.name", f"{text}, a letter or digit first"))
        elif model.name in seen:
            wrong.append(Violation("models.name", f"{model.name!r} is there twice; give each model a name of its own"))
        seen.add(model.name)
        if bool(model.source) == (model.bundle is not None):
            both = f"{model.source!r} is given beside a bundle" if model.source else "'' names nothing"
            wrong.append(Violation(f"{where}.source", f"{both}; give a source, as zoo:NAME, or a bundle's folder"))
    if wrong:
        raise InvalidArgumentError("; ".join(f"{each.field}: {each.description}" for each in wrong), violations=wrong)


def model_message(model: FleetModel, source: str, project: str) -> pb.FleetModel:
    """A model as it is sent.

    Args:
        model: What is asked.
        source: ``zoo:NAME`` or ``bundle:SHA256``.
        project: Whose bundle it is.

    Raises:
        InvalidArgumentError: A field is wrong; its path begins with the model.
    """
    try:
        spec = convert.job_spec(source, project=project, **{name: getattr(model, name) for name in _WISHES})
        job = job_pb2.Job(
            spec=spec,
            labels=model.labels or {},
            priority=check_whole("priority", model.priority),
            deadline=None if model.deadline is None else convert.timestamp("deadline", model.deadline),
        )
    except InvalidArgumentError as error:
        wrong = [Violation(f"models[{model.name!r}].{each.field}", each.description) for each in error.violations]
        text = "; ".join(f"{each.field}: {each.description}" for each in wrong)
        raise InvalidArgumentError(text or error.message, violations=wrong) from None
    return pb.FleetModel(model=model.name, job=job)


def checked(name: str, models: Iterable[FleetModel]) -> list[FleetModel]:
    """The models of a fleet, when all are right: what is wrong is found before bundles are packed, which takes a while.

    Raises:
        InvalidArgumentError: Some are wrong; every one that is is named.
    """
    asked = list(models)
    check_models(asked)
    for model in asked:
        model_message(model, model.source or "zoo:bundle", _project(name))
    return asked


def model_messages(name: str, models: Sequence[FleetModel], source: Callable[[Path], str]) -> list[pb.FleetModel]:
    """The models of a fleet as they are sent; `source` says what a folder's bundle is called."""
    return [
        model_message(model, model.source if model.bundle is None else source(model.bundle), _project(name))
        for model in models
    ]


def _project(name: str) -> str:
    return parts(name)[0].removeprefix("projects/")


def creation(name: str, labels: Mapping[str, str] | None) -> pb.CreateFleetRequest:
    """The request that makes the fleet of this name, or finds it."""
    parent, fleet_id = parts(name)
    return pb.CreateFleetRequest(
        parent=parent, fleet_id=fleet_id, fleet=fleet_pb2.Fleet(labels=labels or {}), allow_existing=True
    )


def batches(
    name: str, models: Iterable[pb.FleetModel], *, replace_changed: bool = False
) -> Iterator[pb.BatchCreateJobsRequest]:
    """The models in requests that are within both limits, in their order."""
    batch: list[pb.FleetModel] = []
    size = 0
    for model in models:
        length = model.ByteSize() + 8  # tag and length
        if batch and (len(batch) == MOST_MODELS or size + length > MOST_BYTES):
            yield pb.BatchCreateJobsRequest(parent=name, models=batch, replace_changed=replace_changed)
            batch, size = [], 0
        batch.append(model)
        size += length
    if batch:
        yield pb.BatchCreateJobsRequest(parent=name, models=batch, replace_changed=replace_changed)


def list_fleets(project: str, *, page_size: int) -> pb.ListFleetsRequest:
    """The request for the first page of a project's fleets; ``-`` for those of all."""
    return pb.ListFleetsRequest(parent=f"projects/{project}", page_size=page_size)


def newest_jobs(name: str, page_size: int) -> job_service_pb2.ListJobsRequest:
    """The request for the first page of the newest jobs of a fleet's models, in the order of their making."""
    return job_service_pb2.ListJobsRequest(
        parent=parts(name)[0], fleet=name, newest_of_model=True, page_size=page_size, order_by="create_time"
    )


def fleet_info(message: fleet_pb2.Fleet) -> FleetInfo:
    """The fleet as a dataclass."""
    counts = message.counts
    return FleetInfo(
        name=message.name,
        models=counts.models,
        states={convert.state(each.state): each.jobs for each in counts.states if each.jobs},
        inside_delta=counts.inside_delta,
        labels=dict(message.labels),
        create_time=convert.time_in(message, "create_time"),
        update_time=convert.time_in(message, "update_time"),
    )


def all_ended(info: FleetInfo, timeout_s: float | None) -> FleetInfo:
    """The fleet, when every job of it has ended; WaitTimeoutError otherwise."""
    if info.ended < info.models:
        after = "" if timeout_s is None else f" after {timeout_s:g} s"
        raise WaitTimeoutError(
            f"{info.ended} of {info.models} models of {info.name} have ended{after}; the others go on, wait for it "
            "again"
        )
    return info


def status(message: pb.FleetModelStatus) -> ModelStatus:
    """What came of one model."""
    refusal = None
    if message.HasField("error"):
        refusal = ModelRefusal(message.error.code, message.error.reason, message.error.message)
    return ModelStatus(
        message.model,
        job=convert.job_info(message.job) if message.HasField("job") else None,
        created=message.created,
        refusal=refusal,
    )


def update(message: pb.WatchFleetResponse, *, begins: bool) -> FleetUpdate:
    """What a watch told."""
    jobs: tuple[JobInfo, ...] = tuple(map(convert.job_info, message.jobs))
    return FleetUpdate(fleet_info(message.fleet), jobs, begins=begins, caught_up=message.caught_up)
