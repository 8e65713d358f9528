"""An HTTP server that speaks the part of the Kubernetes API that RayClusters need, and can be told to fail.

Objects live in memory with uids and resource versions, as in the real one: a watch begins at a version, sends
bookmarks, is refused with 410 once that version is compacted away; a JSON patch is done as a whole or not at all; a
deletion keeps its preconditions. Whatever is asked without the token is refused.
"""

from __future__ import annotations

import copy
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PREFIX = "/apis/ray.io/v1/namespaces/"
BOOKMARK_S = 0.5
Object = dict[str, Any]


@dataclass
class Fault:
    """What the next requests of a kind meet in place of an answer.

    Attributes:
        verb: ``list``, ``watch``, ``get``, ``create``, ``patch``, ``delete``.
        status: HTTP status; 0: the connection is cut. A request that is `late` is carried out all the same.
    """

    verb: str
    status: int
    times: int = 1
    retry_after: str = ""
    late: bool = False


@dataclass(frozen=True)
class Request:
    """One that came."""

    verb: str
    name: str
    status: int


class Refusal(Exception):
    """An answer that is a Status."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(message or reason)
        self.status, self.reason = status, reason


@dataclass
class ApiServer:
    """The server and what it holds."""

    token: str
    objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    history: list[tuple[int, str, Object]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    watching: int = 0
    compacted: int = 0
    created: Callable[[Object], None] = lambda found: None

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self._versions = itertools.count(1000)
        self.version = 999
        self._cut = self._forgotten = 0
        self._closing = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def kubeconfig(self, folder: Path, namespace: str) -> Path:
        """A file that leads here."""
        path = folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        }
        path.write_text(json.dumps(content))
        return path

    # --- what tests do to it ------------------------------------------------------------------------------

    def fail(self, verb: str, status: int, times: int = 1, **more: Any) -> None:
        with self.changed:
            self.faults.append(Fault(verb, status, times, **more))

    def cut_watches(self) -> None:
        """End every open watch in the middle of a line."""
        with self.changed:
            self._cut += 1
            self.changed.notify_all()

    def compact(self) -> None:
        """Forget the past: a watch from before now is refused, and open ones are ended with an ERROR event."""
        with self.changed:
            self.history.clear()
            self.compacted = self.version
            self._forgotten += 1
            self.changed.notify_all()

    def wait(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        """Until something holds, of what is here or of who uses it."""
        with self.changed:
            until(self.changed, condition, timeout_s, lambda: [self.requests[-10:], list(self.objects)])

    def asked(self, verb: str) -> list[Request]:
        return [request for request in self.requests if request.verb == verb]

    def put(self, found: Object) -> Object:
        """Store an object as anybody else might."""
        with self.changed:
            return self._create(found["metadata"]["namespace"], found)

    def edit(self, namespace: str, name: str, change: Callable[[Object], None]) -> None:
        """Change an object as anybody else might."""
        with self.changed:
            found = copy.deepcopy(self.objects[namespace, name])
            change(found)
            self._store("MODIFIED", found)

    def remove(self, namespace: str, name: str) -> None:
        with self.changed:
            self._remove(namespace, name)

    # --- storage; under the lock --------------------------------------------------------------------------

    def _create(self, namespace: str, body: Object) -> Object:
        found = copy.deepcopy(body)
        about = found["metadata"]
        if (namespace, about["name"]) in self.objects:
            raise Refusal(409, "AlreadyExists", f'rayclusters.ray.io "{about["name"]}" already exists')
        about |= {"namespace": namespace, "uid": str(uuid.uuid4()), "generation": 1}
        self._store("ADDED", found)
        return found

    def _store(self, kind: str, found: Object) -> None:
        self.version = next(self._versions)
        found["metadata"]["resourceVersion"] = str(self.version)
        about = found["metadata"]
        self.objects[about["namespace"], about["name"]] = found
        self.history.append((self.version, kind, copy.deepcopy(found)))
        self.changed.notify_all()

    def _remove(self, namespace: str, name: str) -> None:
        found = copy.deepcopy(self.objects[namespace, name])
        self._store("DELETED", found)
        del self.objects[namespace, name]

    def _patch(self, namespace: str, name: str, operations: list[Object]) -> Object:
        found = copy.deepcopy(self._found(namespace, name))
        for operation in operations:
            *path, last = [part.replace("~1", "/") for part in operation["path"].split("/")[1:]]
            place: Any = found
            for part in path:
                place = place[int(part)] if isinstance(place, list) else place[part]
            if operation["op"] == "test":
                if place.get(last) != operation["value"]:
                    raise Refusal(422, "Invalid", f"testing value {operation['path']} failed")
            elif operation["op"] in ("add", "replace"):
                place[last] = operation["value"]
            else:
                raise Refusal(400, "BadRequest", f"unknown operation {operation['op']}")
        found["metadata"]["generation"] += 1
        self._store("MODIFIED", found)
        return found

    def _found(self, namespace: str, name: str) -> Object:
        try:
            return self.objects[namespace, name]
        except KeyError:
            raise Refusal(404, "NotFound", f'rayclusters.ray.io "{name}" not found') from None

    def _delete(self, namespace: str, name: str, options: Object) -> Object:
        found = self._found(namespace, name)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != found["metadata"]["uid"]:
            raise Refusal(409, "Conflict", f"the UID in the precondition ({wanted}) does not match")
        self._remove(namespace, name)
        return {"kind": "Status", "status": "Success"}

    # --- HTTP ---------------------------------------------------------------------------------------------

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._do("get")

            def do_POST(self) -> None:
                self._do("create")

            def do_PATCH(self) -> None:
                self._do("patch")

            def do_DELETE(self) -> None:
                self._do("delete")

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _do(self, verb: str) -> None:
                address = urlsplit(self.path)
                query = {key: values[-1] for key, values in parse_qs(address.query).items()}
                namespace, _, rest = address.path.removeprefix(PREFIX).partition("/rayclusters")
                name = rest.strip("/")
                if verb == "get" and not name:
                    verb = "watch" if query.get("watch") in ("true", "True", "1") else "list"
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
                try:
                    with server.changed:
                        fault = server._meets(verb)
                        if fault is not None and not fault.late:
                            return self._fail(verb, name, fault)
                        self._check(address.path)
                    if verb == "watch":
                        return self._watch(namespace, query)
                    with server.changed:
                        answer = server._answer(verb, namespace, name, body, query, self.headers)
                    if fault is not None:
                        return self._fail(verb, name, fault)
                    return self._send(verb, name, 201 if verb == "create" else 200, answer)
                except Refusal as refusal:
                    return self._send(verb, name, refusal.status, status(refusal))

            def _check(self, path: str) -> None:
                if self.headers.get("Authorization") != f"Bearer {server.token}":
                    raise Refusal(401, "Unauthorized")
                if not path.startswith(PREFIX) or "/rayclusters" not in path:
                    raise Refusal(403, "Forbidden", f"cannot do this with {path}")

            def _fail(self, verb: str, name: str, fault: Fault) -> None:
                if fault.status:
                    refusal = Refusal(fault.status, REASONS.get(fault.status, "InternalError"), "told to fail")
                    headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
                    return self._send(verb, name, fault.status, status(refusal), headers)
                server._note(verb, name, 0)
                self.close_connection = True
                return None

            def _send(
                self, verb: str, name: str, code: int, content: Object, headers: dict[str, str] | None = None
            ) -> None:
                server._note(verb, name, code)
                data = json.dumps(content).encode()
                self.send_response(code)
                for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _watch(self, namespace: str, query: dict[str, str]) -> None:
                since = int(query.get("resourceVersion") or 0)
                if since < server.compacted:
                    raise Refusal(410, "Expired", f"too old resource version: {since} ({server.version})")
                server._note("watch", "", 200)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.close_connection = True
                try:
                    for line in server._events(namespace, query.get("labelSelector", ""), since):
                        data = line + b"\n" if line.endswith(b"}") else line
                        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                except OSError:
                    return  # whoever watched is gone

        return Handler

    def _note(self, verb: str, name: str, code: int) -> None:
        with self.changed:
            self.requests.append(Request(verb, name, code))
            self.changed.notify_all()

    def _meets(self, verb: str) -> Fault | None:
        for fault in self.faults:
            if fault.verb == verb and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _answer(self, verb: str, namespace: str, name: str, body: Any, query: dict[str, str], headers: Any) -> Object:
        if verb == "list":
            items = [found for found in self.objects.values() if matches(found, query.get("labelSelector", ""))]
            items = [found for found in items if found["metadata"]["namespace"] == namespace]
            return {"kind": "RayClusterList", "metadata": {"resourceVersion": str(self.version)}, "items": items}
        if verb == "get":
            return self._found(namespace, name)
        if verb == "create":
            self.created(body)
            return self._create(namespace, body)
        if verb == "patch":
            if headers["Content-Type"] != "application/json-patch+json":
                raise Refusal(415, "UnsupportedMediaType")
            return self._patch(namespace, name, body)
        return self._delete(namespace, name, body or {})

    def _has_news(self, seen: int, cut: int, forgotten: int) -> bool:
        return self.version > seen or (self._cut, self._forgotten) != (cut, forgotten) or self._closing

    def _events(self, namespace: str, selector: str, since: int) -> Iterator[bytes]:
        """Lines of a watch; the last one of a watch that is cut is half a line."""
        cut, forgotten, seen = self._cut, self._forgotten, since
        with self.changed:
            self.watching += 1
            self.changed.notify_all()
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(partial(self._has_news, seen, cut, forgotten), timeout=BOOKMARK_S)
                    if self._closing:
                        return
                    gone = self._forgotten != forgotten
                    events = [event for event in self.history if event[0] > seen]
                    was_cut, seen = self._cut != cut, max(seen, self.version)
                if gone:
                    refusal = Refusal(410, "Expired", "too old resource version")
                    yield json.dumps({"type": "ERROR", "object": status(refusal)}).encode()
                    return
                if was_cut:
                    yield b'{"type":"MODIFIED","object":{"metadata"'
                    return
                for _, kind, found in events:
                    if found["metadata"]["namespace"] == namespace and matches(found, selector):
                        yield json.dumps({"type": kind, "object": found}).encode()
                if not events:
                    mark = {"kind": "RayCluster", "metadata": {"resourceVersion": str(seen)}}
                    yield json.dumps({"type": "BOOKMARK", "object": mark}).encode()
        finally:
            with self.changed:
                self.watching -= 1
                self.changed.notify_all()


def until(
    changed: threading.Condition, condition: Callable[[], object], timeout_s: float, told: Callable[[], object]
) -> None:
    """Wait under a lock; what does not notify it is looked at now and then."""
    last = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < last, told()
        changed.wait(0.05)


REASONS = {
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    503: "ServiceUnavailable",
}


def matches(found: Object, selector: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    pairs = [part.split("=", 1) for part in selector.split(",") if part]
    return all(labels.get(key) == value for key, value in pairs)


def status(refusal: Refusal) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": str(refusal),
        "reason": refusal.reason,
        "code": refusal.status,
    }
