"""A coordinator inside a remote Ray cluster, submitted and followed through Ray's Jobs REST API.

A Ray driver has to run on a node of its cluster. So this process is none: it has the cluster run a coordinator that
attaches to it, follows that, and stops it when it is told to stop itself. With RAY_AUTH_MODE=token Ray's own client
sends the token of RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
"""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TypeVar

from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError
from diminuendo.services.common.rayjobs import DRAIN_S, LABEL
from diminuendo.services.coordinator.settings import CoordinatorSettings
from diminuendo.services.coordinator.stopping import Stop

log = logs.get(__name__)
T = TypeVar("T")

_REFUSALS = (ConnectionError, RuntimeError, RayError)
"""What Ray's client raises when the cluster is away, or does not do what it is asked."""

_LOOK_S = 1.0
_FIRST_DELAY_S, _LAST_DELAY_S = 1.0, 30.0
_PATIENCE_S = 60.0
_ENDED_S = DRAIN_S + 10.0
_TAIL = 4000


def follow(settings: CoordinatorSettings, stop: Stop) -> int:
    """Have a remote cluster run the coordinator until it ends or we are told to stop.

    One of the same name that runs there already is taken over: this process may have been started again.

    Returns:
        The exit code: 0 when it was stopped, 1 when it ended by itself or was lost.

    Raises:
        StartError: The cluster cannot be reached, or refuses us.
    """
    address = settings.ray_address or ""
    if settings.token.get_secret_value():
        raise StartError(
            "DIMINUENDO_COORDINATOR_TOKEN would be shown by the cluster's dashboard; give --token-file with a file that"
            " the cluster's head has"
        )
    client = _connect(address)
    ray_job = _started(client, settings, stop)
    if ray_job is None:
        return 0
    log.info("remote_submitted", address=address, ray_job=ray_job)
    status = _until_ended(client, ray_job, stop)
    if status is None:
        return _stop(client, ray_job)
    log.error("remote_ended", ray_job=ray_job, status=str(status.value), said=_last_words(client, ray_job))
    return 0 if status is JobStatus.STOPPED else 1


def _connect(address: str) -> JobSubmissionClient:
    try:
        return JobSubmissionClient(address)
    except (*_REFUSALS, ValueError) as error:
        raise StartError(
            f"ray-address={address!r}: no Jobs REST API there ({_line(error)}); give the URL of the cluster's "
            "dashboard, and where it wants a token set RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        ) from error


def _started(client: JobSubmissionClient, settings: CoordinatorSettings, stop: Stop) -> str | None:
    """The Ray job, which a cluster that has only just started may not take at once; None when we are told to stop."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return _running(client, settings.name) or _submit(client, settings)
        except _REFUSALS as error:
            if time.monotonic() > until:
                raise StartError(
                    f"ray-address={settings.ray_address!r}: the cluster has not taken the job in {_PATIENCE_S:g} s "
                    f"({_line(error)})"
                ) from error
            log.warning("job_not_taken", reason=_line(error))
        if stop.event.wait(_LOOK_S):
            return None


def _running(client: JobSubmissionClient, name: str) -> str | None:
    """The Ray job that is the coordinator of that name, if one has not ended."""
    for job in client.list_jobs():
        if (job.metadata or {}).get(LABEL) == name and not job.status.is_terminal() and job.submission_id:
            return str(job.submission_id)
    return None


def _submit(client: JobSubmissionClient, settings: CoordinatorSettings) -> str:
    return str(
        client.submit_job(
            entrypoint=shlex.join(["python", "-m", "diminuendo.services.coordinator", *options(settings)]),
            submission_id=f"{LABEL}-{uuid.uuid4().hex[:12]}",
            metadata={LABEL: settings.name},
            runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_S)}},
            entrypoint_num_cpus=0,
        )
    )


def options(settings: CoordinatorSettings) -> Iterator[str]:
    """The flags of the coordinator inside the cluster: this one's, but for where Ray is. Files are those over there."""
    yield from ("--ray-address", "auto", "--conductor", settings.conductor, "--artifacts", settings.artifacts)
    yield from ("--name", settings.name, "--jobs", str(settings.jobs), "--log-level", settings.log_level)
    yield from ("--work-timeout-s", str(settings.work_timeout_s))
    if settings.traces:
        yield from ("--traces", settings.traces)
    for name in ("token_file", "ca_file", "cert_file", "key_file"):
        if (path := getattr(settings, name)) is not None:
            yield from (f"--{name.replace('_', '-')}", str(path))
    for name in ("tls", "allow_insecure_token"):
        if getattr(settings, name):
            yield f"--{name.replace('_', '-')}"
    if settings.project:
        yield from ("--project", settings.project)
    if settings.evaluators is not None:
        yield from ("--evaluators", str(settings.evaluators))
    for name in ("evaluator_memory_gb", "evaluator_gpus", "idle_s"):
        if (number := getattr(settings, name)) is not None:
            yield from (f"--{name.replace('_', '-')}", str(number))


def _until_ended(client: JobSubmissionClient, ray_job: str, stop: Stop) -> JobStatus | None:
    """How it ended; None when we are told to stop."""
    delay = _FIRST_DELAY_S
    while not stop.event.wait(_LOOK_S):
        try:
            status = client.get_job_status(ray_job)
        except _REFUSALS as error:
            log.warning("cluster_not_answering", reason=_line(error), again_in_s=delay)
            stop.event.wait(delay)
            delay = min(2 * delay, _LAST_DELAY_S)
            continue
        delay = _FIRST_DELAY_S
        if status.is_terminal():
            return status
    return None


def _stop(client: JobSubmissionClient, ray_job: str) -> int:
    """Stop it, and see that it has ended."""
    until = time.monotonic() + _ENDED_S
    if _tried(lambda: client.stop_job(ray_job)) is None:
        return 1
    while time.monotonic() < until:
        status = _tried(lambda: client.get_job_status(ray_job))
        if status is not None and status.is_terminal():
            log.info("remote_stopped", ray_job=ray_job, status=str(status.value))
            return 0
        time.sleep(_LOOK_S / 4)
    log.error("coordinator_not_stopped", ray_job=ray_job, after_s=_ENDED_S)
    return 1


def _tried(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except _REFUSALS as error:
        log.warning("cluster_not_answering", reason=_line(error))
        return None


def _last_words(client: JobSubmissionClient, ray_job: str) -> str:
    return (_tried(lambda: str(client.get_job_logs(ray_job))) or "")[-_TAIL:]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]
