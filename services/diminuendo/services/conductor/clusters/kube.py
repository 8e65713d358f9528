"""RayClusters of one namespace, over HTTP. Thin, blocking, safe for use from several threads.

The `kubernetes` client is imported here and nowhere else, when it is needed: it takes 50 MiB and a second.
"""

from __future__ import annotations

import email.utils
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError

log = logs.get(__name__)

GROUP, VERSION, PLURAL, KIND = "ray.io", "v1", "rayclusters", "RayCluster"
MANAGER = "diminuendo"
"""Who we are in an object's `managedFields`."""
CALL_S = 15.0
WATCH_S = 240
"""How long one watch lasts; the server ends it, and it is begun again where it ended."""
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Manifest: TypeAlias = Mapping[str, Json]


class KubeError(Exception):
    """The Kubernetes API did not do what was asked.

    Attributes:
        status: HTTP status; 0: there was no answer.
        reason: Kubernetes' word for it, e.g. ``AlreadyExists``.
        retry_after_s: For how long the server does not want to be asked again.
    """

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after_s: float = 0.0) -> None:
        """What happened, for people."""
        super().__init__(message)
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s

    @property
    def conflict(self) -> bool:
        """Whether the object is another one than we thought: read it again, then decide again."""
        return self.status in (409, 422)

    @property
    def expired(self) -> bool:
        """Whether what we have seen is so old that changes since are not known: list again."""
        return self.status == 410

    @property
    def missing(self) -> bool:
        """Whether there is no such object."""
        return self.status == 404


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A RayCluster, as far as it matters here.

    Attributes:
        replicas: Pods that are asked for, of each worker group, in the object's order.
        ready: Worker pods that are ready.
        state: What the operator says of it.
        service: Name of the head's Service; empty while the operator has not told it.
        deleting: Somebody has asked for its end.
    """

    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    replicas: Mapping[str, int] = field(default_factory=dict)
    ready: int = 0
    state: str = ""
    reason: str = ""
    service: str = ""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """All RayClusters, and the moment at which they were so."""

    clusters: Sequence[RayCluster]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch: ``ADDED``, ``MODIFIED``, ``DELETED``, or ``BOOKMARK``, which is of no object.

    Attributes:
        resource_version: From where a watch goes on after this.
    """

    kind: str
    resource_version: str
    cluster: RayCluster | None = None


class KubeApi:
    """The API of the RayClusters in one namespace."""

    def __init__(self, namespace: str = "") -> None:
        """Read how the cluster is reached: by KUBECONFIG, else as a pod, else by ``~/.kube/config``.

        Raises:
            StartError: The client is not installed, or there is no such configuration.
        """
        try:
            from kubernetes import client, config
            from urllib3.connection import HTTPConnection
        except ImportError:
            raise StartError(
                "cluster='kuberay' needs the kubernetes client; install it: pip install 'diminuendo[kubernetes]'"
            ) from None
        settings = client.Configuration()
        file = os.environ.get("KUBECONFIG")  # the client has read it when it was imported
        in_pod = not file and bool(os.environ.get("KUBERNETES_SERVICE_HOST"))
        try:
            if in_pod:
                config.load_incluster_config(client_configuration=settings)
            else:
                config.load_kube_config(file, client_configuration=settings)
        except (config.ConfigException, OSError) as error:
            raise StartError(
                f"cluster='kuberay': no Kubernetes cluster is configured ({error}); run in a pod with a service "
                "account, or set KUBECONFIG"
            ) from None
        self.namespace = namespace or _namespace(file, in_pod=in_pod)
        settings.retries = False  # who tries again, and when, is decided here
        settings.socket_options = [*HTTPConnection.default_socket_options, *_KEEPALIVE]
        self._client = client.ApiClient(settings)
        self._api = client.CustomObjectsApi(self._client)
        self._place = {"group": GROUP, "version": VERSION, "namespace": self.namespace, "plural": PLURAL}

    def list(self, selector: str) -> Listed:
        """The RayClusters with these labels.

        Raises:
            KubeError: As every method here.
        """
        found = self._call("list_namespaced_custom_object", label_selector=selector)
        clusters = tuple(map(parsed, found.get("items", ())))
        return Listed(clusters, str(found.get("metadata", {}).get("resourceVersion", "")))

    def watch(self, selector: str, resource_version: str) -> Watch:
        """What changes after a version; blocks until the server has accepted, which it does before anything changes."""
        response = self._call(
            "list_namespaced_custom_object",
            label_selector=selector,
            resource_version=resource_version,
            watch=True,
            allow_watch_bookmarks=True,
            timeout_seconds=WATCH_S,
            _preload_content=False,
            _request_timeout=(CALL_S, WATCH_S + CALL_S),
        )
        return Watch(response)

    def get(self, name: str) -> RayCluster | None:
        """One RayCluster, whoever made it; None where there is none."""
        try:
            return parsed(self._call("get_namespaced_custom_object", name=name))
        except KubeError as error:
            if error.missing:
                return None
            raise

    def create(self, body: Manifest) -> RayCluster:
        """Make one. That there is one of the name is a conflict: never is another's taken over."""
        return parsed(self._call("create_namespaced_custom_object", body=body, field_manager=MANAGER))

    def scale(self, cluster: RayCluster, replicas: Mapping[str, int]) -> RayCluster:
        """Set the number of pods of its groups, and nothing else.

        A JSON patch, which the server does as a whole or not at all: it tests that the object is the one that we know
        and that its groups stand where they stood. (Of a server-side apply the list of groups would be ours as a
        whole, and whatever anybody sets in it would be undone.)
        """
        tests: list[Json] = [{"op": "test", "path": "/metadata/uid", "value": cluster.uid}]
        sets: list[Json] = []
        for index, (group, before) in enumerate(cluster.replicas.items()):
            if replicas.get(group, before) != before:
                path = f"/spec/workerGroupSpecs/{index}"
                tests.append({"op": "test", "path": f"{path}/groupName", "value": group})
                sets.append({"op": "add", "path": f"{path}/replicas", "value": replicas[group]})
        return parsed(
            self._call(
                "patch_namespaced_custom_object",
                name=cluster.name,
                body=[*tests, *sets],
                field_manager=MANAGER,
                _content_type="application/json-patch+json",
            )
        )

    def delete(self, cluster: RayCluster) -> None:
        """Ask for the end of exactly this object; one of the same name that has taken its place is a conflict."""
        body = {"preconditions": {"uid": cluster.uid}, "propagationPolicy": "Background"}
        try:
            self._call("delete_namespaced_custom_object", name=cluster.name, body=body)
        except KubeError as error:
            if not error.missing:
                raise

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def _call(self, method: str, **arguments: object) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return getattr(self._api, method)(**self._place, **{"_request_timeout": CALL_S, **arguments})
        except ApiException as error:
            raise _told(error.status or 0, error.headers or {}, error.body, error.reason) from None
        except (HTTPError, OSError, ValueError) as error:
            raise KubeError(f"no usable answer of the Kubernetes API ({_line(error)})") from None


