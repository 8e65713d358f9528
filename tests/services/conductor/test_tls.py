"""TLS of the conductor: what is served, certificates that change, clients that need one, files that cannot be used."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs
from tests.certificates import Authority, Pair

from diminuendo.services.common.errors import StartError
from diminuendo.services.conductor import tls
from diminuendo.services.conductor.app import Running, conducting
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.conductor.tls import Certificate


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture
async def served(settings: ConductorSettings, pair: Pair) -> AsyncIterator[Running]:
    change = {"tls_cert_file": pair.cert, "tls_key_file": pair.key, "local_port": 0}
    async with conducting(settings.model_copy(update=change)) as running:
        yield running


async def answers(target: str, *, roots: Path | None = None, own: Pair | None = None, timeout_s: float = 10.0) -> bool:
    """Whether a new connection comes about, and is answered."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    if roots is None:
        channel = grpc.aio.insecure_channel(target, options=options)
    else:
        pems = (None, None) if own is None else (own.key.read_bytes(), own.cert.read_bytes())
        channel = grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(roots.read_bytes(), *pems), options)
    async with channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return True


async def test_what_is_served_is_encrypted_but_for_the_local_port(
    served: Running, authority: Authority, tmp_path: Path
) -> None:
    assert await answers(served.grpc, roots=authority.cert)
    assert not await answers(served.grpc, roots=Authority(tmp_path / "other").cert)
    assert not await answers(served.grpc)
    assert served.local.startswith("127.0.0.1:")
    assert await answers(served.local)


async def test_certificates_that_change_are_served_from_then_on(
    served: Running, authority: Authority, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "CHECK_S", 0.0)
    other = Authority(tmp_path / "other")
    fresh = other.issue("fresh")
    channel = grpc.aio.secure_channel(served.grpc, grpc.ssl_channel_credentials(authority.cert.read_bytes()))
    stub = health_pb2_grpc.HealthStub(channel)
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    with capture_logs() as logs:
        pair.cert.write_bytes(fresh.cert.read_bytes())  # and its key is not there yet
        assert await answers(served.grpc, roots=authority.cert), "the old one goes on"
        assert await answers(served.grpc, roots=authority.cert)
        pair.put(fresh)
        assert await answers(served.grpc, roots=other.cert)
        assert not await answers(served.grpc, roots=authority.cert)
    assert [line["event"] for line in logs] == ["certificate_not_read", "certificate_read"]
    assert "is not the key of --tls-cert-file" in logs[0]["reason"]
    await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)  # who is connected stays so
    await channel.close()


def test_files_are_looked_at_once_a_second_at_most(authority: Authority, pair: Pair) -> None:
    certificate = Certificate(pair.cert, pair.key)
    pair.put(authority.issue("fresh"))
    assert certificate.renewed() is None


async def test_clients_need_a_certificate_where_it_is_asked_for(
    settings: ConductorSettings, authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    clients = Authority(tmp_path / "clients")
    change = {"tls_cert_file": pair.cert, "tls_key_file": pair.key, "tls_client_ca_file": clients.cert}
    async with conducting(settings.model_copy(update=change)) as running:
        assert await answers(running.grpc, roots=authority.cert, own=clients.issue("me"))
        assert not await answers(running.grpc, roots=authority.cert)
        assert not await answers(running.grpc, roots=authority.cert, own=authority.issue("stranger"))
        assert running.local == ""


def test_files_that_cannot_be_used_are_named(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    def refusal(*files: Path) -> str:
        with pytest.raises(StartError) as caught:
            Certificate(*files)
        return str(caught.value)

    none, junk = tmp_path / "none", tmp_path / "junk"
    junk.write_text("junk")
    assert refusal(none, pair.key) == (
        f"--tls-cert-file '{none}' cannot be read (No such file or directory); name a file that can"
    )
    assert refusal(pair.cert, none).startswith(f"--tls-key-file '{none}' cannot be read (No such file")
    assert refusal(junk, pair.key) == f"--tls-cert-file '{junk}' is no certificate; give a PEM file"
    assert refusal(pair.cert, junk) == (
        f"--tls-key-file '{junk}' is no key, or a password protects it; give a PEM file of the key alone"
    )
    other = authority.issue("other")
    assert refusal(pair.cert, other.key) == (
        f"--tls-key-file '{other.key}' is not the key of --tls-cert-file '{pair.cert}'; give the files that belong"
        " together"
    )
    assert refusal(pair.cert, pair.key, junk).startswith(f"--tls-client-ca-file '{junk}' has no certificate; give")
    os.system(f"openssl ec -aes256 -passout pass:abcd -in {pair.key} -out {tmp_path}/locked 2>/dev/null")
    assert "is no key, or a password protects it" in refusal(pair.cert, tmp_path / "locked")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tls_cert_file": "c"}, "tls_key_file=None cannot be used: certificate and key go together; give both"),
        ({"tls_key_file": "k"}, "certificate and key go together; give both tls_cert_file and tls_key_file, or none"),
        ({"tls_client_ca_file": "a"}, "it is for TLS; give tls_cert_file and tls_key_file as well, or leave it out"),
        ({"local_port": 0}, "local_port=0 cannot be used: it is for TLS"),
    ],
)
def test_settings_that_go_together(given: dict[str, Any], says: str) -> None:
    with pytest.raises(StartError) as caught:
        ConductorSettings.load(**given)
    assert says in str(caught.value)
