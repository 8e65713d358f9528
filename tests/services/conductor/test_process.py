"""The conductor as a process: started, killed, stopped, started wrongly."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from diminuendo.v1 import job_pb2

Spawn = Callable[..., Awaitable[Any]]
Connect = Callable[[str], Any]
Failing = Callable[[Awaitable[object]], Awaitable[Any]]
NAME = "projects/p/jobs/a"


async def refused(spawned: Any) -> str:
    """The one line of a conductor that did not start."""
    out, err = await asyncio.wait_for(spawned.process.communicate(), 30)
    assert spawned.process.returncode == 2
    assert out == b""
    lines = err.decode().splitlines()
    assert len(lines) == 1, lines
    return str(lines[0])


async def test_a_conductor_killed_at_any_moment_loses_nothing(spawn: Spawn, connect: Connect, failing: Failing) -> None:
    first = await spawn()
    port = first.grpc.rpartition(":")[2]
    api = connect(first.grpc)
    await api.create("a", "r1", delta=1.5)
    await api.lease("c1", request_id="l1")
    for step in range(3):
        await api.commit(NAME, 1, step)
    watch = api.watch(NAME)
    seen = [await watch.read() for _ in range(6)]
    await first.end(signal.SIGKILL)
    failure = await failing(watch.read())
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    await spawn("--port", port)
    assert (await api.create("a", "r1", delta=1.5)).name == NAME
    assert (await api.lease("c1", request_id="l1")).epoch == 1, "the same lease: the coordinator goes on"
    await api.commit(NAME, 1, 2)
    rest = api.watch(NAME, seen[-1].sequence)
    await api.commit(NAME, 1, 3)
    assert (await rest.read()).step_committed.step == 3
    await api.finish(NAME, 1)
    assert (await rest.read()).state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert await rest.read() == grpc.aio.EOF
    whole = [event async for event in api.watch(NAME)]
    assert whole[:6] == seen
    assert [event.sequence for event in whole] == list(range(1, 9))


async def test_what_was_answered_was_stored_when_killed_amid_writes(spawn: Spawn, connect: Connect) -> None:
    first = await spawn()
    answered: list[str] = []
    enough = asyncio.Event()

    async def many(api: Any) -> None:
        for _ in range(10_000):
            try:
                answered.append((await api.create()).name)
            except grpc.aio.AioRpcError:
                return
            if len(answered) >= 100:
                enough.set()

    clients = [asyncio.create_task(many(connect(first.grpc))) for _ in range(8)]
    await asyncio.wait_for(enough.wait(), 30)
    await first.end(signal.SIGKILL)
    await asyncio.gather(*clients)
    second = await spawn()
    api = connect(second.grpc)
    for name in answered:
        assert (await api.get(name)).last_sequence == 1


async def test_a_signal_to_stop_drains_and_ends_well(spawn: Spawn, connect: Connect, failing: Failing) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        conductor = await spawn()
        api = connect(conductor.grpc)
        job = await api.create()
        watch = api.watch(job.name)
        await watch.read()
        code, err = await conductor.end(number)
        assert code == 0, err
        assert '"event": "stopped"' in err
        assert "Traceback" not in err
        failure = await failing(watch.read())
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "STOPPING")


async def test_a_call_under_way_is_finished_before_the_stop(spawn: Spawn, connect: Connect) -> None:
    conductor = await spawn()
    api = connect(conductor.grpc)
    await api.create()
    calls = [asyncio.create_task(api.create()) for _ in range(50)]
    await calls[0]
    code, _ = await conductor.end(signal.SIGTERM)
    assert code == 0
    done = await asyncio.gather(*calls, return_exceptions=True)
    named = {job.name for job in done if not isinstance(job, BaseException)}
    for lost in done:
        if isinstance(lost, BaseException):
            assert isinstance(lost, grpc.aio.AioRpcError)
            assert lost.code() is grpc.StatusCode.UNAVAILABLE, lost
    again = connect((await spawn()).grpc)
    for name in named:
        await again.get(name)


async def test_a_port_in_use_is_refused_and_leaves_nothing_behind(spawn: Spawn, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = ("--port", "--http-port")
        lines = await asyncio.gather(*[refused(await spawn(option, port, ready=False)) for option in options])
    for option, line in zip(options, lines, strict=True):
        assert line.startswith(f"error: {option} {port} on 127.0.0.1 is in use; ")
    assert not (tmp_path / "data").exists()


async def test_a_second_conductor_on_the_same_folder_is_refused(spawn: Spawn, tmp_path: Path) -> None:
    first = await spawn()
    line = await refused(await spawn(ready=False))
    assert line.startswith(f"error: --data-dir {str(tmp_path / 'data')!r} is in use by another conductor (process ")
    assert f"(process {first.process.pid})" in line
    await first.end(signal.SIGKILL)
    await spawn()


async def test_settings_that_cannot_be_used_are_refused(spawn: Spawn, monkeypatch: Any) -> None:
    flag = await spawn("--lease-s", "nan", ready=False)
    monkeypatch.setenv("DIMINUENDO_CONDUCTOR_DRAIN", "3")
    variable = await spawn(ready=False)
    lines = await asyncio.gather(refused(flag), refused(variable))
    assert lines[0].startswith("error: lease_s=nan cannot be used: ")
    assert lines[1].endswith("is no setting; did you mean DIMINUENDO_CONDUCTOR_DRAIN_S?")


async def test_neither_torch_nor_ray_is_imported(spawn: Spawn, connect: Connect) -> None:
    conductor = await spawn(python=("-X", "importtime"))
    api = connect(conductor.grpc)
    job = await api.create()
    await api.cancel(job.name)
    assert [event.sequence async for event in api.watch(job.name)] == [1, 2]
    _, err = await conductor.end(signal.SIGTERM)
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert "diminuendo.services.conductor.app" in imported
    assert "grpc.aio" in imported
    heavy = {name for name in imported if name.partition(".")[0] in ("torch", "ray", "numpy", "sklearn")}
    assert not heavy