class Watch:
    """An open watch. Iterating it blocks; `close` ends that from any thread."""

    def __init__(self, response: Any) -> None:
        """Read from a response of urllib3."""
        self._response = response

    def __iter__(self) -> Iterator[Change]:
        """Changes as they come; it ends when the server ends the watch.

        Raises:
            KubeError: The stream was cut, or the server says that it cannot go on (`expired`).
        """
        from urllib3.exceptions import HTTPError

        rest = b""
        try:
            for chunk in self._response.stream(2**16, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from map(_change, filter(None, lines))
        except (HTTPError, OSError, ValueError) as error:
            raise KubeError(f"the watch was cut ({_line(error)})") from None
        if rest.strip():
            raise KubeError("the watch was cut in the middle of an event")

    def close(self) -> None:
        """End it."""
        try:
            self._response.shutdown()  # wakes who reads, which closing would not
        except (OSError, ValueError, RuntimeError):
            log.debug("watch_already_closed")
        self._response.release_conn()


def parsed(found: Mapping[str, Any]) -> RayCluster:
    """An object of the API as a `RayCluster`."""
    about, spec, status = found.get("metadata", {}), found.get("spec", {}), found.get("status") or {}
    groups = spec.get("workerGroupSpecs") or ()
    return RayCluster(
        name=str(about.get("name", "")),
        uid=str(about.get("uid", "")),
        resource_version=str(about.get("resourceVersion", "")),
        labels=dict(about.get("labels") or {}),
        annotations=dict(about.get("annotations") or {}),
        replicas={str(group.get("groupName", "")): int(group.get("replicas") or 0) for group in groups},
        ready=int(status.get("readyWorkerReplicas") or 0),
        state=str(status.get("state") or ""),
        reason=str(status.get("reason") or ""),
        service=str((status.get("head") or {}).get("serviceName") or ""),
        deleting=bool(about.get("deletionTimestamp")),
    )


def _change(line: bytes) -> Change:
    event = json.loads(line)
    kind, found = str(event.get("type", "")), event.get("object") or {}
    if kind == "ERROR":
        code = int(found.get("code") or 0)
        raise KubeError(f"the watch has ended: {found.get('message', '')}", status=code, reason=found.get("reason", ""))
    version = str(found.get("metadata", {}).get("resourceVersion", ""))
    return Change(kind, version, None if kind == "BOOKMARK" else parsed(found))


def _told(status: int, headers: Mapping[str, str], body: object, phrase: object) -> KubeError:
    """What the server said: a Status object, as a rule."""
    try:
        told = json.loads(cast("str", body))
        message, reason = str(told["message"]), str(told.get("reason", ""))
    except (TypeError, ValueError, KeyError):
        message, reason = str(phrase), ""
    return KubeError(
        f"{message} (HTTP {status})" if status else message,
        status=status,
        reason=reason,
        retry_after_s=_seconds(headers.get("Retry-After", "")),
    )


def _seconds(given: str) -> float:
    """Retry-After as seconds: it is a number of them, or a date."""
    if given.strip().isdigit():
        return float(given)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _namespace(file: str | None, *, in_pod: bool) -> str:
    from kubernetes import config

    if in_pod:
        return _SERVICE_ACCOUNT.read_text().strip()
    _, current = config.list_kube_config_contexts(file)
    return str(current["context"].get("namespace") or "default")


def _keepalive() -> list[tuple[int, int, int]]:
    """A server that is gone without a word is noticed within half a minute."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


_KEEPALIVE = _keepalive()


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
