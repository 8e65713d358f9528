"""Logs: one event has one name; lines are JSON with ids; no secret is in them."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import grpc
import pytest
from diminuendo.v1 import job_service_pb2
from tests.observability.life import Life
from tests.observability.rig import ROOT, Conductor

from diminuendo.services.common import logs

SERVICES = ROOT / "services/diminuendo/services"
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def events() -> dict[str, set[str]]:
    """Names of events, and the modules that log them."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SERVICES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
                logger, name = node.func.value, node.args[0] if node.args else None
                if isinstance(logger, ast.Name) and logger.id in ("log", "_log"):
                    assert isinstance(name, ast.Constant), f"{path}:{node.lineno}: the name is to be written there"
                    found[str(name.value)].add(str(path.relative_to(SERVICES)))
    return found


def test_an_event_has_one_name_and_a_name_is_of_one_module() -> None:
    found = events()
    assert len(found) > 80
    for name, modules in found.items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name), name
        assert len(modules) == 1, f"{name} is logged by {sorted(modules)}"


def test_secrets_are_left_out_of_lines_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    before = logging.root.handlers, logging.root.level
    try:
        logs.configure(service="test", style="json")
        logger = logs.get("m")
        logger.info("one", url="postgresql://me:hunter2@db/jobs", said=["Bearer hunter2", {"token=hunter2": 1}])
        try:
            raise ValueError("password=hunter2 host=db")
        except ValueError:
            logger.exception("two", job="projects/p/jobs/a")
        logging.getLogger("driver").warning("cannot connect: s3://key:hunter2@bucket")
    finally:
        logging.root.handlers, level = before[0], before[1]
        logging.root.setLevel(level)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert "hunter2" not in out.getvalue()
    assert [line["event"] for line in lines] == ["one", "two", "cannot connect: s3://key:***@bucket"]
    assert lines[0]["url"] == "postgresql://me:***@db/jobs"
    assert "password=*** host=db" in lines[1]["exception"]
    assert lines[1]["job"] == "projects/p/jobs/a"


def test_a_conductor_logs_json_with_ids_and_no_secrets(tmp_path: Path) -> None:
    tokens, token, trace = (
        tmp_path / "tokens.toml",
        "s3cret-of-the-tests-0123456789abcdef",
        "0af7651916cd43dd8448eb211c80319c",
    )
    sha256 = hashlib.sha256(token.encode()).hexdigest()
    tokens.write_text(f'[[tokens]]\nname = "ci"\nsha256 = "{sha256}"\nrole = "writer"\nprojects = ["p"]\n')
    options = ("--tokens-file", str(tokens), "--log-level", "debug")
    mine = (("authorization", f"Bearer {token}"), ("traceparent", f"00-{trace}-b7ad6b7169203331-01"))
    with (
        Conductor(tmp_path, *options, env={"DIMINUENDO_LOG_STYLE": "json"}) as conductor,
        grpc.insecure_channel(conductor.grpc) as channel,
    ):
        life = Life(channel)
        name = life.create("a", metadata=mine)
        with pytest.raises(grpc.RpcError):
            life.create("a", metadata=mine)
        with pytest.raises(grpc.RpcError):
            life.create("a", metadata=(("authorization", f"Bearer {token}wrong"),))
        job = life.jobs.GetJob(job_service_pb2.GetJobRequest(name=name), metadata=mine, timeout=10)
    lines = [json.loads(line) for line in conductor.log.splitlines()]
    assert token not in conductor.log
    assert job.trace_parent == mine[1][1], "the caller's, where the conductor itself traces nothing"
    assert {line["service"] for line in lines} == {"conductor"}
    created, *refused = (line for line in lines if line["event"] in ("job_created", "rpc_refused"))
    assert (created["job"], created["trace_id"]) == (name, trace)
    assert [line.get("trace_id") for line in refused] == [trace, None]


@pytest.mark.parametrize("text", ["postgresql://me:hunter2@127.0.0.1:1/jobs?connect_timeout=1"])
def test_a_conductor_that_cannot_reach_its_database_does_not_tell_the_password(tmp_path: Path, text: str) -> None:
    command = [sys.executable, "-m", "diminuendo.services.conductor", "--data-dir", str(tmp_path), "--port", "0"]
    env = {**os.environ, "DIMINUENDO_CONDUCTOR_DATABASE": text}
    done = subprocess.run([*command, "--http-port", "0"], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 2
    assert "127.0.0.1" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
