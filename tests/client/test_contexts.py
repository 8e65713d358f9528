"""Contexts: the file, who is called and with what, tokens that stay where they are safe, TLS."""

from __future__ import annotations

import ipaddress
import json
import os
import stat
import threading
from concurrent import futures
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.client import Client, InvalidArgumentError, ServerUnavailableError
from diminuendo.client.cli import main as cli
from diminuendo.client.config import Access, is_loopback
from diminuendo.client.contexts import Context, Contexts, changing, config_path, read, resolve, write
from diminuendo.client.errors import PermissionDeniedError, UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.conftest import FakeServer, Recorded, Run

AWAY = "203.0.113.7:50300"
"""An address for documentation, which nobody has."""


@pytest.fixture
def file(nobodys_contexts: Path) -> Path:
    """The file of contexts."""
    return nobodys_contexts


# --- the file ----------------------------------------------------------------------------------------------


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_path({}) == tmp_path / ".config/diminuendo/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "/x"}).as_posix() == "/x/diminuendo/config.toml"
    assert config_path({"XDG_CONFIG_HOME": "x"}) == tmp_path / ".config/diminuendo/config.toml", "relative: ignored"
    assert config_path({"XDG_CONFIG_HOME": "/x", "DIMINUENDO_CLIENT_CONFIG": "~/c"}) == tmp_path / "c"


def test_what_is_written_is_read_back_and_is_its_owners(file: Path, tmp_path: Path) -> None:
    odd = Context(server="a:1", project='q"\\\x7f\té🎵', token="t0ken~!", tls=True, ca_file=tmp_path / "ca.pem")
    given = {"lab": Context(server="b:2"), "a.b/c": odd, "in": Context(server="c:3", allow_insecure_token=True)}
    before = os.umask(0)
    try:
        write(Contexts(file, "a.b/c", given))
    finally:
        os.umask(before)
    found = read()
    assert (found.path, found.current, found.by_name, list(found.by_name)) == (file, "a.b/c", given, list(given))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert "t0ken" not in repr(found)


def test_a_link_stays_a_link_and_a_failure_leaves_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.symlink_to(tmp_path / "elsewhere.toml")
    write(Contexts(file, None, {"lab": Context(server="a:1")}))
    assert file.is_symlink()
    before = (tmp_path / "elsewhere.toml").read_bytes()
    assert b'server = "a:1"' in before

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            write(Contexts(file, None, {}))
    assert (tmp_path / "elsewhere.toml").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere.toml"]


def test_changes_at_the_same_time_are_all_kept(file: Path) -> None:
    names = [f"c{number}" for number in range(12)]

    def add(name: str) -> None:
        with changing() as found:
            write(Contexts(found.path, None, {**found.by_name, name: Context(server="a:1")}))

    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read().by_name) == sorted(names)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("curent = 'a'", "curent is unknown; did you mean current?"),
        ("[contexts.lab]\nserver = 'a:1'\nprojct = 'p'", "contexts.lab.projct is unknown; did you mean project?"),
        ("[contexts.lab]\nserver = 'a:1'\nzzz = 1", "contexts.lab.zzz is unknown; the keys are server, project, "),
        ("[contexts.lab]\nproject = 'p'", "contexts.lab has no server; give it one, as HOST:PORT"),
        ("[contexts.lab]\nserver = 5", "contexts.lab.server is 5, not a text; correct it"),
        ("[contexts.lab]\nserver = 'a:1'\ntls = 'yes'", "contexts.lab.tls is 'yes', not true or false"),
        ("[contexts.lab]\nserver = 'a:1'\ntoken = 77123", "contexts.lab.token is ***, not a text"),
        ("[contexts.lab]\nserver = 'a'", "'a' is not HOST:PORT"),
        ("[contexts.lab]\nserver = 'a:1'\ntoken = 's p'", "token: it is empty, or has letters that no token has"),
        ("contexts = 5", "contexts is 5, not a table"),
        ("[contexts.lab", "is no TOML (Expected"),
        ("current = 5", "current is 5, not a text"),
    ],
)
def test_a_file_that_is_not_of_its_form_is_refused(file: Path, run_here: Run, text: str, says: str) -> None:
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(InvalidArgumentError) as caught:
        read()
    assert says in caught.value.message
    done = run_here("list")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_a_token_that_others_can_read_is_refused(file: Path) -> None:
    file.write_text("[contexts.lab]\nserver = 'a:1'")
    file.chmod(0o644)
    assert read().get("lab").server == "a:1", "there is nothing to hide"
    file.write_text("[contexts.lab]\nserver = 'a:1'\ntoken = 'hidden'")
    with pytest.raises(InvalidArgumentError, match="holds a token and others can read it; run `chmod 600") as caught:
        read()
    assert "hidden" not in caught.value.message
    file.chmod(0o600)
    assert read().get("lab").token == "hidden"


