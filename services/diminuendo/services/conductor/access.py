"""Who may call what: one rule for each RPC. An RPC without a rule is refused where tokens are checked.

Jobs, fleets and bundles belong to projects, which requests name in their fields. Content belongs to none: its SHA-256,
which jobs' results name, is what gives access to it; see docs/security.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from diminuendo.services.common.errors import InvalidFieldError, ProjectDeniedError, RoleDeniedError, Violation
from diminuendo.services.conductor.tokens import EVERY, Role, Token

ALL_PROJECTS = "-"
"""The project that stands for all of them in the name of a parent."""
_OWNED = re.compile(r"projects/([^/]+)(?:/.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Rule:
    """What an RPC asks of the token.

    Attributes:
        role: At least this.
        fields: Paths of the request's fields that name what it is about. Each is ``projects/{project}...``.
        when_given: Paths of such fields that may be empty: then nothing more is asked.
        every: Whether the token must be for all projects.
        every_without: Path of a field that may be empty: the token must be for all projects then.
    """

    role: Role
    fields: tuple[str, ...] = ()
    when_given: tuple[str, ...] = ()
    every: bool = False
    every_without: str = ""


def _of(role: Role, *fields: str, when_given: tuple[str, ...] = ()) -> Rule:
    return Rule(role, fields=fields, when_given=when_given)


_COORDINATES = Rule(Role.COORDINATOR, every=True)
_SERVICES: dict[str, dict[str, Rule]] = {
    "JobService": {
        "CreateJob": _of(Role.WRITER, "parent", when_given=("job.spec.bundle",)),
        "GetJob": _of(Role.READER, "name"),
        "ListJobs": _of(Role.READER, "parent", when_given=("fleet",)),
        "UpdateJob": _of(Role.WRITER, "job.name"),
        "CancelJob": _of(Role.WRITER, "name"),
        "PauseJob": _of(Role.WRITER, "name"),
        "ResumeJob": _of(Role.WRITER, "name"),
        "RetryJob": _of(Role.WRITER, "name"),
        "DeleteJob": _of(Role.WRITER, "name"),
        "WaitJob": _of(Role.READER, "name"),
        "WatchJob": _of(Role.READER, "name"),
    },
    "FleetService": {
        "CreateFleet": _of(Role.WRITER, "parent"),
        "GetFleet": _of(Role.READER, "name"),
        "ListFleets": _of(Role.READER, "parent"),
        "DeleteFleet": _of(Role.WRITER, "name"),
        # Each model's bundle is checked to be of the parent's project, and is that model's error where it is not.
        "BatchCreateJobs": _of(Role.WRITER, "parent"),
        "CancelFleet": _of(Role.WRITER, "name"),
        "RetryFleet": _of(Role.WRITER, "name"),
        "WatchFleet": _of(Role.READER, "name"),
    },
    "ClusterService": {"GetCluster": Rule(Role.READER, every_without="job")},
    "CoordinatorService": {
        "LeaseJob": _COORDINATES,
        "Heartbeat": _COORDINATES,
        "BatchGetEvaluations": _COORDINATES,
        "ReportEvaluation": _COORDINATES,
        "ReportAttempt": _COORDINATES,
        "CommitStep": _COORDINATES,
        "ReleaseJob": _COORDINATES,
        "ReportCluster": _COORDINATES,
    },
    "ArtifactService": {
        "ReadArtifact": Rule(Role.READER),
        "CreateDownloadUrl": Rule(Role.READER),
        "QueryUpload": Rule(Role.WRITER),
        "WriteArtifact": Rule(Role.WRITER),
        "CreateUploadUrl": Rule(Role.WRITER),
        "CollectGarbage": Rule(Role.ADMIN, every=True),
    },
}
RULES: Mapping[str, Rule] = {
    f"/diminuendo.v1.{service}/{method}": rule for service, rules in _SERVICES.items() for method, rule in rules.items()
}
"""By the path of the RPC."""


def check(token: Token, path: str, request: Message | None) -> None:
    """Refuse a call that the token does not allow.

    Args:
        path: Of the RPC, as in `RULES`.
        request: What is asked; None where it is a stream, whose rule then names no field.

    Raises:
        RoleDeniedError: The token's role is not for this, or nobody's is.
        ProjectDeniedError: The token is not for the project.
        InvalidFieldError: The request names no project where it must.
    """
    method, rule = path.rpartition("/")[2], RULES.get(path)
    if rule is None:
        raise RoleDeniedError(f"{method} is open to no token; tell who maintains this server")
    if not token.role.includes(rule.role):
        raise RoleDeniedError(
            f"the token {token.name!r} has the role {token.role.value}, and {method} needs {rule.role.value}",
            role=token.role.value,
            needed=rule.role.value,
        )
    if token.projects is None:
        return
    missing = rule.every_without and not _field(request, rule.every_without)
    if rule.every or missing:
        hint = f", or a {rule.every_without} to be named" if missing else ""
        raise ProjectDeniedError(f"{_said(token)}, and {method} needs one for all of them{hint}")
    for name in (*rule.fields, *rule.when_given, *((rule.every_without,) if rule.every_without else ())):
        value = _field(request, name)
        if value or name in rule.fields:
            _check_project(token, name, value)


def _check_project(token: Token, field: str, value: str) -> None:
    named = _OWNED.fullmatch(value)
    if named is None:
        raise InvalidFieldError([Violation(field, f"{value[:100]!r} names no project; give projects/PROJECT/...")])
    project = named[1]
    if project == ALL_PROJECTS:
        raise ProjectDeniedError(f"{_said(token)}, not for all of them", project=EVERY)
    if token.projects is not None and project not in token.projects:
        raise ProjectDeniedError(f"{_said(token)}, not for {project[:100]!r}", project=project[:100])


def _said(token: Token) -> str:
    projects = sorted(token.projects or ())
    kind = "the project" if len(projects) == 1 else "the projects"
    return f"the token {token.name!r} is for {kind} {', '.join(projects)}"


def _field(request: Message | None, path: str) -> str:
    """A field's text, by its path."""
    value: Any = request
    for name in path.split("."):
        value = getattr(value, name)
    return str(value)
