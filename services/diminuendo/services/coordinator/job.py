"""One leased job, from lease to release."""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass

import grpc
from diminuendo.v1 import coordinator_service_pb2 as v1
from diminuendo.v1 import job_pb2

from diminuendo.engine.bundle.archive import BundleError
from diminuendo.engine.search.drive import Stopped, drive
from diminuendo.engine.search.session import Finished, Request, Session, StateError
from diminuendo.engine.search.work import Failed
from diminuendo.engine.store import ArtifactMissingError, SharedStore, StoreAwayError
from diminuendo.services.common import logs
from diminuendo.services.coordinator import translate
from diminuendo.services.coordinator.bundles import Environment, environment_of
from diminuendo.services.coordinator.executor import ClusterLostError, EvaluatorsAwayError, JobExecutor, RayExecutor
from diminuendo.services.coordinator.heartbeat import Heartbeat
from diminuendo.services.coordinator.install import InstallStoppedError, RequirementsError, install
from diminuendo.services.coordinator.journal import ConductorJournal
from diminuendo.services.coordinator.lease import HeldLease, LeaseLostError
from diminuendo.services.coordinator.rpc import Conductor, ConductorAwayError

log = logs.get(__name__)

Outcome = job_pb2.JobResult | job_pb2.JobFailure | v1.Cancelled
MAX_RESTARTS = 2
"""How often a job's search starts again because the artifact store has lost something."""

_MAX_REASON = 1000
_AWAY_S = 2.0
"""How long to wait before an artifact store that is away is asked again."""
_PARTING_S = 3.0
"""How long a process that is stopping tries to give its job back; otherwise the lease's end does."""


