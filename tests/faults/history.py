"""The history checker: finds in what a job has left behind, and in what was seen on the way, all that must not be.

Pure. `record.py` makes histories of real runs; `test_history.py` makes them up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from diminuendo.v1 import job_pb2

FINAL = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


@dataclass(frozen=True, slots=True)
class Started:
    """An evaluator began to compute a work."""

    key: str


@dataclass(frozen=True, slots=True)
class Wrote:
    """A coordinator's write was answered.

    Attributes:
        accepted: False: it was refused.
        newest: The newest epoch that any coordinator had been given when the write was sent.
        key: For a report, of the evaluation.
    """

    method: str
    epoch: int
    accepted: bool
    newest: int
    key: str = ""


@dataclass(frozen=True, slots=True)
class Killed:
    """A process was killed or stopped.

    Attributes:
        loses: The most evaluations that may be lost with it, and have to be computed again.
        lasting: Others die of it by and by, so that works may be lost that were started later.
    """

    who: str
    loses: int
    lasting: bool = False


Seen = Started | Wrote | Killed


@dataclass(frozen=True)
class History:
    """What is left of one job, and what was seen.

    Attributes:
        state: None: there is no such job.
        last_sequence: As the job's row says; so are `epoch` and `next_step`.
        events: Its log, in order.
        steps: (number, epoch) of each stored step, in order of the number.
        reports: (index, key) of each evaluation that is noted as reported.
        seen: In order.
    """

    state: job_pb2.JobState.ValueType | None
    last_sequence: int
    epoch: int
    next_step: int
    events: tuple[job_pb2.JobEvent, ...]
    steps: tuple[tuple[int, int], ...]
    reports: tuple[tuple[int, str], ...]
    seen: tuple[Seen, ...]


def violations(history: History) -> list[str]:
    """What is wrong, each in one line; empty when all is well."""
    if history.state is None:
        return ["lost job: it is not there any more"]
    checks = (_ending, _sequence, _epochs, _steps, _evaluations, _fenced, _paid)
    return [found for check in checks for found in check(history)]


def _ending(history: History) -> Iterator[str]:
    """A job ends exactly once, and nothing comes after it but what its owner changes."""
    events = history.events
    ends = [i for i, e in enumerate(events) if e.HasField("state_changed") and e.state_changed.state in FINAL]
    if history.state not in FINAL or not ends:
        name = job_pb2.JobState.Name(history.state) if history.state else "nowhere"
        yield f"lost job: it has not ended, its state is {name} and its log has {len(ends)} ends"
    elif events[ends[0]].state_changed.state != history.state:
        yield "two ends: the log's and the job's differ"
    if len(ends) > 1:
        yield f"two ends: events {[events[i].sequence for i in ends]}"
    if ends:
        late = [e.sequence for e in events[ends[0] + 1 :] if e.WhichOneof("kind") not in ("updated", "state_changed")]
        if late:
            yield f"written after the end: events {late}"


def _sequence(history: History) -> Iterator[str]:
    """Sequence numbers are 1, 2, 3, ... up to the job's last."""
    numbers = [event.sequence for event in history.events]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"sequence with gaps: {numbers}"
    if history.last_sequence != len(numbers):
        yield f"sequence with gaps: the job's last is {history.last_sequence}, its log has {len(numbers)} events"


def _epochs(history: History) -> Iterator[str]:
    """Each lease has the next epoch."""
    epochs = [e.leased.epoch for e in history.events if e.HasField("leased")]
    if any(after <= before for before, after in pairwise(epochs)):
        yield f"epochs that do not rise: {epochs}"
    if history.epoch != max(epochs, default=0):
        yield f"epochs that do not rise: the job's is {history.epoch}, its log's {epochs}"


def _steps(history: History) -> Iterator[str]:
    """Steps are 0, 1, 2, ..., each committed once, by whoever held the job then."""
    noted: list[tuple[int, int]] = []
    holder, done = 0, -1
    for event in history.events:
        if event.HasField("leased"):
            holder = event.leased.epoch
        elif event.HasField("step_committed"):
            number = event.step_committed.step
            if number in [earlier for earlier, _ in noted]:
                yield f"double commit: step {number}"
            elif number != len(noted):
                yield f"step out of order: {number} after {len(noted)} steps"
            if event.step_committed.progress.works_done < done:
                yield f"step going back: at step {number} {event.step_committed.progress.works_done} works are done"
            done = max(done, event.step_committed.progress.works_done)
            noted.append((number, holder))
    stored = dict(history.steps)
    for number, epoch in noted:
        if number in stored and stored[number] != epoch:
            yield f"write by an old epoch: step {number} by {stored[number]} while {epoch} held the job"
    if sorted({number for number, _ in noted}) != sorted(stored):
        yield f"log and steps differ: {len(noted)} in the log, {len(stored)} stored"
    if history.next_step != len(stored):
        yield f"log and steps differ: {len(stored)} stored, the next one is {history.next_step}"


def _evaluations(history: History) -> Iterator[str]:
    """Each evaluation is noted once, and before the step that uses it."""
    noted: Counter[tuple[int, str]] = Counter()
    indices: set[int] = set()
    for event in history.events:
        if event.HasField("evaluation_finished"):
            one = event.evaluation_finished
            noted[one.index, one.key] += 1
            indices.add(one.index)
        elif event.HasField("step_committed") and event.step_committed.step not in indices:
            yield f"commit without its report: step {event.step_committed.step}"
    for (index, key), count in noted.items():
        if count > 1:
            yield f"evaluation noted {count} times: {index} {key[:8]}"
    if set(noted) != set(history.reports) or len(history.reports) != len(set(history.reports)):
        yield f"log and reports differ: {len(noted)} in the log, {len(history.reports)} reported"


def _fenced(history: History) -> Iterator[str]:
    """Nobody writes once a newer epoch has been given away."""
    for write in history.seen:
        if isinstance(write, Wrote) and write.accepted and write.epoch < write.newest:
            yield f"write by an old epoch: {write.method} of {write.epoch} accepted while {write.newest} was given"


def _paid(history: History) -> Iterator[str]:
    """No evaluation is computed again but those that were lost with a process that was killed."""
    started: set[str] = set()
    known: set[str] = set()
    lost: dict[str, int] = {}
    again: Counter[int] = Counter()
    kills: list[Killed] = []
    for event in history.seen:
        if isinstance(event, Killed):
            lost |= dict.fromkeys(started - known, len(kills))
            kills.append(event)
        elif isinstance(event, Wrote):
            if event.accepted and event.key:
                known.add(event.key)
        elif event.key in known:
            yield f"paid twice: {event.key[:8]} was computed again after it had been reported"
        elif event.key in started and event.key not in lost and kills and kills[-1].lasting:
            again[len(kills) - 1] += 1
        elif event.key in started and event.key not in lost:
            yield f"paid twice: {event.key[:8]} was computed again although nobody was killed meanwhile"
        else:
            if event.key in lost:
                again[lost.pop(event.key)] += 1
            started.add(event.key)
    for index, count in again.items():
        if count > kills[index].loses:
            who, loses = kills[index].who, kills[index].loses
            yield f"paid twice: {count} evaluations were computed again after {who} was killed, {loses} at most lost"
