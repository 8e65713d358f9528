"""What a coordinator says of itself to a conductor that checks: its token, also one that is renewed, and TLS."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from diminuendo.v1 import coordinator_service_pb2 as v1
from tests.certificates import Authority

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.coordinator.caller import Caller
from diminuendo.services.coordinator.remote import follow, options
from diminuendo.services.coordinator.rpc import Conductor, ConductorAwayError
from diminuendo.services.coordinator.settings import CoordinatorSettings
from diminuendo.services.coordinator.stopping import Stop

AWAY = "203.0.113.7:50300"
"""An address for documentation, which nobody has."""


@contextmanager
def conductor(settings: ConductorSettings) -> Iterator[Running]:
    """A conductor in a loop and a thread of its own."""
    ready, ended = threading.Event(), asyncio.Event()
    running: list[Running] = []
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with conducting(settings) as made:
            running.append(made)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    try:
        assert ready.wait(30)
        yield running[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()


def let(file: Path, *tokens: str, role: str = "coordinator") -> None:
    """Know these tokens."""
    rest = f'role = "{role}"\n' + ("" if role == "coordinator" else 'projects = "*"\n')
    hashes = {token: hashlib.sha256(token.encode()).hexdigest() for token in tokens}
    scratch = file.with_suffix(".new")
    scratch.write_text("".join(f'[[tokens]]\nname = "{name}"\nsha256 = "{hashes[name]}"\n{rest}' for name in tokens))
    scratch.replace(file)


def settings_of(**given: Any) -> CoordinatorSettings:
    return CoordinatorSettings.load(**given)


LEASE = v1.LeaseJobRequest(coordinator="c-1", request_id="r", evaluators=1)


def refused(connection: Conductor, end: float) -> str:
    """What a conductor says once it refuses what it has taken before; it looks at its file once a second."""
    while time.monotonic() < end:
        try:
            connection.call(connection.stub.LeaseJob, LEASE, until=end)
        except grpc.RpcError as error:
            return str(error)
    return "nothing"


def test_a_token_that_is_renewed_is_taken_up_and_the_line_is_encrypted(tmp_path: Path) -> None:
    authority, tokens, file = Authority(tmp_path / "pki"), tmp_path / "tokens.toml", tmp_path / "token"
    pair, clients = authority.issue("server"), Authority(tmp_path / "clients")
    own = clients.issue("coordinator")
    let(tokens, "one")
    file.write_text("one\n")
    served = ConductorSettings.load(
        data_dir=tmp_path / "data",
        port=0,
        http_port=0,
        tokens_file=tokens,
        tls_cert_file=pair.cert,
        tls_key_file=pair.key,
        tls_client_ca_file=clients.cert,
    )
    with conductor(served) as running:
        settings = settings_of(
            conductor=running.grpc,
            token_file=file,
            tls=True,
            ca_file=authority.cert,
            cert_file=own.cert,
            key_file=own.key,
        )
        connection = Conductor(running.grpc, threading.Event(), Caller(settings))
        try:
            until = time.monotonic() + 10
            assert not connection.call(connection.stub.LeaseJob, LEASE, until=until).HasField("lease")
            # As the coordinator waits for jobs.
            assert not connection.stub.LeaseJob.future(LEASE, timeout=10).result().HasField("lease")
            let(tokens, "two")
            timer = threading.Timer(1.5, file.write_text, ["two"])
            timer.start()
            end = time.monotonic() + 20
            while timer.is_alive():  # refused for a while, and made again
                connection.call(connection.stub.LeaseJob, LEASE, until=end)
            connection.call(connection.stub.LeaseJob, LEASE, until=end)
            let(tokens, "two", role="admin")
            assert "the token 'two' has the role admin, and LeaseJob needs coordinator" in refused(connection, end)
        finally:
            connection.close()


def test_a_token_that_nobody_knows_is_as_a_conductor_that_is_away(tmp_path: Path) -> None:
    let(tmp_path / "tokens.toml", "one")
    served = ConductorSettings.load(
        data_dir=tmp_path / "data", port=0, http_port=0, tokens_file=tmp_path / "tokens.toml", coordinator_token="own"
    )
    with conductor(served) as running:
        for token, known in (("own", True), ("other", False)):
            connection = Conductor(
                running.grpc, threading.Event(), Caller(settings_of(conductor=running.grpc, token=token))
            )
            try:
                if known:
                    connection.call(connection.stub.LeaseJob, LEASE, until=time.monotonic() + 10)
                else:
                    with pytest.raises(ConductorAwayError):
                        connection.call(connection.stub.LeaseJob, LEASE, until=time.monotonic() + 0.5)
            finally:
                connection.close()


def test_what_cannot_be_said_is_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "two").write_text("s3cret words")

    def refusal(**given: Any) -> str:
        with pytest.raises(StartError) as caught:
            Caller(settings_of(**given))
        assert "s3cret" not in str(caught.value)
        return str(caught.value)

    text = (
        "the token would go unencrypted to 203.0.113.7:50300, which is not this machine; give --tls, or --allow-insec"
    )
    assert refusal(conductor=AWAY, token_file=tmp_path / "token").startswith(text)
    monkeypatch.setenv("DIMINUENDO_COORDINATOR_TOKEN", "s3cret")
    assert refusal(conductor=AWAY).startswith(text)
    assert "is beside DIMINUENDO_COORDINATOR_TOKEN; give one" in refusal(token_file=tmp_path / "token")
    monkeypatch.setenv("DIMINUENDO_COORDINATOR_TOKEN", "s3cret words")
    assert "DIMINUENDO_COORDINATOR_TOKEN has letters that no token has" in refusal()
    monkeypatch.delenv("DIMINUENDO_COORDINATOR_TOKEN")
    assert "two' holds no token; give a file with the token alone" in refusal(token_file=tmp_path / "two")
    assert "none' cannot be read (No such file or directory); give" in refusal(token_file=tmp_path / "none")
    assert refusal(tls=True, ca_file=tmp_path / "none").startswith(
        f"--ca-file '{tmp_path}/none' cannot be read (No such"
    )
    assert "it is for TLS; give --tls as well" in refusal(ca_file=tmp_path / "none")
    assert "certificate and key go together" in refusal(tls=True, cert_file=tmp_path / "none")
    for safe in ({"tls": True}, {"allow_insecure_token": True}):
        said = Caller(settings_of(conductor=AWAY, token_file=tmp_path / "token", **safe)).metadata
        assert said[0] == ("authorization", "Bearer s3cret")


def test_a_coordinator_in_a_remote_cluster_reads_its_files_there(monkeypatch: pytest.MonkeyPatch) -> None:
    far = {"ray_address": "http://head:8265", "conductor": AWAY, "tls": True, "ca_file": "/run/ca.pem"}
    flags = list(options(settings_of(token_file="/run/token", **far)))
    assert flags[flags.index("--token-file") + 1] == "/run/token"
    assert flags[flags.index("--ca-file") + 1] == "/run/ca.pem"
    assert "--tls" in flags
    assert "--allow-insecure-token" not in flags
    monkeypatch.setenv("DIMINUENDO_COORDINATOR_TOKEN", "s3cret")
    with pytest.raises(StartError, match="would be shown by the cluster's dashboard; give --token-file") as caught:
        follow(settings_of(**far), Stop())
    assert "s3cret" not in str(caught.value)
