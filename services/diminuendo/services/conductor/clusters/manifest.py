"""The RayCluster that the provider makes: an administrator's template with name, labels and sizes filled in."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.clusters.kube import GROUP, KIND, VERSION, Manifest
from diminuendo.services.conductor.clusters.planner import Group

MANAGED_BY, MANAGER = "app.kubernetes.io/managed-by", "diminuendo"
INSTANCE = "app.kubernetes.io/instance"
PROJECT, DIGEST = "diminuendo/project", "diminuendo/template"
"""Annotations: whose the cluster is alone, and the template that it was made from."""

NAME_LENGTH = 40
"""Of a cluster; the operator makes names of up to 63 characters from it."""
_UNITS = {"": 1.0, "m": 1e-3, "k": 1e3}


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template.

    Attributes:
        groups: Its worker groups. Where one has GPUs, evaluators run on GPUs alone, and the others have room for none.
        digest: Of all of it.
    """

    groups: Sequence[Group]
    digest: str
    _content: Mapping[str, Any]

    def body(self, *, name: str, namespace: str, instance: str, project: str, replicas: Mapping[str, int]) -> Manifest:
        """The object to create."""
        content = copy.deepcopy(dict(self._content))
        about, given = {"name": name, "namespace": namespace}, content.get("metadata") or {}
        labels = {**(given.get("labels") or {}), MANAGED_BY: MANAGER, INSTANCE: instance}
        notes = {**(given.get("annotations") or {}), DIGEST: self.digest, **({PROJECT: project} if project else {})}
        content["metadata"] = {**about, "labels": labels, "annotations": notes}
        head = content["spec"]["headGroupSpec"]
        # The head does no works: its node must stay whole, and evaluators are counted by the workers' pods.
        head["rayStartParams"] = {"num-cpus": "0", **(head.get("rayStartParams") or {})}
        for group in content["spec"]["workerGroupSpecs"]:
            group["replicas"] = replicas[group["groupName"]]
        return content


def selector(instance: str) -> str:
    """Finds what this installation has made."""
    return f"{MANAGED_BY}={MANAGER},{INSTANCE}={instance}"


def is_ours(labels: Mapping[str, str], instance: str) -> bool:
    """Whether an object with these labels was made by this installation."""
    return labels.get(MANAGED_BY) == MANAGER and labels.get(INSTANCE) == instance


def cluster_name(instance: str, project: str) -> str:
    """The name of a project's cluster, of everybody's where the project is empty. The same every time.

    A project whose name had to be changed for it has a digest of the true one behind, so that no two share a cluster.
    """
    if not project:
        return instance
    plain = re.sub(r"[^a-z0-9]+", "-", project.lower()).strip("-")
    whole = f"{instance}-{plain}"
    if plain == project and len(whole) <= NAME_LENGTH - 9:
        return whole
    digest = hashlib.sha256(project.encode()).hexdigest()[:8]
    return f"{whole[: NAME_LENGTH - 9].rstrip('-')}-{digest}"


def load(path: Path) -> Template:
    """Read a template and check what the provider relies on.

    Raises:
        StartError: It cannot be read, or no cluster of the kind can come of it.
    """
    try:
        import yaml
    except ImportError:
        raise StartError(
            "cluster='kuberay' needs the kubernetes client; install it: pip install 'diminuendo[kubernetes]'"
        ) from None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StartError(f"cluster_template={str(path)!r} cannot be read ({error.strerror}); name another") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise StartError(f"cluster_template={str(path)!r} is neither YAML nor JSON ({said}); mend it") from None
    try:
        return checked(content)
    except ValueError as error:
        raise StartError(f"cluster_template={str(path)!r}: {error}") from None


