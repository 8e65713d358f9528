"""What KubeRay, the kubelets and the Ray clusters do, as far as the provider sees it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.k8s.provider.apiserver import ApiServer, Object, until


class Operator:
    """A thread that gives every RayCluster a head and as many ready workers as are asked for.

    Attributes:
        ready: Whether workers become ready at once; a test may hold them back, and let so many come.
    """

    def __init__(self, api: ApiServer) -> None:
        self._api, self._closing = api, False
        self.most_ready = 10_000
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def allow(self, most: int) -> None:
        """So many workers of each cluster may be ready."""
        with self._api.changed:
            self.most_ready = most
            self._api.changed.notify_all()

    def close(self) -> None:
        with self._api.changed:
            self._closing = True
            self._api.changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        api = self._api
        with api.changed:
            while not self._closing:
                for (namespace, name), found in list(api.objects.items()):
                    wanted = self._wanted(name, found)
                    if found.get("status") != wanted:
                        api.edit(namespace, name, partial(_set_status, wanted))
                api.changed.wait(1.0)

    def _wanted(self, name: str, found: Object) -> Object:
        asked = sum(int(group.get("replicas") or 0) for group in found["spec"]["workerGroupSpecs"])
        ready = min(asked, self.most_ready)
        return {
            "state": "ready",
            "head": {"serviceName": f"{name}-head-svc"},
            "desiredWorkerReplicas": asked,
            "readyWorkerReplicas": ready,
        }


def _set_status(status: Object, found: Object) -> None:
    found["status"] = status


@dataclass
class Dashboards:
    """Jobs REST APIs of Ray clusters, under `/NAME`: jobs run until they are stopped, or until a test ends them.

    Attributes:
        submitted: Called with each job, from the server's thread.
        away: Nobody answers: every request has HTTP 503.
    """

    token: str
    jobs: dict[str, list[Object]] = field(default_factory=dict)
    submitted: Callable[[str, Object], None] = lambda name, job: None
    away: bool = False

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def running(self, name: str) -> list[Object]:
        return [job for job in self.jobs.get(name, ()) if job["status"] in ("PENDING", "RUNNING")]

    def wait(self, condition: Callable[[], object], timeout_s: float = 10.0) -> None:
        with self.changed:
            until(self.changed, condition, timeout_s, lambda: self.jobs)

    def end(self, name: str, status: str = "FAILED", message: str = "killed by a test") -> None:
        """Its process ends by itself."""
        with self.changed:
            for job in self.running(name):
                job.update(status=status, message=message)
            self.changed.notify_all()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        dashboards = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._do()

            def do_POST(self) -> None:
                self._do()

            def do_DELETE(self) -> None:
                self._do()

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def _do(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
                code, answer = 403, "Forbidden: Invalid authentication token"
                if self.headers.get("Authorization") == f"Bearer {dashboards.token}":
                    with dashboards.changed:
                        code, answer = dashboards._answer(self.command, self.path.strip("/").split("/"), body)
                        dashboards.changed.notify_all()
                data = json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler

    def _answer(self, method: str, path: list[str], body: Any) -> tuple[int, Any]:
        name, *rest = path
        jobs = self.jobs.setdefault(name, [])
        if self.away:
            return 503, "away"
        if rest == ["api", "jobs"] and method == "GET":
            return 200, jobs
        if rest == ["api", "jobs"]:
            if any(job["submission_id"] == body["submission_id"] for job in jobs):
                return 500, f"Job with submission_id {body['submission_id']} already exists"
            job = {**body, "status": "RUNNING", "message": ""}
            jobs.append(job)
            self.submitted(name, job)
            return 200, {"submission_id": body["submission_id"]}
        named = [job for job in jobs if job["submission_id"] == rest[2]]
        if not named:
            return 404, "no such job"
        (job,) = named
        if method == "DELETE":
            jobs.remove(job)
        else:
            job.update(status="STOPPED")
        return 200, {}
