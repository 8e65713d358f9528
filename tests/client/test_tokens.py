"""Tokens, TLS and versions between the client and a real conductor: renewed under way, refused with the remedy."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from diminuendo.v1 import coordinator_service_pb2 as wire
from diminuendo.v1 import coordinator_service_pb2_grpc, job_pb2
from tests.certificates import Authority, Pair

from diminuendo.client import (
    Client,
    ClientConfig,
    InvalidArgumentError,
    PermissionDeniedError,
    ServerVersionError,
    StateChanged,
    StepCommitted,
    UnauthenticatedError,
)
from diminuendo.client.caller import Caller, client_version, said_version, version_error
from diminuendo.client.child import Child
from diminuendo.client.config import Access
from diminuendo.client.contexts import Context, Contexts, read, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.client.conftest import FakeServer, Run


class Guarded:
    """A conductor process that checks tokens and speaks TLS."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tokens.toml"
        self.tokens: dict[str, str] = {}
        self.let("driver", "coordinator", "")
        self.authority = Authority(folder / "pki")
        pair: Pair = self.authority.issue("server")
        command = [sys.executable, "-m", "diminuendo.client.cli.main", "conductor", "--tokens-file", str(self.file)]
        command += ["--data-dir", str(folder / "data"), "--port", "0", "--http-port", "0", "--local-port", "0"]
        command += ["--tls-cert-file", str(pair.cert), "--tls-key-file", str(pair.key)]
        self.child = Child(command, log=folder / "conductor.log")
        words = self.child.read_line("ready ", timeout_s=30).split()[1:]
        self.target, _, self.local = (word.partition("=")[2] for word in words)

    def let(self, token: str, role: str = "writer", more: str = 'projects = ["default"]') -> None:
        """Know another token, which has its text as its name."""
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        self.tokens[token] = f'[[tokens]]\nname = "{token}"\nsha256 = "{sha256}"\nrole = "{role}"\n{more}\n'
        self._write()

    def forget(self, token: str) -> None:
        """Take a token away."""
        del self.tokens[token]
        self._write()

    def _write(self) -> None:
        scratch = self.file.with_suffix(".new")
        scratch.write_text("".join(self.tokens.values()))
        os.replace(scratch, self.file)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path_factory.mktemp("guarded"))
    yield guarded
    guarded.child.stop(timeout_s=15)


class Coordinator:
    """Commits steps to one job."""

    def __init__(self, guarded: Guarded) -> None:
        self.channel = grpc.insecure_channel(guarded.local)
        self.stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(self.channel)
        self.who = (("authorization", "Bearer driver"),)
        asked = wire.LeaseJobRequest(coordinator="c-1", evaluators=1)
        lease = self.stub.LeaseJob(asked, timeout=10, metadata=self.who).lease
        self.name, self.epoch = lease.job.name, lease.epoch

    def commit(self, step: int) -> None:
        committed = job_pb2.StepCommitted(step=step, progress=job_pb2.JobProgress(steps=step + 1))
        request = wire.CommitStepRequest(job_name=self.name, epoch=self.epoch, step=committed)
        self.stub.CommitStep(request, timeout=10, metadata=self.who)

    def fail(self) -> None:
        failure = job_pb2.JobFailure(reason="TASK_FAILED", message="enough")
        request = wire.ReleaseJobRequest(job_name=self.name, epoch=self.epoch, failure=failure)
        self.stub.ReleaseJob(request, timeout=10, metadata=self.who)
        self.channel.close()


def client_of(guarded: Guarded, **more: Any) -> Client:
    return Client(guarded.target, tls=True, ca_file=guarded.authority.cert, config=ClientConfig(connect_s=5), **more)


def wait_until(guarded: Guarded, token: str, *, known: bool) -> None:
    """The conductor looks at its file once a second, and tells nobody."""
    deadline = datetime.now(UTC) + timedelta(seconds=5)
    with client_of(guarded, token=token) as client:
        while is_known(client) is not known:
            assert datetime.now(UTC) < deadline


def is_known(client: Client) -> bool:
    try:
        list(client.list())
    except UnauthenticatedError:
        return False
    return True


