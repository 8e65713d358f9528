"""Signals and parents, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE

import pytest

from diminuendo.services.common.process import SAME_REQUEST_S, stop_signals

CHILD = """
import os, signal, sys
from diminuendo.services.common.process import die_with_parent
die_with_parent({parent})
print("ready", flush=True)
signal.pause()
"""
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}.format(parent=os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.read()
"""
LOGGING = """
import logging
from diminuendo.services.common import logs
logs.configure(service="test", level="info", style={style!r})
log = logs.get("here")
log.debug("unseen")
with logs.bound(job="projects/p/jobs/a"):
    log.info("job_created", delta=1.0)
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("job_failed")
logging.getLogger("library").info("unseen")
logging.getLogger("library").warning("careful with %s", "that")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sets_the_event(number: signal.Signals) -> None:
    with stop_signals() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(asked.wait(), 5)
        os.kill(os.getpid(), number)  # at once: the same request, as from a parent with several threads
        await asyncio.sleep(0)
        let_go = asyncio.get_running_loop().time() + SAME_REQUEST_S + 5
        while signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):  # then a second one kills
            assert asyncio.get_running_loop().time() < let_go
            await asyncio.sleep(0.02)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's PDEATHSIG is Linux only")
async def test_a_child_ends_with_its_parent() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT.format(child=CHILD), stdin=PIPE, stdout=PIPE
    )
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), 30))
    watched = os.pidfd_open(child)
    try:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(watched, ended.set)
        assert not ended.is_set()
        parent.kill()
        await asyncio.wait_for(ended.wait(), 10)
    finally:
        asyncio.get_running_loop().remove_reader(watched)
        os.close(watched)
        await parent.communicate()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's PDEATHSIG is Linux only")
def test_a_child_whose_parent_is_gone_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD.format(parent=1 << 22)], stdout=PIPE, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, b"")


def test_logs_are_one_json_object_a_line_on_stderr() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGGING.format(style="json")], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == ""
    created, failed, library = map(json.loads, done.stderr.splitlines())
    assert created["event"] == "job_created"
    assert (created["job"], created["delta"]) == ("projects/p/jobs/a", 1.0)
    assert (created["service"], created["level"], created["source"]) == ("test", "info", "here")
    assert created["timestamp"].endswith("Z")
    assert "ZeroDivisionError" in failed["exception"]
    assert (library["event"], library["level"], library["logger"]) == ("careful with that", "warning", "library")


def test_logs_for_people_name_event_and_facts() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGGING.format(style="console")], capture_output=True, text=True, timeout=30, check=True
    )
    line = done.stderr.splitlines()[0]
    assert "job_created" in line
    assert "delta=1.0" in line
    assert "job=projects/p/jobs/a" in line
    assert "\x1b" not in done.stderr, "no colours where there is no terminal"


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "lose",
    [
        "sys.stderr.close()",
        "read, write = os.pipe(); os.dup2(write, 2); os.close(read)",
        "os.dup2(os.open('/dev/full', os.O_WRONLY), 2)",
    ],
    ids=["closed", "unread", "full"],
)
def test_what_cannot_be_logged_costs_the_line_and_nothing_else(style: str, lose: str) -> None:
    code = LOGGING.format(style=style).replace("log =", f"import os, sys; {lose}; log =")
    code += "\nprint('alive', flush=True); os._exit(0)  # without Python's own last flush of stderr"
    done = subprocess.run([sys.executable, "-c", code], stdout=PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n")
