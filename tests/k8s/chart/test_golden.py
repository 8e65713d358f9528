"""What the chart renders, against what it rendered when somebody last looked, and when it was first released."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from tests.k8s.chart import golden
from tests.k8s.chart.helm import Helm, Manifest, case
from tests.k8s.chart.reading import of_kind

Rendered = Callable[[str], list[Manifest]]


def test_it_renders_what_it_did(rendered: Rendered, scenario: str) -> None:
    expected = (golden.FOLDER / f"{scenario}.yaml").read_text(encoding="utf-8")
    assert golden.written(rendered(scenario)) == expected, "if it is meant: python -m tests.k8s.chart.golden"


def test_there_is_no_golden_file_of_a_scenario_that_is_gone() -> None:
    from tests.k8s.chart.conftest import SCENARIOS

    assert sorted(path.stem for path in golden.FOLDER.glob("*.yaml")) == SCENARIOS


FIRST = golden.FOLDER / "first"


def lasting(manifests: list[Manifest]) -> dict[str, Any]:
    """What an upgrade must leave as it is: names, and the fields that Kubernetes lets nobody change."""
    fields: dict[str, Any] = {}
    for one in manifests:
        if "helm.sh/hook" in one["metadata"].get("annotations", {}):
            continue  # made anew each time
        found: dict[str, Any] = {}
        spec = one.get("spec", {})
        if one["kind"] == "Deployment":
            found["selector"] = spec["selector"]
        if one["kind"] == "PersistentVolumeClaim":
            found = {"accessModes": spec["accessModes"], "annotations": one["metadata"]["annotations"]}
        if one["kind"] == "Service":
            found = {"clusterIP": spec.get("clusterIP", ""), "selector": spec["selector"]}
        if one["kind"] == "RoleBinding":
            found = {"roleRef": one["roleRef"]}
        fields[f"{one['kind']}/{one['metadata']['name']}"] = found
    return fields


@pytest.mark.parametrize("name", ["default", "postgresql-s3", "sqlite-rendered"])
def test_an_installation_of_the_first_chart_can_be_upgraded(helm: Helm, name: str) -> None:
    """golden/first/ is what 0.1.0 was: its objects stay, or an upgrade would lose a volume or be refused."""
    before = yaml.safe_load((FIRST / f"{name}.yaml").read_text(encoding="utf-8"))
    after = lasting(helm.template(case(name), upgrade=True))
    assert {key: after.get(key) for key in before} == before


def test_upgrading_renders_what_installing_does(helm: Helm, rendered: Rendered, scenario: str) -> None:
    assert golden.written(helm.template(case(scenario), upgrade=True)) == golden.written(rendered(scenario))


def test_two_releases_in_one_namespace_share_nothing(helm: Helm) -> None:
    one, two = (
        {(m["kind"], m["metadata"]["name"]) for m in helm.template(case("postgresql-s3"), release=name)}
        for name in ("one", "two")
    )
    assert not one & two


@pytest.mark.parametrize("release", ["a", "diminuendo", "a-release-name-that-is-as-long-as-helm-takes-it-53char"])
def test_names_are_of_a_length_that_everybody_takes(helm: Helm, release: str) -> None:
    """63 at the most for a service, 50 for the service that KubeRay makes of a cluster's name."""
    manifests = helm.template(case("sqlite-rendered"), release=release)
    for one in manifests:
        assert len(one["metadata"]["name"]) <= 63, one["kind"]
    (cluster,) = of_kind(manifests, "RayCluster")
    assert len(f"{cluster['metadata']['name']}-head-svc") <= 50
