"""A conductor has a real Ray cluster, with a token, run its coordinator."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from diminuendo.v1 import job_pb2
from tests.k8s.provider.conftest import Conduct
from tests.services.coordinator.test_remote import Head, free_port, head

__all__ = ["head"]


@pytest.mark.apart
@pytest.mark.timeout(600)
async def test_a_real_cluster_runs_one(
    head: Head, conduct: Conduct, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes a job; a conductor that begins anew finds it there; stopped, it gives the job back."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.environment["RAY_AUTH_TOKEN"])
    port = free_port()
    more = {"cluster": "ray", "cluster_address": head.url, "cluster_template": None, "port": port}
    more |= {"cluster_conductor": f"127.0.0.1:{port}", "artifacts": str(tmp_path / "artifacts")}
    async with conduct(**more) as conductor:
        name = (await conductor.api.create()).name
        async with asyncio.timeout(240):
            while (await conductor.api.get(name)).state != job_pb2.JOB_STATE_RUNNING:
                await asyncio.sleep(0.2)
    async with conduct(**more) as conductor:
        async with asyncio.timeout(60):
            while not [one for one in conductor.provider.status() if one.coordinator == "running"]:
                await asyncio.sleep(0.2)
        assert (await conductor.api.get(name)).epoch == 1, "it went on meanwhile"
