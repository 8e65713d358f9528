"""Every error that the client raises, in one tree.

    DiminuendoError
    ├── ServerUnavailableError    nobody answers, or not in time; retried before it is raised
    ├── ServerError               the server failed, or broke its contract
    │   └── ServerVersionError    the server is of another version, and does not know what was asked for
    ├── UnauthenticatedError      no token, or one that the server does not know (any more), or that has expired
    ├── PermissionDeniedError     the token is known, and is not for this project or this kind of call
    ├── InvalidArgumentError      a field of the request is wrong; `violations` says which
    │   ├── BundleError           a folder that is no bundle, or one that cannot be packed
    │   └── FleetFileError        a fleet's file with mistakes; `problems` has all of them
    ├── NotFoundError             no such job, network or content
    ├── AlreadyExistsError        the name, or the request_id with another content, is taken
    ├── FailedPreconditionError   not in the job's present state
    ├── ConflictError             the job is not as it was when its etag was read
    ├── WaitTimeoutError          `Job.wait` ran out of the time it was given; the job goes on
    ├── UploadError               a file could not be sent whole
    └── DownloadError             a result could not be fetched whole
        └── FolderNotEmptyError   the folder holds something else; nothing was written

Imports no gRPC: `rpc` makes these from google.rpc details.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class DiminuendoError(Exception):
    """Anything that the client raises on purpose.

    Attributes:
        message: What was wrong, the value, and what to do; one line.
        reason: UPPER_SNAKE_CASE and stable, for programs; empty when there is none.
    """

    def __init__(self, message: str, *, reason: str = "") -> None:
        """Make an error with its message and the server's reason."""
        super().__init__(message)
        self.message = message
        self.reason = reason


class ServerUnavailableError(DiminuendoError):
    """Nobody answers at the address, or not in time (UNAVAILABLE, DEADLINE_EXCEEDED). Safe to try again."""


class ServerError(DiminuendoError):
    """The server failed or broke its contract (INTERNAL, UNKNOWN, ...). Not retried."""


class ServerVersionError(ServerError):
    """Server and client are of different versions, and the older one lacks what the other asks for (UNIMPLEMENTED, or
    INVALID_ARGUMENT with the reason UNKNOWN_FIELD). Not retried: one of them has to be updated.

    Attributes:
        client_version: Of this client, such as ``0.1.0``.
        server_version: Of the server; None where it does not say.
    """

    def __init__(
        self, message: str, *, reason: str = "", client_version: str = "", server_version: str | None = None
    ) -> None:
        """Make an error that names both versions."""
        super().__init__(message, reason=reason)
        self.client_version = client_version
        self.server_version = server_version


class UnauthenticatedError(DiminuendoError):
    """The server takes no call without a token that it knows (UNAUTHENTICATED). Raised once there is no newer token
    where this one came from: a token file, or a context. Not retried otherwise.
    """


class PermissionDeniedError(DiminuendoError):
    """The token is not for this project, or its role not for this call (PERMISSION_DENIED). Not retried."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request.

    Attributes:
        field: Path of the field, e.g. ``delta``.
        description: What is wrong with its value, and what to give instead.
    """

    field: str
    description: str


class InvalidArgumentError(DiminuendoError):
    """A request that can never succeed (INVALID_ARGUMENT). Not retried.

    Attributes:
        violations: The wrong fields; empty when the server named none.
    """

    def __init__(self, message: str, *, reason: str = "", violations: Sequence[Violation] = ()) -> None:
        """Make an error that names the wrong fields."""
        super().__init__(message, reason=reason)
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> InvalidArgumentError:
        """One wrong field, found before anything was sent."""
        return cls(f"{field}: {description}", violations=[Violation(field, description)])


class BundleError(InvalidArgumentError):
    """A folder that is no bundle, or cannot be packed as it is. Nothing was sent."""


class FleetFileError(InvalidArgumentError):
    """A fleet's file that cannot be meant as it is. Nothing was sent.

    Attributes:
        problems: Every mistake as ``FILE:LINE: field: value and remedy``, by line.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        """Make an error of every mistake of a file."""
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


class NotFoundError(DiminuendoError):
    """There is no such job, network or content (NOT_FOUND). Not retried."""


class AlreadyExistsError(DiminuendoError):
    """The job id, or the request_id with another content, is taken (ALREADY_EXISTS). Not retried."""


class FailedPreconditionError(DiminuendoError):
    """Not possible in the job's present state (FAILED_PRECONDITION). Not retried."""


class ConflictError(DiminuendoError):
    """The job has changed since its etag was read (ABORTED). Not retried: read it, and decide again."""


class WaitTimeoutError(DiminuendoError, TimeoutError):
    """`Job.wait` ran out of the time it was given. The job goes on."""


class UploadError(DiminuendoError):
    """A file could not be sent whole: it changed meanwhile, or something on the way changes it."""


class DownloadError(DiminuendoError):
    """A result could not be fetched whole. What had been fetched is kept, and the next try resumes it."""


class FolderNotEmptyError(DownloadError):
    """The folder holds something other than this result. Nothing was written."""
