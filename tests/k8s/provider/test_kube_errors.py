"""What the Kubernetes API may do to the provider: refuse, delay, cut, forget; and what others may do to its objects."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest
import yaml
from tests.k8s.provider.apiserver import ApiServer, Object
from tests.k8s.provider.conftest import NAMESPACE, TEMPLATE, Conduct, Place
from tests.k8s.provider.test_kuberay import NAME, replicas, sees
from tests.services.conductor.conftest import Api, Spawned

from diminuendo.services.conductor.clusters import manifest
from diminuendo.services.conductor.clusters.kube import KubeApi, KubeError

pytestmark = pytest.mark.usefixtures("ray")


SAMPLE = {("watch", 0), ("create", 429), ("patch", 409)}
REFUSALS = [
    pytest.param(verb, status, marks=[] if (verb, status) in SAMPLE else pytest.mark.k8s)
    for verb in ("list", "watch", "create", "patch", "delete")
    for status in (0, 403, 409, 429, 500, 503)
]


def made(kube: ApiServer) -> int:
    return sum(1 for _, kind, _ in kube.history if kind == "ADDED")


@pytest.mark.parametrize(("verb", "status"), REFUSALS)
async def test_every_refusal_is_got_over(kube: ApiServer, conduct: Conduct, verb: str, status: int) -> None:
    """Each request fails twice, whatever it is; what is wanted is there in the end, once."""
    kube.fail(verb, status, 2)
    async with conduct(cluster_keep_s=0.2) as conductor:
        job = await conductor.api.create()
        await sees(kube, lambda: replicas(kube) == [2, 0])
        await conductor.cancel(job)
        await sees(kube, lambda: not kube.objects)
        assert kube.faults[0].times == 0
        assert made(kube) == 1


async def test_retry_after_is_kept(kube: ApiServer, conduct: Conduct) -> None:
    kube.fail("create", 429, retry_after="1")
    async with conduct() as conductor:
        await conductor.api.create()
        await sees(kube, lambda: kube.asked("create"))
        refused = time.monotonic()
        await sees(kube, lambda: len(kube.asked("create")) == 2)
        assert time.monotonic() - refused >= 0.99


async def test_an_answer_that_is_lost_makes_nothing_twice(kube: ApiServer, conduct: Conduct) -> None:
    kube.fail("create", 0, late=True)
    async with conduct() as conductor:
        await conductor.api.create()
        await sees(kube, lambda: made(kube) == 1)
        await sees(kube, lambda: len(conductor.provider.status()) == 1)
        assert {request.status for request in kube.asked("create")} <= {0, 409}
        assert made(kube) == 1


async def test_a_cut_watch_goes_on_where_it_was(kube: ApiServer, conduct: Conduct) -> None:
    async with conduct() as conductor:
        await sees(kube, lambda: kube.watching)
        kube.cut_watches()
        await sees(kube, lambda: len(kube.asked("watch")) == 2 and kube.watching)
        await conductor.api.create()
        await sees(kube, lambda: len(conductor.provider.status()) == 1)
        assert len(kube.asked("list")) == 1, "what it knew, it knows still"


async def test_a_forgotten_past_is_listed_again(kube: ApiServer, conduct: Conduct) -> None:
    async with conduct() as conductor:
        await conductor.api.create()
        await sees(kube, lambda: replicas(kube) == [2, 0] and kube.watching)
        kube.compact()
        await sees(kube, lambda: len(kube.asked("list")) == 2)
        kube.edit(NAMESPACE, NAME, lambda one: one["spec"]["workerGroupSpecs"][0].update(replicas=1))
        await sees(kube, lambda: replicas(kube) == [2, 0])


async def test_a_watch_from_a_forgotten_version_is_listed_again(kube: ApiServer, conduct: Conduct) -> None:
    async with conduct() as conductor:
        await sees(kube, lambda: kube.watching)
        kube.fail("watch", 410)
        kube.cut_watches()
        await sees(kube, lambda: len(kube.asked("list")) == 2 and kube.watching)
        await conductor.api.create()
        await sees(kube, lambda: replicas(kube) == [2, 0])


@pytest.mark.k8s
async def test_bookmarks_move_the_version_on(kube: ApiServer, conduct: Conduct) -> None:
    """Changes of others' objects are not told; a bookmark says that they were seen, so that a cut costs no list."""
    async with conduct():
        await sees(kube, lambda: kube.watching)
        kube.put({"metadata": {"name": "other", "namespace": "elsewhere"}, "spec": {"workerGroupSpecs": []}})
        last = kube.version
        await asyncio.sleep(1.2)  # two bookmarks
        with kube.changed:
            kube.compacted = last
        kube.cut_watches()
        await sees(kube, lambda: len(kube.asked("watch")) == 2)
        assert [request.status for request in kube.asked("watch")] == [200, 200]


