"""What a conductor says of its version, also to callers that it refuses."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any, cast

import grpc
import pytest
from diminuendo.v1 import job_service_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from diminuendo.services.conductor.app import Running

OWN = version("diminuendo")


def said(metadata: Any) -> str | None:
    value = dict(metadata).get("diminuendo-version")
    return None if value is None else str(value)


async def test_every_answer_says_the_version(api: Any) -> None:
    job = await api.create()
    call = api.jobs.GetJob(job_service_pb2.GetJobRequest(name=job.name), timeout=10)
    await call
    assert said(await call.trailing_metadata()) == OWN
    watch = api.watch(job.name)
    await watch.read()
    assert said(await watch.initial_metadata()) == OWN
    check = health_pb2_grpc.HealthStub(api.channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    await check
    assert said(await check.initial_metadata()) == OWN


async def test_errors_say_it_too(api: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.get("projects/p/jobs/none")
    assert said(caught.value.trailing_metadata()) == OWN


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_what_is_not_known_names_both_versions(conductor: Running, kind: str) -> None:
    streamed, streams = (part == "stream" for part in kind.split("_"))
    metadata = (("diminuendo-version", "9.8.7"),)

    def ask() -> None:
        # Not by grpc.aio: of a call that was refused while it still sent, that says INTERNAL now and then.
        with grpc.insecure_channel(conductor.grpc) as channel:
            method = getattr(channel, kind)("/diminuendo.v1.JobService/FoldJob")
            answer = method(iter([b"a", b"b"]) if streamed else b"a", timeout=10, metadata=metadata)
            if streams:
                next(answer)

    with pytest.raises(grpc.RpcError) as caught:
        await asyncio.to_thread(ask)
    refused = cast(grpc.Call, caught.value)
    assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.details() == (
        f"'FoldJob' is not known to this server of version {OWN}, and was asked for by a caller of version 9.8.7; "
        "update the older of them"
    )
    assert said(refused.trailing_metadata()) == OWN


async def test_what_is_not_ours_is_plainly_unimplemented(api: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.channel.unary_unary("/elsewhere.Service/Call")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_fields_of_a_later_version_have_a_reason_of_their_own(api: Any, failing: Any) -> None:
    request = api.request()
    request.job.spec.MergeFromString(b"\xfa\x7f\x01x")  # field 2047
    failure = await failing(api.jobs.CreateJob(request, timeout=10))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_FIELD")
    assert failure.fields["job.spec"].startswith("fields 2047 are not known to this server")
