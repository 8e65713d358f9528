"""`pip install diminuendo` alone: what it brings is all that the client and every remote command need."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from tests.client.conductor import Conductor
from tests.client.test_with_conductor import Coordinator

from diminuendo.client.cli import main as cli

if TYPE_CHECKING:
    from tests.client.conftest import Recorded

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "ray", "numpy")
DRAWN_BY = {
    "report.charts": "matplotlib",
    "report.fleet": "matplotlib",
    "report.html": "jinja2",
    "report.svg": "matplotlib",
}
"""Modules that are imported when a report is written, and what of the extra ``report`` they lack."""
SERVERS = ("serve", "conductor", "coordinator")
"""Commands that need extras, which they name."""


def brought() -> set[str]:
    """Top-level modules of what is installed with no extra, by the requirements of each."""
    found: set[str] = set()

    def add(requirements: list[str]) -> None:
        for requirement in map(Requirement, requirements):
            name = requirement.name.lower().replace("_", "-")
            if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                found.add(name)
                add(metadata.requires(name) or [])

    add(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    homes = metadata.packages_distributions().items()
    return {module for module, homes in homes if {home.lower().replace("_", "-") for home in homes} & found}


BARRED = """
import sys

class Bar:
    def __init__(self, allowed):
        self.allowed = allowed

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        known = top in self.allowed or top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if not known:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Bar({allowed!r}))
"""


def run_barred(code: str) -> str:
    """What code prints where only that can be imported which the light install brings."""
    allowed = brought() | {"diminuendo"}
    assert not allowed & {*HEAVY, "sqlalchemy", "matplotlib", "jinja2", "structlog"}
    whole = BARRED.replace("{allowed!r}", repr(allowed)) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_of_the_client_can_be_imported() -> None:
    out = run_barred(
        """
        import importlib, json, pkgutil
        import diminuendo.client
        from diminuendo.client import *
        failed, names = {}, []
        for found in pkgutil.walk_packages(diminuendo.client.__path__, "diminuendo.client."):
            names.append(found.name)
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                failed[found.name] = error.name
        print(json.dumps([names, failed]))
        """
    )
    names, failed = json.loads(out)
    assert {name.removeprefix("diminuendo.client."): missing for name, missing in failed.items()} == DRAWN_BY
    assert len(names) > 60


def test_every_command_has_help_and_those_of_extras_say_which() -> None:
    out = run_barred(
        """
        import contextlib, io, json
        from diminuendo.client.cli import main as cli

        came = {}

        def walk(words, command):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    cli.main([*words, "--help"])
                except SystemExit as end:
                    came[" ".join(words)] = end.code, out.getvalue(), err.getvalue()
            for name, inner in getattr(command, "commands", {}).items():
                walk((*words, name), inner)

        for name in cli.COMMANDS:
            command = None if name in ("serve", "conductor", "coordinator") else cli.load(name)
            walk((name,), command)
        print(json.dumps(came))
        """
    )
    came = json.loads(out)
    assert set(cli.COMMANDS) < set(came)
    assert {"fleet submit", "fleet list", "config set", "cluster status"} <= set(came)
    for words, (code, shown, said) in came.items():
        if words in SERVERS:
            assert (code, shown) == (1, "")
            assert re.search(rf"error: `diminuendo {words}` needs a part .*; pip install 'diminuendo\[\S+\]'\n", said)
        else:
            assert (code, said) == (0, ""), words
            assert shown.startswith(f"Usage: diminuendo {words} "), words


def test_help_imports_next_to_nothing() -> None:
    """What is imported is what starting costs; a clock would say that as well, and something else on a busy machine."""
    code = (
        "import sys; from diminuendo.client.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print('\\nimported', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    modules = done.stdout.rpartition("\nimported ")[2].split()
    site = {"typer", "annotated_doc", "shellingham"}
    packages = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert {name for name in packages if not name.startswith("_")} - {"sitecustomize"} == {"diminuendo", *site}
    assert {name for name in modules if name.startswith("diminuendo.")} == {
        *("diminuendo.client", "diminuendo.client.errors", "diminuendo.client.oneline"),
        *("diminuendo.client.cli", "diminuendo.client.cli.main"),
    }
    assert len(modules) < 250
    assert not {"asyncio", "multiprocessing", "sqlite3", "http.client", "logging"} & set(modules)


# --- an environment of its own ------------------------------------------------------------------------------


class Light:
    """An environment with the wheel of this tree and what it brings, and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PYTHON", "DIMINUENDO", "VIRT"))
            },
            "DIMINUENDO_CLIENT_CONFIG": str(folder / "config.toml"),
        }
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        self.check([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], cwd=folder)
        (wheel,) = folder.glob("diminuendo-*.whl")
        self.check([sys.executable, "-m", "venv", str(folder / "venv")], cwd=folder)
        constraints = ["-c", str(ROOT / "constraints.txt")]
        inner = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        self.check([*inner, "install", "--quiet", *constraints, str(wheel)], cwd=folder)

    def check(self, command: list[str], *, cwd: Path) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=self.environ, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def python(self, code: str) -> str:
        return self.check([str(self.folder / "venv" / "bin" / "python"), "-c", textwrap.dedent(code)], cwd=self.folder)

    def run(self, *words: str, code: int = 0) -> str:
        """What a command prints; it ends with this code."""
        program = str(self.folder / "venv" / "bin" / "diminuendo")
        done = subprocess.run(
            [program, *words],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Light:
    return Light(tmp_path_factory.mktemp("light"))


@pytest.fixture
def conductor(tmp_path: Path) -> Iterator[Conductor]:
    conductor = Conductor(tmp_path)
    yield conductor
    conductor.child.stop(timeout_s=15)


@pytest.mark.apart
@pytest.mark.timeout(600)
def test_alone_it_runs_every_remote_command_and_both_clients(
    light: Light, conductor: Conductor, recorded: Recorded
) -> None:
    for name in (*HEAVY, "sqlalchemy", "matplotlib", "IPython"):
        assert light.python(f"import importlib.util; print(importlib.util.find_spec({name!r}))") == "None\n"
    assert "submit" in light.run("--help")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", light.run("version"))
    for command in SERVERS:
        light.run(command, code=1)

    light.run("config", "set", "lab", "--server", conductor.target)
    light.run("config", "use", "lab")
    assert conductor.target in light.run("config", "list")
    assert conductor.target in light.run("config", "show", "lab")

    done = light.run("submit", "zoo:digits", "--job-id", "done", "--seed", "7").strip()
    coordinator = Coordinator(conductor.target, recorded)
    assert coordinator.name == done
    coordinator.play(0, recorded.works)
    coordinator.finish(conductor.store())
    light.run("watch", "done")
    assert "SUCCEEDED" in light.run("get", "done")
    assert json.loads(light.run("get", "done", "--output", "json"))["state"] == "SUCCEEDED"
    assert len(light.run("logs", "done").splitlines()) > recorded.works
    assert "params" in light.run("download", "done", "--out", "out")
    for name, data in recorded.files.items():
        assert (light.folder / "out" / name).read_bytes() == data

    light.run("submit", "zoo:digits", "--job-id", "other")
    assert "PAUSED" in light.run("pause", "other")
    assert "QUEUED" in light.run("resume", "other")
    light.run("update", "other", "--label", "team=a", "--priority", "3")
    assert json.loads(light.run("list", "--label", "team=a", "--output", "json"))[0]["priority"] == 3
    assert "CANCELLED" in light.run("cancel", "other")
    again = light.run("retry", "other", "--job-id", "again").strip()
    assert again.endswith("/again")
    light.run("cancel", "again")
    light.run("delete", "again")
    light.run("get", "again", code=2)
    assert "would be removed" in light.run("gc", "--dry-run")
    light.run("cluster", "status")

    (light.folder / "fleet.yaml").write_text(
        "name: few\nmodels:\n  - {name: a, zoo: digits}\n  - {name: b, zoo: digits}\n"
    )
    light.run("fleet", "submit", "fleet.yaml")
    assert "few" in light.run("fleet", "list")
    assert json.loads(light.run("fleet", "get", "few", "--output", "json"))["name"].endswith("/fleets/few")
    light.run("fleet", "cancel", "few")
    light.run("fleet", "watch", "few", code=1)
    assert "cancelled" in light.run("fleet", "report", "few").lower()
    light.run("fleet", "delete", "few")
    light.run("config", "delete", "lab")

    out = light.python(
        f"""
        import asyncio
        from diminuendo.client import AsyncClient, Client

        with Client({conductor.target!r}) as client:
            job = client.submit(job_id="sync")
            print(len(list(client.list())), job.cancel().state.value, job.wait().state.value)
            print(client.job("done").download("sync").name, "<table>" in client.get("done")._repr_html_())

        async def main():
            async with AsyncClient({conductor.target!r}) as client:
                job = await client.submit(job_id="async")
                await job.cancel()
                print(len([event async for event in job.watch()]), (await job.wait()).state.value)
                print((await client.job("done").download("async")).name)

        asyncio.run(main())
        """
    )
    assert out.split() == ["3", "CANCELLED", "CANCELLED", "sync", "True", "2", "CANCELLED", "async"]
