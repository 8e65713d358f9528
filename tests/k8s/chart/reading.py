"""Finds things in rendered objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from tests.k8s.chart.helm import Manifest


@dataclass(frozen=True)
class PodTemplate:
    """The template of pods that something makes.

    Attributes:
        owner: ``Kind/name`` of what makes them, and the group where it has several.
        labels: The pods'.
        spec: The pods'.
    """

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> Sequence[dict[str, Any]]:
        """All of them."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    """The objects of a kind."""
    return [one for one in manifests if one["kind"] == kind]


def only(manifests: Sequence[Manifest], kind: str, name: str = "") -> Manifest:
    """The object of a kind, and name, of which there is one."""
    (found,) = [one for one in of_kind(manifests, kind) if name in ("", one["metadata"]["name"])]
    return found


def ray_clusters(manifests: Sequence[Manifest]) -> list[Manifest]:
    """Those rendered, and those that the conductor's are like."""
    files = [one["data"] for one in of_kind(manifests, "ConfigMap")]
    templates = [yaml.safe_load(data["raycluster.yaml"]) for data in files if "raycluster.yaml" in data]
    return [*of_kind(manifests, "RayCluster"), *templates]


def pod_templates(manifests: Sequence[Manifest]) -> Iterator[PodTemplate]:
    """Of everything that makes pods."""
    for one in manifests:
        if one["kind"] in ("Deployment", "Job"):
            yield _template(f"{one['kind']}/{one['metadata']['name']}", one["spec"]["template"])
    for cluster in ray_clusters(manifests):
        yield _template("RayCluster/head", cluster["spec"]["headGroupSpec"]["template"])
        for group in cluster["spec"]["workerGroupSpecs"]:
            yield _template(f"RayCluster/{group['groupName']}", group["template"])


def _template(owner: str, template: dict[str, Any]) -> PodTemplate:
    return PodTemplate(owner, template["metadata"]["labels"], template["spec"])


def settings_file(manifests: Sequence[Manifest]) -> str:
    """The services' settings, TOML."""
    (text,) = [
        one["data"]["diminuendo.toml"] for one in of_kind(manifests, "ConfigMap") if "diminuendo.toml" in one["data"]
    ]
    return str(text)
