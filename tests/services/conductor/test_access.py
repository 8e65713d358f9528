"""Tokens: who may call what, over real gRPC, and that calls end when their token does."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import pkgutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diminuendo.v1
import grpc
import pytest
from diminuendo.v1 import artifact_service_pb2, job_pb2, job_service_pb2
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from diminuendo.services.conductor.access import RULES
from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.settings import ConductorSettings

Failing = Callable[[Awaitable[object]], Awaitable[Any]]
Connect = Callable[[str], Any]

READS = {
    *("GetJob", "ListJobs", "WaitJob", "WatchJob", "GetFleet", "ListFleets", "WatchFleet", "GetCluster"),
    *("ReadArtifact", "CreateDownloadUrl"),
}
WRITES = {
    *("CreateJob", "UpdateJob", "CancelJob", "PauseJob", "ResumeJob", "RetryJob", "DeleteJob"),
    *("CreateFleet", "DeleteFleet", "BatchCreateJobs", "CancelFleet", "RetryFleet"),
    *("QueryUpload", "WriteArtifact", "CreateUploadUrl"),
}
CONTENT = {"ReadArtifact", "CreateDownloadUrl", "QueryUpload", "WriteArtifact", "CreateUploadUrl"}
"""Of no project."""
EVERYWHERE = ("root", "viewer", "driver")
"""Tokens of all projects."""
REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def methods() -> dict[str, MethodDescriptor]:
    """Every RPC of every service of ours, by its path."""
    found: dict[str, MethodDescriptor] = {}
    for module in pkgutil.iter_modules(diminuendo.v1.__path__):
        if module.name.endswith("_pb2"):
            for service in importlib.import_module(f"diminuendo.v1.{module.name}").DESCRIPTOR.services_by_name.values():
                found |= {f"/{service.full_name}/{method.name}": method for method in service.methods}
    return found


METHODS = methods()


def test_every_rpc_has_a_rule_and_each_rule_an_rpc() -> None:
    assert len(METHODS) > 30
    assert set(RULES) == set(METHODS)


@pytest.mark.parametrize("path", sorted(METHODS))
def test_a_rule_knows_every_field_that_names_a_project(path: str) -> None:
    """Fields of the request, and of the job in it, that are names of resources by what they are called."""
    rule, request = RULES[path], METHODS[path].input_type
    named = {*rule.fields, *rule.when_given, *([rule.every_without] if rule.every_without else [])}
    for field in named:
        message: Any = request
        *parents, last = field.split(".")
        for parent in parents:
            message = message.fields_by_name[parent].message_type
        assert message.fields_by_name[last].type == message.fields_by_name[last].TYPE_STRING
    if not rule.every:
        assert {name for name in ("parent", "name", "fleet") if _is_text(request, name)} <= named
        if "job" in request.fields_by_name and not _is_text(request, "job"):
            assert named & {"parent", "job.name"}


def _is_text(message: Descriptor, name: str) -> bool:
    field = message.fields_by_name.get(name)
    return field is not None and field.type == field.TYPE_STRING


# --- over gRPC ---------------------------------------------------------------------------------------------


def entry(name: str, role: str, projects: str = '["vision"]', more: str = "") -> str:
    """A token whose text is its name, doubled."""
    owned = f"projects = {projects}\n" if projects else ""
    sha256 = hashlib.sha256((name + name).encode()).hexdigest()
    return f'[[tokens]]\nname = "{name}"\nsha256 = "{sha256}"\nrole = "{role}"\n{owned}{more}\n'


FILE = (
    entry("reader", "reader")
    + entry("writer", "writer")
    + entry("admin", "admin")
    + entry("root", "admin", '"*"')
    + entry("viewer", "reader", '"*"')
    + entry("driver", "coordinator", "")
    + entry("brief", "writer", '["vision"]', "expires = 2023-11-14T23:00:00Z")  # the test's clock begins at 22:13:20
)


@dataclass
class Guarded:
    """A conductor that checks tokens."""

    running: Running
    tokens: Path

    def put(self, text: str) -> None:
        """Replace the file of tokens."""
        scratch = self.tokens.with_suffix(".new")
        scratch.write_text(text)
        os.replace(scratch, self.tokens)


@pytest.fixture
async def guarded(settings: ConductorSettings, clock: Any, tmp_path: Path) -> AsyncIterator[Guarded]:
    file = tmp_path / "tokens.toml"
    file.write_text(FILE)
    async with conducting(settings.model_copy(update={"tokens_file": file}), clock=clock) as running:
        yield Guarded(running, file)


def who(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token + token}"),) if token else ()


async def code_of(channel: Any, path: str, request: Any, token: str) -> grpc.StatusCode:
    """How the conductor answers a call; OK for a stream that has begun."""
    method = METHODS[path]
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    codec = {"request_serializer": lambda m: m.SerializeToString(), "response_deserializer": bytes}
    stub = getattr(channel, kind)(path, **codec)
    call = stub(iter([request]) if method.client_streaming else request, timeout=10, metadata=who(token))
    try:
        await (call.read() if method.server_streaming else call)
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        call.cancel()
    return grpc.StatusCode.OK


def asking(path: str, project: str) -> Any:
    """A request about this project."""
    request: Any = GetMessageClass(METHODS[path].input_type)()
    for name, value in (("parent", f"projects/{project}"), ("name", f"projects/{project}/jobs/none")):
        if name in request.DESCRIPTOR.fields_by_name:
            setattr(request, name, value)
    if path.endswith("UpdateJob"):
        request.job.name = f"projects/{project}/jobs/none"
    if path.endswith("GetCluster"):
        request.job = f"projects/{project}/jobs/none"
    return request


async def test_what_each_role_may_and_may_not(guarded: Guarded, connect: Connect) -> None:
    channel = connect(guarded.running.grpc).channel
    allowed = {"reader": READS, "writer": READS | WRITES, "admin": READS | WRITES}
    allowed |= {"root": READS | WRITES | {"CollectGarbage"}, "viewer": READS}
    allowed["driver"] = {path.rpartition("/")[2] for path in METHODS if "Coordinator" in path}

    async def one(path: str, token: str, project: str) -> str:
        request = asking(path, project)
        if path.endswith("LeaseJob"):
            request.wait.seconds = 0
        code, name = await code_of(channel, path, request, token), path.rpartition("/")[2]
        if token in ("", "nobody"):
            good = code is grpc.StatusCode.UNAUTHENTICATED
        elif name in allowed[token] and (project == "vision" or token in EVERYWHERE or name in CONTENT):
            good = code not in REFUSALS
        else:
            good = code is grpc.StatusCode.PERMISSION_DENIED
        return "" if good else f"{token or 'without a token'}: {name} about {project} is {code.name}"

    calls = [
        one(path, token, project)
        for path in METHODS
        for token in ("", "nobody", *allowed)
        for project in ("vision", "text", "-")
    ]
    assert [wrong for wrong in await asyncio.gather(*calls) if wrong] == []


async def test_what_a_refusal_says(guarded: Guarded, connect: Connect, failing: Failing, clock: Any) -> None:
    api = connect(guarded.running.grpc)

    async def refusal(token: str | tuple[tuple[str, str], ...], **fields: Any) -> str:
        metadata = who(token) if isinstance(token, str) else token
        if fields:
            call = api.jobs.ListJobs(job_service_pb2.ListJobsRequest(**fields), timeout=10, metadata=metadata)
        else:
            asked = artifact_service_pb2.CollectGarbageRequest()
            call = api.artifacts.CollectGarbage(asked, timeout=10, metadata=metadata)
        failure = await failing(call)
        return f"{failure.code.name} {failure.reason}: {failure.message}"

    ask = "ask who runs this server for a new one"
    assert await refusal("") == f"UNAUTHENTICATED TOKEN_MISSING: this server takes no call without a token; {ask}"
    for words in ("Basic abc", "Bearer", "abc", "Bearer "):
        said = await refusal((("authorization", words),))
        assert said == "UNAUTHENTICATED TOKEN_MISSING: the call's authorization is not one `Bearer TOKEN`; send it so"
    said = await refusal((*who("reader"), *who("writer")))
    assert "TOKEN_MISSING" in said, "not whichever comes first"
    said = await refusal("s3cret")
    assert said == f"UNAUTHENTICATED TOKEN_UNKNOWN: the token is none that this server knows; {ask}"
    assert "s3cret" not in said
    vision = "PERMISSION_DENIED PROJECT_DENIED: the token 'reader' is for the project vision, not for "
    assert await refusal("reader", parent="projects/text") == f"{vision}'text'"
    assert await refusal("reader", parent="projects/-") == f"{vision}all of them"
    said = await refusal("reader", parent="projects/vision", fleet="projects/text/fleets/f")
    assert said == f"{vision}'text'"
    said = await refusal("reader", parent="vision")
    assert said == "INVALID_ARGUMENT INVALID_FIELD: parent: 'vision' names no project; give projects/PROJECT/..."
    said = await refusal("writer")
    assert said.endswith("ROLE_DENIED: the token 'writer' has the role writer, and CollectGarbage needs admin")
    said = await refusal("admin")
    assert said.endswith("the token 'admin' is for the project vision, and CollectGarbage needs one for all of them")
    request = job_service_pb2.ListJobsRequest(parent="projects/vision")
    await api.jobs.ListJobs(request, timeout=10, metadata=(("authorization", "bEARER  briefbrief "),))
    clock.advance(3600)
    said = await refusal("brief", parent="projects/vision")
    assert said == f"UNAUTHENTICATED TOKEN_EXPIRED: the token 'brief' expired at 2023-11-14 23:00:00Z; {ask}"


async def test_health_is_open_and_reflection_wants_some_token(guarded: Guarded, connect: Connect) -> None:
    channel = connect(guarded.running.grpc).channel
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ServerReflectionInfo(iter([asked]), timeout=10).read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    call = stub.ServerReflectionInfo(iter([asked]), timeout=10, metadata=who("driver"))
    names = [service.name for service in (await call.read()).list_services_response.service]
    assert "diminuendo.v1.JobService" in names


LONG: dict[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "WatchJob": ("brief", lambda api, who: api.jobs.WatchJob(_named(job_service_pb2.WatchJobRequest), metadata=who)),
    "WaitJob": (
        "brief",
        lambda api, who: api.jobs.WaitJob(_named(job_service_pb2.WaitJobRequest), metadata=who, timeout=30),
    ),
    "WriteArtifact": ("brief", lambda api, who: api.artifacts.WriteArtifact(_slowly(), metadata=who)),
}


def _named(kind: Any) -> Any:
    return kind(name="projects/vision/jobs/a")


async def _slowly() -> AsyncIterator[artifact_service_pb2.WriteArtifactRequest]:
    yield artifact_service_pb2.WriteArtifactRequest(sha256="0" * 64, size_bytes=2, data=b"")
    await asyncio.Event().wait()


async def create(api: Any, token: str = "writer") -> None:
    job = job_pb2.Job(spec=job_pb2.JobSpec(zoo="digits", delta=1.0))
    request = job_service_pb2.CreateJobRequest(parent="projects/vision", job_id="a", job=job)
    await api.jobs.CreateJob(request, timeout=10, metadata=who(token))


@pytest.mark.parametrize("way", ["expired", "taken away", "of less"])
async def test_calls_under_way_end_with_their_token(
    guarded: Guarded, connect: Connect, failing: Failing, clock: Any, way: str
) -> None:
    api = connect(guarded.running.grpc)
    await create(api)
    calls = [call(api, who(token)) for token, call in LONG.values()]
    others = api.jobs.WatchJob(_named(job_service_pb2.WatchJobRequest), metadata=who("reader"))
    for watch in (calls[0], others):
        assert (await watch.read()).sequence == 1
    begun = time.monotonic()
    if way == "expired":
        clock.advance(3600)
    else:
        rest = FILE[: FILE.index('[[tokens]]\nname = "brief"')]
        guarded.put(rest if way == "taken away" else rest + entry("brief", "writer", '["text"]'))
    # A stream of requests names no project: it goes on with a token that is still one.
    ended = calls[1:2] if way == "of less" else calls[1:]
    waiting = [calls[0].read(), *ended]
    failures = await asyncio.gather(*(failing(call) for call in waiting))
    assert time.monotonic() - begun < 5
    reasons = {"expired": "TOKEN_EXPIRED", "taken away": "TOKEN_UNKNOWN", "of less": "PROJECT_DENIED"}
    assert {failure.reason for failure in failures} == {reasons[way]}
    if way == "taken away":
        assert failures[0].message.startswith("the token 'brief' was taken away; ask who runs this server")
    calls[2].cancel()
    cancel = job_service_pb2.CancelJobRequest(name="projects/vision/jobs/a")
    await api.jobs.CancelJob(cancel, timeout=10, metadata=who("writer"))
    assert (await others.read()).state_changed.state == job_pb2.JOB_STATE_CANCELLED
    assert await others.read() == grpc.aio.EOF


async def test_a_token_that_is_added_is_known_soon(guarded: Guarded, connect: Connect) -> None:
    api = connect(guarded.running.grpc)
    guarded.put(FILE + entry("fresh", "writer"))
    async with asyncio.timeout(5):
        while not await known(api, "fresh"):
            await asyncio.sleep(0.05)


async def known(api: Any, token: str) -> bool:
    """Whether the conductor knows a token; it looks at the file once a second, which nothing tells."""
    try:
        await api.jobs.ListJobs(job_service_pb2.ListJobsRequest(parent="projects/vision"), metadata=who(token))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return False
    return True


async def test_who_called_is_in_the_log_and_no_token_is(guarded: Guarded, connect: Connect, failing: Failing) -> None:
    api = connect(guarded.running.grpc)
    with capture_logs() as logs:  # without the processors that merge what is bound
        await create(api)
        await failing(create(api, "reader"))
        await failing(create(api, "s3cret"))
    assert [line["event"] for line in logs] == ["job_created", "rpc_refused", "rpc_refused"]
    text = str(logs)
    for token in ("writerwriter", "readerreader", "s3crets3cret"):
        assert token not in text
        assert hashlib.sha256(token.encode()).hexdigest() not in text


async def test_a_conductor_that_is_open_says_so_when_others_reach_it(
    settings: ConductorSettings, tmp_path: Path
) -> None:
    async def said(**change: Any) -> list[str]:
        with capture_logs() as logs:
            async with conducting(settings.model_copy(update=change)):
                pass
        return [line["event"] for line in logs if line["log_level"] == "warning"]

    (tmp_path / "tokens.toml").write_text(FILE)
    assert await said() == []
    assert await said(host="0.0.0.0") == ["open_to_everybody"]
    assert await said(host="0.0.0.0", tokens_file=tmp_path / "tokens.toml") == ["tokens_not_encrypted"]
