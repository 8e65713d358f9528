"""The evaluator without a cluster: what it makes of answers and of errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.services.coordinator.workers import SCRIPTED, WORLD, evaluate, prepare

from diminuendo.engine.search.work import Failed, Prepared, Work, answer_from_bytes
from diminuendo.services.evaluator.actor import WORKER, Evaluator, failure_of, work_from_bytes, work_to_bytes


def run(evaluator: Evaluator, work: Work) -> object:
    return answer_from_bytes(evaluator.run(work_to_bytes(work)).answer)


def test_a_work_travels_unchanged() -> None:
    work = evaluate(3, "half")
    assert work_from_bytes(work_to_bytes(work)) == work
    assert work_from_bytes(work_to_bytes(work)).key == work.key


def test_an_answer_comes_with_name_and_time(tmp_path: Path) -> None:
    evaluator = Evaluator("evaluator-4", str(tmp_path), WORLD)
    report = evaluator.run(work_to_bytes(prepare(0)))
    assert report.evaluator == "evaluator-4"
    assert 0 <= report.seconds < 5
    assert isinstance(answer_from_bytes(report.answer), Prepared)
    assert evaluator.ping().evaluator == "evaluator-4"


@pytest.mark.parametrize(
    ("script", "reason", "message", "traceback"),
    [
        ("user", "USER_CODE", "the metric raised ValueError: 7", "Traceback: line 7"),
        ("exit", "USER_CODE", "asked to exit with 4", "SystemExit"),
        ("memory", "OUT_OF_MEMORY", "out of host memory", "MemoryError"),
        ("bug", "INTERNAL", "KeyError: 'no such layer'", "KeyError"),
    ],
)
def test_what_goes_wrong_comes_back_as_a_record(
    tmp_path: Path, script: str, reason: str, message: str, traceback: str
) -> None:
    answer = run(Evaluator("evaluator-0", str(tmp_path), SCRIPTED), evaluate(0, script))
    assert isinstance(answer, Failed)
    assert answer.reason == reason
    assert message in answer.message
    assert traceback in answer.traceback


def test_memory_of_gpu_and_host() -> None:
    assert failure_of(evaluate(0), torch.OutOfMemoryError("CUDA out of memory")).reason == "GPU_OUT_OF_MEMORY"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert failure_of(evaluate(0), caught.value).reason == "OUT_OF_MEMORY"
    assert failure_of(evaluate(0), RuntimeError("shapes differ")).reason == "INTERNAL"


def test_the_engines_own_worker_and_its_errors(tmp_path: Path) -> None:
    """An unknown network is the owner's mistake, and says what is known."""
    evaluator = Evaluator("evaluator-0", str(tmp_path), WORKER)
    question = prepare(0).question
    answer = run(evaluator, Work(0, type(question)("zoo:digts", 0, 1), "the original"))  # type: ignore[call-arg, arg-type]
    assert isinstance(answer, Failed)
    assert answer.reason == "USER_CODE"
    assert "digits" in answer.message
