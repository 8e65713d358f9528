"""Conductors with a provider, a Kubernetes API to act on, and Ray clusters to place coordinators in."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from diminuendo.v1 import coordinator_service_pb2, job_pb2
from tests.k8s.provider.apiserver import ApiServer
from tests.k8s.provider.operator import Dashboards, Operator
from tests.services.conductor.conftest import Api, spawn

from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.clusters import kuberay
from diminuendo.services.conductor.clusters.base import Provider
from diminuendo.services.conductor.settings import ConductorSettings

__all__ = ["spawn"]

NAMESPACE, TOKEN, RAY_TOKEN = "models", "kube-token", "ray-token"
TEMPLATE = Path(__file__).with_name("template.yaml")
QUICK = {"cluster_idle_s": 0.3, "cluster_settle_s": 0.2, "cluster_keep_s": 600.0}


@pytest.fixture
def kube(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    """The simulated API, which this process's kubeconfig leads to."""
    server = ApiServer(TOKEN)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, NAMESPACE)))
    monkeypatch.setattr(kuberay, "ROUND_S", 0.2)
    yield server
    server.close()


@pytest.fixture
def operator(kube: ApiServer) -> Iterator[Operator]:
    started = Operator(kube)
    yield started
    started.close()


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dashboards]:
    """Jobs REST APIs, whose token this process has."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", RAY_TOKEN)
    dashboards = Dashboards(RAY_TOKEN)
    yield dashboards
    dashboards.close()


@dataclass
class Conductor:
    """One with a provider, and a client of it."""

    running: Running
    api: Api

    @property
    def provider(self) -> Provider:
        assert self.running.provider is not None
        return self.running.provider

    async def cancel(self, job: job_pb2.Job) -> None:
        await self.api.cancel(job.name)

    async def report(self, name: str, *, busy: int, waiting: int, jobs: tuple[str, ...]) -> None:
        """What a coordinator tells of itself."""
        state = job_pb2.EVALUATOR_STATE_BUSY
        request = coordinator_service_pb2.ReportClusterRequest()
        request.coordinator.name, request.coordinator.works_waiting = name, waiting
        request.coordinator.jobs.extend(jobs)
        request.coordinator.evaluators.extend(
            job_pb2.EvaluatorStatus(evaluator=f"e{index}", state=state) for index in range(busy)
        )
        await self.api.coordinators.ReportCluster(request, timeout=10)


Conduct = Callable[..., AbstractAsyncContextManager[Conductor]]


@pytest.fixture
def settings(tmp_path: Path, ray: Dashboards) -> Callable[..., ConductorSettings]:
    def make(**more: Any) -> ConductorSettings:
        given: dict[str, Any] = {
            "data_dir": tmp_path / "data",
            "port": 0,
            "http_port": 0,
            "drain_s": 1.0,
            "cluster": "kuberay",
            "cluster_template": TEMPLATE,
            "cluster_conductor": "conductor:50300",
            "cluster_dashboard": ray.url + "/{name}",
        }
        return ConductorSettings.load(**(given | QUICK | more))

    return make


@pytest.fixture
def conduct(settings: Callable[..., ConductorSettings]) -> Conduct:
    """Starts a conductor in this process."""

    @asynccontextmanager
    async def start(**more: Any) -> AsyncIterator[Conductor]:
        async with (
            conducting(settings(**more)) as running,
            grpc.aio.insecure_channel(running.grpc, options=(("grpc.use_local_subchannel_pool", 1),)) as channel,
        ):
            yield Conductor(running, Api(channel))

    return start


@dataclass(frozen=True)
class Place:
    """A namespace of a Kubernetes cluster, simulated or real, that a test has for itself."""

    namespace: str
    objects: Any

    def foreign(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make an object that is none of ours."""
        made: dict[str, Any] = self.objects.create_namespaced_custom_object(
            "ray.io", "v1", self.namespace, "rayclusters", body | {"metadata": {"name": name}}
        )
        return made


@pytest.fixture
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The cluster that KUBECONFIG leads to, where it is set; else the simulated one."""
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException

    real = bool(os.environ.get("KUBECONFIG"))
    if not real:
        request.getfixturevalue("kube")
    loaded = client.Configuration()
    config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=loaded)
    with client.ApiClient(loaded) as connection:
        objects = client.CustomObjectsApi(connection)
        if not real:
            yield Place(NAMESPACE, objects)
            return
        core, name = client.CoreV1Api(connection), f"diminuendo-test-{uuid.uuid4().hex[:8]}"
        try:
            objects.list_namespaced_custom_object("ray.io", "v1", "default", "rayclusters")
        except ApiException as error:
            pytest.skip(f"the cluster of KUBECONFIG has no RayClusters: {error.reason}")
        core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=name)))
        try:
            yield Place(name, objects)
        finally:
            core.delete_namespace(name)
