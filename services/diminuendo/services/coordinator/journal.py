"""The journal: `diminuendo.engine.search.drive.Journal` over the conductor's CoordinatorService."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
from diminuendo.v1 import coordinator_service_pb2 as v1
from pydantic import ValidationError

from diminuendo.engine.search.drive import AnyAnswer, Done
from diminuendo.engine.search.session import Request, Session, Step
from diminuendo.engine.search.work import (
    Failed,
    Prepare,
    Prepared,
    Work,
    answer_from_bytes,
    answer_to_bytes,
    artifacts_of,
)
from diminuendo.services.common import logs
from diminuendo.services.coordinator import tracks, translate
from diminuendo.services.coordinator.attempts import AttemptLost
from diminuendo.services.coordinator.lease import HeldLease, LeaseLostError
from diminuendo.services.coordinator.rpc import Conductor, ConductorAwayError, code_of

log = logs.get(__name__)
Answer = TypeVar("Answer")

_MAX_OUTCOME, _MAX_STATE, _MAX_KEYS = 2**20, 3 * 2**20, 1000


def _none_missing(_sha256s: Sequence[str]) -> set[str]:
    return set()


class ConductorJournal:
    """What one job's search tells the conductor, under one lease.

    Every method but `stopped` and `warn` raises LeaseLostError once the lease is over, or once the conductor has
    been away for so long that it may be.
    """

    def __init__(
        self,
        conductor: Conductor,
        lease: HeldLease,
        request: Request,
        *,
        next_step: int,
        stop: threading.Event,
        take_warnings: Callable[[], list[tuple[str, str]]] = list,
        missing: Callable[[Sequence[str]], set[str]] = _none_missing,
        take_losses: Callable[[], list[AttemptLost]] = list,
    ) -> None:
        """Write under a lease.

        Args:
            next_step: The number that the next committed step must have. Earlier ones are committed already: a
                search that starts again comes past them and they are not written again.
            stop: Set when this process is to end.
            take_warnings: (reason, message) of what happened outside the search since the last step.
            missing: Those of the sha256s that the artifact store lacks.
            take_losses: Attempts that came to nothing since the last time.
        """
        self._conductor, self._lease, self._stop = conductor, lease, stop
        self._next_step, self._take_warnings, self._missing = next_step, take_warnings, missing
        self._warnings: list[tuple[str, str]] = []
        self._take_losses, self._losses = take_losses, list[AttemptLost]()
        self._losses_lock = threading.Lock()
        self._prepared_key = Work(0, Prepare(request.source, request.seed, request.threads), "").key
        self._prepared: Prepared | None = None

    def warn(self, reason: str, message: str) -> None:
        """Have the job's owner told, with the next step."""
        self._warnings.append((reason, message))

    def note_losses(self) -> None:
        """Have the job's log tell of attempts that came to nothing. Safe to call from several threads."""
        with self._losses_lock:
            self._losses += self._take_losses()
            while self._losses:
                request = v1.ReportAttemptRequest(**self._writer(), attempt=translate.to_attempt(self._losses[0]))
                self._call(self._conductor.stub.ReportAttempt, request)
                del self._losses[0]

    def recall(self, keys: Sequence[str]) -> dict[str, AnyAnswer]:
        """Outcomes known by key.

        Those that this version cannot read are not known, nor are those whose weights or factors are gone: they are
        computed again.
        """
        found: dict[str, AnyAnswer] = {}
        for start in range(0, len(keys), _MAX_KEYS):
            found |= self._recall(keys[start : start + _MAX_KEYS])
        wanted = {key: artifacts_of(answer) for key, answer in found.items()}
        gone = self._missing([sha256 for several in wanted.values() for sha256 in several])
        lost = [key for key, several in wanted.items() if not gone.isdisjoint(several)]
        for key in lost:
            log.warning("outcome_artifact_missing", key=key, sha256s=sorted(gone.intersection(wanted[key])))
        return {key: answer for key, answer in found.items() if key not in lost}

    def record(self, done: Done) -> None:
        """Store an outcome.

        Failures and outcomes that no evaluator gave are noted without their content: another try, on another
        machine, may end better.
        """
        self.note_losses()
        if isinstance(done.answer, Prepared):
            self._prepared = done.answer
        content = b""
        if done.evaluator and not done.remembered and not isinstance(done.answer, Failed):
            content = answer_to_bytes(done.answer)
        if len(content) > _MAX_OUTCOME:
            log.warning("outcome_too_large", work=done.work.index, key=done.work.key, bytes=len(content))
            content = b""
        prepared = self._original() if done.work.question.kind == "evaluate" else None
        evaluation = translate.to_evaluation(done, prepared)
        request = v1.ReportEvaluationRequest(
            **self._writer(), evaluation=evaluation, outcome=content, artifacts=artifacts_of(done.answer)
        )
        self._call(self._conductor.stub.ReportEvaluation, request)
        log.info(
            "evaluation_finished",
            work=done.work.index,
            key=done.work.key,
            subject=done.work.subject,
            evaluator=done.evaluator,
            seconds=round(done.seconds, 3),
            remembered=done.remembered,
            **tracks.ids(f"{self._lease.job_name}#{self._lease.epoch}", done.work.index),
        )

    def commit(self, step: Step, session: Session) -> None:
        """Store a step with the search's state."""
        self._warnings += self._take_warnings()
        if step.index < self._next_step:
            return
        state = session.dump()
        if len(state) > _MAX_STATE:
            # The successor goes on from an older state, and finds the outcomes since by their keys.
            log.warning("state_too_large", step=step.index, bytes=len(state))
            state = b""
        warnings = [translate.to_warning(*w) for w in (*step.warnings, *self._warnings)]
        request = v1.CommitStepRequest(
            **self._writer(), step=translate.to_step(step), session_state=state, warnings=warnings
        )
        self._call(self._conductor.stub.CommitStep, request)
        self._warnings.clear()
        self._next_step = step.index + 1
        log.info("step_committed", step=step.index, key=step.key, stage=step.stage)

    def stopped(self) -> bool:
        """True when the job is cancelled or paused, its lease lost, or the process ending."""
        return self._stop.is_set() or self._lease.unwanted

    def _recall(self, keys: Sequence[str]) -> dict[str, AnyAnswer]:
        request = v1.BatchGetEvaluationsRequest(keys=keys)
        try:
            response = self._call(self._conductor.stub.BatchGetEvaluations, request)
        except grpc.RpcError as error:
            if code_of(error) is not grpc.StatusCode.INVALID_ARGUMENT or len(keys) < 2:
                raise
            half = len(keys) // 2  # together they are more than a message holds
            return self._recall(keys[:half]) | self._recall(keys[half:])
        found: dict[str, AnyAnswer] = {}
        for stored in response.evaluations:
            try:
                found[stored.key] = answer_from_bytes(stored.outcome)
            except ValidationError:
                log.warning("outcome_unreadable", key=stored.key)
        return found

    def _original(self) -> Prepared | None:
        """What is known of the original; after a restart, from the conductor."""
        if self._prepared is None:
            known = self._recall([self._prepared_key]).get(self._prepared_key)
            self._prepared = known if isinstance(known, Prepared) else None
        return self._prepared

    def _writer(self) -> dict[str, Any]:
        return {"job_name": self._lease.job_name, "epoch": self._lease.epoch}

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Any, Answer], request: object) -> Answer:
        if self._lease.lost.is_set():
            raise LeaseLostError(f"epoch {self._lease.epoch} of {self._lease.job_name} is over")
        try:
            return self._conductor.call(method, request, until=self._lease.until)
        except ConductorAwayError as error:
            raise self._lease.away(error) from error
        except grpc.RpcError as error:
            self._lease.refused(error)
            raise
