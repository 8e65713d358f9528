"""What holds for the models of a fleet. Pure: which of them get a job, and what their jobs are called."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator

from diminuendo.services.common.errors import (
    FleetFullError,
    JobActiveError,
    ModelDiffersError,
    ModelNotFoundError,
)
from diminuendo.services.conductor.records import Job, WantedModel

MAX_MODELS = 5000
"""Models of a fleet: a watch keeps all of them in mind, and one answer tells of all that are tried again."""
MAX_ID = 63
_FOREIGN = re.compile(r"[^a-z0-9-]")


def job_ids(fleet_id: str, model: str, tries: int) -> Iterator[str]:
    """Ids for a model's next job, the best one first, without end.

    Args:
        tries: Jobs that the fleet has of this model already.
    """
    plain = _FOREIGN.sub("-", f"{fleet_id}-{model}")
    yield _with_suffix(plain, f"-{tries + 1}" if tries else "")
    while True:
        yield _with_suffix(plain, f"-{secrets.token_hex(3)}")


def _with_suffix(plain: str, suffix: str) -> str:
    return plain[: MAX_ID - len(suffix)] + suffix


def wants_job(wanted: WantedModel, newest: Job | None, *, replace_changed: bool, room: int) -> bool:
    """Whether a model is to get a job; it does not when its newest one has the same spec.

    Args:
        newest: The model's newest job, if there is one.
        replace_changed: Whether one that has ended, of another spec, is followed by another.
        room: How many more models the fleet may have.

    Raises:
        ModelDiffersError: The newest job has another spec, and is not to be replaced.
        JobActiveError: It is to be replaced, and has not ended.
        FleetFullError: The fleet has as many models as one may have.
        DiminuendoError: What the model was to be refused for.
    """
    if newest is not None and newest.spec == wanted.new.spec:
        return False
    if newest is not None:
        _replaceable(wanted.new.model, newest, replace_changed=replace_changed)
    elif room < 1:
        raise FleetFullError(
            f"model {wanted.new.model!r} is one too many: a fleet has at most {MAX_MODELS} models; put it into another",
            model=wanted.new.model,
            fleet=wanted.new.fleet,
        )
    if wanted.refusal is not None:
        raise wanted.refusal
    return True


def _replaceable(model: str, newest: Job, *, replace_changed: bool) -> None:
    if not replace_changed:
        raise ModelDiffersError(
            f"model {model!r} has {newest.name}, which is {newest.state.name}, with another spec; ask for the same "
            "spec, have changed models replaced, or give the model another name",
            model=model,
            job=newest.name,
        )
    if not newest.state.final:
        raise JobActiveError(
            f"model {model!r} has {newest.name} with another spec, which is {newest.state.name}; a job is replaced "
            "once it has ended: wait for that, or cancel it first",
            model=model,
            job=newest.name,
            state=newest.state.name,
        )


def no_model(fleet: str, model: str) -> ModelNotFoundError:
    """The refusal of what is asked of a model that the fleet has no job of."""
    return ModelNotFoundError(
        f"{fleet} has no model {model!r}; see its models with `diminuendo fleet get {fleet.rpartition('/')[2]}`",
        fleet=fleet,
        model=model,
    )
