"""Validates objects against Kubernetes' own schemas, and those of custom resources."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
from typing import Any

import jsonschema
from tests.k8s.chart.helm import ROOT, Manifest

VERSIONS = ("1.29.0", "1.37.0")
"""The chart's least version, and the newest that the schemas know."""
CUSTOM = {
    ("ray.io/v1", "RayCluster"): "raycluster-v1.json",
    ("monitoring.coreos.com/v1", "ServiceMonitor"): "servicemonitor-v1.json",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "prometheusrule-v1.json",
}
UNKNOWN = {("gateway.networking.k8s.io/v1", "GRPCRoute")}
"""Of these there is no schema here; test_kubernetes.py looks at them itself."""
FOLDER = ROOT.parent / "shared" / "data" / "schemas"


def missing() -> str:
    """Why nothing can be validated here, or nothing."""
    if importlib.util.find_spec("kubernetes_validate") is None:
        return "Kubernetes' schemas are not here: pip install kubernetes-validate"
    return ""


def custom_missing() -> str:
    """Why custom resources cannot be validated here, or nothing."""
    return "" if FOLDER.is_dir() else f"the schemas of custom resources are not here: {FOLDER}"


def validate(manifest: Manifest, version: str) -> None:
    """Raises jsonschema.ValidationError when Kubernetes of that version would not take it."""
    import kubernetes_validate

    _remember_schemas()
    kubernetes_validate.validate(copy.deepcopy(dict(manifest)), version, strict=True)


def validate_custom(manifest: Manifest) -> None:
    """The same for a custom resource; fields that its schema does not know are refused, which an API server drops."""
    _validator(CUSTOM[manifest["apiVersion"], manifest["kind"]]).validate(json.loads(json.dumps(manifest)))


@functools.cache
def _remember_schemas() -> None:
    """Each of its calls reads several megabytes otherwise."""
    from kubernetes_validate import utils

    utils.schema_contents = functools.cache(utils.schema_contents)


@functools.cache
def _validator(name: str) -> jsonschema.Draft7Validator:
    schema: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))["openAPIV3Schema"]
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    closed = _closed(schema)
    jsonschema.Draft7Validator.check_schema(closed)
    return jsonschema.Draft7Validator(closed)


def _closed(schema: Any) -> Any:
    """OpenAPI's schema as JSON Schema, in which an object has no more than it says."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {key: _closed(value) for key, value in schema.items() if key not in ("format", "default", "properties")}
    if schema.get("nullable") and isinstance(schema.get("type"), str):
        closed["type"] = [schema["type"], "null"]
    if str(schema.get("pattern", "")).startswith("^(?i)"):
        closed["pattern"] = "(?i)^" + schema["pattern"].removeprefix("^(?i)")  # where Python wants it
    if "properties" in schema:
        # Names of properties are no words of the schema, whatever they are.
        closed["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    return closed
