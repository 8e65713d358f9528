"""Turns diminuendo.v1 messages into the client's types, and requests into messages."""

from __future__ import annotations

from datetime import UTC, datetime

from diminuendo.v1 import job_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from diminuendo.client import types

_NUMBERS: dict[types.JobState, pb.JobState.ValueType] = {
    state: pb.JobState.Value(f"JOB_STATE_{state.value}")
    for state in types.JobState
    if state is not types.JobState.UNKNOWN
}
_STATES = {number: state for state, number in _NUMBERS.items()}
_STAGES = {getattr(pb, f"STAGE_{stage.name}"): stage for stage in types.Stage if stage is not types.Stage.NONE}
_EFFORTS = {pb.EFFORT_QUICK: "quick", pb.EFFORT_DEEP: "deep"}
_ACCEPTS = {pb.ACCEPT_STRICT: "strict"}


def state_number(state: types.JobState) -> pb.JobState.ValueType:
    """The wire's number of a state; ValueError for UNKNOWN."""
    if state not in _NUMBERS:
        raise ValueError(f"{state.value} is not a state that jobs can be listed by")
    return _NUMBERS[state]


def job_spec(source: str, *, delta: float, effort: str, accept: str, seed: int) -> pb.JobSpec:
    """What is asked of a job, checked field by field.

    Raises:
        InvalidArgumentError: A field is wrong; the message names it, its value and the remedy.
    """
    return pb.JobSpec(
        zoo=types.zoo_name(source),
        delta=types.check_delta(delta),
        seed=types.check_seed(seed),
        effort=pb.Effort.Value(f"EFFORT_{types.check_choice('effort', effort, types.Effort).upper()}"),
        accept=pb.Accept.Value(f"ACCEPT_{types.check_choice('accept', accept, types.Accept).upper()}"),
    )


def job_info(job: pb.Job) -> types.JobInfo:
    """The job as a dataclass."""
    spec = job.spec
    return types.JobInfo(
        name=job.name,
        source=f"zoo:{spec.zoo}" if spec.WhichOneof("source") == "zoo" else "",
        delta=spec.delta,
        effort=_EFFORTS.get(spec.effort, "normal"),
        accept=_ACCEPTS.get(spec.accept, "estimate"),
        seed=spec.seed,
        state=_STATES.get(job.state, types.JobState.UNKNOWN),
        progress=_progress(job.progress) if job.HasField("progress") else None,
        result=_result(job.result) if job.HasField("result") else None,
        failure=_failure(job.failure) if job.HasField("failure") else None,
        labels=dict(job.labels),
        create_time=_time(job.create_time) if job.HasField("create_time") else None,
        start_time=_time(job.start_time) if job.HasField("start_time") else None,
        end_time=_time(job.end_time) if job.HasField("end_time") else None,
        update_time=_time(job.update_time) if job.HasField("update_time") else None,
        etag=job.etag,
        last_sequence=job.last_sequence,
        epoch=job.epoch,
    )


def event(message: pb.JobEvent) -> types.Event:
    """The event as a dataclass; a plain `Event` when its kind is unknown."""
    sequence, time = message.sequence, _time(message.time)
    match message.WhichOneof("kind"):
        case "state_changed":
            changed = message.state_changed
            state = _STATES.get(changed.state, types.JobState.UNKNOWN)
            return types.StateChanged(sequence, time, state, changed.reason)
        case "step_committed":
            step = message.step_committed
            return types.StepCommitted(sequence, time, step.step, _progress(step.progress), step.summary)
        case "evaluation_finished":
            return _evaluation(sequence, time, message.evaluation_finished)
        case "warning":
            return types.WarningRaised(sequence, time, message.warning.reason, message.warning.message)
        case "leased":
            return types.Leased(sequence, time, message.leased.coordinator, message.leased.epoch)
        case _:
            return types.Event(sequence, time)


def _evaluation(sequence: int, time: datetime, done: pb.EvaluationFinished) -> types.EvaluationFinished:
    return types.EvaluationFinished(
        sequence,
        time,
        index=done.index,
        key=done.key,
        kind=done.kind,
        subject=done.subject,
        seconds=done.seconds,
        evaluator=done.evaluator,
        remembered=done.remembered,
        epochs=done.epochs,
        candidate=_candidate(done.candidate) if done.HasField("candidate") else None,
    )


def _progress(message: pb.JobProgress) -> types.Progress:
    return types.Progress(
        stage=_STAGES.get(message.stage, types.Stage.NONE),
        steps=message.steps,
        works_done=message.works_done,
        works_expected=message.works_expected,
        best=_candidate(message.best) if message.HasField("best") else None,
    )


def _candidate(message: pb.Candidate) -> types.Candidate:
    return types.Candidate(message.params_ratio, message.macs_ratio, message.drop)


def _result(message: pb.JobResult) -> types.Result:
    return types.Result(
        inside_delta=message.inside_delta,
        drop=message.drop,
        params_ratio=message.params_ratio,
        macs_ratio=message.macs_ratio,
        files=tuple(types.ResultFile(file.name, file.sha256, file.size_bytes) for file in message.files),
    )


def _failure(message: pb.JobFailure) -> types.Failure:
    return types.Failure(message.reason, message.message, message.traceback)


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
