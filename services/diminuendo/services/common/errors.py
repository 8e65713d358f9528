"""Every error that crosses a service's boundary, and the one function that puts it on the wire.

Each class says who raises it; `code` and `reason` are what clients see, `retried` says whether the same
request may succeed later without anybody changing anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped, unused-ignore]
from grpc_status import rpc_status  # type: ignore[import-untyped, unused-ignore]

from diminuendo.services.common.version import VERSION_KEY, own_version

DOMAIN = "diminuendo"


class DiminuendoError(Exception):
    """Root of the tree. Its text says what was wrong, the value, and what to do."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retried: ClassVar[bool] = False

    def __init__(self, message: str, **metadata: str) -> None:
        """`metadata` goes into ErrorInfo: the names and numbers that the message is about."""
        super().__init__(message)
        self.metadata: Mapping[str, str] = metadata


class StartError(DiminuendoError):
    """A process at its start: a setting, folder or port that it cannot use. Never on the wire; exit code 2."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "CANNOT_START"


@dataclass(frozen=True, slots=True)
class Violation:
    """One bad field: its path in the request, and a text with the value and the remedy."""

    field: str
    description: str


class InvalidFieldError(DiminuendoError):
    """Validation: one or more fields of a request."""

    code, reason = grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"

    def __init__(self, violations: Sequence[Violation]) -> None:
        """At least one violation."""
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)


class UnknownFieldError(InvalidFieldError):
    """Validation: a request has fields that this version does not know."""

    reason = "UNKNOWN_FIELD"


class UnknownMethodError(DiminuendoError):
    """The version interceptor: an RPC that this version does not have."""

    code, reason = grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_METHOD"


class TokenMissingError(DiminuendoError):
    """The authenticator: a call without a token, or with one that is not sent as it should be."""

    code, reason = grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING"


class TokenUnknownError(DiminuendoError):
    """The authenticator: a token that is not one of the conductor's, or no longer."""

    code, reason = grpc.StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN"


class TokenExpiredError(DiminuendoError):
    """The authenticator: a token whose time is over, perhaps since the call began."""

    code, reason = grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"


class RoleDeniedError(DiminuendoError):
    """The access rules: a token whose role is not for this RPC."""

    code, reason = grpc.StatusCode.PERMISSION_DENIED, "ROLE_DENIED"


class ProjectDeniedError(DiminuendoError):
    """The access rules: a token that is not for this project."""

    code, reason = grpc.StatusCode.PERMISSION_DENIED, "PROJECT_DENIED"


class JobNotFoundError(DiminuendoError):
    """The store: no job of that name."""

    code, reason = grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND"


class ArtifactNotFoundError(DiminuendoError):
    """The artifact service: no content under that sha256."""

    code, reason = grpc.StatusCode.NOT_FOUND, "ARTIFACT_NOT_FOUND"


class ArtifactDamagedError(DiminuendoError):
    """The artifact service: content, stored or sent, has another checksum than its own."""

    code, reason = grpc.StatusCode.DATA_LOSS, "ARTIFACT_DAMAGED"


class ChunkDamagedError(DiminuendoError):
    """The artifact service: a chunk that has another checksum than the one sent with it."""

    code, reason = grpc.StatusCode.DATA_LOSS, "CHUNK_DAMAGED"


class UploadOffsetError(DiminuendoError):
    """The artifact service: a chunk that lies past what has arrived. Send on from the offset that is named."""

    code, reason = grpc.StatusCode.ABORTED, "UPLOAD_OFFSET"


class NoSignedUrlsError(DiminuendoError):
    """The artifact service: the artifact store gives no URL for this. Send or read the content by gRPC."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "NO_SIGNED_URLS"


class JobExistsError(DiminuendoError):
    """The store: the job_id asked for is taken."""

    code, reason = grpc.StatusCode.ALREADY_EXISTS, "JOB_EXISTS"


class RequestReusedError(DiminuendoError):
    """The store: a request_id that came before with another content."""

    code, reason = grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED"


class BundleMissingError(DiminuendoError):
    """The job service: a job on a bundle that is not stored. Upload the bundle, then ask again."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "BUNDLE_MISSING"


class JobEndedError(DiminuendoError):
    """The state machine: the job has ended, so it cannot do what was asked."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "JOB_ENDED"


class JobCancellingError(DiminuendoError):
    """The state machine: the job is being cancelled, so it cannot do what was asked."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "JOB_CANCELLING"


class JobActiveError(DiminuendoError):
    """The state machine: the job has not ended, so it cannot be deleted."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "JOB_ACTIVE"


class JobNotRetriedError(DiminuendoError):
    """The state machine: the job neither failed nor was cancelled."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_RETRIED"


class FleetNotFoundError(DiminuendoError):
    """The store: no fleet of that name."""

    code, reason = grpc.StatusCode.NOT_FOUND, "FLEET_NOT_FOUND"


class FleetExistsError(DiminuendoError):
    """The store: the fleet_id asked for is taken."""

    code, reason = grpc.StatusCode.ALREADY_EXISTS, "FLEET_EXISTS"


class FleetActiveError(DiminuendoError):
    """The store: not all jobs of the fleet have ended, so it cannot be deleted."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "FLEET_ACTIVE"


class FleetFullError(DiminuendoError):
    """The fleet rules: a fleet with as many models as one may have takes no other."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "FLEET_FULL"


class ModelDiffersError(DiminuendoError):
    """The fleet rules: a model's newest job has another spec than the one asked for."""

    code, reason = grpc.StatusCode.ALREADY_EXISTS, "MODEL_DIFFERS"


class ModelNotFoundError(DiminuendoError):
    """The fleet rules: the fleet has no job of that model."""

    code, reason = grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"


class EtagMismatchError(DiminuendoError):
    """The store: the job has changed since the caller looked."""

    code, reason = grpc.StatusCode.ABORTED, "ETAG_MISMATCH"


class StaleEpochError(DiminuendoError):
    """The lease rules: the writer no longer holds the job. It must stop working on it."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "STALE_EPOCH"


class StepOutOfOrderError(DiminuendoError):
    """The lease rules: a step that is neither the next one nor the last one again."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "STEP_OUT_OF_ORDER"


class CancelNotRequestedError(DiminuendoError):
    """The lease rules: a job released as cancelled that nobody asked to cancel."""

    code, reason = grpc.StatusCode.FAILED_PRECONDITION, "CANCEL_NOT_REQUESTED"


class StoreUnavailableError(DiminuendoError):
    """The store: the database cannot be read or written now. Nothing was half-written."""

    code, reason, retried = grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", True


class StoppingError(DiminuendoError):
    """A server that is told to stop: connect again, to its successor."""

    code, reason, retried = grpc.StatusCode.UNAVAILABLE, "STOPPING", True


class InternalError(DiminuendoError):
    """The RPC interceptor: an exception that nobody expected. Its id finds it in the log."""


def to_proto(error: DiminuendoError) -> status_pb2.Status:
    """The error as google.rpc.Status with ErrorInfo, and with BadRequest for bad fields."""
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest] = [
        error_details_pb2.ErrorInfo(domain=DOMAIN, reason=error.reason, metadata=error.metadata)
    ]
    if isinstance(error, InvalidFieldError):
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    status = status_pb2.Status(code=error.code.value[0], message=str(error))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def to_status(error: DiminuendoError) -> grpc.Status:
    """What `context.abort_with_status` takes; it says this program's version as well."""
    status = rpc_status.to_status(to_proto(error))
    said = (*status.trailing_metadata, (VERSION_KEY, own_version()))
    return cast("grpc.Status", status._replace(trailing_metadata=said))