# --- who is called -----------------------------------------------------------------------------------------


def test_options_come_before_the_environment_before_contexts_before_the_default(file: Path) -> None:
    nobody = {"DIMINUENDO_CLIENT_CONFIG": str(file)}
    found = resolve(environ=nobody)
    assert (found.server, found.project, found.access) == ("127.0.0.1:50300", "default", Access())
    assert set(found.origins.values()) == {"default"}
    write(Contexts(file, "a", {"a": Context(server="a:1", project="pa"), "b": Context(server="b:2")}))
    found = resolve(environ=nobody)
    assert (found.server, found.project, found.context, found.origins["server"]) == ("a:1", "pa", "a", "context a")
    assert (resolve(context="b", environ=nobody).server, resolve(context="b", environ=nobody).project) == (
        *("b:2", "default"),
    )
    assert resolve(environ={**nobody, "DIMINUENDO_CONTEXT": "b"}).server == "b:2"
    assert resolve(context="a", environ={**nobody, "DIMINUENDO_CONTEXT": "b"}).server == "a:1"
    loud = {**nobody, "DIMINUENDO_SERVER": "e:9", "DIMINUENDO_PROJECT": "pe"}
    assert (resolve(environ=loud).server, resolve(environ=loud).project) == ("e:9", "pe")
    found = resolve("o:5", "po", environ=loud)
    assert (found.server, found.project, found.origins["server"], found.origins["project"]) == (
        *("o:5", "po"),
        *("option", "option"),
    )
    assert resolve(environ={**nobody, "DIMINUENDO_SERVER": ""}).server == "a:1", "empty is unset"
    with pytest.raises(InvalidArgumentError, match=r"context: 'aa' is not in .*; did you mean a\?"):
        resolve(context="aa", environ=nobody)
    with pytest.raises(InvalidArgumentError, match=r"'zz' is not in .*; make it with `diminuendo config set`"):
        resolve(environ={**nobody, "DIMINUENDO_CONTEXT": "zz"})


def test_a_contexts_token_and_tls_go_to_no_other_server(file: Path, tmp_path: Path) -> None:
    nobody = {"DIMINUENDO_CLIENT_CONFIG": str(file)}
    own = Context(server=AWAY, token="t", tls=True, ca_file=tmp_path / "ca.pem", allow_insecure_token=True)
    write(Contexts(file, "a", {"a": own}))
    assert resolve(environ=nobody).access == own.access
    assert resolve(AWAY, environ=nobody).access == own.access
    assert resolve("203.0.113.8:50300", environ=nobody).access == Access()
    assert resolve(environ={**nobody, "DIMINUENDO_SERVER": "203.0.113.8:50300"}).access == Access()
    found = resolve(environ={**nobody, "DIMINUENDO_TOKEN": "e"})
    assert (found.access.token, found.access.tls, found.origins["token"]) == ("e", True, "DIMINUENDO_TOKEN")


