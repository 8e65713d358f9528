"""Unary calls: what is sent, what comes back, what is retried, what each error becomes."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2, job_pb2, job_service_pb2

import diminuendo.client as public
from diminuendo.client import (
    AlreadyExistsError,
    Client,
    ClientConfig,
    DiminuendoError,
    FailedPreconditionError,
    Garbage,
    InvalidArgumentError,
    JobState,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    ServerUnavailableError,
    ServerVersionError,
    Stage,
    UnauthenticatedError,
    Violation,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client.conftest import FakeServer, Recorded


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        public.Cleint  # noqa: B018
    assert dir(public) == public.__all__


def test_import_pulls_in_neither_torch_nor_ray_nor_engine_nor_services() -> None:
    code = (
        "import sys; from diminuendo.client import *; import diminuendo.client.cli.commands.submit,"
        " diminuendo.client.cli.commands.jobs, diminuendo.client.cli.commands.compress, diminuendo.client.demo;"
        " bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'ray', 'sqlalchemy')"
        " or m.startswith(('diminuendo.engine', 'diminuendo.services'))]; print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_garbage_is_collected_on_the_server(fake: FakeServer, client: Client) -> None:
    fake.garbage.removed_artifacts, fake.garbage.removed_bytes, fake.garbage.kept_artifacts = 3, 4096, 5
    assert client.collect_garbage(dry_run=True) == Garbage(3, 4096, 0, 0, 0, 5, 0)
    client.collect_garbage()
    assert [r.dry_run for r in fake.asked(artifact_service_pb2.CollectGarbageRequest)] == [True, False]


def test_submit_sends_every_field_and_a_request_id(fake: FakeServer, client: Client) -> None:
    job = client.submit(
        "zoo:digits", delta=2.5, effort="deep", accept="strict", seed=3, job_id="mine", labels={"a": "b"}
    )
    assert (job.name, job.job_id) == ("projects/default/jobs/mine", "mine")
    (request,) = fake.asked(job_service_pb2.CreateJobRequest)
    assert (request.parent, request.job_id, dict(request.job.labels)) == ("projects/default", "mine", {"a": "b"})
    assert request.job.spec == job_pb2.JobSpec(
        zoo="digits", delta=2.5, effort=job_pb2.EFFORT_DEEP, accept=job_pb2.ACCEPT_STRICT, seed=3, multiple=1, stage=2
    )
    client.submit(job_id="other")
    ids = [request.request_id for request in fake.asked(job_service_pb2.CreateJobRequest)]
    assert all(0 < len(request_id) <= 64 for request_id in ids)
    assert len(set(ids)) == 2


def test_a_mutation_is_retried_with_the_same_request_id(fake: FakeServer, client: Client) -> None:
    fake.refusals += [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE]
    client.submit(job_id="mine")
    requests = fake.asked(job_service_pb2.CreateJobRequest)
    assert len(requests) == 3
    assert len({request.request_id for request in requests}) == 1
    fake.refusals += [grpc.StatusCode.UNAVAILABLE]
    assert client.cancel("mine").state is JobState.CANCELLED
    requests = fake.asked(job_service_pb2.CancelJobRequest)
    assert len(requests) == 2
    assert requests[0].request_id == requests[1].request_id != ""


def test_retries_end(fake: FakeServer, client: Client, make_status: Callable[..., Any]) -> None:
    busy = make_status(grpc.StatusCode.UNAVAILABLE, "the database is locked; try again", reason="STORE_UNAVAILABLE")
    fake.refusals += [busy] * 1000
    started = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="the database is locked; try again") as caught:
        client.get("mine")
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert 0.5 < time.monotonic() - started < 3
    assert len(fake.requests) > 3


def test_get_gives_typed_data(fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    info = client.get("recorded")
    assert info == client.get(recorded.name) == client.job("recorded").info()
    assert (info.job_id, info.source, info.delta, info.effort, info.accept, info.seed) == (
        *("recorded", "zoo:digits", 1.0),
        *("quick", "estimate", 7),
    )
    assert info.state is JobState.SUCCEEDED
    assert info.state.final
    assert info.result is not None
    assert (info.result.inside_delta, info.result.params_ratio) == (True, 7.92)
    assert [file.name for file in info.result.files] == list(recorded.files)
    assert info.create_time is not None
    assert info.create_time.isoformat() == "2026-01-02T03:04:05+00:00"
    assert (info.start_time, info.failure, info.progress, info.labels) == (None, None, None, {"team": "vision"})


def test_a_state_from_a_newer_server_is_unknown_and_not_final(fake: FakeServer, client: Client) -> None:
    fake.add(job_pb2.Job(name="projects/default/jobs/new", state=job_pb2.JobState.ValueType(60)), [])
    assert client.get("new").state is JobState.UNKNOWN
    assert not client.get("new").state.final
    fake.jobs["projects/default/jobs/new"].progress.stage = job_pb2.Stage.ValueType(60)
    fake.jobs["projects/default/jobs/new"].progress.MergeFrom(job_pb2.JobProgress(seconds_done=3, seconds_expected=4))
    progress = client.get("new").progress
    assert progress is not None
    assert (progress.seconds_done, progress.seconds_expected) == (3, 4)
    assert progress.stage is Stage.NONE


def test_list_fetches_pages_as_they_are_consumed(fake: FakeServer, client: Client) -> None:
    for number in range(5):
        fake.add(job_pb2.Job(name=f"projects/default/jobs/j{number}", state=job_pb2.JOB_STATE_QUEUED), [])
    jobs = client.list()
    assert next(jobs).job_id == "j0"
    assert len(fake.requests) == 1
    assert [job.job_id for job in jobs] == ["j1", "j2", "j3", "j4"]
    assert len(fake.requests) == 3
    assert list(client.list(states=[JobState.FAILED], project="-")) == []
    assert (fake.requests[-1].parent, list(fake.requests[-1].states)) == ("projects/-", [job_pb2.JOB_STATE_FAILED])


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidArgumentError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.ALREADY_EXISTS, AlreadyExistsError),
        (grpc.StatusCode.FAILED_PRECONDITION, FailedPreconditionError),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerVersionError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
        (grpc.StatusCode.UNAUTHENTICATED, UnauthenticatedError),
    ],
)
def test_each_code_has_its_error(
    fake: FakeServer,
    client: Client,
    make_status: Callable[..., Any],
    code: grpc.StatusCode,
    kind: type[DiminuendoError],
) -> None:
    fake.refusals.append(make_status(code, "what was wrong;\n what to do", reason="WHY"))
    with pytest.raises(DiminuendoError, match="what was wrong; what to do") as caught:
        client.get("x")
    assert type(caught.value) is kind
    assert caught.value.reason == "WHY"
    assert len(fake.requests) == 1
    fake.refusals.append(code)
    with pytest.raises(kind) as caught:
        client.get("x")
    assert fake.target in caught.value.message
    assert code.name in caught.value.message


def test_a_slow_server_is_a_timeout_that_names_the_server(fake: FakeServer, client: Client) -> None:
    fake.refusals.append(grpc.StatusCode.DEADLINE_EXCEEDED)
    with pytest.raises(ServerUnavailableError, match=f"{fake.target} did not answer in time"):
        client.get("x")


def test_violations_name_field_and_remedy(fake: FakeServer, client: Client, make_status: Callable[..., Any]) -> None:
    wrong = (("job.spec.zoo", "'digit' is unknown; did you mean 'digits'?"), ("job_id", "'A' is not [a-z0-9-]"))
    fake.refusals.append(make_status(grpc.StatusCode.INVALID_ARGUMENT, "bad request", violations=wrong))
    with pytest.raises(InvalidArgumentError) as caught:
        client.submit("zoo:digit")
    assert caught.value.violations == tuple(Violation(*pair) for pair in wrong)
    assert str(caught.value) == "; ".join(f"{field}: {description}" for field, description in wrong)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"delta": -1}, "delta: -1 is not a tolerance; give a number over 0 and up to 100"),
        ({"delta": 0.0}, "delta: 0 is not"),
        ({"delta": 100.5}, "delta: 100.5 is not"),
        ({"delta": float("nan")}, "delta: nan is not"),
        ({"delta": "much"}, "delta: 'much' is not a number; give"),
        ({"source": "digits"}, "source: 'digits' is not of the form zoo:NAME; did you mean zoo:digits?"),
        ({"source": "s3:digits"}, "source: 's3:digits' is not"),
        ({"effort": "huge"}, "effort: 'huge' is not known; give one of quick, normal, deep"),
        ({"accept": "all"}, "accept: 'all' is not known; give one of estimate, strict"),
        ({"seed": 2**63}, "seed: 9223372036854775808 is out of range; give"),
        ({"seed": -1}, "seed: -1 is out of range; give a whole number from 0"),
        ({"target": {"size": 1.0, "macs": 5.0}}, "target: size, macs are 2 figures; give one, the others as limits"),
        ({"target": {"size": float("nan")}}, "target: size=nan is no finite number; give one"),
        ({"limits": {"macs": "many"}}, "limits: macs='many' is no finite number; give one"),
        ({"limits": {"macs": True}}, "limits: macs=True is no finite number"),
        ({"max_ratio": {"fc": float("inf")}}, "max_ratio: fc=inf is no finite number"),
        ({"freeze": "conv"}, "freeze: 'conv' is no list of texts; give one"),
        ({"formats": [1]}, "formats: [1] is no list of texts"),
        ({"multiple": 1.5}, "multiple: 1.5 is no whole number below 2^31; give one"),
        ({"stage": 2**40}, "stage: 1099511627776 is no whole number below 2^31"),
        ({"budget": {"hours": 1}}, "budget: 'hours' is unknown; choose one of evaluations, epochs, minutes"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(
    fake: FakeServer, client: Client, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.submit(**arguments)
    assert text in str(caught.value)
    assert caught.value.violations[0].field == next(iter(arguments))
    assert fake.requests == []


@pytest.mark.parametrize("name", ["", "a/b", "projects/p/jobs/", "two words"])
def test_a_name_that_cannot_be_one_is_a_mistake(client: Client, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"name: .*projects/PROJECT/jobs/JOB"):
        client.get(name)


def test_an_address_that_cannot_be_one_is_a_mistake() -> None:
    with pytest.raises(InvalidArgumentError, match=r"server: 'localhost' is not HOST:PORT"):
        Client("localhost")


def test_nobody_at_the_address_is_said_soon_and_with_the_remedy(free_port: int, quick: ClientConfig) -> None:
    started = time.monotonic()
    with (
        Client(f"127.0.0.1:{free_port}", config=quick) as client,
        pytest.raises(ServerUnavailableError, match=rf"127\.0\.0\.1:{free_port}; start one with `diminuendo serve`"),
    ):
        client.get("x")
    assert time.monotonic() - started < 3


def test_a_closed_client_says_so(fake: FakeServer, quick: ClientConfig) -> None:
    with Client(fake.target, config=quick) as client:
        pass
    with pytest.raises(ServerUnavailableError, match="closed"):
        client.get("x")