def checked(content: object) -> Template:
    """A template from what a file holds.

    Raises:
        ValueError: What is wrong: field, value and remedy.
    """
    if not isinstance(content, dict) or (content.get("apiVersion"), content.get("kind")) != (
        f"{GROUP}/{VERSION}",
        KIND,
    ):
        raise ValueError(f"it is no {GROUP}/{VERSION} {KIND}; give one as for kubectl apply")
    spec = content.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("headGroupSpec"), dict):
        raise ValueError("spec.headGroupSpec is missing; give the head's pod template")
    if spec.get("enableInTreeAutoscaling"):
        raise ValueError("spec.enableInTreeAutoscaling=true: the conductor sets the number of workers; leave it out")
    workers = spec.get("workerGroupSpecs")
    if not isinstance(workers, list) or not workers:
        raise ValueError("spec.workerGroupSpecs is empty; give at least one group of workers")
    groups = [_group(f"spec.workerGroupSpecs[{index}]", group) for index, group in enumerate(workers)]
    if len({group.name for group in groups}) < len(groups):
        raise ValueError("spec.workerGroupSpecs: two groups have one groupName; give each its own")
    if any(group.gpus for group in groups):
        groups = [group if group.gpus else _without_room(group) for group in groups]
    if not any(group.evaluators and group.most for group in groups):
        raise ValueError("spec.workerGroupSpecs: no group has room for an evaluator; give one GPUs, or a whole CPU")
    _check_tokens(spec, workers)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return Template(tuple(groups), digest, content)


def _without_room(group: Group) -> Group:
    return Group(group.name, 0, group.least, group.most)


def _group(path: str, group: object) -> Group:
    if not isinstance(group, dict) or not group.get("groupName"):
        raise ValueError(f"{path}.groupName is missing; give a name")
    least, most = _count(path, group, "minReplicas", 0), _count(path, group, "maxReplicas", None)
    if most < least:
        raise ValueError(f"{path}.maxReplicas={most} is below minReplicas={least}; give no less")
    hosts = _count(path, group, "numOfHosts", 1)
    cpus, gpus = (_amount(path, group, kind) * hosts for kind in ("cpu", "gpu"))
    return Group(str(group["groupName"]), gpus or cpus, least, most, gpus)


def _count(path: str, group: Mapping[str, Any], key: str, default: int | None) -> int:
    value = group.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{path}.{key}={value!r} is no number of pods; give a whole number, 0 or more")
    return value


def _amount(path: str, group: Mapping[str, Any], kind: str) -> int:
    """CPUs or GPUs that Ray has on one pod: what Ray is told, else the first container's limits, else its requests."""
    told = (group.get("rayStartParams") or {}).get(f"num-{kind}s")
    if told is not None:
        return _quantity(f"{path}.rayStartParams.num-{kind}s", told)
    containers = ((group.get("template") or {}).get("spec") or {}).get("containers")
    if not isinstance(containers, list) or not containers:
        raise ValueError(f"{path}.template.spec.containers is empty; give the Ray container first")
    resources = containers[0].get("resources") or {}
    for part in ("limits", "requests"):
        for name, value in (resources.get(part) or {}).items():
            if name == kind or name.endswith(f"/{kind}"):
                return _quantity(f"{path}.template.spec.containers[0].resources.{part}[{name}]", value)
    return 0


def _quantity(path: str, given: object) -> int:
    """A quantity of Kubernetes, rounded up as its operator does."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mk]?)", str(given))
    if found is None:
        raise ValueError(f"{path}={given!r} is no quantity; give a number, e.g. 4 or 500m")
    return math.ceil(float(found[1]) * _UNITS[found[2]])


def _check_tokens(spec: Mapping[str, Any], workers: Sequence[Mapping[str, Any]]) -> None:
    """Whoever reaches a Ray cluster without a token runs any code on it."""
    if (spec.get("authOptions") or {}).get("mode") == "token":
        return
    groups = [("spec.headGroupSpec", spec["headGroupSpec"])]
    groups += [(f"spec.workerGroupSpecs[{index}]", group) for index, group in enumerate(workers)]
    for path, group in groups:
        containers = ((group.get("template") or {}).get("spec") or {}).get("containers") or [{}]
        names = {entry.get("name"): entry.get("value") for entry in containers[0].get("env") or ()}
        if names.get("RAY_AUTH_MODE") != "token" or not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(names):
            raise ValueError(
                f"{path}.template.spec.containers[0].env: no token is asked for, so that whoever reaches the cluster "
                "runs code on it; set RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or "
                "spec.authOptions.mode=token with a secretName"
            )