def test_a_context_that_is_named_comes_before_the_environment(file: Path) -> None:
    away = Context(server="l:1", project="pl", token="tl", tls=True)
    write(Contexts(file, "bare", {"lab": away, "bare": Context(server="b:2")}))
    loud = {"DIMINUENDO_CLIENT_CONFIG": str(file), "DIMINUENDO_SERVER": "e:9", "DIMINUENDO_PROJECT": "pe"}
    loud["DIMINUENDO_TOKEN"] = "te"

    def called(*given: str | None, **environ: str) -> tuple[str, str, str | None]:
        found = resolve(*given, environ=loud | environ)
        return found.server, found.project, found.access.token

    assert called(None, None, "lab") == ("l:1", "pl", "tl")
    assert called() == ("e:9", "pe", "te")
    assert called(DIMINUENDO_CONTEXT="lab") == ("e:9", "pe", "te"), "a variable names the server itself"
    assert called(None, None, "bare") == ("b:2", "pe", None), "the token is of e:9"
    assert called("o:5", None, "lab") == ("o:5", "pl", None), "neither token is of o:5"
    assert called("l:1", None, "lab") == ("l:1", "pl", "tl")
    assert called("l:1") == ("l:1", "pe", None)
    assert called(DIMINUENDO_SERVER="") == ("b:2", "pe", "te"), "a token of no server goes to the one that is called"
    assert called(None, None, "bare", DIMINUENDO_SERVER="") == ("b:2", "pe", "te")
    assert called(None, None, "lab", DIMINUENDO_SERVER="") == ("l:1", "pl", "tl")
    assert resolve(context="lab", environ=loud).origins == dict.fromkeys(("server", "project", "token"), "context lab")
    with pytest.raises(InvalidArgumentError, match="DIMINUENDO_TOKEN_FILE=f is beside DIMINUENDO_TOKEN; set one"):
        called(DIMINUENDO_TOKEN_FILE="f")
    del loud["DIMINUENDO_TOKEN"]
    found = resolve(environ=loud | {"DIMINUENDO_TOKEN_FILE": "/run/token"}).access
    assert (found.token, str(found.token_file)) == (None, "/run/token")


# --- tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "loopback"),
    [
        *(("127.0.0.1:1", True), ("127.8.9.10:1", True), ("localhost:1", True), ("[::1]:1", True)),
        *((AWAY, False), ("localhost.example.com:1", False), ("127.0.0.1.example.com:1", False), ("[::2]:1", False)),
        ("0.0.0.0:1", False),
    ],
)
def test_a_token_goes_unencrypted_to_this_machine_only(target: str, loopback: bool) -> None:
    assert is_loopback(target) is loopback
    Client(target).close()
    for safe in ({"tls": True}, {"allow_insecure_token": True}):
        Client(target, token="t0ken", **safe).close()  # type: ignore[arg-type]
    if loopback:
        Client(target, token="t0ken").close()
        return
    with pytest.raises(
        InvalidArgumentError, match=r"token: it would go unencrypted to .*; switch tls on, or set"
    ) as no:
        Client(target, token="t0ken")
    assert "t0ken" not in no.value.message


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ümlaut"])
def test_what_is_no_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="token: it is empty, or has letters that no token has") as caught:
        Client(token=token)
    assert not token or token not in caught.value.message


class Heard(grpc.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Notes what each call says of who calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        self.calls.append((details.method.rpartition("/")[2], dict(details.invocation_metadata).get("authorization")))
        return continuation(details)


def test_every_call_has_the_token(
    fake: FakeServer, heard: Heard, recorded: Recorded, tmp_path: Path, make_status: Callable[..., Any]
) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.contents = recorded.contents()
    (tmp_path / "some").write_bytes(bytes(2000))
    with Client(fake.target, token="s3cret") as client:
        assert len(list(client.job("recorded").watch())) == len(recorded.events())
        client.job("recorded").download(tmp_path / "out")
        client.upload(tmp_path / "some")
        client.collect_garbage()
    names = {name for name, _ in heard.calls}
    assert names >= {"Check", "GetJob", "WatchJob", "ReadArtifact", "QueryUpload", "WriteArtifact", "CollectGarbage"}
    assert {value for _, value in heard.calls} == {"Bearer s3cret"}
    heard.calls.clear()
    with Client(fake.target) as client:
        client.get("recorded")
        assert {value for _, value in heard.calls} == {None}
        fake.refusals.append(make_status(grpc.StatusCode.UNAUTHENTICATED, "the token has expired"))
        says = (
            "does not let this client in: the token has expired; give another token, with `diminuendo config set NAME "
        )
        with pytest.raises(UnauthenticatedError, match=says):
            client.get("recorded")
        fake.refusals.append(make_status(grpc.StatusCode.PERMISSION_DENIED, "it is for vision"))
        with pytest.raises(PermissionDeniedError, match="does not allow that: it is for vision; give a token"):
            client.get("recorded")


@pytest.fixture
def heard() -> Heard:
    """What the scripted server heard of callers."""
    return Heard()


@pytest.fixture
def fake(fake: FakeServer, heard: Heard) -> Iterator[FakeServer]:
    """The scripted server behind one that notes who calls."""
    from tests.client import conftest

    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[heard])
    conftest.serve(fake, server)
    fake.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield fake
    server.stop(grace=None).wait()


