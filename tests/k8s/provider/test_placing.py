"""A coordinator in a Ray cluster that was there before, and one beside the conductor."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.k8s.provider.conftest import RAY_TOKEN, Conduct
from tests.k8s.provider.operator import Dashboards
from tests.k8s.provider.test_kuberay import flags, sees

from diminuendo.services.conductor.clusters.rayjobs import RayJobs, RayJobsError

NAME = "diminuendo"


def existing(ray: Dashboards) -> dict[str, object]:
    return {"cluster": "ray", "cluster_address": f"{ray.url}/far", "cluster_template": None}


async def test_an_existing_cluster_runs_one(ray: Dashboards, conduct: Conduct) -> None:
    async with conduct(**existing(ray)) as conductor:
        await sees(ray, lambda: ray.running("far"))
        assert flags(ray.running("far")[0])["--conductor"] == "conductor:50300"
        ray.end("far")
        await sees(ray, lambda: len(ray.jobs["far"]) == 2 and ray.running("far"))
        (status,) = conductor.provider.status()
        assert (status.name, status.address) == (NAME, f"{ray.url}/far")
    async with conduct(**existing(ray)) as conductor:
        provider = conductor.provider
        await sees(ray, lambda: provider.status() and provider.status()[0].coordinator == "running")
        assert len(ray.jobs["far"]) == 2, "the one that was there is taken over"


async def test_a_cluster_remembers_few_ends(ray: Dashboards, conduct: Conduct) -> None:
    old = [{"submission_id": f"diminuendo-coordinator-{NAME}-{n}", "status": "FAILED"} for n in range(1, 9)]
    ray.jobs["far"] = [job | {"metadata": {"diminuendo-coordinator": NAME}} for job in old]
    async with conduct(**existing(ray)):
        await sees(ray, lambda: ray.running("far") and len(ray.jobs["far"]) == 4)
        assert ray.running("far")[0]["submission_id"] == f"diminuendo-coordinator-{NAME}-9"


def test_no_two_starts_have_one_number(ray: Dashboards) -> None:
    jobs = RayJobs(f"{ray.url}/far", NAME)
    jobs.submit(("--jobs", "1"), number=1, evaluators=0)
    with pytest.raises(RayJobsError, match="already exists"):
        jobs.submit(("--jobs", "1"), number=1, evaluators=0)


def test_tokens(ray: Dashboards, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = RayJobs(f"{ray.url}/far", NAME)
    wrong = secrets.token_hex(8)
    monkeypatch.setenv("RAY_AUTH_TOKEN", wrong)
    with pytest.raises(RayJobsError, match="HTTP 403") as caught:
        jobs.list()
    assert wrong not in str(caught.value)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(RayJobsError, match="set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"):
        jobs.list()
    (tmp_path / "token").write_text(f"{RAY_TOKEN}\n")
    assert list(jobs.list()) == []


def test_no_dashboard(unused_tcp_port_factory: Callable[[], int]) -> None:
    with pytest.raises(RayJobsError, match="does not answer"):
        RayJobs(f"http://127.0.0.1:{unused_tcp_port_factory()}", NAME).list()


@pytest.mark.k8s
@pytest.mark.timeout(600)
async def test_one_beside_the_conductor(conduct: Conduct, tmp_path: Path) -> None:
    """A real one, with a Ray of its own and tokens on: killed, it comes back; nothing of it is left in the end."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[[tokens]]\nname = "other"\nrole = "reader"\nprojects = "*"\nsha256 = "{"0" * 64}"\n')
    before, family = {child.pid for child in psutil.Process().children()}, set()
    async with conduct(cluster="local", cluster_template=None, tokens_file=tokens) as conductor:
        store, name = conductor.running.store, conductor.provider.status()[0].name
        for number in (1, 2):
            async with asyncio.timeout(240):
                while not [one for one in await store.list_coordinators(since=0) if one.name == name]:
                    await asyncio.sleep(0.1)
            own = coordinator(before)
            family |= {own, *own.children(recursive=True)}
            if number == 1:
                await store.forget_coordinator(name)
                own.kill()
    assert len(family) > 4, "Ray's processes are in it"
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def coordinator(before: set[int]) -> psutil.Process:
    """The coordinator that this process has started."""
    new = [child for child in psutil.Process().children() if child.pid not in before]
    (found,) = [child for child in new if "diminuendo.services.coordinator" in child.cmdline()]
    return found
