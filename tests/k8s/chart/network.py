"""What NetworkPolicies let through, by the rules of networking.k8s.io/v1."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tests.k8s.chart.helm import Manifest
from tests.k8s.chart.reading import of_kind, pod_templates

ANYWHERE = "203.0.113.9"
Direction = Literal["ingress", "egress"]


@dataclass(frozen=True)
class Pod:
    """One pod.

    Attributes:
        namespace: Labels of its namespace; None: the release's own.
    """

    labels: Mapping[str, str]
    namespace: Mapping[str, str] | None


class Network:
    """The pods of a release, by their component, and others, by the names that a test gives them."""

    def __init__(self, manifests: Sequence[Manifest], *, namespace: str) -> None:
        """With the release's own pods."""
        self._own_namespace = {"kubernetes.io/metadata.name": namespace}
        self._policies = of_kind(manifests, "NetworkPolicy")
        self._pods = {
            pod.labels["app.kubernetes.io/component"]: Pod(pod.labels, None) for pod in pod_templates(manifests)
        }
        self.own = tuple(self._pods)

    def add(self, name: str, labels: Mapping[str, str], namespace: Mapping[str, str] | None) -> None:
        """One more pod."""
        self._pods[name] = Pod(labels, namespace)

    def arrows(self, ports: Collection[int]) -> set[tuple[str, str, int]]:
        """(from, to, TCP port) of all that may be called."""
        return {
            (a, b, port)
            for a, source in self._pods.items()
            for b, target in self._pods.items()
            for port in ports
            if self._allowed(source, "egress", target, port) and self._allowed(target, "ingress", source, port)
        }

    def reaches(self, pod: str, address: str, port: int) -> bool:
        """Whether a pod may call an address that is no pod's."""
        return self._allowed(self._pods[pod], "egress", address, port)

    def enters(self, address: str, pod: str, port: int) -> bool:
        """Whether an address that is no pod's may call a pod."""
        return self._allowed(self._pods[pod], "ingress", address, port)

    def selecting(self, pod: str) -> list[Manifest]:
        """The policies that a pod is under."""
        return [policy for policy in self._policies if self._is_under(self._pods[pod], policy)]

    def _is_under(self, pod: Pod, policy: Manifest) -> bool:
        return pod.namespace is None and _selects(policy["spec"]["podSelector"], pod.labels)

    def _allowed(self, pod: Pod, direction: Direction, peer: Pod | str, port: int) -> bool:
        kind = direction.capitalize()
        policies = [p for p in self._policies if self._is_under(pod, p) and kind in p["spec"]["policyTypes"]]
        peers = "to" if direction == "egress" else "from"
        rules = [rule for policy in policies for rule in policy["spec"].get(direction) or ()]
        return not policies or any(
            _has_port(rule, port) and (peers not in rule or any(self._is(peer, one) for one in rule[peers]))
            for rule in rules
        )

    def _is(self, peer: Pod | str, described: Mapping[str, Any]) -> bool:
        if isinstance(peer, str):
            return "ipBlock" in described and _in_block(peer, described["ipBlock"])
        if "ipBlock" in described:
            return False
        if "namespaceSelector" in described:
            labels = self._own_namespace if peer.namespace is None else peer.namespace
            near = _selects(described["namespaceSelector"], labels)
        else:
            near = peer.namespace is None
        return near and _selects(described.get("podSelector", {}), peer.labels)


def _has_port(rule: Mapping[str, Any], port: int) -> bool:
    ports = rule.get("ports")
    return ports is None or any(one["port"] == port and one["protocol"] == "TCP" for one in ports)


def _in_block(address: str, block: Mapping[str, Any]) -> bool:
    where = ipaddress.ip_address(address)
    return where in ipaddress.ip_network(block["cidr"]) and not any(
        where in ipaddress.ip_network(part) for part in block.get("except", ())
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for one in selector.get("matchExpressions", ()):
        if one["operator"] != "In":
            raise NotImplementedError(one["operator"])
        if labels.get(one["key"]) not in one["values"]:
            return False
    return True
