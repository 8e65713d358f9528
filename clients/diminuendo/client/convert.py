"""Turns diminuendo.v1 messages into the client's types, and requests into messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime

from diminuendo.v1 import job_pb2 as pb
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from diminuendo.client import types
from diminuendo.client.errors import InvalidArgumentError

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


def state(number: pb.JobState.ValueType) -> types.JobState:
    """The state of the wire's number; UNKNOWN for one of a newer server."""
    return _STATES.get(number, types.JobState.UNKNOWN)


def job_spec(
    source: str,
    *,
    project: str = "default",
    exports: Sequence[str] = (),
    delta: float | None = None,
    target: Mapping[str, float] | None = None,
    effort: str = "normal",
    accept: str = "estimate",
    seed: int = 0,
    formats: Sequence[str] = (),
    objective: str | None = None,
    limits: Mapping[str, float] | None = None,
    freeze: Sequence[str] = (),
    max_ratio: Mapping[str, float] | None = None,
    multiple: int = 1,
    stage: int = 2,
    budget: Mapping[str, float] | None = None,
    parallel: int | None = None,
) -> pb.JobSpec:
    """What is asked of a job. What the server knows better, such as the names of figures, it checks itself.

    Raises:
        InvalidArgumentError: A field is wrong; the message names it, its value and the remedy.
    """
    if delta is None and not target:
        delta = types.DEFAULT_DELTA
    wanted = [pb.Limit(figure=name, most=most) for name, most in _numbers("target", target)]
    if len(wanted) > 1:
        names = ", ".join(limit.figure for limit in wanted)
        raise InvalidArgumentError.of("target", f"{names} are {len(wanted)} figures; give one, the others as limits")
    bundle = types.bundle_sha256(source)
    spec = pb.JobSpec(
        exports=types.check_names("exports", exports),
        delta=None if delta is None else types.check_delta(delta),
        seed=types.check_seed(seed),
        effort=pb.Effort.Value(f"EFFORT_{types.check_choice('effort', effort, types.Effort).upper()}"),
        accept=pb.Accept.Value(f"ACCEPT_{types.check_choice('accept', accept, types.Accept).upper()}"),
        target=wanted[0] if wanted else None,
        objective=objective or "",
        limits=[pb.Limit(figure=name, most=most) for name, most in _numbers("limits", limits)],
        formats=types.check_names("formats", formats),
        freeze=types.check_names("freeze", freeze),
        max_ratio=[pb.MaxRatio(pattern=name, most=most) for name, most in _numbers("max_ratio", max_ratio)],
        multiple=types.check_whole("multiple", multiple),
        stage=types.check_whole("stage", stage),
        budget=_budget(budget) if budget else None,
        parallel=None if parallel is None else types.check_whole("parallel", parallel),
    )
    if bundle is None:
        spec.zoo = types.zoo_name(source)
    else:
        spec.bundle = f"projects/{project}/bundles/{bundle}"
    return spec


def _numbers(field: str, values: Mapping[str, float] | None) -> list[tuple[str, float]]:
    """Names with their numbers; InvalidArgumentError where one is none."""
    return [(name, types.check_number(field, name, value)) for name, value in (values or {}).items()]


def _budget(values: Mapping[str, float]) -> pb.Budget:
    known, budget = pb.Budget.DESCRIPTOR.fields_by_name, pb.Budget()
    for name, most in _numbers("budget", values):
        if name not in known:
            raise InvalidArgumentError.of("budget", f"{name!r} is unknown; choose one of {', '.join(known)}")
        whole = known[name].cpp_type == known[name].CPPTYPE_INT64
        setattr(budget, name, types.check_whole(f"budget: {name}", most) if whole else most)
    return budget


