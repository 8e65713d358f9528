"""search.json: every candidate of a search, as it was told."""

from __future__ import annotations

import pytest
from tests.engine.search.driven import search
from tests.engine.search.world import World

from diminuendo.engine.search.work import Evaluated, Judge


def test_every_candidate_is_told_with_its_figures() -> None:
    run = search()
    record = run.file("search.json")
    trials, evaluated = record["trials"], [a for a in run.answers if isinstance(a, Evaluated)]
    works = [w for w in run.works if w.question.kind == "evaluate"]
    assert [t["index"] for t in trials] == [w.index for w in works]
    assert [t["epochs"] for t in trials] == [q.epochs for q in run.evaluations]
    assert [t["role"] for t in trials] == [w.subject.split()[0] for w in works]
    for trial, answer in zip(trials, evaluated, strict=True):
        assert answer.score is not None
        assert trial["drop"] == record["baseline"] - answer.score
        assert (trial["params"], trial["macs"]) == (answer.cost.params, answer.cost.macs)
        assert trial["params_ratio"] == trial["objective_ratio"] == record["original"]["params"] / answer.cost.params
        assert trial["macs_ratio"] == record["original"]["macs"] / answer.cost.macs
        assert trial["within_limits"]
    assert (record["delta"], record["objective"], record["target"]) == (1.0, "params", None)
    assert {t["role"]: t["stage"] for t in trials}["first"] == "explore"
    assert {t["role"]: t["stage"] for t in trials}["move"] == "anneal"
    assert {t["role"]: t["stage"] for t in trials}["final"] == "certify"


def test_the_judged_and_the_returned_are_among_them() -> None:
    run = search()
    record = run.file("search.json")
    question = run.works[-1].question
    assert isinstance(question, Judge)
    assert len(record["judged"]) == len(question.finalists)
    returned = next(t for t in record["trials"] if t["index"] == record["returned"])
    assert returned["params_ratio"] == run.certificate["params_ratio"]
    verdict = next(j for j in record["judged"] if j["index"] == record["returned"])
    assert (verdict["drop"], verdict["drop_ci"]) == (run.certificate["drop"], run.certificate["drop_ci"])


@pytest.mark.parametrize("name", ["latency", "size"])
def test_ratios_are_of_the_figure_that_is_made_small(name: str) -> None:
    record = search(objective=name).file("search.json")
    control = next(t for t in record["trials"] if t["role"] == "control")
    assert control["objective_ratio"] == pytest.approx(1.0)
    assert any(t["objective_ratio"] > 1.5 for t in record["trials"])


def test_limits_that_a_candidate_breaks_are_told() -> None:
    run = search(limits=(("macs", 1.0e6),))
    trials = run.file("search.json")["trials"]
    control = next(t for t in trials if t["role"] == "control")
    assert control["macs"] > 1.0e6
    assert not control["within_limits"]
    assert {t["within_limits"] for t in trials if t["macs"] <= 1.0e6} == {True}


def test_the_same_search_writes_the_same_bytes() -> None:
    one, two = (search(World(), reload=reload).finished.files for reload in (False, True))
    assert [f.content for f in one if f.name == "search.json"] == [f.content for f in two if f.name == "search.json"]
