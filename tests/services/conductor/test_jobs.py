"""The state machine, by itself."""

from __future__ import annotations

import pytest
from diminuendo.v1 import coordinator_service_pb2, job_pb2
from hypothesis import given
from hypothesis import strategies as st

from diminuendo.services.common.errors import DiminuendoError, JobEndedError
from diminuendo.services.conductor import jobs, leases
from diminuendo.services.conductor.jobs import LEGAL, Draft
from diminuendo.services.conductor.records import Job, NewJob, State, Update

NOW = 1_700_000_000_000_000
NEW = NewJob(name="projects/p/jobs/a", project="p", spec=job_pb2.JobSpec(zoo="digits", delta=1.0), labels={})
RESULT, FAILURE = job_pb2.JobResult(drop=0.1), job_pb2.JobFailure(reason="INTERNAL", message="m")


def enter(job: Job, state: State) -> Draft:
    """The job in a state, with what goes with it."""
    draft = Draft(job, NOW)
    draft.enter(
        state,
        "why",
        result=RESULT if state is State.SUCCEEDED else None,
        failure=FAILURE if state is State.FAILED else None,
    )
    return draft


@pytest.mark.parametrize("start", list(State), ids=lambda state: state.name)
@pytest.mark.parametrize("end", list(State), ids=lambda state: state.name)
def test_only_legal_transitions_happen(start: State, end: State) -> None:
    job = Job(name="n", project="p", spec=NEW.spec, labels={}, create_time=NOW, update_time=NOW, state=start)
    if end in LEGAL[start]:
        draft = enter(job, end)
        assert draft.job.state is end
        assert [event.state_changed.state for event in draft.events] == [end.wire]
        assert (draft.job.end_time == NOW) == end.final
    elif start.final:
        with pytest.raises(JobEndedError, match=start.name):
            enter(job, end)
    else:
        with pytest.raises(ValueError, match="cannot go from"):
            enter(job, end)


def test_final_states_lead_nowhere_and_every_state_can_end() -> None:
    for state in State:
        assert state.final == (not LEGAL[state])
    reach = {state for state in State if state.final}
    for _ in State:
        reach |= {state for state in State if LEGAL[state] & reach}
    assert reach == set(State)


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.QUEUED], ids=lambda state: state.name)
def test_an_outcome_belongs_to_its_state(state: State) -> None:
    job = enter(jobs.create(NEW, NOW).job, State.RUNNING).job
    with pytest.raises(ValueError, match="with this outcome"):
        Draft(job, NOW).enter(state, result=None if state is State.SUCCEEDED else RESULT)


ASKED = {"cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume}
HAPPENINGS = (*ASKED, "lease", "result", "failure", "cancelled", "none", "lapse", "label")


@given(st.lists(st.sampled_from(HAPPENINGS), max_size=16))
def test_whatever_happens_a_job_ends_at_most_once_and_its_log_has_no_gaps(happenings: list[str]) -> None:
    draft = jobs.create(NEW, NOW)
    job, log = draft.job, list(draft.events)
    outcomes = {
        "result": RESULT,
        "failure": FAILURE,
        "cancelled": coordinator_service_pb2.Cancelled(),
        "none": None,
    }
    for moment, happening in enumerate(happenings):
        now = NOW + moment
        try:
            if happening in ASKED:
                draft = ASKED[happening](job, now)
            elif happening == "label":
                draft = jobs.update(job, now, Update(labels={"moment": str(moment)}))
            elif happening == "lease" and job.state in (State.QUEUED, State.RUNNING):
                draft = leases.grant(job, now, coordinator="c", request_id="", lease_us=1_000_000)
            elif happening == "lapse" and job.state.parting:
                draft = leases.lapse(job, now)
            elif happening in outcomes:
                draft = leases.release(job, now, epoch=job.epoch, outcome=outcomes[happening])
            else:
                continue
        except DiminuendoError:
            continue
        job = draft.job
        log += draft.events
        assert job.state.held == bool(job.coordinator) == (job.lease_expire_time is not None)
    assert [event.sequence for event in log] == list(range(1, job.last_sequence + 1))
    entered = [State(event.state_changed.state) for event in log if event.HasField("state_changed")]
    assert entered[-1] is job.state
    assert [state.final for state in entered] == [False] * (len(entered) - 1) + [job.state.final]
    assert (job.end_time is not None) == job.state.final