@dataclass(frozen=True)
class JobRunner:
    """Runs leased jobs on one executor, each in the thread that calls.

    Attributes:
        stop: Set when the process is to end.
    """

    conductor: Conductor
    executor: RayExecutor
    store: SharedStore
    stop: threading.Event

    def run(self, given: v1.Lease, *, asked_at: float) -> None:
        """Drive a leased job until it ends, or until we have to let go of it.

        Raises:
            ClusterLostError: The Ray cluster is gone; the job was given back.
        """
        lease = HeldLease(
            given.job.name,
            given.epoch,
            given.expire_time,
            asked_at=asked_at,
            deadline=translate.deadline_of(given.job),
            priority=given.job.priority,
        )
        claim = translate.to_claim(given)
        with (
            logs.bound(job=lease.job_name, epoch=lease.epoch),
            self.executor.job(claim, given.job.trace_parent) as executor,
        ):
            log.info("job_started", next_step=given.next_step, state_bytes=len(given.session_state))
            beat = Heartbeat(
                self.conductor,
                lease,
                statuses=lambda: executor.statuses,
                changed=executor.changed,
                on_priority=executor.prioritise,
            )
            try:
                with beat:
                    outcome = self._outcome(given, lease, executor, beat)
                    self._end(lease, outcome)
            except LeaseLostError as error:
                log.warning("job_left", reason=str(error))
                self._let_go(lease)
            except EvaluatorsAwayError as error:
                self._release(lease, None, reason=str(error))
            except ClusterLostError:
                self._release(lease, None)
                raise

    def _outcome(self, given: v1.Lease, lease: HeldLease, executor: JobExecutor, beat: Heartbeat) -> Outcome | None:
        """How the job ends; None when it is to be queued again."""
        try:
            finished = self._drive(given, lease, executor, beat)
            return (
                translate.to_failure(finished)
                if isinstance(finished, Failed)
                else translate.to_result(finished, self.store)
            )
        except Stopped:
            if lease.lost.is_set():
                raise LeaseLostError("lost while the search went on") from None
            return v1.Cancelled() if lease.cancel_requested.is_set() else None
        except (LeaseLostError, ClusterLostError, EvaluatorsAwayError):
            raise
        except Exception as error:
            log.exception("search_failed")
            message = f"{type(error).__name__}: {error}; this is a defect: report it with the traceback"
            return translate.failure("INTERNAL", message, traceback.format_exc())

    def _drive(self, given: v1.Lease, lease: HeldLease, executor: JobExecutor, beat: Heartbeat) -> Finished | Failed:
        request = translate.to_request(given.job.spec)
        journal = ConductorJournal(
            self.conductor,
            lease,
            request,
            next_step=given.next_step,
            stop=self.stop,
            take_warnings=executor.take_warnings,
            missing=self.store.missing,
            take_losses=executor.take_losses,
        )
        beat.beside = journal.note_losses
        unusable = self._enter(given.job.spec, executor, journal)
        if unusable is not None:
            return unusable
        session = _session(given, request, journal)
        before = self.executor.stats()
        try:
            return self._to_its_end(session, journal, lease, executor)
        finally:
            executor.cancel()
            own = executor.accounts()
            log.info(
                "job_accounts",
                works=own.works_done,
                attempts_lost=own.attempts_lost,
                busy_s=round(own.busy_s, 3),
                idle_ready_s=round(self.executor.stats().idle_ready_seconds - before.idle_ready_seconds, 3),
            )

    def _enter(self, spec: job_pb2.JobSpec, executor: JobExecutor, journal: ConductorJournal) -> Failed | None:
        """Have the job's works run in what its bundle asks for; why that cannot be had, where it cannot.

        No evaluator is taken before everything is installed.

        Raises:
            Stopped: The job is not wanted any more.
        """
        try:
            environment = self._environment(spec, journal)
            install(environment, journal.stopped)
        except (BundleError, RequirementsError) as error:
            return Failed("USER_CODE", str(error))
        except ArtifactMissingError as error:
            return Failed("ARTIFACT_MISSING", f"{spec.bundle} is not in the artifact store ({error}); submit it again")
        except InstallStoppedError:
            raise Stopped from None
        executor.run_in(environment)
        return None

    def _environment(self, spec: job_pb2.JobSpec, journal: ConductorJournal) -> Environment:
        """As `environment_of`, once the artifact store can be reached."""
        while True:
            try:
                return environment_of(spec, self.store)
            except StoreAwayError as error:
                log.warning("artifacts_away", reason=str(error), again_in_s=_AWAY_S)
                if self.stop.wait(_AWAY_S) or journal.stopped():
                    raise Stopped from error

    def _to_its_end(
        self, session: Session, journal: ConductorJournal, lease: HeldLease, executor: JobExecutor
    ) -> Finished | Failed:
        """Drive the search; where the store lost what its state refers to, from the beginning.

        Then outcomes that are whole are remembered, and the others are computed again.
        """
        for _ in range(MAX_RESTARTS):
            outcome = drive(session, executor, journal, left=lease.left_s)
            if not (isinstance(outcome, Failed) and outcome.reason == "ARTIFACT_MISSING"):
                return outcome
            log.warning("artifact_missing", reason=outcome.message)
            journal.warn("ARTIFACT_MISSING", f"the search starts again and computes what is lost: {outcome.message}")
            session = Session(session.request)
        return drive(session, executor, journal, left=lease.left_s)

    def _end(self, lease: HeldLease, outcome: Outcome | None) -> None:
        """Release the job; an outcome that the conductor refuses fails it, instead of being tried for ever."""
        try:
            self._release(lease, outcome)
        except grpc.RpcError as error:
            log.exception("release_refused")
            message = (
                f"the conductor refused the job's outcome: {error.details() if isinstance(error, grpc.Call) else error}"
            )
            self._release(lease, translate.failure("INTERNAL", message))

    def _release(self, lease: HeldLease, outcome: Outcome | None, *, reason: str = "") -> None:
        request = v1.ReleaseJobRequest(job_name=lease.job_name, epoch=lease.epoch, reason=reason[:_MAX_REASON])
        if isinstance(outcome, job_pb2.JobResult):
            request.result.CopyFrom(outcome)
        elif isinstance(outcome, job_pb2.JobFailure):
            request.failure.CopyFrom(outcome)
        elif isinstance(outcome, v1.Cancelled):
            request.cancelled.CopyFrom(outcome)
        # Within the lease; a process that is told to stop has less time.
        until = min(lease.until, time.monotonic() + _PARTING_S) if self.stop.is_set() else lease.until
        try:
            self.conductor.call(self.conductor.stub.ReleaseJob, request, until=until)
        except ConductorAwayError as error:
            raise lease.away(error) from error
        except grpc.RpcError as error:
            lease.refused(error)
            raise
        log.info("job_released", outcome=request.WhichOneof("outcome") or "none")

    def _let_go(self, lease: HeldLease) -> None:
        """Give the job back if it may still be ours: the conductor was away while we were told to stop."""
        if lease.lost.is_set():
            return
        try:
            self._release(lease, None)
        except (LeaseLostError, grpc.RpcError) as error:
            log.warning("job_not_given_back", reason=str(error))


def _session(given: v1.Lease, request: Request, journal: ConductorJournal) -> Session:
    """The search as it was after the last committed step, or a new one."""
    if not given.session_state:
        return Session(request)
    try:
        return Session.load(given.session_state)
    except StateError as error:
        log.warning("state_discarded", reason=str(error))
        journal.warn("STATE_DISCARDED", f"the search starts again; what was evaluated is remembered: {error}")
        return Session(request)
