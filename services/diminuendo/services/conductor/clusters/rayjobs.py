"""Ray's Jobs REST API, as far as a coordinator's start and end need it. Blocking; without Ray."""

from __future__ import annotations

import json
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diminuendo.services.common.rayjobs import DRAIN_S, LABEL

EVALUATORS = "diminuendo-evaluators"
"""Key of a Ray job's metadata: how many evaluators there was room for when it was submitted."""
CALL_S = 10.0
_ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
_MOST_BYTES = 16 * 2**20


class RayJobsError(Exception):
    """The cluster is away, or did not do what it was asked. The text is for people."""


@dataclass(frozen=True, slots=True)
class RayJob:
    """One coordinator's process, running or ended.

    Attributes:
        number: Of its start, counted in its cluster.
        evaluators: That there was room for when it was submitted; 0: not known.
    """

    id: str
    number: int
    status: str
    message: str = ""
    evaluators: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.status in _ENDED


class RayJobs:
    """The coordinators of one name in one Ray cluster."""

    def __init__(self, address: str, name: str) -> None:
        """Nothing is asked yet.

        Args:
            address: ``http://`` or ``https://`` URL of the cluster's dashboard.
            name: The coordinator's.
        """
        self._address, self._name = address.rstrip("/"), name

    def list(self) -> Sequence[RayJob]:
        """Those that the cluster remembers, the newest first.

        Raises:
            RayJobsError: As every method here.
        """
        found = self._call("GET", "/api/jobs/")
        if not isinstance(found, list):
            raise RayJobsError(f"{self._address} answered with something else than Ray jobs; is it a Ray dashboard?")
        named = [job for job in found if (job.get("metadata") or {}).get(LABEL) == self._name]
        ours = [job for job in named if job.get("submission_id")]
        return sorted(map(_parsed, ours), key=lambda job: job.number, reverse=True)

    def submit(self, options: Sequence[str], *, number: int, evaluators: int) -> str:
        """Have the cluster run a coordinator; its id. A number that was used before is refused: no two have one."""
        given = f"{LABEL}-{self._name}-{number}"
        body = {
            "entrypoint": shlex.join(["python", "-m", "diminuendo.services.coordinator", *options]),
            "submission_id": given,
            "metadata": {LABEL: self._name, EVALUATORS: str(evaluators)},
            "runtime_env": {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(DRAIN_S)}},
            "entrypoint_num_cpus": 0,
        }
        self._call("POST", "/api/jobs/", body)
        return given

    def stop(self, job: RayJob) -> None:
        """Ask it to end; it has `DRAIN_S` for that."""
        self._call("POST", f"/api/jobs/{job.id}/stop")

    def forget(self, job: RayJob) -> None:
        """Have the cluster forget one that has ended."""
        self._call("DELETE", f"/api/jobs/{job.id}")

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data=data, method=method, headers=_headers())
        try:
            with urllib.request.urlopen(request, timeout=CALL_S) as response:
                return json.loads(response.read(_MOST_BYTES) or b"null")
        except urllib.error.HTTPError as error:
            with error:
                said = " ".join(error.read(2000).decode(errors="replace").split())
            raise RayJobsError(f"{self._address} refused {method} {path}: HTTP {error.code}: {said[:500]}") from None
        except (OSError, ValueError) as error:
            raise RayJobsError(f"{self._address} does not answer ({' '.join(str(error).split())[:200]})") from None


def _parsed(job: Mapping[str, Any]) -> RayJob:
    name, about = str(job["submission_id"]), job.get("metadata") or {}
    number, evaluators = name.rpartition("-")[2], str(about.get(EVALUATORS, ""))
    return RayJob(
        id=name,
        number=int(number) if number.isdigit() else 0,
        status=str(job.get("status", "")),
        message=" ".join(str(job.get("message") or "").split())[:1000],
        evaluators=int(evaluators) if evaluators.isdigit() else 0,
    )


def _headers() -> dict[str, str]:
    """With Ray's token, by the variables that Ray itself reads it from; a file is read again each time."""
    headers = {"Content-Type": "application/json"}
    if os.environ.get("RAY_AUTH_MODE") == "token":
        token, path = os.environ.get("RAY_AUTH_TOKEN", ""), os.environ.get("RAY_AUTH_TOKEN_PATH", "")
        if not token:
            try:
                token = (Path(path) if path else Path.home() / ".ray" / "auth_token").read_text().strip()
            except OSError as error:
                raise RayJobsError(
                    f"RAY_AUTH_MODE=token, but the token cannot be read ({error.strerror}: {error.filename}); set "
                    "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
                ) from None
        headers["Authorization"] = f"Bearer {token}"
    return headers