# --- TLS ---------------------------------------------------------------------------------------------------


def certificate(folder: Path) -> tuple[bytes, bytes, Path]:
    """A key, a certificate of it for 127.0.0.1, and a file with the authority, which is itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, pem, folder / "ca.pem"


def test_tls_checks_the_certificate(fake: FakeServer, file: Path, tmp_path: Path, run_here: Run) -> None:
    from tests.client import conftest

    from diminuendo.client import ClientConfig

    private, pem, ca_file = certificate(tmp_path)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    conftest.serve(fake, server)
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(private, pem)]))
    server.start()
    target = f"127.0.0.1:{port}"
    try:
        fake.add(job_pb2.Job(name="projects/default/jobs/j"), [])
        done = run_here("config", "set", "safe", "--server", target, "--tls", "--ca-file", "ca.pem")
        assert (done.returncode, done.stdout) == (0, f"safe {target} (current)\n"), done.stderr
        assert read().get("safe").ca_file == ca_file, "from wherever commands run"
        assert run_here("get", "j").returncode == 0
        with Client.from_context(config=ClientConfig(connect_s=5)) as client:
            assert client.get("j").job_id == "j"
        short = ClientConfig(connect_s=0.5)
        with Client(target, tls=True, config=short) as client, pytest.raises(ServerUnavailableError, match="by TLS; c"):
            client.get("j")  # an authority that nobody knows
        with Client(target, config=short) as client, pytest.raises(ServerUnavailableError, match="no Diminuendo serve"):
            client.get("j")
    finally:
        server.stop(grace=None).wait()
    with pytest.raises(InvalidArgumentError, match=r"ca_file: .*none.pem cannot be read .*; give a PEM file"):
        Client(target, tls=True, ca_file=tmp_path / "none.pem")
    with pytest.raises(InvalidArgumentError, match=r"ca_file: .* is for TLS; switch tls on as well"):
        Client(target, ca_file=ca_file)


# --- the commands ------------------------------------------------------------------------------------------


def test_contexts_are_set_used_shown_and_deleted(file: Path, run_here: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    assert run_here("config", "set", "lab", "--server", "127.0.0.1:1", "--project", "vision").stdout == (
        "lab 127.0.0.1:1 (current)\n"
    )
    done = run_here("config", "set", "far", "--server", AWAY, "--tls", "--token-file", "token")
    assert (done.returncode, done.stdout) == (0, f"far {AWAY}\n"), done.stderr
    assert read().get("far") == Context(server=AWAY, token="s3cret", tls=True)
    run_here("config", "set", "far", "--project", "text")
    assert read().get("far") == Context(server=AWAY, project="text", token="s3cret", tls=True), "the rest is kept"
    table = run_here("config", "list").stdout
    assert [line.split() for line in table.splitlines()] == [
        ["current", "context", "server", "project", "token", "tls"],
        ["*", "lab", "127.0.0.1:1", "vision"],
        ["far", AWAY, "text", "yes", "yes"],
    ]
    rows = json.loads(run_here("config", "list", "--output", "json").stdout)
    assert [(row["name"], row["current"], row["token"]) for row in rows] == [("lab", True, False), ("far", False, True)]
    assert run_here("config", "use", "far").stdout == f"far {AWAY} (current)\n"
    shown = json.loads(run_here("config", "show", "--output", "json").stdout)
    assert (shown["context"], shown["server"], shown["token"]) == ("far", AWAY, True)
    assert shown["origins"] == {"server": "context far", "project": "context far", "token": "context far"}
    words = run_here("config", "show").stdout
    assert f"server                {AWAY}, by context far\n" in words
    for text in (table, words, json.dumps(rows), json.dumps(shown), run_here("config", "show", "far").stdout):
        assert "s3cret" not in text
    run_here("config", "set", "far", "--no-token", "--no-tls")
    assert read().get("far") == Context(server=AWAY, project="text")
    assert run_here("config", "delete", "far").stdout == "far deleted\n"
    assert (read().current, list(read().by_name)) == (None, ["lab"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("set", "new"), "server: context new is new and has none; give --server HOST:PORT"),
        (("set", "new", "--server", "nowhere"), "server: 'nowhere' is not HOST:PORT"),
        (("set", "a b", "--server", "a:1"), "context: 'a b' is no name; give letters without blanks"),
        (("set", "new", "--server", AWAY, "--token-file", "token"), "token: it would go unencrypted to 203.0.113.7"),
        (("set", "new", "--server", "a:1", "--ca-file", "ca"), "is for TLS; switch tls on as well"),
        (("set", "new", "--server", "a:1", "--token-file", "token", "--no-token"), "token is beside --no-token; give"),
        (("set", "new", "--server", "a:1", "--token-file", "empty"), "token: it is empty, or has letters that no"),
        (("use", "lob"), "context: 'lob' is not in"),
        (("use", "lob"), "did you mean lab?"),
        (("show", "lob"), "did you mean lab?"),
        (("delete", "lob"), "did you mean lab?"),
        (("uze", "lab"), "No such command 'uze'"),
    ],
)
def test_mistakes_change_nothing(file: Path, run_here: Run, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "empty").write_text("\n")
    write(Contexts(file, None, {"lab": Context(server="a:1")}))
    before = file.read_bytes()
    done = run_here("config", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert file.read_bytes() == before


def test_commands_call_the_context_that_is_named(
    fake: FakeServer, heard: Heard, file: Path, run_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(job_pb2.Job(name="projects/vision/jobs/j"), [])
    here = Context(server=fake.target, project="vision", token="s3cret")
    write(Contexts(file, "dead", {"here": here, "dead": Context(server=AWAY)}))
    done = run_here("get", "j", "--context", "here")
    assert (done.returncode, done.stderr) == (0, "")
    assert fake.asked(job_service_pb2.GetJobRequest)[-1].name == "projects/vision/jobs/j"
    assert heard.calls[-1] == ("GetJob", "Bearer s3cret")
    assert run_here("list", "--context", "here", "--project", "-").returncode == 0
    assert fake.asked(job_service_pb2.ListJobsRequest)[-1].parent == "projects/-"
    assert run_here("gc", "--context", "here").returncode == 0
    assert run_here("submit", "zoo:digits", "--context", "here").stdout == "projects/vision/jobs/chosen\n"
    with Client.from_context("here") as client:
        assert (client.target, client.project) == (fake.target, "vision")
    with Client.from_context("here", project="text") as client:
        assert client.project == "text"
    done = run_here("get", "j", "--context", "hare")
    assert (done.returncode, "did you mean here?" in done.stderr) == (2, True)
    monkeypatch.setenv("DIMINUENDO_SERVER", AWAY)
    monkeypatch.setenv("DIMINUENDO_TOKEN", "elsewhere")
    assert run_here("get", "j", "--context", "here").returncode == 0, "what is typed comes first"
    assert heard.calls[-1] == ("GetJob", "Bearer s3cret")
    assert run_here("get", "j", "--server", fake.target, "--project", "vision").returncode == 0
    name, token = heard.calls[-1]
    assert (name, token is None) == ("GetJob", True), "the token is of another server"
    monkeypatch.setenv("DIMINUENDO_SERVER", fake.target)
    monkeypatch.setenv("DIMINUENDO_PROJECT", "vision")
    assert run_here("get", "j").returncode == 0
    assert heard.calls[-1] == ("GetJob", "Bearer elsewhere")
    with Client.from_context("dead") as client:
        assert client.target == AWAY, "a name in code is taken as it is"
    with Client.from_context() as client:
        assert client.target == fake.target


def test_every_remote_command_takes_a_context() -> None:
    """Services have a --project or none; what calls a server has --server."""
    remote = []
    for name, (where, _) in cli.COMMANDS.items():
        if "diminuendo.services" not in where:
            flags = {flag for option in cli.load(name).params for flag in option.opts}
            if "--server" in flags:
                remote.append(name)
                assert "--context" in flags, name
    assert {"submit", "watch", "get", "list", "logs", "cancel", "gc", "download"} <= set(remote)
