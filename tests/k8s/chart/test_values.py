"""Values: what is refused and in which words, and that schema, values and README say the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema
import pytest
import yaml
from tests.k8s.chart import table
from tests.k8s.chart.helm import CHART, Helm, RefusedError, Values, case, merged

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

POSTGRES: Values = {"database": {"kind": "postgresql", "postgresql": {"existingSecret": "db"}}}
GROUP: Values = {
    "name": "g",
    "kind": "cpu",
    "minReplicas": 0,
    "maxReplicas": 1,
    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
}


def group(**changes: object) -> Values:
    """Values with one group of workers."""
    return {"ray": {"workerGroups": [{**GROUP, **changes}]}}


CANNOT_WORK: list[tuple[Values, str]] = [
    ({"conductor": {"replicas": 2}}, "conductor.replicas=2, but SQLite has room for one conductor"),
    ({"conductor": {"autoscaling": {"enabled": True}}}, "conductor.autoscaling.enabled=true, but SQLite"),
    (
        merged(POSTGRES, {"conductor": {"autoscaling": {"enabled": True, "minReplicas": 7}}}),
        "conductor.autoscaling.minReplicas=7 is over maxReplicas=6",
    ),
    (
        merged(POSTGRES, {"conductor": {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}}}),
        "aims at a share of the requested CPU, and none is requested",
    ),
    ({"database": {"kind": "postgresql"}}, "without database.postgresql.existingSecret"),
    ({"artifacts": {"kind": "s3"}}, "artifacts.kind=s3 without artifacts.s3.bucket"),
    ({"artifacts": {"s3": {"accessKeyId": "k"}}}, "go together: give both"),
    (
        {"artifacts": {"s3": {"accessKeyId": "k", "secretAccessKey": "s", "existingSecret": "x"}}},
        "artifacts.s3.existingSecret and artifacts.s3.accessKeyId are both given",
    ),
    (
        merged(POSTGRES, {"conductor": {"replicas": 2}, "artifacts": {"volume": {"accessMode": "ReadWriteOnce"}}}),
        "several conductors share that volume",
    ),
    ({"tls": {"enabled": True}}, "tls.enabled=true without tls.existingSecret"),
    ({"tls": {"clientCaSecret": "ca"}}, "which only TLS can"),
    ({"tls": {"coordinatorSecret": "c"}}, "which only TLS asks for"),
    (
        {"tls": {"enabled": True, "existingSecret": "t", "clientCaSecret": "ca"}},
        "the coordinator of ray.mode=provider has none: set tls.coordinatorSecret",
    ),
    ({"tokens": {"existingSecret": "t", "toml": "x"}}, "tokens.existingSecret and tokens.toml are both given"),
    ({"tokens": {"existingSecret": "t"}}, "the coordinator of ray.mode=provider has none: make a token"),
    (
        {"tokens": {"existingSecret": "t", "coordinator": {"existingSecret": "c"}}},
        "would cross the cluster's network as it is",
    ),
    ({"ingress": {"enabled": True}}, "ingress.enabled=true without ingress.host"),
    ({"ingress": {"enabled": True, "host": "a.example"}}, "ingress.enabled=true without ingress.tlsSecret"),
    ({"grpcRoute": {"enabled": True}}, "grpcRoute.enabled=true without grpcRoute.parentRefs"),
    ({"rbac": {"create": False}}, "ray.mode=provider makes RayClusters, for which the conductor needs a role"),
    ({"ray": {"mode": "external"}}, "ray.mode=external without ray.address"),
    (
        {"ray": {"mode": "external", "address": "http://h:8265"}},
        "its nodes cannot reach a volume that is made here",
    ),
    ({"ray": {"address": "http://h:8265"}}, "ray.mode=provider uses none"),
    ({"ray": {"workerGroups": []}}, "ray.mode=provider without ray.workerGroups"),
    ({"ray": {"workerGroups": [GROUP, GROUP]}}, "two groups g"),
    (group(kind="gpu"), "g is of kind gpu and has no gpus: say how many each worker has, e.g. gpus: 1"),
    (group(gpus=1), "g is of kind cpu and has gpus=1"),
    (group(minReplicas=2), "g has minReplicas=2 over maxReplicas=1"),
    (group(resources={"limits": {"cpu": "1500m", "memory": "1Gi"}}), "g has resources.limits.cpu=1500m"),
    (group(resources={"limits": {"memory": "1Gi"}}), "g has resources.limits.cpu="),
    (group(resources={"limits": {"cpu": "1"}}), "g has no resources.limits.memory"),
]


@pytest.mark.parametrize(("values", "sentence"), CANNOT_WORK, ids=[sentence[:40] for _, sentence in CANNOT_WORK])
def test_what_cannot_work_fails_with_a_sentence(helm: Helm, values: Values, sentence: str) -> None:
    with pytest.raises(RefusedError) as caught:
        helm.template(values)
    assert sentence in str(caught.value)


def test_every_sentence_of_the_validation_is_tested() -> None:
    text = (CHART / "templates" / "validation.yaml").read_text(encoding="utf-8")
    # Two values are refused by one sentence, and the one of the release's name is tested below.
    assert text.count("{{- fail ") == len(CANNOT_WORK) - 1 + 1


def test_the_provider_needs_a_release_whose_name_it_can_use(helm: Helm) -> None:
    with pytest.raises(RefusedError, match="names its clusters by the release"):
        helm.template({}, release="a-name-that-has-more-than-thirty-letters")
    assert helm.template({"ray": {"mode": "none"}}, release="a-name-that-has-more-than-thirty-letters")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"conducter": {}}, "conducter"),
        ({"conductor": {"replica": 1}}, "replica"),
        ({"ray": {"workerGroups": [{**GROUP, "gpu": 1}]}}, "gpu"),
        ({"conductor": {"resources": {"limit": {}}}}, "limit"),
        ({"networkPolicy": {"clients": [{"podSelektor": {}}]}}, "podSelektor"),
        ({"conductor": {"tolerations": [{"keys": "a"}]}}, "keys"),
        ({"conductor": {"weights": {"Vision": 1}}}, "Vision"),
        ({"conductor": {"replicas": "two"}}, "replicas"),
        ({"conductor": {"replicas": 0}}, "replicas"),
        ({"ray": {"mode": "kuberay"}}, "mode"),
        ({"artifacts": {"s3": {"endpointUrl": "http://user:pass@minio"}}}, "endpointUrl"),
        ({"image": {"control": {"repository": "a:latest"}}}, "repository"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_typo_is_refused(helm: Helm, values: Values, words: str) -> None:
    with pytest.raises(RefusedError) as caught:
        helm.template(values)
    assert words in str(caught.value)


def schemas(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema within one, with its path."""
    yield path, schema
    for key in ("properties", "definitions", "patternProperties"):
        for name, inner in schema.get(key, {}).items():
            yield from schemas(inner, f"{path}/{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), Mapping):
            yield from schemas(schema[key], f"{path}/{key}")


def test_every_object_is_closed() -> None:
    """But for the insides of an affinity, which are Kubernetes', and what Helm itself gives every chart."""
    left_open = {path for path, schema in schemas(SCHEMA) if schema.get("type") == "object" and _open(schema)}
    kinds = ("nodeAffinity", "podAffinity", "podAntiAffinity")
    assert left_open == {"/global", *(f"/affinity/{kind}" for kind in kinds)}


def _open(schema: Mapping[str, Any]) -> bool:
    return schema.get("additionalProperties", True) is True


def test_schema_and_values_have_the_same_keys() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    _same_keys("", DEFAULTS, SCHEMA)


def _same_keys(path: str, values: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    name = schema.get("$ref", "").rpartition("/")[2]
    if name in ("resources", "affinity"):  # Kubernetes' own; what is left out means something there
        return
    schema = SCHEMA["definitions"][name] if name else schema
    if "properties" not in schema:
        return
    assert set(values) == set(schema["properties"]) - {"global"}, path
    for key, value in values.items():
        if isinstance(value, Mapping):
            _same_keys(f"{path}.{key}", value, schema["properties"][key])


def test_lint_is_strict_in_every_scenario(helm: Helm, scenario: str) -> None:
    assert helm.lint(case(scenario)) == []


def test_the_readme_has_the_table_of_these_values() -> None:
    assert table.readme() == table.README.read_text(encoding="utf-8"), "run: python -m tests.k8s.chart.table"


def test_every_value_has_its_words() -> None:
    rows = {row.key: row.text for row in table.rows()}
    assert [key for key, text in rows.items() if not text] == []
    unsaid = [leaf for leaf in _leaves(DEFAULTS) if not any(f"{leaf}.".startswith(f"{key}.") for key in rows)]
    assert unsaid == []


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"
