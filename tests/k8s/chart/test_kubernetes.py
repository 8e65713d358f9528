"""What is rendered against the schemas of Kubernetes, KubeRay and the Prometheus operator, and by Helm 3."""

from __future__ import annotations

import copy
from collections.abc import Callable

import jsonschema
import pytest
from tests.k8s.chart import golden, schemas
from tests.k8s.chart.helm import Helm, Manifest, RefusedError, case
from tests.k8s.chart.reading import of_kind, only, ray_clusters
from tests.k8s.chart.test_values import CANNOT_WORK

Rendered = Callable[[str], list[Manifest]]


@pytest.fixture
def validating() -> None:
    """Skips where Kubernetes' schemas are not."""
    if reason := schemas.missing():
        pytest.skip(reason)


@pytest.fixture
def custom() -> None:
    """Skips where those of custom resources are not."""
    if reason := schemas.custom_missing():
        pytest.skip(reason)


@pytest.mark.k8s
@pytest.mark.usefixtures("validating")
@pytest.mark.parametrize("version", schemas.VERSIONS)
def test_kubernetes_takes_every_object(rendered: Rendered, scenario: str, version: str) -> None:
    validated = 0
    for one in rendered(scenario):
        kind = (one["apiVersion"], one["kind"])
        if kind not in schemas.CUSTOM and kind not in schemas.UNKNOWN:
            schemas.validate(one, version)
            validated += 1
    assert validated > 5


@pytest.mark.usefixtures("validating")
def test_kubernetes_would_not_take_a_wrong_object(rendered: Rendered) -> None:
    wrong = copy.deepcopy(dict(only(rendered("default"), "Deployment")))
    schemas.validate(wrong, schemas.VERSIONS[1])
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProbes"] = {}
    with pytest.raises(jsonschema.ValidationError):
        schemas.validate(wrong, schemas.VERSIONS[1])


@pytest.mark.usefixtures("custom")
def test_their_operators_take_custom_resources(rendered: Rendered, scenario: str) -> None:
    found = [one for one in rendered(scenario) if (one["apiVersion"], one["kind"]) in schemas.CUSTOM]
    for one in [*found, *(c for c in ray_clusters(rendered(scenario)) if c not in found)]:
        schemas.validate_custom(one)


@pytest.mark.usefixtures("custom")
def test_kuberay_would_not_take_a_wrong_cluster(rendered: Rendered) -> None:
    (wrong,) = copy.deepcopy(ray_clusters(rendered("default")))
    schemas.validate_custom(wrong)
    wrong["spec"]["workerGroupSpecs"][0]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(jsonschema.ValidationError, match="enableServiceLink"):
        schemas.validate_custom(wrong)


def test_the_routes_lead_to_the_conductor(rendered: Rendered) -> None:
    manifests = rendered("postgresql-s3")
    service = only(manifests, "Service", "rel-diminuendo-conductor")
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    route = only(manifests, "GRPCRoute")["spec"]
    assert route == {
        "parentRefs": [{"name": "public", "namespace": "gateways"}],
        "hostnames": ["diminuendo.example"],
        "rules": [{"backendRefs": [{"name": service["metadata"]["name"], "port": ports["grpc"]}]}],
    }
    ingress = only(manifests, "Ingress")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPC"
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": service["metadata"]["name"], "port": {"name": "grpc"}}
    tls = only(rendered("tls"), "Ingress")["metadata"]["annotations"]
    assert tls["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPCS"


def test_each_conductor_is_scraped_once_and_found_by_name(rendered: Rendered) -> None:
    manifests = rendered("postgresql-s3")
    monitor = only(manifests, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    scraped = [
        service["metadata"]["name"]
        for service in of_kind(manifests, "Service")
        if wanted <= service["metadata"]["labels"].items()
        and monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}
    ]
    assert scraped == ["rel-diminuendo-conductor-headless"]
    headless = only(manifests, "Service", scraped[0])["spec"]
    assert headless["clusterIP"] == "None"
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert headless["selector"].items() <= labels.items()


@pytest.mark.k8s
def test_helm_3_renders_the_same(helm3: Helm, rendered: Rendered, scenario: str) -> None:
    assert golden.written(helm3.template(case(scenario))) == golden.written(rendered(scenario))


@pytest.mark.k8s
def test_helm_3_lints_every_scenario(helm3: Helm, scenario: str) -> None:
    assert helm3.lint(case(scenario)) == []


@pytest.mark.k8s
@pytest.mark.parametrize(("values", "sentence"), CANNOT_WORK[::6])
def test_helm_3_refuses_with_the_same_sentences(helm3: Helm, values: dict[str, object], sentence: str) -> None:
    with pytest.raises(RefusedError) as caught:
        helm3.template(values)
    assert sentence in str(caught.value)


@pytest.mark.k8s
def test_helm_3_refuses_a_typo(helm3: Helm) -> None:
    with pytest.raises(RefusedError, match="conducter"):
        helm3.template({"conducter": {}})
