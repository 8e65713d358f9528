"""Between the engine's records and the protos."""

from __future__ import annotations

from datetime import UTC, datetime

from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import job_pb2

from diminuendo.engine.cost import ratio
from diminuendo.engine.search.check import RequestError, check
from diminuendo.engine.search.drive import Done
from diminuendo.engine.search.result import Figures
from diminuendo.engine.search.session import Best, Finished, Request, StageName, Step
from diminuendo.engine.search.work import Evaluate, Evaluated, Failed, Prepared
from diminuendo.engine.store import SharedStore
from diminuendo.services.common import spec as common
from diminuendo.services.coordinator.attempts import AttemptLost
from diminuendo.services.coordinator.line import Claim

_STAGES: dict[StageName, job_pb2.Stage.ValueType] = {
    "prepare": job_pb2.STAGE_PREPARE,
    "survey": job_pb2.STAGE_SURVEY,
    "explore": job_pb2.STAGE_EXPLORE,
    "anneal": job_pb2.STAGE_ANNEAL,
    "certify": job_pb2.STAGE_CERTIFY,
    "done": job_pb2.STAGE_DONE,
}
_MIB = 1024 * 1024
_MAX_DETAIL = 2000
_MAX_TEXT = 64 * 1024


class UnknownSpecError(ValueError):
    """Raised for a job that a newer conductor accepted and this coordinator does not understand."""


def deadline_of(message: job_pb2.Job | v1.HeartbeatResponse) -> datetime | None:
    """The deadline that a message tells of."""
    return message.deadline.ToDatetime(tzinfo=UTC) if message.HasField("deadline") else None


def to_claim(given: v1.Lease) -> Claim:
    """What a leased job may have of the evaluators."""
    job = given.job
    return Claim(
        job=f"{job.name}#{given.epoch}",  # one of an earlier epoch may still be on its way out; see `job_of`
        project=job.name.split("/")[1],
        weight=given.weight or 1.0,
        priority=job.priority,
        most=job.spec.parallel if job.spec.HasField("parallel") else None,
    )


def job_of(claim: str) -> str:
    """Name of the job that a claim is of."""
    return claim.partition("#")[0]


def to_request(spec: job_pb2.JobSpec) -> Request:
    """What is asked of the session; UnknownSpecError when this version does not know it."""
    unknown = common.unknown_fields(spec)
    if unknown:
        raise UnknownSpecError(f"spec: fields {unknown} are not known to this coordinator; update it")
    if spec.WhichOneof("source") not in ("zoo", "bundle"):
        raise UnknownSpecError(f"spec.source={spec.WhichOneof('source')!r} is not known to this coordinator; update it")
    if spec.effort not in common.EFFORTS or spec.accept not in common.ACCEPTS:
        raise UnknownSpecError(
            f"spec.effort={spec.effort}, spec.accept={spec.accept}: not known to this coordinator; update it"
        )
    request = common.to_request(spec)
    try:
        check(request)
    except RequestError as error:
        raise UnknownSpecError(f"spec.{error}; this coordinator knows no other, update it") from error
    return request


def to_step(step: Step) -> job_pb2.StepCommitted:
    """A step for the event log."""
    progress = job_pb2.JobProgress(
        stage=_STAGES[step.stage],
        steps=step.index + 1,
        works_done=step.works_done,
        works_expected=step.works_expected,
        best=_candidate(step.best) if step.best else None,
        seconds_done=step.seconds_done,
        seconds_expected=step.seconds_expected,
    )
    return job_pb2.StepCommitted(step=step.index, progress=progress, summary=step.summary)


def to_attempt(lost: AttemptLost) -> job_pb2.AttemptLost:
    """An attempt that came to nothing, for the event log."""
    return job_pb2.AttemptLost(
        index=lost.index,
        subject=lost.subject,
        evaluator=lost.evaluator,
        attempt=lost.attempt,
        cause=lost.cause,
        detail=lost.detail[:_MAX_DETAIL],
    )


def to_evaluation(done: Done, prepared: Prepared | None) -> job_pb2.EvaluationFinished:
    """A work that came back, for the event log.

    Args:
        prepared: What is known of the original; without it a candidate's figures cannot be told.
    """
    question, tuned = done.work.question, isinstance(done.answer, Evaluated)
    epochs = question.epochs if isinstance(question, Evaluate) and tuned and not done.remembered else 0
    samples = done.answer.samples if isinstance(done.answer, Evaluated) and not done.remembered else 0
    return job_pb2.EvaluationFinished(
        index=done.work.index,
        key=done.work.key,
        kind=question.kind,
        subject=done.work.subject,
        seconds=done.seconds,
        evaluator=done.evaluator,
        remembered=done.remembered,
        epochs=epochs,
        samples=samples,
        candidate=_figures(done.answer, prepared) if isinstance(done.answer, Evaluated) and prepared else None,
    )


def _figures(evaluated: Evaluated, prepared: Prepared) -> job_pb2.Candidate | None:
    if evaluated.score is None:
        return None
    loss = prepared.baseline - evaluated.score
    return job_pb2.Candidate(
        params_ratio=ratio(prepared.total.params, evaluated.cost.params),
        macs_ratio=ratio(prepared.total.macs, evaluated.cost.macs),
        drop=loss if prepared.higher_is_better else -loss,
    )


def _candidate(best: Best) -> job_pb2.Candidate:
    return job_pb2.Candidate(params_ratio=best.params_ratio, macs_ratio=best.macs_ratio, drop=best.drop)


def to_warning(reason: str, message: str) -> job_pb2.Warning:
    """Something that the job's owner should know."""
    return job_pb2.Warning(reason=reason, message=message)


def to_failure(failed: Failed) -> job_pb2.JobFailure:
    """Why a job failed."""
    return failure(failed.reason, failed.message, failed.traceback)


def failure(reason: str, message: str, trace: str = "") -> job_pb2.JobFailure:
    """A failure of bounded size; of a long traceback the end is kept, which says what was raised."""
    return job_pb2.JobFailure(reason=reason, message=message[:_MAX_TEXT], traceback=trace[-_MAX_TEXT:])


def to_result(finished: Finished, store: SharedStore) -> job_pb2.JobResult:
    """A job's result; its files are put into the store."""
    files = []
    for file in finished.files:
        sha256 = file.sha256 if file.content is None else store.put(file.content)
        if sha256 is None:
            raise ValueError(f"result file {file.name} has neither content nor sha256")
        files.append(job_pb2.ResultFile(name=file.name, sha256=sha256, size_bytes=store.size(sha256)))
    return job_pb2.JobResult(
        inside_delta=finished.inside_delta,
        drop=finished.drop,
        params_ratio=finished.params_ratio,
        macs_ratio=finished.macs_ratio,
        files=files,
        objective_ratio=finished.objective_ratio,
        metric=finished.metric,
        original=_network(finished.original),
        compressed=_network(finished.compressed),
        drop_low=finished.drop_ci[0],
        drop_high=finished.drop_ci[1],
    )


def _network(figures: Figures) -> job_pb2.Figures:
    """What a network scores and costs."""
    profile = figures.profile
    return job_pb2.Figures(
        score=figures.score,
        params=profile.params,
        macs=profile.macs,
        size_bytes=round(profile.size_mb * _MIB),
        memory_bytes=round(profile.memory_mb * _MIB),
        time_ms=profile.time_ms,
    )
