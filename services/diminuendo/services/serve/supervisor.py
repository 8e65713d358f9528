"""The supervisor: conductor and coordinator run, are started again when they end, and leave nothing behind."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StartError
from diminuendo.services.common.weights import written
from diminuendo.services.conductor.settings import ConductorSettings
from diminuendo.services.coordinator.scratch import remove_abandoned
from diminuendo.services.serve.child import Child
from diminuendo.services.serve.orphans import end_adopted
from diminuendo.services.serve.settings import ServeSettings

log = logs.get(__name__)

MISTAKE = 2
"""Exit code of a service that cannot start as it was told."""
_READY = re.compile(r"ready grpc=(?P<grpc>\S+) http=(?P<http>\S+)(?: local=(?P<local>\S+))?")
_FILES = ("tokens_file", "tls_cert_file", "tls_key_file", "tls_client_ca_file")
"""Settings of the conductor that are handed on as they are."""
_READY_S = 60.0
_COORDINATOR_S, _CONDUCTOR_S = 10.0, 6.0
"""Graces. Together they stay below the 20 s that whoever stops a server may wait."""
_FIRST_DELAY_S, _LAST_DELAY_S, _STEADY_S = 0.5, 30.0, 60.0


class FailedError(Exception):
    """Raised for a service that ended before it was of use, and not by a user's mistake. Exit code 1."""


class Supervisor:
    """Conductor and coordinator of one server. Belongs to one event loop, on the main thread."""

    def __init__(self, settings: ServeSettings, folder: Path) -> None:
        """Nothing runs yet.

        Args:
            folder: Of the logs.

        Raises:
            StartError: The conductor's own settings are wrong.
        """
        self._settings = settings
        self._artifacts = settings.artifacts or str(settings.data_dir / "artifacts")
        self._conductor = Child("diminuendo.services.conductor", folder / "conductor.log")
        self._coordinator = Child("diminuendo.services.coordinator", folder / "coordinator.log")
        # The conductor has settings of its own beside ours, in the environment and the file.
        certificate = settings.tls_cert_file or ConductorSettings.load().tls_cert_file
        self._local_port = None if certificate is None else 0
        self._token = secrets.token_urlsafe(32)
        self.grpc = self.http = ""

    async def start(self) -> None:
        """Start both; when this returns the conductor serves at `grpc` and `http`.

        Raises:
            StartError: The conductor cannot start as it was told.
            FailedError: It ended otherwise.
        """
        await self._start_conductor(self._settings.port, self._settings.http_port)
        await self._start_coordinator()

    async def keep(self) -> None:
        """Start again whatever ends, for ever.

        Raises:
            StartError: The coordinator cannot start as it was told.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_conductor())
            group.create_task(self._keep_coordinator())

    async def stop(self) -> None:
        """Stop both, the coordinator first, so that it can give its job back; end whatever is left of them."""
        if not await self._coordinator.stop(_COORDINATOR_S):
            log.warning("coordinator_killed", after_s=_COORDINATOR_S)
        self._clean_up()
        if not await self._conductor.stop(_CONDUCTOR_S):
            log.warning("conductor_killed", after_s=_CONDUCTOR_S)
        end_adopted(own=())

    async def _start_conductor(self, port: int, http_port: int) -> None:
        s = self._settings
        await self._conductor.start(
            *("--data-dir", str(s.data_dir), "--host", s.host, "--port", str(port), "--http-port", str(http_port)),
            *("--lease-s", str(s.lease_s), "--artifacts", self._artifacts, "--log-level", s.log_level, "--with-parent"),
            *(("--weights", written(s.weights)) if s.weights else ()),
            *(("--traces", s.traces) if s.traces else ()),
            *(f"--{name.replace('_', '-')}={path}" for name in _FILES if (path := getattr(s, name)) is not None),
            *(() if self._local_port is None else ("--local-port", str(self._local_port))),
            environ={"DIMINUENDO_CONDUCTOR_COORDINATOR_TOKEN": self._token},
        )
        try:
            line = await asyncio.wait_for(self._conductor.read_line(), _READY_S)
        except TimeoutError:
            raise FailedError(f"the conductor is not ready after {_READY_S:g} s; see {self._conductor.log}") from None
        found = _READY.fullmatch(line)
        if not found:
            raise await self._no_start(self._conductor)
        self.grpc, self.http = found["grpc"], found["http"]
        if found["local"]:
            self._local_port = _port(found["local"])

    async def _start_coordinator(self) -> None:
        s = self._settings
        evaluators = () if s.evaluators is None else ("--evaluators", str(s.evaluators))
        # What is said to this machine's own address does not leave it.
        conductor = self.grpc if self._local_port is None else f"127.0.0.1:{self._local_port}"
        await self._coordinator.start(
            *("--conductor", conductor, "--allow-insecure-token", "--artifacts", self._artifacts),
            *("--log-level", s.log_level, "--with-parent", "--jobs", str(s.jobs), *evaluators),
            *(("--traces", s.traces) if s.traces else ()),
            environ={"DIMINUENDO_COORDINATOR_TOKEN": self._token},
        )

    async def _no_start(self, child: Child) -> StartError | FailedError:
        code = await child.ended()
        if code == MISTAKE:
            return StartError(child.last_words().removeprefix("error: ") or f"the {child.name} cannot start")
        return FailedError(f"the {child.name} ended with code {code}; see {child.log}")

    async def _keep_conductor(self) -> None:
        delays = _Delays()
        while True:
            code = await self._conductor.ended()
            await self._pause(self._conductor, code, delays)
            try:
                # On the ports that clients know by now.
                await self._start_conductor(_port(self.grpc), _port(self.http))
            except (StartError, FailedError) as error:
                log.error("conductor_not_started", reason=str(error))
                await self._conductor.stop(_CONDUCTOR_S)

    async def _keep_coordinator(self) -> None:
        delays, first = _Delays(), True
        while True:
            code = await self._coordinator.ended()
            self._clean_up()
            if first and code == MISTAKE:
                raise await self._no_start(self._coordinator)
            first = False
            await self._pause(self._coordinator, code, delays)
            await self._start_coordinator()

    async def _pause(self, child: Child, code: int, delays: _Delays) -> None:
        delay = delays.next()
        log.warning("child_ended", child=child.name, code=code, again_in_s=delay, said=child.last_words()[:500])
        await asyncio.sleep(delay)

    def _clean_up(self) -> None:
        """What a coordinator leaves behind when it is killed: Ray's processes, and their folder."""
        conductor = self._conductor.pid
        if ended := end_adopted(own=() if conductor is None else (conductor,)):
            log.info("orphans_ended", count=ended)
        with suppress(OSError):
            remove_abandoned()