@pytest.mark.parametrize("source", ["token file", "context", "callable"])
def test_a_watch_goes_on_with_a_newer_token_and_loses_nothing(
    guarded: Guarded, tmp_path: Path, nobodys_contexts: Path, source: str
) -> None:
    first, second = f"first-{source.replace(' ', '-')}", f"second-{source.replace(' ', '-')}"
    guarded.let(first)
    wait_until(guarded, first, known=True)
    file, told = tmp_path / "token", [first]

    def put(token: str) -> None:
        """Renew the token where the client has it from."""
        file.write_text(token + "\n")
        told[0] = token
        context = Context(server=guarded.target, token=token, tls=True, ca_file=guarded.authority.cert)
        write(Contexts(nobodys_contexts, "lab", {"lab": context}))

    put(first)
    if source == "context":
        client = Client.from_context("lab", config=ClientConfig(connect_s=5))
    elif source == "token file":
        client = client_of(guarded, token_file=file)
    else:
        client = client_of(guarded, token=first, renew_token=lambda: told[0])
    with client:
        job = client.submit()
        coordinator = Coordinator(guarded)
        assert coordinator.name == job.name
        events: list[Any] = []
        came = threading.Condition()

        def watch() -> None:
            for event in job.watch():
                with came:
                    events.append(event)
                    came.notify_all()

        watching = threading.Thread(target=watch)
        watching.start()
        coordinator.commit(0)
        with came:
            assert came.wait_for(lambda: any(isinstance(e, StepCommitted) for e in events), 10)
        guarded.let(second)
        put(second)
        guarded.forget(first)
        wait_until(guarded, first, known=False)
        coordinator.commit(1)
        coordinator.commit(2)
        coordinator.fail()
        watching.join(20)
        assert not watching.is_alive()
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert [event.step for event in events if isinstance(event, StepCommitted)] == [0, 1, 2]
        assert isinstance(events[-1], StateChanged)
        assert client.get(job.name).state.final, "calls go on with it too"
    guarded.forget(second)


def test_a_token_that_expires_while_watching_ends_the_command_with_the_remedy(
    guarded: Guarded, run_here: Run, nobodys_contexts: Path
) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=3)
    guarded.let("brief", more=f'projects = ["default"]\nexpires = {ends.isoformat()}')
    wait_until(guarded, "brief", known=True)
    context = Context(server=guarded.target, token="brief", tls=True, ca_file=guarded.authority.cert)
    write(Contexts(nobodys_contexts, "lab", {"lab": context}))
    submitted = run_here("submit", "zoo:digits")
    assert submitted.returncode == 0, submitted.stderr
    done = run_here("watch", submitted.stdout.strip())
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: the server at {guarded.target} by TLS does not let this client in: the token 'bri")
    assert f"expired at {ends:%Y-%m-%d %H:%M:%SZ}; ask who runs this server" in last
    assert "with `diminuendo config set NAME --token-file FILE`" in last
    assert datetime.now(UTC) < ends + timedelta(seconds=5)


def test_what_a_token_does_not_allow(guarded: Guarded, run_here: Run, nobodys_contexts: Path) -> None:
    guarded.let("looker", "reader")
    wait_until(guarded, "looker", known=True)
    with client_of(guarded, token="looker") as client:
        with pytest.raises(PermissionDeniedError, match="'looker' has the role reader, and CreateJob needs writer"):
            client.submit()
        with pytest.raises(PermissionDeniedError, match="is for the project default, not for 'text'") as denied:
            list(client.list(project="text"))
        assert denied.value.reason == "PROJECT_DENIED"
    with client_of(guarded) as client, pytest.raises(UnauthenticatedError, match="takes no call without a token") as no:
        list(client.list())
    assert no.value.reason == "TOKEN_MISSING"
    context = Context(server=guarded.target, token="looker", tls=True, ca_file=guarded.authority.cert)
    write(Contexts(nobodys_contexts, "lab", {"lab": context}))
    done = run_here("submit", "zoo:digits")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "does not allow that: the token 'looker' has the role reader" in done.stderr


