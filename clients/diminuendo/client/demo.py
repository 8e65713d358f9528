"""`python -m diminuendo.client.demo`: a whole server on free ports, one job through it, its result, and nothing left.

Exit codes: 0 with a model inside delta, 3 with none, 1 after a failure, 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from diminuendo.client.child import Child, tail
from diminuendo.client.cli.options import exit_code
from diminuendo.client.client import Client
from diminuendo.client.display.folder import read_result
from diminuendo.client.display.follow import follow
from diminuendo.client.display.page import page
from diminuendo.client.display.result import show_result
from diminuendo.client.display.rows import outcome
from diminuendo.client.errors import DiminuendoError, ServerUnavailableError
from diminuendo.client.report import write_beside
from diminuendo.client.types import JobState

_SOURCE, _DELTA, _EVALUATORS = "zoo:digits", 1.0, 2
_EPOCHS = 60
"""A third of what the search would take: this network is soon small."""
_START_S, _STOP_S = 60.0, 20.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Terminated(Exception):  # noqa: N818 - not an error
    """SIGTERM or SIGHUP came."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the demo; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m diminuendo.client.demo", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="result folder; default ./results/JOB")
    parser.add_argument(
        "--epochs", type=_epochs, default=_EPOCHS, help="most tuning, of all candidates; default %(default)g"
    )
    parser.add_argument("--keep", action="store_true", help="keep the server's data folder, and say where it is")
    options = parser.parse_args(args)
    if options.out is not None and options.out.exists() and (options.out.is_file() or any(options.out.iterdir())):
        return _fail(f"--out {options.out} is not an empty folder; give another one, or empty it", code=2)
    signal.signal(signal.SIGTERM, _on_end)
    signal.signal(signal.SIGHUP, _on_end)
    console = Console()
    try:
        with _data_folder(keep=options.keep, console=console) as data:
            return _run(console, data, options.out, options.epochs)
    except KeyboardInterrupt:
        console.print("interrupted; everything that was started has been stopped")
        return 130
    except _Terminated:
        return 143
    except DiminuendoError as error:
        return _fail(error.message)
    except OSError as error:
        return _fail(str(error))


def _fail(message: str, *, code: int = 1) -> int:
    print(f"error: {message}", file=sys.stderr)  # noqa: T201 - this module is a command
    return code


def _epochs(text: str) -> float:
    """A number of epochs."""
    with contextlib.suppress(ValueError):
        if math.isfinite(found := float(text)) and found > 0:
            return found
    raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0; give epochs, such as {_EPOCHS}")


def _run(console: Console, data: Path, out: Path | None, epochs: float) -> int:
    """Start a server, compress the digits network through it, show the result, stop the server."""
    console.print("starting a server: conductor, coordinator and a local Ray with 2 evaluators", highlight=False)
    with _server(data) as server, Client(server.target) as client:
        console.print(f"compressing {_SOURCE} with at most {_DELTA:g} point of accuracy lost", highlight=False)
        job = client.submit(_SOURCE, delta=_DELTA, effort="quick", budget={"epochs": epochs})
        info = follow(job, console, on_cut=server.child.require_alive)
        if info.state is not JobState.SUCCEEDED:
            raise DiminuendoError(outcome(info))
        folder = job.download(out if out is not None else Path("results") / job.job_id)
        console.print("stopping the server", highlight=False)
    page(lambda console: show_result(console, read_result(folder), warnings=False))
    write_beside(folder)
    console.print(f"result: {folder}", markup=False, highlight=False, soft_wrap=True)
    return exit_code(info)


@dataclass(frozen=True, slots=True)
class _Server:
    """A server of the demo's own: its process, and HOST:PORT of its API."""

    child: Child
    target: str


@contextlib.contextmanager
def _server(data: Path) -> Iterator[_Server]:
    """A server on a free port, which leaves no process behind; after a failure the services' logs are shown."""
    command = [sys.executable, "-m", "diminuendo.client.cli.main", "serve", "--data-dir", str(data)]
    command += ["--port", "0", "--http-port", "0", "--evaluators", str(_EVALUATORS), "--with-parent"]
    child = Child(command, log=data.parent / "serve.log")
    try:
        yield _Server(child, _target_of(child.read_line("ready ", timeout_s=_START_S)))
    except DiminuendoError as error:
        logs = [f"--- {log.name}\n{tail(log)}" for log in sorted(data.glob("logs/*.log"))]
        raise DiminuendoError("\n".join([error.message, *logs])) from error
    finally:
        with _undisturbed():
            child.stop(timeout_s=_STOP_S)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Inside, another Ctrl-C or SIGTERM does nothing: stopping takes bounded time and must not be left half-way."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _target_of(line: str) -> str:
    """HOST:PORT of ``ready grpc=HOST:PORT http=HOST:PORT``."""
    words = dict(word.partition("=")[::2] for word in line.split()[1:])
    if not words.get("grpc"):
        raise ServerUnavailableError(f"the server said {line!r} instead of ready grpc=HOST:PORT http=HOST:PORT")
    return words["grpc"]


@contextlib.contextmanager
def _data_folder(*, keep: bool, console: Console) -> Iterator[Path]:
    """A folder for the server's state, removed afterwards unless it is to be kept."""
    root = Path(tempfile.mkdtemp(prefix="diminuendo-demo-"))
    try:
        yield root / "data"
    finally:
        if keep:
            console.print(f"the server's data and log are in {root}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(root, ignore_errors=True)


def _on_end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated


if __name__ == "__main__":
    sys.exit(main())