def job_info(job: pb.Job) -> types.JobInfo:
    """The job as a dataclass."""
    spec = job.spec
    return types.JobInfo(
        name=job.name,
        source=_source(spec),
        delta=None if spec.HasField("target") else spec.delta,
        effort=_EFFORTS.get(spec.effort, "normal"),
        accept=_ACCEPTS.get(spec.accept, "estimate"),
        seed=spec.seed,
        state=state(job.state),
        progress=_progress(job.progress) if job.HasField("progress") else None,
        result=_result(job.result) if job.HasField("result") else None,
        failure=_failure(job.failure) if job.HasField("failure") else None,
        labels=dict(job.labels),
        create_time=time_in(job, "create_time"),
        start_time=time_in(job, "start_time"),
        end_time=time_in(job, "end_time"),
        update_time=time_in(job, "update_time"),
        etag=job.etag,
        last_sequence=job.last_sequence,
        epoch=job.epoch,
        target={spec.target.figure: spec.target.most} if spec.HasField("target") else {},
        objective=spec.objective or spec.target.figure or "params",
        limits={limit.figure: limit.most for limit in spec.limits},
        formats=tuple(spec.formats),
        freeze=tuple(spec.freeze),
        max_ratio={ratio.pattern: ratio.most for ratio in spec.max_ratio},
        multiple=spec.multiple or 1,
        stage=spec.stage or 2,
        budget={field.name: value for field, value in spec.budget.ListFields()},
        parallel=spec.parallel if spec.HasField("parallel") else None,
        exports=tuple(spec.exports),
        fleet=job.fleet,
        model=job.model,
        priority=job.priority,
        retry_of=job.retry_of,
        deadline=time_in(job, "deadline"),
    )


def _source(spec: pb.JobSpec) -> str:
    """``zoo:NAME`` or ``bundle:SHA256``; empty where this client is too old to know it."""
    kind = spec.WhichOneof("source")
    if kind == "bundle":
        return f"bundle:{spec.bundle.rpartition('/')[2]}"
    return f"zoo:{spec.zoo}" if kind == "zoo" else ""


def event(message: pb.JobEvent) -> types.Event:
    """The event as a dataclass; a plain `Event` when its kind is unknown."""
    sequence, time = message.sequence, _time(message.time)
    match message.WhichOneof("kind"):
        case "state_changed":
            changed = message.state_changed
            return types.StateChanged(sequence, time, state(changed.state), changed.reason)
        case "step_committed":
            step = message.step_committed
            return types.StepCommitted(sequence, time, step.step, _progress(step.progress), step.summary)
        case "evaluation_finished":
            return _evaluation(sequence, time, message.evaluation_finished)
        case "attempt_lost":
            lost = message.attempt_lost
            return types.AttemptLost(
                *(sequence, time, lost.index, lost.subject, lost.evaluator, lost.attempt, lost.cause, lost.detail)
            )
        case "warning":
            return types.WarningRaised(sequence, time, message.warning.reason, message.warning.message)
        case "leased":
            return types.Leased(sequence, time, message.leased.coordinator, message.leased.epoch)
        case "updated":
            updated = message.updated
            deadline = time_in(updated, "deadline")
            return types.Updated(
                sequence, time, tuple(updated.fields), dict(updated.labels), updated.priority, deadline
            )
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
        seconds_done=message.seconds_done,
        seconds_expected=message.seconds_expected,
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
        objective_ratio=message.objective_ratio or message.params_ratio,
        metric=message.metric,
        original=_figures(message.original) if message.HasField("original") else None,
        compressed=_figures(message.compressed) if message.HasField("compressed") else None,
        drop_ci=(message.drop_low, message.drop_high) if message.metric else None,
    )


def _figures(message: pb.Figures) -> types.Figures:
    return types.Figures(**{field.name: getattr(message, field.name) for field in fields(types.Figures)})


def _failure(message: pb.JobFailure) -> types.Failure:
    return types.Failure(message.reason, message.message, message.traceback)


def timestamp(field: str, moment: datetime) -> Timestamp:
    """A moment of an owner's as it is sent; InvalidArgumentError where nobody knows which one it is."""
    if not isinstance(moment, datetime):
        raise InvalidArgumentError.of(field, f"{moment!r} is no datetime; give one with a time zone")
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidArgumentError.of(field, f"{moment} has no time zone; give one, as {moment}+00:00 has")
    sent = Timestamp()
    sent.FromDatetime(moment)
    return sent


def time_in(message: Message, field: str) -> datetime | None:
    """A field's time; None where it is unset."""
    return _time(getattr(message, field)) if message.HasField(field) else None


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
