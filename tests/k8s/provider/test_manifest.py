"""The template: what is filled in, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.k8s.provider.conftest import TEMPLATE

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.clusters.manifest import NAME_LENGTH, checked, cluster_name, is_ours, load
from diminuendo.services.conductor.clusters.planner import Group

SCHEMA = Path(__file__).parents[4] / "shared" / "data" / "schemas" / "raycluster-v1.json"


@pytest.fixture
def content() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load(TEMPLATE.read_text()))


def test_what_is_filled_in(content: dict[str, Any]) -> None:
    template = checked(content)
    assert template.groups == (Group("gpu", 2, 0, 4, gpus=2), Group("cpu", 0, 0, 2)), "evaluators run on GPUs alone"
    body: Any = template.body(
        name="dim", namespace="models", instance="rel", project="vision", replicas={"gpu": 3, "cpu": 0}
    )
    assert body["metadata"] == {
        "name": "dim",
        "namespace": "models",
        "labels": {
            "team": "vision",
            "app.kubernetes.io/managed-by": "diminuendo",
            "app.kubernetes.io/instance": "rel",
        },
        "annotations": {"diminuendo/template": template.digest, "diminuendo/project": "vision"},
    }
    assert is_ours(body["metadata"]["labels"], "rel")
    assert not is_ours(body["metadata"]["labels"], "other")
    assert body["spec"]["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert [group["replicas"] for group in body["spec"]["workerGroupSpecs"]] == [3, 0]
    assert "replicas" not in content["spec"]["workerGroupSpecs"][0], "the template stays as it was"


@pytest.mark.skipif(not SCHEMA.exists(), reason="the schema of RayCluster is not beside this checkout")
def test_what_is_made_is_a_raycluster(content: dict[str, Any]) -> None:
    import jsonschema

    body = checked(content).body(
        name="dim", namespace="models", instance="rel", project="", replicas={"gpu": 3, "cpu": 0}
    )
    jsonschema.validate(body, json.loads(SCHEMA.read_text())["openAPIV3Schema"])


def test_cpus_count_where_there_is_no_gpu(content: dict[str, Any]) -> None:
    del content["spec"]["workerGroupSpecs"][0]
    content["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "3500m"
    assert checked(content).groups == (Group("cpu", 4, 0, 2),), "rounded up, as the operator does"
    content["spec"]["workerGroupSpecs"][0]["rayStartParams"]["num-cpus"] = "2"
    assert checked(content).groups == (Group("cpu", 2, 0, 2),), "what Ray is told comes first"


def change(path: str, value: object) -> Any:
    def apply(content: Any) -> None:
        *places, last = path.split(".")
        for place in places:
            content = content[int(place)] if place.isdigit() else content[place]
        if value is None:
            del content[last]
        else:
            content[last] = value

    return apply


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (change("kind", "RayJob"), ["no ray.io/v1 RayCluster"]),
        (change("spec.headGroupSpec", None), ["spec.headGroupSpec is missing"]),
        (change("spec.enableInTreeAutoscaling", True), ["enableInTreeAutoscaling=true", "leave it out"]),
        (change("spec.workerGroupSpecs", []), ["workerGroupSpecs is empty"]),
        (change("spec.workerGroupSpecs.1.groupName", "gpu"), ["two groups have one groupName"]),
        (change("spec.workerGroupSpecs.0.maxReplicas", None), ["workerGroupSpecs[0].maxReplicas=None"]),
        (change("spec.workerGroupSpecs.0.minReplicas", 5), ["maxReplicas=4 is below minReplicas=5"]),
        (change("spec.workerGroupSpecs.0.maxReplicas", 0), ["no group has room for an evaluator"]),
        (change("spec.workerGroupSpecs.1.template.spec.containers", []), ["[1].template.spec.containers is empty"]),
        (change("spec.workerGroupSpecs.0.rayStartParams.num-gpus", "two"), ["num-gpus='two' is no quantity"]),
        (
            change("spec.workerGroupSpecs.1.template.spec.containers.0.env", []),
            ["spec.workerGroupSpecs[1].template.spec.containers[0].env", "RAY_AUTH_MODE=token"],
        ),
    ],
)
def test_what_cannot_work_is_refused(content: dict[str, Any], tmp_path: Path, wrong: Any, words: list[str]) -> None:
    wrong(content)
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(StartError) as caught:
        load(path)
    assert all(word in str(caught.value) for word in [*words, f"cluster_template={str(path)!r}"])


def test_the_operator_may_see_to_the_token(content: dict[str, Any]) -> None:
    content["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["env"] = []
    content["spec"]["authOptions"] = {"mode": "token", "secretName": "ray-token"}
    assert checked(content).groups


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(StartError, match="neither YAML nor JSON"):
        load(tmp_path / "bad.yaml")


def test_names() -> None:
    assert cluster_name("diminuendo", "") == "diminuendo"
    assert cluster_name("diminuendo", "vision") == "diminuendo-vision"


_PROJECTS = st.from_regex(r"\A[a-z0-9-]{1,63}\Z")


@settings(max_examples=50, deadline=None)
@given(_PROJECTS, _PROJECTS)
def test_no_two_projects_share_a_name(one: str, other: str) -> None:
    names = cluster_name("diminuendo", one), cluster_name("diminuendo", other)
    assert (names[0] == names[1]) == (one == other)
    assert all(len(name) <= NAME_LENGTH and name[0].isalpha() and name[-1].isalnum() for name in names)