async def test_an_object_that_goes_is_made_again(kube: ApiServer, conduct: Conduct) -> None:
    async with conduct() as conductor:
        await conductor.api.create()
        await sees(kube, lambda: replicas(kube) == [2, 0])
        kube.remove(NAMESPACE, NAME)
        await sees(kube, lambda: replicas(kube) == [2, 0] and made(kube) == 2)


async def test_a_conductor_killed_at_the_creation(
    kube: ApiServer, spawn: Callable[..., Awaitable[Spawned]], conduct: Conduct, tmp_path: Path
) -> None:
    """Between the creation and the answer: its successor goes on with what there is."""
    started: list[int] = []

    def kill(_: Object) -> None:
        if started:
            os.kill(started.pop(), signal.SIGKILL)

    kube.created = kill
    options = {"cluster": "kuberay", "cluster-template": str(TEMPLATE), "cluster-conductor": "conductor:1"}
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    first = await spawn("--data-dir", str(tmp_path / "data"), *words)
    started.append(first.process.pid)
    async with grpc.aio.insecure_channel(first.grpc) as channel:
        await Api(channel).create()
    assert await asyncio.wait_for(first.process.wait(), 20) == -signal.SIGKILL
    await sees(kube, lambda: kube.objects)
    uid = kube.objects[NAMESPACE, NAME]["metadata"]["uid"]
    async with conduct() as second:
        await sees(kube, lambda: len(second.provider.status()) == 1)
        kube.edit(NAMESPACE, NAME, lambda one: one["spec"]["workerGroupSpecs"][0].update(replicas=0))
        await sees(kube, lambda: replicas(kube) == [2, 0])
    assert kube.objects[NAMESPACE, NAME]["metadata"]["uid"] == uid
    assert made(kube) == 1


# --- on a real cluster too, where KUBECONFIG leads to one ----------------------------------------------------


async def test_what_others_made_is_left_alone(place: Place, conduct: Conduct) -> None:
    """Of the name that ours would have: neither changed nor deleted, and said."""
    body = yaml.safe_load(TEMPLATE.read_text())
    theirs = place.foreign(NAME, body)
    async with conduct(cluster_keep_s=0.0, cluster_namespace=place.namespace) as conductor:
        job = await conductor.api.create()
        provider = conductor.provider
        for _ in range(200):
            if any("was not made by this installation" in one.trouble for one in provider.status()):
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("nothing was said")
        await conductor.cancel(job)
        await asyncio.sleep(1.0)
    found = KubeApi(place.namespace).get(NAME)
    assert found is not None
    assert found.uid == theirs["metadata"]["uid"]
    assert set(found.replicas.values()) == {0}


async def test_create_scale_and_delete(place: Place) -> None:
    """What each request does; that it means one object and not another of that name."""
    api, template = KubeApi(place.namespace), manifest.load(TEMPLATE)
    body = template.body(
        name=NAME, namespace=place.namespace, instance="rel", project="", replicas={"gpu": 1, "cpu": 0}
    )
    first = api.create(body)
    with pytest.raises(KubeError) as caught:
        api.create(body)
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    assert manifest.is_ours(first.labels, "rel")
    assert api.scale(first, {"gpu": 2, "cpu": 1}).replicas == {"gpu": 2, "cpu": 1}
    listed = api.list(manifest.selector("rel"))
    assert [cluster.uid for cluster in listed.clusters] == [first.uid]
    assert api.list(manifest.selector("other")).clusters == ()
    watch = api.watch(manifest.selector("rel"), listed.resource_version)
    api.delete(first)
    assert next(change.kind for change in watch if change.kind == "DELETED") == "DELETED"
    watch.close()
    second = api.create(body)
    assert second.uid != first.uid
    for refused in (lambda: api.delete(first), lambda: api.scale(first, {"gpu": 0, "cpu": 0})):
        with pytest.raises(KubeError) as caught:
            refused()
        assert caught.value.conflict
    found = api.get(NAME)
    assert found is not None
    assert (found.uid, found.replicas["gpu"]) == (second.uid, 1)
    api.delete(second)
    api.close()
