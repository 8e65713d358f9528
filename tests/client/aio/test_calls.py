"""Calls on asyncio: what is retried, what each error becomes, who may cancel and close."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.client import (
    AsyncClient,
    ClientConfig,
    DiminuendoError,
    InvalidArgumentError,
    JobState,
    NotFoundError,
    ServerError,
    ServerUnavailableError,
    UnauthenticatedError,
    Violation,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.client.conftest import FakeServer, Recorded


async def test_a_mutation_is_retried_with_the_same_request_id(fake: FakeServer, aclient: AsyncClient) -> None:
    fake.refusals += [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE]
    await aclient.submit(job_id="mine")
    requests = fake.asked(job_service_pb2.CreateJobRequest)
    assert len(requests) == 3
    assert len({request.request_id for request in requests}) == 1
    assert (await aclient.cancel("mine")).state is JobState.CANCELLED


async def test_retries_end_with_what_the_server_said(
    fake: FakeServer, aclient: AsyncClient, make_status: Callable[..., Any]
) -> None:
    busy = make_status(grpc.StatusCode.UNAVAILABLE, "the database is locked; try again", reason="STORE_UNAVAILABLE")
    fake.refusals += [busy] * 1000
    started = time.monotonic()
    with pytest.raises(ServerUnavailableError, match="the database is locked; try again") as caught:
        await aclient.get("mine")
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert 0.5 < time.monotonic() - started < 4
    assert len(fake.requests) > 3


async def test_errors_have_the_servers_remedy(
    fake: FakeServer, aclient: AsyncClient, make_status: Callable[..., Any]
) -> None:
    with pytest.raises(NotFoundError, match="there is no job projects/default/jobs/none; see ListJobs") as missing:
        await aclient.get("none")
    assert missing.value.reason == "JOB_NOT_FOUND"
    fake.refusals.append(make_status(grpc.StatusCode.INVALID_ARGUMENT, "", violations=(("seed", "is odd; halve it"),)))
    with pytest.raises(InvalidArgumentError, match="seed: is odd; halve it") as wrong:
        await aclient.submit(seed=3)
    assert wrong.value.violations == (Violation("seed", "is odd; halve it"),)
    fake.refusals.append(grpc.StatusCode.INTERNAL)
    with pytest.raises(ServerError, match="INTERNAL"):
        await aclient.get("none")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source": "digits"}, "did you mean zoo:digits"),
        ({"source": "zoo:digits", "bundle": "here"}, "is given beside a bundle"),
        ({"bundle": "nowhere", "delta": 0}, "delta: 0 is not a tolerance"),
        ({"bundle": "nowhere", "priority": 1.5}, "priority: 1.5 is no whole number"),
        ({"bundle": "nowhere"}, "nowhere is not a folder"),
    ],
)
async def test_what_is_wrong_is_said_before_anything_is_sent(
    fake: FakeServer, aclient: AsyncClient, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        await aclient.submit(**given)
    assert fake.requests == []


async def test_nobody_at_the_address(free_port: int, quick: ClientConfig) -> None:
    async with AsyncClient(f"127.0.0.1:{free_port}", config=quick) as client:
        with pytest.raises(ServerUnavailableError, match=f"no Diminuendo server answers at 127.0.0.1:{free_port}"):
            await client.get("mine")


async def test_a_context_is_called(fake: FakeServer, nobodys_contexts: Path) -> None:
    nobodys_contexts.write_text(f'[contexts.lab]\nserver = "{fake.target}"\nproject = "vision"\n')
    nobodys_contexts.chmod(0o600)
    async with AsyncClient.from_context("lab") as client:
        assert (client.target, client.project) == (fake.target, "vision")
        assert (await client.submit()).name == "projects/vision/jobs/chosen"
    with pytest.raises(InvalidArgumentError, match="did you mean lab"):
        AsyncClient.from_context("lap")


async def test_a_closed_client_says_so(fake: FakeServer, quick: ClientConfig) -> None:
    client = AsyncClient(fake.target, config=quick)
    await client.close()
    await client.close()
    for call in (client.get("mine"), client.upload(__file__), client.job("mine").wait()):
        with pytest.raises(ServerUnavailableError, match="this client is closed; make another AsyncClient"):
            await call


async def test_closing_ends_calls_streams_and_pauses_with_an_error(
    fake: FakeServer, recorded: Recorded, quick: ClientConfig
) -> None:
    """grpc.aio would cancel whoever waits, as if somebody had cancelled the task."""
    fake.add(recorded.job(), recorded.events()[:4])
    client = AsyncClient(fake.target, config=quick)
    seen = asyncio.Event()

    async def watch() -> None:
        async for event in client.job("recorded").watch():
            if event.sequence == 4:
                seen.set()

    watching = asyncio.create_task(watch())
    await asyncio.wait_for(seen.wait(), 10)
    await client.close()
    with pytest.raises(ServerUnavailableError, match="this client is closed"):
        await asyncio.wait_for(watching, 10)
    assert await asyncio.to_thread(fake.gone.wait, 10)


def test_each_event_loop_needs_a_client_of_its_own(fake: FakeServer, recorded: Recorded, quick: ClientConfig) -> None:
    fake.add(recorded.job(), recorded.events())
    client = AsyncClient(fake.target, config=quick)  # outside of any loop
    assert asyncio.run(client.get("recorded")).state is JobState.SUCCEEDED
    with pytest.raises(DiminuendoError, match="has made calls in another event loop; make an AsyncClient in each"):
        asyncio.run(client.get("recorded"))
    asyncio.run(client.close())


class Held:
    """Keeps GetJob waiting until it is cancelled, or let go.

    Attributes:
        most: How many calls were waiting at a time.
        waiting: Set while as many wait as are expected.
        cancelled: Set when a caller has gone.
    """

    def __init__(self, expected: int) -> None:
        self.expected, self.now, self.most = expected, 0, 0
        self.waiting, self.go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def get(self, request: job_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == self.expected:
            self.waiting.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.now -= 1
        return job_pb2.Job(name=request.name, state=job_pb2.JOB_STATE_QUEUED)

    def handler(self) -> grpc.GenericRpcHandler:
        get = grpc.unary_unary_rpc_method_handler(
            self.get, job_service_pb2.GetJobRequest.FromString, job_pb2.Job.SerializeToString
        )
        return grpc.method_handlers_generic_handler("diminuendo.v1.JobService", {"GetJob": get})


@pytest.fixture
async def held() -> AsyncIterator[Callable[..., Any]]:
    """Starts a server of `Held`; gives it and its address."""
    servers: list[grpc.aio.Server] = []

    async def start(expected: int) -> tuple[Held, str]:
        server, servicer = grpc.aio.server(), Held(expected)
        server.add_generic_rpc_handlers((servicer.handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        servers.append(server)
        return servicer, f"127.0.0.1:{port}"

    yield start
    for server in servers:
        await server.stop(grace=None)


async def test_a_token_that_is_renewed_is_taken_up(tmp_path: Path) -> None:
    """By a call, and by a watch under way, which goes on behind what it has told."""
    token, asked = tmp_path / "token", []
    token.write_text("first")

    async def allowed(context: Any, wanted: str) -> None:
        said = dict(context.invocation_metadata())["authorization"]
        asked.append(said)
        if said != f"Bearer {wanted}":
            token.write_text(wanted)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired")

    async def get(request: job_service_pb2.GetJobRequest, context: Any) -> job_pb2.Job:
        await allowed(context, "second")
        return job_pb2.Job(name=request.name)

    async def watch(request: job_service_pb2.WatchJobRequest, context: Any) -> AsyncIterator[job_pb2.JobEvent]:
        if not request.after_sequence:
            yield job_pb2.JobEvent(sequence=1)
        await allowed(context, "third")
        final = job_pb2.StateChanged(state=job_pb2.JOB_STATE_CANCELLED)
        yield job_pb2.JobEvent(sequence=request.after_sequence + 1, state_changed=final)

    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "GetJob": grpc.unary_unary_rpc_method_handler(
            get, job_service_pb2.GetJobRequest.FromString, job_pb2.Job.SerializeToString
        ),
        "WatchJob": grpc.unary_stream_rpc_method_handler(
            watch, job_service_pb2.WatchJobRequest.FromString, job_pb2.JobEvent.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("diminuendo.v1.JobService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}", token_file=token) as client:
            assert (await client.get("mine")).job_id == "mine"
            assert [event.sequence async for event in client.job("mine").watch()] == [1, 2]
        assert asked == [*("Bearer first", "Bearer second"), *("Bearer second", "Bearer third")]
        async with AsyncClient(f"127.0.0.1:{port}", token="first") as client:
            with pytest.raises(UnauthenticatedError, match="the token has expired; give another token"):
                await client.get("mine")
    finally:
        await server.stop(grace=None)


async def test_hundreds_of_calls_wait_at_a_time_without_a_thread_each(held: Callable[..., Any]) -> None:
    servicer, target = await held(500)
    async with AsyncClient(target, timeout_s=60) as client:
        await asyncio.sleep(0)
        threads = threading.active_count()
        calls = [asyncio.create_task(client.get(f"job-{number}")) for number in range(500)]
        await asyncio.wait_for(servicer.waiting.wait(), 30)
        assert threading.active_count() <= threads + 3  # gRPC's own
        servicer.go.set()
        infos = await asyncio.gather(*calls)
    assert [info.job_id for info in infos] == [f"job-{number}" for number in range(500)]
    assert servicer.most == 500


async def test_cancelling_a_task_cancels_its_call_on_the_server(held: Callable[..., Any]) -> None:
    servicer, target = await held(1)
    async with AsyncClient(target, timeout_s=60) as client:
        call = asyncio.create_task(client.get("mine"))
        await asyncio.wait_for(servicer.waiting.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(servicer.cancelled.wait(), 10)
        servicer.go.set()
        assert (await client.get("mine")).state is JobState.QUEUED, "the client goes on"


async def test_a_deadline_is_the_callers(held: Callable[..., Any]) -> None:
    _, target = await held(1)
    async with AsyncClient(target) as client:
        with pytest.raises(ServerUnavailableError, match="did not answer in time"):
            await client.get("mine", timeout_s=0.2)
