"""Completion: what is offered where, in a real bash too; and colour, which only terminals get."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.client.cli import complete
from diminuendo.client.cli.commands.completion import _SCRIPTS
from diminuendo.client.contexts import Context, Contexts, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.client.conftest import FakeServer, Recorded, Run

CLI = [sys.executable, "-m", "diminuendo.client.cli.main"]


def offered(line: str) -> list[str]:
    """Values offered behind a line; the shell's own as <dir> and <file>."""
    args, incomplete = complete._question(line, "")
    return [row.value if row.kind == "plain" else f"<{row.kind}>" for row in complete.candidates(args, incomplete)]


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("diminuendo su", ["submit"]),
        ("diminuendo --debug su", ["submit"]),
        ("diminuendo --he", ["--help"]),
        ("diminuendo config ", ["set", "use", "list", "show", "delete"]),
        ("diminuendo config us", ["use"]),
        ("diminuendo cluster ", ["status"]),
        ("diminuendo submit --eff", ["--effort"]),
        ("diminuendo submit --effort ", ["quick", "normal", "deep"]),
        ("diminuendo submit --effort=n", ["--effort=normal"]),
        ("diminuendo submit --effort quick --eff", []),
        ("diminuendo submit --lab", ["--label"]),
        ("diminuendo submit --label a=b --lab", ["--label"]),
        ("diminuendo submit --label 'a b=c' zoo:dig", ["zoo:digits"]),
        ("diminuendo submit --watch zoo:dig", ["zoo:digits"]),
        ("diminuendo submit zoo:digits ", []),
        ("diminuendo compress --budget ev", ["evaluations="]),
        ("diminuendo compress --limit ma", ["macs="]),
        ("diminuendo compress --objective ma", ["macs"]),
        ("diminuendo compress --bundle ", ["<dir>"]),
        ("diminuendo compress --bundle=ex", ["<dir>"]),
        ("diminuendo compress --stage ", ["1", "2"]),
        ("diminuendo list --state s", ["succeeded"]),
        ("diminuendo profile zoo:resnet50", ["zoo:resnet50", "<dir>"]),
        ("diminuendo check ", ["<dir>"]),
        ("diminuendo report ", ["<dir>"]),
        ("diminuendo compare a b ", ["<dir>"]),
        ("diminuendo apply plan.json --to zoo:vgg", ["zoo:vgg19", "<dir>"]),
        ("diminuendo completion ", ["bash", "zsh", "fish"]),
        ("diminuendo completion bash ", []),
        ("diminuendo logs -- --fo", []),
        ("diminuendo config set new --token-file ", ["<file>"]),
        ("diminuendo config set new --no-t", ["--no-token", "--no-tls"]),
        ("diminuendo nothing ", []),
    ],
)
def test_what_is_offered(line: str, values: list[str], fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIMINUENDO_SERVER", fake.target)
    assert sorted(offered(line)) == sorted(values)


@pytest.mark.parametrize(
    ("words", "index", "question"),
    [
        ("diminuendo su", "1", ([], "su")),
        ("diminuendo get j --out", "3", (["get", "j"], "--out")),
        ("diminuendo get ", "2", (["get"], "")),
        ("diminuendo get ", "", (["get"], "")),
        ("diminuendo get 'a b", "", (["get"], "a b")),
        ("diminuendo", "", ([], "diminuendo")),
        ("", "", ([], "")),
    ],
)
def test_the_question(words: str, index: str, question: tuple[list[str], str]) -> None:
    assert complete._question(words, index) == question


def test_jobs_and_contexts_are_offered(
    fake: FakeServer, nobodys_contexts: Path, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.add(job_pb2.Job(name="projects/default/jobs/young", state=job_pb2.JOB_STATE_QUEUED), [])
    fake.add(job_pb2.Job(name="projects/default/jobs/$(odd)", state=job_pb2.JOB_STATE_QUEUED), [])
    write(Contexts(nobodys_contexts, "here", {"here": Context(server=fake.target), "there": Context(server="b:2")}))
    assert offered("diminuendo get ") == ["recorded", "young"], "and not what a shell would run"
    assert offered("diminuendo logs --follow re") == ["recorded"]
    assert offered("diminuendo get projects/default/jobs/y") == ["projects/default/jobs/young"]
    assert offered("diminuendo cancel ") == ["young"], "one that has ended cannot be cancelled"
    assert offered("diminuendo download ") == ["recorded"]
    assert offered("diminuendo report ") == ["recorded", "<dir>"]
    offered("diminuendo get --project vision ")
    assert fake.asked(job_service_pb2.ListJobsRequest)[-1].parent == "projects/vision"
    assert offered("diminuendo get --context th") == ["there"]
    assert offered("diminuendo config use ") == ["here", "there"]
    monkeypatch.setenv("DIMINUENDO_SERVER", "127.0.0.1:1")
    assert offered("diminuendo report ") == ["<dir>"], "a server that is away does not hide folders"
    assert offered(f"diminuendo get --server {fake.target} re") == ["recorded"]


def asked(words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """The answer of a process that is asked as shells ask it."""
    env = {**os.environ, "_DIMINUENDO_COMPLETE": "bash_complete", "COMP_WORDS": words, **extra}
    return subprocess.run(CLI, capture_output=True, text=True, timeout=60, check=False, env=env)


def test_the_protocol_is_rows_of_kind_value_and_help() -> None:
    done = asked("diminuendo can", COMP_CWORD="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "plain\tcancel\tAsk for a job's end.\n", "")


def test_failures_are_silent_and_soon_over(nobodys_contexts: Path, free_port: int) -> None:
    started = time.monotonic()
    done = asked("diminuendo get ", COMP_CWORD="2", DIMINUENDO_SERVER=f"127.0.0.1:{free_port}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert time.monotonic() - started < 10
    nobodys_contexts.write_text("broken")
    for words in ("diminuendo config use ", "diminuendo get 'un"):
        done = asked(words, COMP_CWORD="")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), words


def test_names_of_commands_are_completed_without_importing_any() -> None:
    code = (
        "import sys; from diminuendo.client.cli.main import main\n"
        "try: main()\n"
        "finally: print([m for m in sys.modules if m in ('grpc', 'torch', 'rich', 'ray')"
        " or m.startswith(('diminuendo.v1', 'diminuendo.client.cli.commands'))])"
    )
    env = {**os.environ, "_DIMINUENDO_COMPLETE": "bash_complete", "COMP_WORDS": "diminuendo ver", "COMP_CWORD": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=env)
    assert done.stdout == "plain\tversion\tShow the version.\n[]\n"


@pytest.fixture
def bash(tmp_path: Path) -> Callable[[str], list[str]]:
    """What a bash with our script offers for a line."""
    (tmp_path / "diminuendo").write_text(f'#!/bin/sh\nexec {" ".join(CLI)} "$@"\n')
    (tmp_path / "diminuendo").chmod(0o755)

    def complete_in_bash(line: str) -> list[str]:
        script = (
            "source <(diminuendo completion bash); complete -p diminuendo >/dev/null || exit 1; "
            'COMP_LINE=$1; COMP_POINT=${#1}; _diminuendo_completion diminuendo; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", line],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=env,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete_in_bash


def test_a_real_bash(bash: Callable[[str], list[str]]) -> None:
    assert bash("diminuendo subm") == ["submit"]
    assert bash("diminuendo submit zoo:dig") == ["digits"], "bash has zoo: already, as a word of its own"
    assert bash("diminuendo submit --effort=q") == ["quick"]
    assert bash("diminuendo submit --bundle ") == [], "folders are its own to find"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_printed_and_of_the_shells_grammar(run_here: Run, shell: str) -> None:
    done = run_here("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == _SCRIPTS[shell].strip() + "\n"
    assert f"_DIMINUENDO_COMPLETE={shell}_complete" in done.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here to read it; apt-get install {shell}")
    checked = subprocess.run([shell, "-n"], input=done.stdout, capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


# --- colour ------------------------------------------------------------------------------------------------

COLOUR = re.compile(r"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|4[0-7]|[34]8;[25])[0-9;]*m")
SHOWING = [
    ["get", "recorded"],
    ["list"],
    ["watch", "recorded"],
    ["logs", "recorded"],
    ["config", "list"],
    ["config", "show"],
    ["gc"],
    ["download", "recorded"],
    ["submit", "zoo:digits", "--job-id", "recorded", "--watch"],
    ["get", "none"],
]


@pytest.fixture
def coloured(fake: FakeServer, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A job to show, on what could be a terminal with colours."""
    fake.add(recorded.job(), recorded.events())
    fake.contents = recorded.contents()
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLORTERM": "truecolor", "DIMINUENDO_SERVER": fake.target}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("coloured")
def test_no_command_writes_escape_codes_into_a_pipe(run_here: Run) -> None:
    for words in [*SHOWING, ["--help"], ["get", "--help"], ["config", "--help"], ["nothing"]]:
        done = run_here(*words)
        assert done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr, words


def on_a_terminal(*words: str) -> str:
    """What a command writes on a terminal."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen([*CLI, *words], stdout=terminal, stderr=terminal, stdin=terminal)
    os.close(terminal)
    written = b""
    while True:
        try:
            piece = os.read(screen, 65536)
        except OSError:  # nobody has the terminal any more
            break
        if not piece:
            break
        written += piece
    os.close(screen)
    process.wait(timeout=60)
    return written.decode()


@pytest.mark.usefixtures("coloured")
def test_no_color_is_respected_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COLOUR.search(on_a_terminal("watch", "recorded")), "else this test could not fail"
    monkeypatch.setenv("NO_COLOR", "1")
    for words in (["watch", "recorded"], ["get", "recorded"], ["config", "list"], ["download", "recorded"]):
        assert not COLOUR.search(on_a_terminal(*words)), words


# --- the help ----------------------------------------------------------------------------------------------


def test_the_help_and_the_readme_have_the_exit_codes(run_here: Run) -> None:
    from diminuendo.client.cli.main import EXIT_CODES

    text = run_here("--help").stdout
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert re.search(rf"^ +{code}  {re.escape(meaning)}$", text, re.MULTILINE), code
        assert f"| {code} | {meaning} |" in readme
    assert max(map(len, text.splitlines())) <= 80
