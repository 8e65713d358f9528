"""The one file of settings, and the provider's template: read by the programs that they are for."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.k8s.chart.helm import ROOT, Helm, Manifest, case, merged
from tests.k8s.chart.reading import of_kind, only, pod_templates, ray_clusters, settings_file

from diminuendo.services.conductor.clusters import manifest
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.tokens import Role, parsed
from diminuendo.services.coordinator.settings import CoordinatorSettings

Rendered = Callable[[str], list[Manifest]]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[list[Manifest]], Path]:
    """Writes the settings where a service can read them."""

    def write(manifests: list[Manifest]) -> Path:
        path = tmp_path / "diminuendo.toml"
        path.write_text(settings_file(manifests), encoding="utf-8")
        return path

    return write


def test_both_services_take_the_file(rendered: Rendered, scenario: str, file: Callable[[list[Manifest]], Path]) -> None:
    path = file(rendered(scenario))
    conductor = ConductorSettings.load(path)
    assert (conductor.port, conductor.http_port, conductor.host) == (50300, 50301, "0.0.0.0")
    assert conductor.data_dir == Path("/data")
    coordinator = CoordinatorSettings.load(path)
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    if "conductor" in values.get("coordinator", {}):
        assert coordinator.artifacts == conductor.artifacts
        assert coordinator.is_remote


def test_what_values_say_is_what_the_conductor_reads(helm: Helm, file: Callable[[list[Manifest]], Path]) -> None:
    values = {
        "conductor": {
            "weights": {"vision": 2, "2d": 0.5},
            "leaseSeconds": 45,
            "drainSeconds": 7,
            "maxArtifactBytes": 68719476735,
            "keepSeconds": 1209600,
        },
        "artifacts": {
            "kind": "s3",
            "s3": {"bucket": "models", "prefix": "/a/b/", "endpointUrl": "https://minio.x:9000", "region": "eu-1"},
        },
    }
    settings = ConductorSettings.load(file(helm.template(values)))
    assert settings.weights == {"vision": 2.0, "2d": 0.5}
    assert (settings.lease_s, settings.drain_s) == (45.0, 7.0)
    assert settings.max_artifact_bytes == 68719476735
    assert settings.keep_s == 1209600
    assert settings.artifacts == "s3://models/a/b?endpoint_url=https://minio.x:9000&region=eu-1"


def test_the_coordinator_is_told_how_many_evaluators_the_groups_have(
    helm: Helm, file: Callable[[list[Manifest]], Path]
) -> None:
    growing = CoordinatorSettings.load(file(helm.template(case("gpu-autoscaling"))))
    assert (growing.evaluators, growing.evaluator_gpus, growing.idle_s) == (8 * 2, 1.0, 120.0)
    fixed = CoordinatorSettings.load(file(helm.template(case("sqlite-rendered"))))
    assert (fixed.evaluators, fixed.evaluator_gpus, fixed.idle_s) == (4 * 2, 0.0, None)
    more = merged(case("sqlite-rendered"), {"coordinator": {"evaluators": 3}})
    assert CoordinatorSettings.load(file(helm.template(more))).evaluators == 3


@pytest.mark.parametrize("name", ["default", "provider", "tls"])
def test_the_provider_takes_the_template(rendered: Rendered, name: str) -> None:
    (cluster,) = ray_clusters(rendered(name))
    template = manifest.checked(cluster)
    assert all(group.evaluators for group in template.groups)


def test_the_provider_marks_its_clusters_as_the_network_policies_expect(rendered: Rendered) -> None:
    settings = tomllib.loads(settings_file(rendered("default")))["conductor"]
    (cluster,) = ray_clusters(rendered("default"))
    head = cluster["spec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert head["app.kubernetes.io/instance"] == settings["cluster_instance"] == "rel"


def test_a_tokens_file_made_from_values_can_be_read(rendered: Rendered) -> None:
    secret = only(rendered("tls"), "Secret", "rel-diminuendo-tokens")
    (token,) = parsed(tomllib.loads(secret["stringData"]["tokens.toml"]))
    assert (token.name, token.role) == ("coordinator", Role.COORDINATOR)


def test_files_that_the_settings_name_are_mounted(rendered: Rendered, scenario: str) -> None:
    manifests = rendered(scenario)
    settings = tomllib.loads(settings_file(manifests))
    mounted = {}
    for pod in pod_templates(manifests):
        container = pod.spec["containers"][0]
        mounted[pod.owner] = [mount["mountPath"] for mount in container["volumeMounts"]]
        volumes = {volume["name"] for volume in pod.spec["volumes"]}
        used = {mount["name"] for one in pod.containers for mount in one.get("volumeMounts", ())}
        assert used == volumes, pod.owner
    for service, owners in (
        ("conductor", ["Deployment/rel-diminuendo-conductor"]),
        ("coordinator", ["Deployment/rel-diminuendo-coordinator", "RayCluster/head"]),
    ):
        named = [v for v in settings.get(service, {}).values() if isinstance(v, str) and v.startswith("/")]
        for owner in set(owners) & set(mounted):
            for path in named:
                if owner.endswith("-coordinator") and path == "/artifacts":
                    continue  # it touches none: the coordinator that it places does
                assert any(path == mount or path.startswith(f"{mount}/") for mount in mounted[owner]), (owner, path)


def test_secrets_stand_in_no_config_map_and_no_environment(rendered: Rendered) -> None:
    values = case("postgresql-s3")["artifacts"]["s3"]
    secret = only(rendered("postgresql-s3"), "Secret", "rel-diminuendo-s3")
    assert secret["stringData"] == {
        "AWS_ACCESS_KEY_ID": values["accessKeyId"],
        "AWS_SECRET_ACCESS_KEY": values["secretAccessKey"],
    }
    others = [one for one in rendered("postgresql-s3") if one["kind"] != "Secret"]
    assert values["secretAccessKey"] not in yaml.safe_dump_all(others)


def test_the_token_of_ray_is_asked_for_everywhere(rendered: Rendered, scenario: str) -> None:
    for pod in pod_templates(rendered(scenario)):
        if not pod.owner.startswith("RayCluster/"):
            continue
        env = {entry["name"]: entry for entry in pod.spec["containers"][0]["env"]}
        assert env["RAY_AUTH_MODE"]["value"] == "token"
        assert env["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]["key"] == "auth_token"
    for cluster in ray_clusters(rendered(scenario)):
        head = cluster["spec"]["headGroupSpec"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        if cluster["spec"].get("enableInTreeAutoscaling"):
            names = {entry["name"] for entry in cluster["spec"]["autoscalerOptions"]["env"]}
            assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"} <= names


def test_a_token_of_ray_that_is_made_is_long_and_random(helm: Helm) -> None:
    made = {only(helm.template({}), "Secret", "rel-diminuendo-ray-token")["data"]["auth_token"] for _ in range(2)}
    assert len(made) == 2
    assert min(len(token) for token in made) >= 64


def test_versions_are_those_of_the_project(rendered: Rendered) -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((ROOT / "helm" / "diminuendo" / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == project
    for cluster in ray_clusters(rendered("default")):
        assert f"\nray=={cluster['spec']['rayVersion']}\n" in pinned
    images = {c["image"] for pod in pod_templates(rendered("gpu-autoscaling")) for c in pod.containers}
    assert images == {f"diminuendo-control:{project}", f"diminuendo-engine:{project}"}


def test_a_digest_counts_and_the_tag_does_not(helm: Helm) -> None:
    digest = "sha256:" + "0" * 64
    manifests = helm.template({"image": {"control": {"repository": "r.example:5000/c", "tag": "t", "digest": digest}}})
    (container,) = only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"r.example:5000/c@{digest}"
    assert of_kind(manifests, "Job") == []
