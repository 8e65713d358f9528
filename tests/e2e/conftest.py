"""A job done inline, once: what every other way of doing it must decide."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from diminuendo.client import Job
from diminuendo.client.types import EvaluationFinished, StepCommitted

DELTA, SEED = 1.0, 0
EFFORT: Literal["quick"] = "quick"
BUDGET: dict[Literal["evaluations", "epochs", "minutes"], float] = {"evaluations": 14, "epochs": 8}
"""Less than what the demo takes, and all its stages."""


@dataclass(frozen=True)
class Decisions:
    """What a search decided: its steps in order, the keys of its works, its plan, its certificate without times."""

    steps: tuple[tuple[int, str, str, tuple[float, float] | None], ...]
    keys: tuple[str, ...]
    plan: dict[str, Any]
    certificate: dict[str, Any]


def timeless(certificate: dict[str, Any]) -> dict[str, Any]:
    """A certificate without what the clock says."""
    return {name: value for name, value in certificate.items() if name not in ("seconds", "time_ratio", "latency")}


def decisions_inline(out: str) -> Decisions:
    """The job in this process."""
    from diminuendo.engine import compress
    from diminuendo.engine.search.session import Step

    steps: list[Step] = []
    done = compress("zoo:digits", DELTA, effort=EFFORT, seed=SEED, budget=BUDGET, out=out, on_step=steps.append)
    told = tuple((s.index, s.stage, s.summary, (s.best.params_ratio, s.best.drop) if s.best else None) for s in steps)
    plan = json.loads((Path(out) / "plan.json").read_text())
    return Decisions(told, tuple(s.key for s in steps), plan, timeless(done.certificate))


def decisions_of(job: Job, folder: Path) -> Decisions:
    """What a finished job's log and result folder say."""
    events = list(job.watch())
    steps = [e for e in events if isinstance(e, StepCommitted)]
    keys = {e.index: e.key for e in events if isinstance(e, EvaluationFinished)}
    told = tuple(
        (
            s.step,
            s.progress.stage.value,
            s.summary,
            (s.progress.best.params_ratio, s.progress.best.drop) if s.progress.best else None,
        )
        for s in steps
    )
    plan = json.loads((folder / "plan.json").read_text())
    certificate = json.loads((folder / "certificate.json").read_text())
    return Decisions(told, tuple(keys[i] for i in range(len(keys))), plan, timeless(certificate))


@pytest.fixture(scope="session")
def inline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inline") / "result"


@pytest.fixture(scope="session")
def inline_later(inline_folder: Path) -> Iterator[Future[Decisions]]:
    """The inline run, under way in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        future = pool.submit(decisions_inline, str(inline_folder))
        pool.shutdown(wait=False)  # its process ends with the run, not with the session
        yield future


@pytest.fixture(scope="session")
def inline(inline_later: Future[Decisions]) -> Decisions:
    return inline_later.result(timeout=280)
