"""Who may do what to Kubernetes, and who may speak with whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.k8s.chart.helm import Helm, Manifest
from tests.k8s.chart.network import ANYWHERE, Network
from tests.k8s.chart.reading import of_kind, only

Rendered = Callable[[str], list[Manifest]]


def test_the_conductor_may_manage_ray_clusters_of_its_namespace_and_nothing_else(rendered: Rendered) -> None:
    role = only(rendered("default"), "Role")
    assert role["rules"] == [
        {
            "apiGroups": ["ray.io"],
            "resources": ["rayclusters"],
            "verbs": ["get", "list", "watch", "create", "patch", "delete"],
        }
    ]
    binding = only(rendered("default"), "RoleBinding")
    account = only(rendered("default"), "ServiceAccount")["metadata"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["name"], "namespace": "prod"}]
    spec = only(rendered("default"), "Deployment")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == account["name"]


def test_nothing_is_asked_of_the_whole_cluster(rendered: Rendered, scenario: str) -> None:
    kinds = {one["kind"] for one in rendered(scenario)}
    assert not {kind for kind in kinds if kind.startswith("Cluster")}
    assert all(one["metadata"]["namespace"] == "prod" for one in rendered(scenario))


@pytest.mark.parametrize("name", ["gpu-autoscaling", "no-kuberay", "sqlite-rendered"])
def test_without_the_provider_there_is_no_role(rendered: Rendered, name: str) -> None:
    assert of_kind(rendered(name), "Role") == of_kind(rendered(name), "RoleBinding") == []


CLIENT, PROMETHEUS, DATABASE = ({"app": name} for name in ("client", "prometheus", "pgbouncer"))
CONDUCTOR, MIGRATION, COORDINATOR, HEAD, WORKER = (
    "conductor",
    "migration",
    "coordinator",
    "ray-head",
    "ray-worker",
)


def network(manifests: list[Manifest]) -> Network:
    """The release's pods, and others in namespaces of their own."""
    found = Network(manifests, namespace="prod")
    found.add("client", CLIENT, {"team": "research"})
    found.add("other", CLIENT, {"team": "sales"})
    found.add("prometheus", PROMETHEUS, {"kubernetes.io/metadata.name": "monitoring"})
    found.add("dns", {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"})
    found.add("database", DATABASE, None)
    return found


PORTS = (53, 80, 443, 4317, 5432, 6379, 6432, 6443, 8080, 8265, 9000, 10001, 50300, 50301)


def test_the_arrows_of_a_closed_network(rendered: Rendered) -> None:
    arrows = network(rendered("restricted-network")).arrows(PORTS)
    own = {CONDUCTOR, MIGRATION, COORDINATOR, HEAD, WORKER}
    ray = {(a, b, port) for a in (HEAD, WORKER) for b in (HEAD, WORKER) for port in PORTS}
    assert {arrow for arrow in arrows if arrow[0] in own or arrow[1] in own} - ray == {
        ("client", CONDUCTOR, 50300),
        ("prometheus", CONDUCTOR, 50301),
        (HEAD, CONDUCTOR, 50300),
        (WORKER, CONDUCTOR, 50300),
        (CONDUCTOR, "database", 6432),
        (MIGRATION, "database", 6432),
        (COORDINATOR, HEAD, 8265),
        *((pod, "prometheus", 4317) for pod in (CONDUCTOR, HEAD, WORKER)),
    }
    assert ray <= arrows


def test_what_a_closed_network_reaches_outside(rendered: Rendered) -> None:
    found = network(rendered("restricted-network"))
    reached = {
        (pod, address, port)
        for pod in (CONDUCTOR, MIGRATION, COORDINATOR, HEAD, WORKER)
        for address in ("169.254.20.10", "10.20.1.1", "10.20.99.1", "10.96.0.1", "10.30.0.5", "203.0.113.9")
        for port in PORTS
        if found.reaches(pod, address, port)
    }
    assert reached == {
        *((pod, "169.254.20.10", 53) for pod in (CONDUCTOR, MIGRATION, COORDINATOR, HEAD, WORKER)),
        *((pod, "10.20.1.1", 443) for pod in (CONDUCTOR, HEAD, WORKER)),
        *((pod, "10.30.0.5", 443) for pod in (HEAD, WORKER)),
        (HEAD, "10.96.0.1", 443),
    }


def test_the_arrows_where_nothing_is_said(rendered: Rendered) -> None:
    found = network(rendered("default"))
    arrows = found.arrows(PORTS)
    assert {("client", CONDUCTOR, 50300), ("other", CONDUCTOR, 50300), ("prometheus", CONDUCTOR, 50301)} <= arrows
    assert {(CONDUCTOR, HEAD, 8265), (HEAD, CONDUCTOR, 50300), (CONDUCTOR, "dns", 53)} <= arrows
    assert not {arrow for arrow in arrows if arrow[0] == "client" and arrow[1] in (HEAD, WORKER)}
    assert found.reaches(CONDUCTOR, "203.0.113.9", 6443), "the Kubernetes API, for the provider"
    assert not any(found.reaches(pod, "203.0.113.9", port) for pod in (HEAD, WORKER) for port in PORTS)
    assert found.enters("203.0.113.9", CONDUCTOR, 50300)
    assert not found.enters("203.0.113.9", CONDUCTOR, 50301)


def test_an_external_cluster_and_a_bucket_by_their_ports(rendered: Rendered) -> None:
    found = network(rendered("no-kuberay"))
    assert {p for p in PORTS if found.reaches(COORDINATOR, "203.0.113.9", p)} == {8265}
    assert {p for p in PORTS if found.reaches(CONDUCTOR, "203.0.113.9", p)} == {443}


def test_every_pod_is_under_a_policy_that_denies(rendered: Rendered, scenario: str) -> None:
    found = Network(rendered(scenario), namespace="prod")
    for pod in found.own:
        policies = found.selecting(pod)
        assert {kind for policy in policies for kind in policy["spec"]["policyTypes"]} == {"Ingress", "Egress"}, pod


def test_policies_can_be_left_to_others(helm: Helm) -> None:
    assert of_kind(helm.template({"networkPolicy": {"enabled": False}}), "NetworkPolicy") == []


def test_the_evaluator_of_policies_knows_a_wrong_one(rendered: Rendered) -> None:
    """The tests above could not fail if it let nothing, or everything, through."""
    manifests = [one for one in rendered("restricted-network") if "default-deny" not in one["metadata"]["name"]]
    closed, opened = network(rendered("restricted-network")), network(manifests)
    assert closed.arrows(PORTS) <= opened.arrows(PORTS)
    policies = [one for one in manifests if one["kind"] != "NetworkPolicy"]
    assert ("other", WORKER, 6379) in network(policies).arrows(PORTS)
    assert network(policies).reaches(WORKER, ANYWHERE, 80)
