"""What coordinators may write: every field that is wrong, with its value and the remedy, in one answer."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from diminuendo.v1 import coordinator_service_pb2, job_pb2

from diminuendo.services.common.names import COMPONENT
from diminuendo.services.conductor.records import CommittedStep, Outcome, Report
from diminuendo.services.conductor.validate import Problems, job_name, request_id

MAX_WAIT_S = 30
MAX_KEYS = 1000
MAX_HOLDING = 1000
MAX_REASON = 1000
MAX_DETAIL = 2000
CAUSES = ("OUT_OF_MEMORY", "GPU_OUT_OF_MEMORY", "EVALUATOR_LOST", "TIMEOUT")
MIB = 1024 * 1024
MAX_OUTCOME = MIB
MAX_STATE = 3 * MIB
MAX_ANSWER = 3 * MIB
KINDS = ("prepare", "survey", "evaluate", "judge", "export")
MAX_ARTIFACTS = 1000
SHA256 = re.compile(r"[0-9a-f]{64}")
_LIKE_SHA256 = re.compile(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True, slots=True)
class Asking:
    """A coordinator that asks for a job."""

    coordinator: str
    request_id: str
    wait_us: int
    evaluators: int
    holding: tuple[str, ...]
    project: str


def lease_job(request: coordinator_service_pb2.LeaseJobRequest) -> Asking:
    """Who asks, and for how long."""
    problems = Problems()
    if not 1 <= len(request.coordinator) <= 255:
        problems.add("coordinator", f"{request.coordinator!r} is no name; give 1 to 255 characters")
    request_id(problems, request.request_id)
    wait_us = request.wait.ToMicroseconds()
    if not 0 <= wait_us <= MAX_WAIT_S * 1_000_000:
        problems.add("wait", f"{wait_us / 1e6:g} s is no waiting time; give 0 to {MAX_WAIT_S} s")
    if request.evaluators < 0:
        problems.add("evaluators", f"{request.evaluators} is negative; give the number of evaluators")
    if len(request.holding) > MAX_HOLDING:
        problems.add("holding", f"{len(request.holding)} jobs are too many; work on at most {MAX_HOLDING} at a time")
    if request.project and not COMPONENT.fullmatch(request.project):
        problems.add("project", f"{request.project!r} is no project; give 1 to 63 of [a-z0-9-], or nothing")
    problems.check()
    asked = (request.coordinator, request.request_id, wait_us, request.evaluators)
    return Asking(*asked, tuple(request.holding), request.project)


def writer(name: str, epoch: int) -> None:
    """Name and epoch of whoever writes."""
    problems = Problems()
    _writer(problems, name, epoch)
    problems.check()


def keys(request: coordinator_service_pb2.BatchGetEvaluationsRequest) -> tuple[str, ...]:
    """The keys asked for."""
    problems = Problems()
    if len(request.keys) > MAX_KEYS:
        problems.add("keys", f"{len(request.keys)} keys are too many; ask for at most {MAX_KEYS} at a time")
    problems.check()
    return tuple(dict.fromkeys(request.keys))


def report(request: coordinator_service_pb2.ReportEvaluationRequest) -> Report:
    """The evaluation that came back."""
    problems = Problems()
    _writer(problems, request.job_name, request.epoch)
    evaluation = request.evaluation
    _key(problems, evaluation.key)
    if evaluation.kind not in KINDS:
        problems.add("evaluation.kind", f"{evaluation.kind!r} is no kind of work; give one of {', '.join(KINDS)}")
    if evaluation.index < 0:
        problems.add("evaluation.index", f"{evaluation.index} is negative; works count from 0")
    if not (math.isfinite(evaluation.seconds) and evaluation.seconds >= 0):
        problems.add("evaluation.seconds", f"{evaluation.seconds} is no duration; give seconds from 0 up")
    _size(problems, "outcome", request.outcome, MAX_OUTCOME)
    _artifacts(problems, request.artifacts)
    problems.check()
    return Report(evaluation, request.outcome, frozenset(request.artifacts) | _named_in(request.outcome))


def attempt(request: coordinator_service_pb2.ReportAttemptRequest) -> job_pb2.AttemptLost:
    """The attempt that came to nothing."""
    problems, given = Problems(), request.attempt
    _writer(problems, request.job_name, request.epoch)
    if given.index < 0:
        problems.add("attempt.index", f"{given.index} is negative; works count from 0")
    if given.attempt < 1:
        problems.add("attempt.attempt", f"{given.attempt} is no attempt; they count from 1")
    if given.cause not in CAUSES:
        problems.add("attempt.cause", f"{given.cause!r} is no cause; give one of {', '.join(CAUSES)}")
    if len(given.detail) > MAX_DETAIL:
        problems.add("attempt.detail", f"{len(given.detail)} characters are too many; give at most {MAX_DETAIL}")
    problems.check()
    return given


def step(request: coordinator_service_pb2.CommitStepRequest) -> CommittedStep:
    """The step to be stored."""
    problems = Problems()
    _writer(problems, request.job_name, request.epoch)
    if not request.HasField("step"):
        problems.add("step", "is missing; give the step that was taken")
    if request.step.step < 0:
        problems.add("step.step", f"{request.step.step} is negative; steps count from 0")
    _size(problems, "session_state", request.session_state, MAX_STATE)
    problems.check()
    return CommittedStep(request.step, request.session_state, tuple(request.warnings))


def release(request: coordinator_service_pb2.ReleaseJobRequest) -> Outcome | None:
    """How the job ends; None when it does not."""
    problems = Problems()
    _writer(problems, request.job_name, request.epoch)
    kind = request.WhichOneof("outcome")
    if kind == "result":
        _result(problems, request.result)
    if kind == "failure" and not request.failure.reason:
        problems.add("failure.reason", "'' is no reason; give one in UPPER_SNAKE_CASE, e.g. INTERNAL")
    if len(request.reason) > MAX_REASON:
        problems.add("reason", f"{len(request.reason)} characters are too many; give at most {MAX_REASON}")
    problems.check()
    outcomes: dict[str | None, Outcome] = {
        "result": request.result,
        "failure": request.failure,
        "cancelled": request.cancelled,
    }
    return outcomes.get(kind)


def answer_size(outcomes: dict[str, bytes]) -> None:
    """Refuse an answer that no message holds, instead of failing to send it."""
    total = sum(map(len, outcomes.values()))
    if total > MAX_ANSWER:
        problems = Problems()
        problems.add(
            "keys",
            f"the outcomes of these {len(outcomes)} keys are {total} bytes; ask for fewer keys at a time, so that "
            f"they are at most {MAX_ANSWER}",
        )
        problems.check()


def _artifacts(problems: Problems, sha256s: Collection[str]) -> None:
    if len(sha256s) > MAX_ARTIFACTS:
        problems.add("artifacts", f"{len(sha256s)} are too many; name at most {MAX_ARTIFACTS}")
    for sha256 in sha256s:
        sha256_of(problems, "artifacts", sha256)


def sha256_of(problems: Problems, field: str, sha256: str) -> None:
    """Whether a field may be a sha256."""
    if not SHA256.fullmatch(sha256):
        problems.add(field, f"{sha256!r} is no sha256; give 64 lower-case hex digits")


def _named_in(outcome: bytes) -> frozenset[str]:
    """What may be content that an outcome names: a coordinator of an older version does not say."""
    return frozenset(found.decode() for found in _LIKE_SHA256.findall(outcome))


def _writer(problems: Problems, name: str, epoch: int) -> None:
    job_name(problems, "job_name", name)
    if epoch < 1:
        problems.add("epoch", f"{epoch} is no epoch; give the one of the lease")


def _key(problems: Problems, key: str) -> None:
    if not 1 <= len(key) <= 64:
        problems.add("evaluation.key", f"{key!r} is no key; give the sha256 of what the outcome depends on")


def _size(problems: Problems, field: str, content: bytes, limit: int) -> None:
    if len(content) > limit:
        problems.add(field, f"{len(content)} bytes are too many; give at most {limit}")


def _result(problems: Problems, result: job_pb2.JobResult) -> None:
    """A result must be complete: clients write these names into a folder of theirs."""
    if not result.files:
        problems.add("result.files", "no file is named; store the result's files and name them")
    names = [file.name for file in result.files]
    for file in result.files:
        if not file.name or file.name in (".", "..") or "/" in file.name or "\\" in file.name or "\0" in file.name:
            problems.add("result.files.name", f"{file.name!r} is no plain file name; give one without a folder")
        if names.count(file.name) > 1:
            problems.add("result.files.name", f"{file.name!r} is named twice; name each file once")
        sha256_of(problems, "result.files.sha256", file.sha256)
        if file.size_bytes < 0:
            problems.add("result.files.size_bytes", f"{file.size_bytes} is negative; give the file's size")
