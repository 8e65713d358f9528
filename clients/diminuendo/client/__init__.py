"""The Python SDK: submit jobs to a Diminuendo server, follow them, fetch their results.

    from diminuendo.client import Client

    with Client("127.0.0.1:50300") as client:
        job = client.submit("zoo:digits", delta=1.0)
        info = job.wait()
        print(info.result.params_ratio, job.download("results/digits"))

`AsyncClient` does the same on asyncio.

Names are imported when first used, so that `diminuendo --help` needs no gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diminuendo.client.aio.client import AsyncClient
    from diminuendo.client.aio.fleet import AsyncFleet
    from diminuendo.client.aio.job import AsyncJob
    from diminuendo.client.client import Client
    from diminuendo.client.cluster import Cluster, ClusterNode, Coordinator, Evaluator, EvaluatorState
    from diminuendo.client.config import ClientConfig, RetryPolicy
    from diminuendo.client.errors import (
        AlreadyExistsError,
        BundleError,
        ConflictError,
        DiminuendoError,
        DownloadError,
        FailedPreconditionError,
        FleetFileError,
        FolderNotEmptyError,
        InvalidArgumentError,
        NotFoundError,
        PermissionDeniedError,
        ServerError,
        ServerUnavailableError,
        ServerVersionError,
        UnauthenticatedError,
        UploadError,
        Violation,
        WaitTimeoutError,
    )
    from diminuendo.client.fleet.file import FleetFile
    from diminuendo.client.fleet.fleet import Fleet
    from diminuendo.client.fleet.models import (
        FleetInfo,
        FleetModel,
        FleetUpdate,
        ModelDownload,
        ModelRefusal,
        ModelStatus,
    )
    from diminuendo.client.fleet.results import (
        FleetReport,
        ModelRow,
        Totals,
    )
    from diminuendo.client.job import Job
    from diminuendo.client.notebook import JobList
    from diminuendo.client.types import (
        Artifact,
        AttemptLost,
        Bundle,
        Candidate,
        EvaluationFinished,
        Event,
        Failure,
        Figures,
        Garbage,
        JobInfo,
        JobState,
        Leased,
        Progress,
        Result,
        ResultFile,
        Stage,
        StateChanged,
        StepCommitted,
        Updated,
        WarningRaised,
    )

_HOMES = {
    "aio.client": ("AsyncClient",),
    "aio.fleet": ("AsyncFleet",),
    "aio.job": ("AsyncJob",),
    "client": ("Client",),
    "cluster": ("Cluster", "ClusterNode", "Coordinator", "Evaluator", "EvaluatorState"),
    "config": ("ClientConfig", "RetryPolicy"),
    "errors": (
        "AlreadyExistsError",
        "BundleError",
        "ConflictError",
        "DiminuendoError",
        "DownloadError",
        "FailedPreconditionError",
        "FleetFileError",
        "FolderNotEmptyError",
        "InvalidArgumentError",
        "NotFoundError",
        "PermissionDeniedError",
        "ServerError",
        "ServerUnavailableError",
        "ServerVersionError",
        "UnauthenticatedError",
        "UploadError",
        "Violation",
        "WaitTimeoutError",
    ),
    "fleet.file": ("FleetFile",),
    "fleet.fleet": ("Fleet",),
    "fleet.models": (
        "FleetInfo",
        "FleetModel",
        "FleetUpdate",
        "ModelDownload",
        "ModelRefusal",
        "ModelStatus",
    ),
    "fleet.results": (
        "FleetReport",
        "ModelRow",
        "Totals",
    ),
    "job": ("Job",),
    "notebook": ("JobList",),
    "types": (
        "Artifact",
        "AttemptLost",
        "Bundle",
        "Candidate",
        "EvaluationFinished",
        "Event",
        "Failure",
        "Figures",
        "Garbage",
        "JobInfo",
        "JobState",
        "Leased",
        "Progress",
        "Result",
        "ResultFile",
        "Stage",
        "StateChanged",
        "StepCommitted",
        "Updated",
        "WarningRaised",
    ),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyExistsError",
    "Artifact",
    "AsyncClient",
    "AsyncFleet",
    "AsyncJob",
    "AttemptLost",
    "Bundle",
    "BundleError",
    "Candidate",
    "Client",
    "ClientConfig",
    "Cluster",
    "ClusterNode",
    "ConflictError",
    "Coordinator",
    "DiminuendoError",
    "DownloadError",
    "EvaluationFinished",
    "Evaluator",
    "EvaluatorState",
    "Event",
    "FailedPreconditionError",
    "Failure",
    "Figures",
    "Fleet",
    "FleetFile",
    "FleetFileError",
    "FleetInfo",
    "FleetModel",
    "FleetReport",
    "FleetUpdate",
    "FolderNotEmptyError",
    "Garbage",
    "InvalidArgumentError",
    "Job",
    "JobInfo",
    "JobList",
    "JobState",
    "Leased",
    "ModelDownload",
    "ModelRefusal",
    "ModelRow",
    "ModelStatus",
    "NotFoundError",
    "PermissionDeniedError",
    "Progress",
    "Result",
    "ResultFile",
    "RetryPolicy",
    "ServerError",
    "ServerUnavailableError",
    "ServerVersionError",
    "Stage",
    "StateChanged",
    "StepCommitted",
    "Totals",
    "UnauthenticatedError",
    "Updated",
    "UploadError",
    "Violation",
    "WaitTimeoutError",
    "WarningRaised",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)
