"""Every pod: the restricted Pod Security standard, and what this project's programs need besides."""

from __future__ import annotations

import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tests.k8s.chart.helm import Helm, Manifest, case, merged
from tests.k8s.chart.reading import of_kind, only, pod_templates, ray_clusters, settings_file

from diminuendo.services.conductor.server import LAST_S, QUIET_S, REFUSE_S

Rendered = Callable[[str], list[Manifest]]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def test_every_pod_is_restricted(rendered: Rendered, scenario: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pods = list(pod_templates(rendered(scenario)))
    assert pods
    for pod in pods:
        spec = pod.spec
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), pod.owner
        assert all(set(volume) - {"name"} <= VOLUMES for volume in spec["volumes"]), pod.owner
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["fsGroup"] == 65532
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod.containers:
            _is_restricted(container["securityContext"])
            assert all("hostPort" not in port for port in container.get("ports", []))
    for cluster in ray_clusters(rendered(scenario)):
        if "autoscalerOptions" in cluster["spec"]:
            _is_restricted(cluster["spec"]["autoscalerOptions"]["securityContext"])


def _is_restricted(context: dict[str, object]) -> None:
    assert context["allowPrivilegeEscalation"] is False
    assert context["runAsNonRoot"] is True
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "privileged" not in context


def test_every_container_has_a_place_for_temporary_files_and_bounds(rendered: Rendered, scenario: str) -> None:
    for pod in pod_templates(rendered(scenario)):
        for container in pod.containers:
            assert container["resources"]["requests"]["cpu"], pod.owner
            assert container["resources"]["limits"]["memory"], pod.owner
        for container in pod.spec["containers"]:
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}, pod.owner


def test_no_pod_is_told_of_services_by_its_environment(rendered: Rendered, scenario: str) -> None:
    """DIMINUENDO_CONDUCTOR_PORT=tcp://..., which Kubernetes would set, is a setting of the conductor's."""
    for pod in pod_templates(rendered(scenario)):
        assert pod.spec["enableServiceLinks"] is False, pod.owner


def test_a_pod_has_the_keys_of_kubernetes_only_where_it_needs_them(rendered: Rendered, scenario: str) -> None:
    manifests = rendered(scenario)
    mounted = {pod.owner for pod in pod_templates(manifests) if pod.spec.get("automountServiceAccountToken", True)}
    settings = tomllib.loads(settings_file(manifests))
    expected = set()
    if settings["conductor"].get("cluster") == "kuberay":
        expected.add("Deployment/rel-diminuendo-conductor")
    if any(cluster["spec"].get("enableInTreeAutoscaling") for cluster in ray_clusters(manifests)):
        expected.add("RayCluster/head")
    assert mounted == expected
    assert all(one["automountServiceAccountToken"] is False for one in of_kind(manifests, "ServiceAccount"))


@pytest.mark.parametrize("drain_s", [0, 10, 60])
def test_the_grace_period_is_longer_than_the_drain(helm: Helm, drain_s: int) -> None:
    spec = only(helm.template({"conductor": {"drainSeconds": drain_s}}), "Deployment")["spec"]["template"]["spec"]
    # The pages drain once more for as long at the most, but nothing of a scrape takes that long.
    assert spec["terminationGracePeriodSeconds"] >= drain_s + REFUSE_S + QUIET_S + LAST_S + 10


def test_probes_are_native_grpc_and_over_http_where_kubernetes_cannot(rendered: Rendered) -> None:
    def probes(scenario: str) -> list[dict[str, object]]:
        deployment = only(rendered(scenario), "Deployment", "rel-diminuendo-conductor")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return [container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness")]

    startup, liveness, readiness = probes("default")
    assert startup["grpc"] == liveness["grpc"] == {"port": 50300}
    assert readiness["grpc"] == {"port": 50300, "service": "diminuendo.v1.JobService"}
    startup, liveness, readiness = probes("tls")
    assert startup["httpGet"] == liveness["httpGet"] == {"path": "/livez", "port": "http"}
    assert readiness["httpGet"] == {"path": "/readyz", "port": "http"}


def test_sqlite_never_has_two_conductors_even_for_a_moment(rendered: Rendered) -> None:
    assert only(rendered("default"), "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    many = only(rendered("provider"), "Deployment", "rel-diminuendo-conductor")["spec"]
    assert many["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert only(rendered("provider"), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert of_kind(rendered("default"), "PodDisruptionBudget") == []


def test_an_autoscaler_and_a_number_of_replicas_do_not_fight(rendered: Rendered) -> None:
    manifests = rendered("postgresql-s3")
    assert "replicas" not in only(manifests, "Deployment")["spec"]
    scaler = only(manifests, "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"]["name"] == only(manifests, "Deployment")["metadata"]["name"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 8)


def test_the_migration_needs_nothing_that_an_installation_has_yet_to_make(rendered: Rendered) -> None:
    manifests = rendered("postgresql-s3")
    job = only(manifests, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade,pre-rollback"
    made = {one["metadata"]["name"] for one in manifests if one["kind"] in ("Secret", "ConfigMap", "ServiceAccount")}
    spec = job["spec"]["template"]["spec"]
    assert not made & set(str(spec).replace("'", " ").split())
    assert "serviceAccountName" not in spec
    assert spec["containers"][0]["args"] == ["conductor", "--migrate-only"]
    assert of_kind(rendered("default"), "Job") == []


def test_a_gpu_worker_has_its_gpus_and_a_cpu_one_none(rendered: Rendered) -> None:
    (cluster,) = ray_clusters(rendered("gpu-autoscaling"))
    gpu, cpu = cluster["spec"]["workerGroupSpecs"]
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert set(cpu["template"]["spec"]["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}
    assert (gpu["minReplicas"], gpu["replicas"], gpu["maxReplicas"]) == (0, 0, 8)


def test_gpus_of_another_make(helm: Helm) -> None:
    (group, _) = case("gpu-autoscaling")["ray"]["workerGroups"]
    values = merged(case("gpu-autoscaling"), {"ray": {"workerGroups": [{**group, "gpuResource": "amd.com/gpu"}]}})
    (cluster,) = ray_clusters(helm.template(values))
    (worker,) = cluster["spec"]["workerGroupSpecs"]
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["amd.com/gpu"] == 2


def test_the_coordinator_waits_for_ray(rendered: Rendered) -> None:
    """The init container's own program, first without a Ray and then with one."""
    spec = only(rendered("sqlite-rendered"), "Deployment", "rel-diminuendo-coordinator")["spec"]["template"]["spec"]
    (container,) = spec["initContainers"]
    program, url = container["args"]
    assert url == "http://rel-diminuendo-head-svc.prod.svc:8265/api/gcs_healthz"
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with subprocess.Popen(
            [sys.executable, "-c", program, f"http://127.0.0.1:{port}/api/gcs_healthz"],
            stdout=subprocess.PIPE,
            text=True,
        ) as waiting:
            assert waiting.stdout is not None
            assert "again in 2 s" in waiting.stdout.readline()
            reserved.close()
            with HTTPServer(("127.0.0.1", port), _Healthy) as server:
                server.handle_request()
            assert waiting.wait(60) == 0


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"success")

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_cluster_of_a_fixed_size(rendered: Rendered) -> None:
    (cluster,) = ray_clusters(rendered("sqlite-rendered"))
    assert cluster["spec"]["enableInTreeAutoscaling"] is False
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (4, 4, 4)