class _Delays:
    """Before a child is started again: longer each time, unless it ran steadily for a while."""

    def __init__(self) -> None:
        self._delay, self._since = _FIRST_DELAY_S, time.monotonic()

    def next(self) -> float:
        """How long to wait now, in seconds."""
        now = time.monotonic()
        if now - self._since > _STEADY_S + self._delay:
            self._delay = _FIRST_DELAY_S
        self._since, delay = now, self._delay
        self._delay = min(2 * delay, _LAST_DELAY_S)
        return delay


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


@contextmanager
def log_folder(data_dir: Path) -> Iterator[Path]:
    """The folder of the logs, made if need be; removed again, if it was made, when the start was a mistake.

    Raises:
        StartError: It cannot be made or written.
    """
    folder = data_dir / "logs"
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "conductor.log").open("ab").close()
    except OSError as error:
        _remove(folder, made)
        raise StartError(
            f"--data-dir {str(data_dir)!r} is not a folder that can be written ({error.strerror}); choose another "
            "one, or change its permissions"
        ) from None
    try:
        yield folder
    except StartError:
        if folder in made:
            _remove(folder, made)
        raise


def _remove(folder: Path, made: list[Path]) -> None:
    """Remove logs and the folders that were made for them, as far as nothing else is in them."""
    if folder in made:
        for file in folder.glob("*.log"):
            file.unlink()
    for path in made:
        with suppress(OSError):
            path.rmdir()


async def serve(settings: ServeSettings, folder: Path, stop: asyncio.Event) -> None:
    """Run a server until told to stop.

    Raises:
        StartError: A setting, a port or a folder cannot be used.
        FailedError: A service ended before it was of use.
    """
    supervisor = Supervisor(settings, folder)
    told = asyncio.create_task(stop.wait())
    try:
        if not await _unless(told, supervisor.start()):
            return
        typer.echo(f"ready grpc={supervisor.grpc} http={supervisor.http}")
        await _unless(told, supervisor.keep())
    except* StartError as group:
        raise group.exceptions[0] from None
    except* FailedError as group:
        raise group.exceptions[0] from None
    finally:
        told.cancel()
        await supervisor.stop()


async def _unless(told: asyncio.Task[bool], work: Coroutine[None, None, None]) -> bool:
    """Do the work unless told to stop; whether it came to its end."""
    task = asyncio.create_task(work)
    await asyncio.wait({told, task}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
        return True
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return False
