"""Exports of a search's result: asked for after the verdict, of the winner, and never the job's failure."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import get_args

import pytest
from tests.engine.search.driven import QUICK, search
from tests.engine.search.world import World, sha

from diminuendo.engine.plan import Plan
from diminuendo.engine.search.check import RequestError, request_of
from diminuendo.engine.search.session import Finished, Session
from diminuendo.engine.search.work import (
    Export,
    ExportsMade,
    FailureReason,
    answer_from_bytes,
    answer_to_bytes,
    artifacts_of,
)

FORMS = ("onnx", "pt2:fp16")


def test_the_winner_is_exported_after_the_verdict_and_its_files_are_the_results() -> None:
    plain, run = search(), search(exports=FORMS)
    assert [work.key for work in run.works[:-1]] == [work.key for work in plain.works]  # nothing else is decided by it
    question = run.works[-1].question
    assert isinstance(question, Export)
    assert question.forms == FORMS
    files = {file.name: file.sha256 for file in run.finished.files}
    assert question.tuned.weights == files["model.safetensors"]
    assert Plan(question.tuned.choices) == run.plan == plain.plan
    assert files["model.onnx"] == sha(f"{question.tuned.weights} onnx")
    assert files["model.fp16.pt2"] == sha(f"{question.tuned.weights} pt2:fp16")
    assert set(files) - {"model.onnx", "model.fp16.pt2"} == {file.name for file in plain.finished.files}
    assert (
        run.certificate["exports"]["onnx"] | {"file": "model.onnx", "drop": 0.0} == run.certificate["exports"]["onnx"]
    )
    assert list(run.certificate["exports"]) == list(FORMS)
    assert plain.certificate["exports"] == {}
    changed = {"exports", "seconds"}
    assert {k: v for k, v in run.certificate.items() if k not in changed} == {
        k: v for k, v in plain.certificate.items() if k not in changed
    }


def test_the_steps_lead_up_to_the_exports() -> None:
    run = search(exports=FORMS)
    judged, last = run.steps[-2:]
    assert (judged.stage, judged.works_done + 1) == ("certify", judged.works_expected)
    assert "at a sealed drop of" in judged.summary
    assert (last.stage, last.works_done, last.works_expected) == ("done", len(run.works), len(run.works))
    assert last.summary == "model.onnx, model.fp16.pt2"
    for step, plain in zip(run.steps, search().steps, strict=False):
        assert step.works_expected == plain.works_expected + 1


def test_dump_and_load_at_every_step_change_nothing() -> None:
    assert search(exports=FORMS, reload=True).outcome == search(exports=FORMS).outcome


def test_a_form_that_fails_is_a_warning_and_has_no_file() -> None:
    run = search(World(unexportable=("onnx",)), exports=FORMS)
    assert run.finished.inside_delta
    assert "model.onnx" not in {file.name for file in run.finished.files}
    warning = ("EXPORT_FAILED", "onnx: the network decides by its data; write it otherwise")
    assert run.steps[-1].warnings == (warning,)
    assert run.steps[-1].summary == "model.fp16.pt2; failed: onnx"
    assert dict([warning])["EXPORT_FAILED"] in [each["message"] for each in run.certificate["warnings"]]
    assert run.certificate["exports"]["onnx"]["error"] == "the network decides by its data; write it otherwise"
    assert "error" not in run.certificate["exports"]["pt2:fp16"]


@pytest.mark.parametrize("reason", [each for each in get_args(FailureReason) if each != "ARTIFACT_MISSING"])
def test_an_export_that_is_lost_does_not_lose_the_job(reason: FailureReason) -> None:
    run = search(World(export_fails=reason), exports=FORMS)
    assert run.finished.files[:1] == search().finished.files[:1]
    assert [each for each, _ in run.steps[-1].warnings] == ["EXPORT_FAILED", "EXPORT_FAILED"]
    for form in FORMS:
        told = run.certificate["exports"][form]["error"]
        assert told.startswith(f"exporting: it was lost ({reason})")
        assert "diminuendo export FOLDER" in told


def test_a_winner_whose_weights_are_gone_is_no_result() -> None:
    run = search(World(export_fails="ARTIFACT_MISSING"), exports=FORMS)
    assert run.failure == "exporting: it was lost"


def test_the_reserve_that_wins_is_the_one_that_is_exported() -> None:
    run = search(World(stricter=1.0), exports=FORMS)
    question = run.works[-1].question
    assert isinstance(question, Export)
    assert Plan(question.tuned.choices) == run.plan


def test_an_outcome_is_kept_with_its_files() -> None:
    run = search(World(unexportable=("onnx",)), exports=FORMS)
    answer = run.answers[-1]
    assert isinstance(answer, ExportsMade)
    assert answer_from_bytes(answer_to_bytes(answer)) == answer
    assert artifacts_of(answer) == tuple(file.sha256 for file in run.finished.files if file.name.endswith("pt2"))


def test_a_state_of_before_there_were_exports_goes_on() -> None:
    session, world = Session(QUICK), World()
    for _ in range(4):
        session.tell(world.run(session.ask()[0]))
    state = json.loads(zlib.decompress(session.dump()))
    del state["judged"], state["request"]["exports"]
    session = Session.load(zlib.compress(json.dumps(state).encode()))
    assert session.request == QUICK
    while session.outcome is None:
        session.tell(world.run(session.ask()[0]))
    assert isinstance(session.outcome, Finished)
    assert session.outcome == search().outcome


@pytest.mark.parametrize(
    ("exports", "says"),
    [
        (["onxn"], "exports: 'onxn' is no form of export; did you mean 'onnx'?"),
        (["pt2", "pt2"], "exports: 'pt2' is given twice"),
        (["safetensors"], "exports: 'safetensors' is what every result has"),
        ("onnx", "exports: 'onnx' is one text"),
    ],
)
def test_what_is_no_export_is_refused(exports: list[str], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        request_of("zoo:digits", exports=exports)
    assert str(caught.value).startswith(says)
    assert request_of("zoo:digits", exports=["onnx"]) == replace(request_of("zoo:digits"), exports=("onnx",))
