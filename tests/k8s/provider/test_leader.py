"""Of several conductors on one PostgreSQL one acts on the clusters, and another when it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url
from tests.k8s.provider.apiserver import ApiServer
from tests.k8s.provider.conftest import Conduct
from tests.k8s.provider.test_kuberay import NAME, replicas, sees
from tests.postgres import Postgres

from diminuendo.services.conductor.clusters import leader
from diminuendo.services.conductor.clusters.leader import Alone, Elected, leader_for, while_leading


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    with postgres.database() as url:
        yield url


def cut_connections(postgres: Postgres, url: str) -> None:
    """End every connection that holds an advisory lock for long."""
    statement = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"
    with psycopg.connect(postgres.conninfo(str(make_url(url).database)), autocommit=True) as connection:
        assert connection.execute(statement).fetchall() == [(True,)]


async def test_one_at_a_time(url: str, postgres: Postgres) -> None:
    one, other, apart = Elected(url, "rel"), Elected(url, "rel"), Elected(url, "another")
    try:
        assert await one.holds()
        assert await one.holds(), "and goes on to"
        assert not await other.holds()
        assert await apart.holds(), "another installation in the same database"
        await apart.close()
        cut_connections(postgres, url)
        async with asyncio.timeout(30):
            while not await other.holds():  # the server lets go of the lock once it has ended the connection
                await asyncio.sleep(0.01)
        assert not await one.holds()
        await other.close()
        assert await one.holds()
    finally:
        for some in (one, other, apart):
            await some.close()


async def test_a_database_that_is_away_is_nobodys() -> None:
    assert not await Elected("postgresql+psycopg://nobody@127.0.0.1:1/none", "rel").holds()


async def test_alone_on_sqlite() -> None:
    found = leader_for("sqlite:///file", "rel")
    assert isinstance(found, Alone)
    assert await found.holds()
    await found.close()


async def test_what_is_done_ends_with_the_lead(url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "LOOK_S", 0.05)
    began, ended = asyncio.Event(), asyncio.Event()

    async def act() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    task = asyncio.create_task(while_leading(Elected(url, "rel"), act))
    await asyncio.wait_for(began.wait(), 10)
    rival = Elected(url, "rel")
    cut_connections(postgres, url)
    while not await rival.holds() and not ended.is_set():
        await asyncio.sleep(0.01)
    await asyncio.wait_for(ended.wait(), 10)
    began.clear()
    await rival.close()
    await asyncio.wait_for(began.wait(), 10)
    task.cancel()
    await asyncio.wait({task})


async def test_another_conductor_takes_over(
    url: str, kube: ApiServer, conduct: Conduct, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "LOOK_S", 0.1)
    async with conduct(database=url, data_dir=f"{tmp_path}/two") as second:
        await sees(kube, lambda: kube.watching)  # it leads
        async with conduct(database=url, data_dir=f"{tmp_path}/one") as first:
            await first.api.create()
            await sees(kube, lambda: replicas(kube) == [2, 0])
            assert kube.watching == 1, "only one of them looks"
            await sees(kube, lambda: first.provider.status() or second.provider.status())
            assert not first.provider.status(), "the other came first"
            uid = next(iter(kube.objects.values()))["metadata"]["uid"]
        assert kube.watching == 1
    async with conduct(database=url, data_dir=f"{tmp_path}/one") as first:
        await sees(kube, first.provider.status)
        assert first.provider.status()[0].name == NAME
    assert next(iter(kube.objects.values()))["metadata"]["uid"] == uid
