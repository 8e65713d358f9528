"""The main job through real processes: certified, the same however it is run, whoever is killed, nothing left."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.request
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest
from tests.e2e.conftest import BUDGET, DELTA, EFFORT, SEED, Decisions, decisions_of, timeless
from tests.e2e.server import left_after, serving
from tests.engine.tasks import held

from diminuendo.client import Client, Job
from diminuendo.client.types import JobState, Leased, Stage, StepCommitted, WarningRaised
from diminuendo.engine import compress, load
from diminuendo.engine.profile import profile
from diminuendo.engine.score import outputs_of, scores_of
from diminuendo.engine.workbench import Workbench
from diminuendo.engine.zoo import task as zoo_task

pytestmark = pytest.mark.timeout(600)

FOLDER_BYTES = 20_000
"""What a weight file may have beside params: BatchNorm's statistics, and the names of tensors."""


def submit(client: Client) -> Job:
    budget = {str(unit): most for unit, most in BUDGET.items()}
    return client.submit("zoo:digits", delta=DELTA, effort=EFFORT, seed=SEED, budget=budget)


@pytest.mark.apart  # the next one decides as the inline run, too
def test_one_evaluator_decides_as_the_inline_run(inline_later: Future[Decisions], tmp_path: Path) -> None:
    with serving(tmp_path / "data", evaluators=1) as server, Client(server.target) as client:
        job = submit(client)  # both at once: one core each
        expected = inline_later.result(timeout=400)
        assert job.wait(timeout_s=400).state is JobState.SUCCEEDED
        assert decisions_of(job, job.download(tmp_path / "result")) == expected
        warnings = [{"reason": e.reason, "message": e.message} for e in job.watch() if isinstance(e, WarningRaised)]
    assert "DELTA_BELOW_NOISE" in {warning["reason"] for warning in warnings}
    assert warnings == expected.certificate["warnings"]
    assert left_after(server.mark) == []


def test_a_coordinator_killed_in_the_middle_changes_nothing(inline: Decisions, tmp_path: Path) -> None:
    options = ("--lease-s", "10")  # all of it is waited for
    with serving(tmp_path / "data", evaluators=2, options=options) as server, Client(server.target) as client:
        job = submit(client)
        killed: psutil.Process | None = None
        for event in job.watch():
            if isinstance(event, StepCommitted) and event.progress.stage is Stage.ANNEAL and killed is None:
                killed = server.coordinator()
                killed.kill()
        assert killed is not None
        assert not killed.is_running()
        info = job.info()
        assert info.state is JobState.SUCCEEDED
        assert info.epoch == 2
        assert info.progress is not None
        assert info.progress.seconds_done == info.progress.seconds_expected > 0
        assert sum(isinstance(event, Leased) for event in job.watch()) == 2
        assert decisions_of(job, job.download(tmp_path / "result")) == inline
        with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as response:
            metrics = response.read().decode()
        assert re.search(r'^diminuendo_jobs\{.*state="succeeded".*\} 1\.0$', metrics, re.MULTILINE)
    assert left_after(server.mark) == []


def test_the_result_is_what_its_certificate_says(inline: Decisions, inline_folder: Path) -> None:
    model = load(inline_folder)
    original = zoo_task("digits")
    sealed = held(Workbench(original, SEED).sealed_half)
    score = scores_of(original.metric, outputs_of(model, sealed.inputs), sealed.targets).mean()
    assert float(score) == pytest.approx(inline.certificate["compressed"], abs=0.26)  # one image, another layout
    figures = profile(model, sealed.inputs[:1], time=False)
    before = profile(original.model, sealed.inputs[:1], time=False)
    assert before.params / figures.params == inline.certificate["params_ratio"]
    assert before.macs / figures.macs == inline.certificate["macs_ratio"]
    assert sum(p.numel() for p in model.parameters()) == figures.params
    assert (inline_folder / "model.safetensors").stat().st_size < 1.5 * 4 * figures.params + FOLDER_BYTES
    assert set(model.state_dict()) != set(original.model.state_dict())


@pytest.mark.apart  # the job above decides as the inline run; what carries wishes is tested piece by piece
def test_wishes_reach_the_search_through_the_command_line_and_the_wire(tmp_path: Path) -> None:
    """Short: three layers in one format, one round. The same wishes without a server decide the same."""
    wishes = "--delta 5 --effort quick --objective macs --limit size=0.6MB --freeze block[12].* --freeze conv --stage 1"
    wishes += " --formats svd --max-ratio fc=1 --multiple 4 --budget evaluations=5 --budget epochs=4"
    with serving(tmp_path / "data", evaluators=1) as server, Client(server.target) as client:
        command = [sys.executable, "-m", "diminuendo.client.cli.main", "submit", "zoo:digits", *wishes.split()]
        done = subprocess.run(
            [*command, "--server", server.target], capture_output=True, text=True, timeout=60, check=True
        )
        expected = compress(
            "zoo:digits",
            5.0,
            effort="quick",
            objective="macs",
            limits={"size": 0.6},
            freeze=["block[12].*", "conv"],
            stage=1,
            formats=["svd"],
            max_ratio={"fc": 1.0},
            multiple=4,
            budget={"evaluations": 5, "epochs": 4},
        ).certificate
        job = client.job(done.stdout.strip())
        info = job.wait(timeout_s=300)
        served = decisions_of(job, job.download(tmp_path / "served"))
    assert served.certificate == timeless(expected)
    assert (info.objective, info.stage, info.budget) == ("macs", 1, {"evaluations": 5, "epochs": 4.0})
    assert info.result is not None
    assert info.result.objective_ratio == info.result.macs_ratio > 1.05
    forms = {name: form["format"] for name, form in served.plan["layers"].items()}
    assert {name for name, form in forms.items() if form == "svd"} <= {name for name in forms if "block3" in name}
    assert set(forms.values()) == {"dense", "svd"}
    assert expected["evaluations"] <= 5
    assert expected["epochs"] <= 4
