"""A conductor makes, sizes and removes RayClusters by its queue, and keeps coordinators in them."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable

import pytest
from tests.k8s.provider.apiserver import ApiServer, Object
from tests.k8s.provider.conftest import NAMESPACE, QUICK, TEMPLATE, Conduct
from tests.k8s.provider.operator import Dashboards, Operator

RIGHTS = {"get", "list", "watch", "create", "patch", "delete"}
NAME = "diminuendo"


def replicas(kube: ApiServer, name: str = NAME) -> list[int] | None:
    found = kube.objects.get((NAMESPACE, name))
    return None if found is None else [group["replicas"] for group in found["spec"]["workerGroupSpecs"]]


async def sees(server: ApiServer | Dashboards, condition: Callable[[], object]) -> None:
    await asyncio.to_thread(server.wait, condition)


def flags(job: Object) -> dict[str, str]:
    words = shlex.split(job["entrypoint"])
    assert words[:3] == ["python", "-m", "diminuendo.services.coordinator"]
    return dict(zip(words[3::2], words[4::2], strict=True))


@pytest.mark.usefixtures("operator")
async def test_a_job_brings_a_cluster_and_a_coordinator(kube: ApiServer, ray: Dashboards, conduct: Conduct) -> None:
    async with conduct(cluster_jobs=3) as conductor:
        await sees(kube, lambda: kube.watching)
        assert not kube.objects, "nothing is made for nothing"
        await conductor.api.create()
        await sees(ray, lambda: ray.running(NAME))
        assert replicas(kube) == [2, 0], "4 evaluators for a job, 2 on each pod with GPUs"
        (job,) = ray.running(NAME)
        given = flags(job)
        assert (given["--name"], given["--ray-address"], given["--jobs"]) == (NAME, "auto", "3")
        assert given["--conductor"] == "conductor:50300"
        assert "--project" not in given
        await sees(ray, lambda: conductor.provider.status()[0].coordinator == "running")
        (status,) = conductor.provider.status()
        assert (status.name, status.workers_ready, status.gpus, status.trouble) == (NAME, 2, 4, "")
    assert ray.running(NAME), "the coordinator goes on without the conductor"
    assert replicas(kube) == [2, 0]
    assert {request.verb for request in kube.requests} <= RIGHTS


@pytest.mark.usefixtures("operator")
async def test_size_follows_the_works(kube: ApiServer, ray: Dashboards, conduct: Conduct) -> None:
    """Up at once; down when fewer were of use for a while; to nothing without jobs, the coordinator first."""
    async with conduct() as conductor:
        job = await conductor.api.create()
        await sees(ray, lambda: ray.running(NAME))
        await conductor.report(NAME, busy=4, waiting=3, jobs=(job.name,))
        await sees(kube, lambda: replicas(kube) == [4, 0])
        await sees(ray, lambda: [j["metadata"]["diminuendo-evaluators"] for j in ray.running(NAME)] == ["8"])
        await conductor.report(NAME, busy=2, waiting=0, jobs=(job.name,))
        await sees(kube, lambda: replicas(kube) == [1, 0])
        await conductor.cancel(job)
        await sees(kube, lambda: replicas(kube) == [0, 0])
        assert not ray.running(NAME), "it gave its jobs back before its workers went"
        assert not kube.asked("delete")


@pytest.mark.usefixtures("operator", "ray")
async def test_a_cluster_that_is_not_used_goes(kube: ApiServer, conduct: Conduct) -> None:
    async with conduct(cluster_keep_s=0.5) as conductor:
        job = await conductor.api.create()
        await sees(kube, lambda: replicas(kube) == [2, 0])
        await conductor.cancel(job)
        await sees(kube, lambda: not kube.objects)
        assert [request.status for request in kube.asked("delete")] == [200]
        await conductor.api.create()
        await sees(kube, lambda: replicas(kube) == [2, 0])


@pytest.mark.usefixtures("operator")
async def test_each_project_has_its_own(kube: ApiServer, ray: Dashboards, conduct: Conduct) -> None:
    async with conduct(cluster_scope="project") as conductor:
        for project in ("vision", "a--speech"):
            await conductor.api.jobs.CreateJob(conductor.api.request(parent=f"projects/{project}"), timeout=10)
        await sees(kube, lambda: len(kube.objects) == 2)
        odd = next(name for _, name in kube.objects if name != "diminuendo-vision")
        await sees(ray, lambda: ray.running("diminuendo-vision") and ray.running(odd))
        assert flags(ray.running("diminuendo-vision")[0])["--project"] == "vision"
        assert flags(ray.running(odd)[0])["--project"] == "a--speech"
        lease = await conductor.api.lease(coordinator=odd, project="a--speech")
        assert lease.job.name.startswith("projects/a--speech/")
        assert not (await conductor.api.lease(coordinator="c", project="none")).job.name


@pytest.mark.usefixtures("operator")
async def test_a_coordinator_that_ends_is_placed_again(kube: ApiServer, ray: Dashboards, conduct: Conduct) -> None:
    async with conduct() as conductor:
        await conductor.api.create()
        await sees(ray, lambda: ray.running(NAME))
        ray.end(NAME)
        await sees(ray, lambda: len(ray.jobs[NAME]) == 2 and ray.running(NAME))
        with ray.changed:
            ray.away = True
        await sees(ray, lambda: conductor.provider.status()[0].coordinator == "unreachable")
        assert "HTTP 503" in conductor.provider.status()[0].trouble
        with ray.changed:
            ray.jobs[NAME].clear()  # a head that was started anew remembers nothing
            ray.away = False
        await sees(ray, lambda: ray.running(NAME))


async def test_it_begins_with_what_is_there_and_anew_with_the_rest(
    kube: ApiServer, operator: Operator, ray: Dashboards, conduct: Conduct
) -> None:
    operator.allow(1)
    async with conduct() as conductor:
        await conductor.api.create()
        await sees(ray, lambda: ray.running(NAME))
        assert ray.running(NAME)[0]["metadata"]["diminuendo-evaluators"] == "2"
        operator.allow(2)
        await sees(ray, lambda: [job["status"] for job in ray.jobs[NAME]] == ["STOPPED", "RUNNING"])
        assert ray.running(NAME)[0]["metadata"]["diminuendo-evaluators"] == "4"


@pytest.mark.usefixtures("operator")
async def test_a_changed_template_replaces_the_cluster(
    kube: ApiServer, ray: Dashboards, conduct: Conduct, tmp_path_factory: pytest.TempPathFactory
) -> None:
    newer = tmp_path_factory.mktemp("newer") / "template.yaml"
    newer.write_text(TEMPLATE.read_text().replace("engine:0.1.0", "engine:0.2.0"))
    async with conduct() as conductor:
        await conductor.api.create()
        await sees(ray, lambda: ray.running(NAME))
        first = kube.objects[NAMESPACE, NAME]["metadata"]["uid"]
    async with conduct(cluster_template=newer):
        await sees(kube, lambda: [1 for one in kube.objects.values() if one["metadata"]["uid"] != first])
        assert ray.jobs[NAME][0]["status"] == "STOPPED", "its jobs were given back first"
        image = kube.objects[NAMESPACE, NAME]["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["image"]
        assert image == "diminuendo/engine:0.2.0"
        await sees(ray, lambda: ray.running(NAME))


@pytest.mark.usefixtures("operator", "ray")
async def test_what_somebody_else_set_stays(kube: ApiServer, conduct: Conduct) -> None:
    """Of an object of ours only the number of pods is ours to set."""
    async with conduct() as conductor:
        job = await conductor.api.create()
        await sees(kube, lambda: replicas(kube) == [2, 0])
        kube.edit(NAMESPACE, NAME, lambda one: one["spec"]["workerGroupSpecs"][0].update(maxReplicas=9, replicas=1))
        await sees(kube, lambda: replicas(kube) == [2, 0])
        assert kube.objects[NAMESPACE, NAME]["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 9
        await conductor.cancel(job)
        await sees(kube, lambda: replicas(kube) == [0, 0])


@pytest.mark.usefixtures("operator")
async def test_from_a_queued_job_to_a_coordinator_in_little_time(
    kube: ApiServer, ray: Dashboards, conduct: Conduct
) -> None:
    """Our own part of scaling from 0 to the first busy evaluator stays under 5 s, with the settings as they come."""
    async with conduct(**dict.fromkeys(QUICK, 60.0)) as conductor:
        await sees(kube, lambda: kube.watching)
        began = time.monotonic()
        await conductor.api.create()
        await sees(ray, lambda: ray.running(NAME))
        assert time.monotonic() - began < 5