def test_a_newer_token_that_is_none_or_for_another_server_is_not_taken(tmp_path: Path, nobodys_contexts: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one")
    caller = Caller(Access(token_file=file))
    sent = caller.metadata
    assert sent == (("authorization", "Bearer one"), ("diminuendo-version", client_version()))
    assert not caller.renewed(sent), "it is the same"
    file.write_text("t w o")
    assert not caller.renewed(sent)
    file.unlink()
    assert not caller.renewed(sent)
    file.write_text("two")
    assert caller.renewed(sent)
    assert caller.metadata[0] == ("authorization", "Bearer two")
    file.write_text("three")
    assert caller.renewed(sent), "another thread has renewed it"
    assert caller.metadata[0] == ("authorization", "Bearer two")
    here = Context(server="127.0.0.1:1", token="one")
    write(Contexts(nobodys_contexts, "lab", {"lab": here}))
    caller = Caller(read().access("lab"))
    write(Contexts(nobodys_contexts, "lab", {"lab": Context(server="127.0.0.1:2", token="two")}))
    assert not caller.renewed(caller.metadata), "the context is another server's now"
    write(Contexts(nobodys_contexts, None, {}))
    assert not caller.renewed(caller.metadata)
    assert not Caller(Access()).renewed(Caller(Access()).metadata)
    for access, says in (
        (Access(token="s3cret", token_file=file), f"token_file: {file} is beside a token; give one of them"),
        (Access(cert_file=file, key_file=file), f"cert_file: {file} is for TLS; switch tls on as well"),
        (Access(tls=True, key_file=file), f"key_file: {file} is of no use alone; give cert_file as well"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            access.check("127.0.0.1:1")
        assert caught.value.message == says
        assert "s3cret" not in repr(access)
    file.write_text("t w o")
    with pytest.raises(InvalidArgumentError, match="token: it is empty, or has letters that no token has") as caught:
        Client(token_file=file)
    assert "t w o" not in caught.value.message
    with pytest.raises(InvalidArgumentError, match=r"none cannot be read \(No such file or directory\); give"):
        Client(token_file=tmp_path / "none")


def test_an_upload_goes_on_with_a_newer_token(
    fake: FakeServer, make_status: Callable[..., Any], quick: ClientConfig, tmp_path: Path
) -> None:
    (tmp_path / "some").write_bytes(bytes(2000))
    expired = make_status(grpc.StatusCode.UNAUTHENTICATED, "it has expired", reason="TOKEN_EXPIRED")
    fake.write_refusals = [expired]
    with Client(fake.target, token="one", renew_token=lambda: "two", config=quick) as client:
        assert fake.contents[client.upload(tmp_path / "some").sha256] == bytes(2000)
    fake.contents.clear()
    fake.write_refusals = [expired]
    with Client(fake.target, token="one", config=quick) as client, pytest.raises(UnauthenticatedError):
        client.upload(tmp_path / "some")


# --- versions ----------------------------------------------------------------------------------------------


def test_versions_that_differ_are_both_said(
    fake: FakeServer, client: Client, make_status: Callable[..., Any], run_here: Run
) -> None:
    fake.refusals.append(make_status(grpc.StatusCode.UNIMPLEMENTED, "no such thing", reason="UNKNOWN_METHOD"))
    with pytest.raises(ServerVersionError, match="does not say its version and does not know what") as caught:
        client.get("j")
    assert (caught.value.client_version, caught.value.server_version) == (client_version(), None)
    field = (("job.spec", "fields 77 are not known to this server; update it, or leave them out"),)
    status = make_status(grpc.StatusCode.INVALID_ARGUMENT, "", reason="UNKNOWN_FIELD", violations=field)
    fake.refusals.append(status)
    with pytest.raises(ServerVersionError, match=r"job\.spec: fields 77 are not known to this server"):
        client.submit()
    fake.refusals.append(make_status(grpc.StatusCode.UNIMPLEMENTED, "no such thing"))
    done = run_here("get", "j", "--server", fake.target)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert client.server_version() is None


@pytest.mark.parametrize(
    ("server", "remedy"),
    [
        ("0.0.1", "update the server"),
        ("99.1", "update this client"),
        (client_version(), "update the older of them"),
        ("odd", "update the server"),
    ],
)
def test_which_of_two_versions_to_update(server: str, remedy: str) -> None:
    message = version_error("a:1", "'FoldJob' is not known", server).message
    both = f"the server at a:1 is of version {server} and this client of {client_version()}"
    assert message == f"{both}: 'FoldJob' is not known; {remedy}"


@pytest.mark.parametrize(("said", "found"), [("1.2.3rc1", "1.2.3rc1"), ("1 2", None), ("", None), ("1" * 65, None)])
def test_a_version_is_taken_only_where_it_is_one(said: str, found: str | None) -> None:
    assert said_version((("other", "9"), ("diminuendo-version", said))) == found


def test_the_version_of_a_server_is_shown(guarded: Guarded, run_here: Run) -> None:
    own = client_version()
    assert run_here("version").stdout == f"{own}\n"
    done = run_here("version", "--server", guarded.local)
    assert (done.returncode, done.stdout) == (0, f"client {own}\nserver {own} at {guarded.local}\n"), "without a token"


def test_no_token_is_in_what_a_client_shows(guarded: Guarded, run_here: Run, nobodys_contexts: Path) -> None:
    context = Context(server=guarded.target, token="s3cret", tls=True, ca_file=guarded.authority.cert)
    write(Contexts(nobodys_contexts, "lab", {"lab": context}))
    shown = [run_here(*words) for words in (("config", "show"), ("config", "show", "lab"), ("list",))]
    assert [done.returncode for done in shown] == [0, 0, 1]
    rows = json.loads(run_here("config", "show", "--output", "json").stdout)
    assert (rows["token"], rows["origins"]["token"]) == (True, "context lab")
    access = read().access("lab")
    text = str([*shown, rows, context, read(), access, Client.from_context("lab")])
    assert "s3cret" not in text
    assert "s3cret" not in guarded.child.log.read_text()
