"""Both clients have the same methods with the same arguments, and send the same requests."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diminuendo.client import AsyncClient, AsyncFleet, AsyncJob, Client, ClientConfig, Fleet, Job, JobState

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Recorded

PAIRS = [(Client, AsyncClient), (Job, AsyncJob), (Fleet, AsyncFleet)]
END = datetime(2100, 1, 31, 18, tzinfo=UTC)


def public(kind: type[Any]) -> dict[str, Any]:
    """What a class says that it has, with its constructor; context managers are the one thing that is called else."""
    return {name: member for name, member in vars(kind).items() if not name.startswith("_") or name == "__init__"}


def as_async(annotation: object) -> str:
    """What the asyncio client has in the place of a type."""
    return re.sub(r"\b(Client|Job|Connection|Fleet|Iterator)\b", r"Async\1", str(annotation))


def argument(given: inspect.Parameter, type_of: Callable[[object], str]) -> tuple[object, ...]:
    """What is told of an argument; of a function that is its default, only that there is one."""
    default = "a function" if inspect.isfunction(given.default) else given.default
    return given.name, given.kind, default, type_of(given.annotation)


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=["client", "job", "fleet"])
def test_methods_and_arguments_are_the_same(sync: type[Any], other: type[Any]) -> None:
    ours, theirs = public(sync), public(other)
    assert list(ours) == list(theirs), "in the same order too"
    for name, member in ours.items():
        if isinstance(member, property):
            assert isinstance(theirs[name], property), name
            continue
        mine, its = (inspect.signature(kind.__dict__[name].__get__(None, kind)) for kind in (sync, other))
        assert [argument(p, as_async) for p in mine.parameters.values()] == [
            argument(p, str) for p in its.parameters.values()
        ], name
        answer = re.sub(r"AsyncGenerator\[(\w+), None\]", r"AsyncIterator[\1]", str(its.return_annotation))
        assert as_async(mine.return_annotation) == answer, name


@pytest.mark.parametrize(("sync", "other"), PAIRS, ids=["client", "job", "fleet"])
def test_what_waits_for_a_server_is_awaited(sync: type[Any], other: type[Any]) -> None:
    for name, member in public(other).items():
        if name in ("__init__", "from_context", "job", "fleet") or isinstance(member, property):
            continue
        streams = inspect.isasyncgenfunction(member) or "AsyncGenerator" in str(member.__annotations__["return"])
        assert inspect.iscoroutinefunction(member) or streams, name
        assert "Iterator" not in str(public(sync)[name].__annotations__["return"]) or streams, name


def bundle(folder: Path) -> Path:
    folder.mkdir()
    (folder / "task.py").write_text("def task():\n    ...\n")
    return folder


CALLS: dict[str, Callable[[Any, Path], Any]] = {
    "submit": lambda c, _: c.submit(
        *("zoo:digits",),
        delta=2.5,
        effort="deep",
        accept="strict",
        seed=3,
        formats=("svd",),
        objective="macs",
        limits={"size": 1.5},
        freeze=("head.*",),
        max_ratio={"*": 8},
        multiple=4,
        stage=1,
        budget={"evaluations": 9, "minutes": 1.5},
        exports=("onnx",),
        parallel=2,
        job_id="mine",
        labels={"a": "b"},
        priority=7,
        deadline=END,
        request_id="r",
    ),
    "submit a target": lambda c, _: c.submit(target={"size": 1.0}, request_id="r"),
    "submit a bundle": lambda c, path: c.submit(bundle=path / "bundle", request_id="r"),
    "get": lambda c, _: c.get("recorded"),
    "cancel": lambda c, _: c.job("recorded").cancel(request_id="r"),
    "pause": lambda c, _: c.job("recorded").pause(request_id="r"),
    "resume": lambda c, _: c.job("recorded").resume(request_id="r"),
    "retry": lambda c, _: c.job("recorded").retry(job_id="again", request_id="r"),
    "update": lambda c, _: c.job("recorded").update(labels={}, priority=-2, no_deadline=True, etag="e", request_id="r"),
    "delete": lambda c, _: c.delete("recorded", allow_missing=True),
    "collect_garbage": lambda c, _: c.collect_garbage(dry_run=True),
    "upload": lambda c, path: c.upload(path / "bundle" / "task.py"),
    "upload_bundle": lambda c, path: c.upload_bundle(path / "bundle"),
    "wait": lambda c, _: c.job("recorded").wait(timeout_s=5),
    "download": lambda c, path: c.job("recorded").download(path / "out"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_requests_and_answers_are_the_same(
    fake: FakeServer, recorded: Recorded, quick: ClientConfig, tmp_path: Path, name: str
) -> None:
    bundle(tmp_path / "bundle")
    answers, requests = [], []
    for kind in (Client, AsyncClient):
        fake.jobs.clear()
        fake.requests.clear()
        fake.add(recorded.job(), recorded.events())
        fake.contents = recorded.contents()
        if kind is Client:
            with Client(fake.target, config=quick) as client:
                answer = CALLS[name](client, tmp_path)
        else:
            async with AsyncClient(fake.target, config=quick) as aclient:
                given: Awaitable[Any] = CALLS[name](aclient, tmp_path)
                answer = await given
        answers.append(answer.name if isinstance(answer, Job | AsyncJob) else answer)
        requests.append([request for request in fake.requests if "Read" not in type(request).__name__])
    assert answers[0] == answers[1]
    assert requests[0] == requests[1] != []


async def test_lists_and_logs_are_the_same(fake: FakeServer, recorded: Recorded, quick: ClientConfig) -> None:
    fake.add(recorded.job(), recorded.events())
    for number in range(4):
        job = recorded.job()
        job.name += str(number)
        fake.add(job, [])
    wanted: dict[str, Any] = {"states": [JobState.SUCCEEDED], "labels": {"team": "vision"}, "order_by": "priority desc"}
    with Client(fake.target, config=quick) as client:
        jobs, events = list(client.list(**wanted)), list(client.job("recorded").watch(after_sequence=3))
    asked, fake.requests = fake.requests, []
    async with AsyncClient(fake.target, config=quick) as aclient:
        assert [job async for job in aclient.list(**wanted)] == jobs
        assert [event async for event in aclient.job("recorded").watch(after_sequence=3)] == events
    assert (len(jobs), len(events)) == (5, len(recorded.events()) - 3)
    assert fake.requests == asked
