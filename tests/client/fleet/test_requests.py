"""Requests and answers as pure functions: batches within both limits, checks that name the model."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from diminuendo.v1 import fleet_pb2, job_pb2
from diminuendo.v1 import fleet_service_pb2 as pb

from diminuendo.client import FleetModel, InvalidArgumentError, JobState
from diminuendo.client.fleet import requests


def messages(count: int, *, freeze: int = 0) -> list[pb.FleetModel]:
    """Models whose messages are large where they freeze many layers."""
    patterns = tuple(f"{number:0250}" for number in range(freeze))
    models = [FleetModel(name=f"m{number}", source="zoo:digits", freeze=patterns) for number in range(count)]
    return [requests.model_message(model, model.source, "p") for model in models]


def test_batches_have_a_thousand_models_at_most() -> None:
    sent = messages(2001)
    found = list(requests.batches("projects/p/fleets/f", sent, replace_changed=True))
    assert [len(batch.models) for batch in found] == [1000, 1000, 1]
    assert [model.model for batch in found for model in batch.models] == [model.model for model in sent]
    assert all(batch.replace_changed and batch.parent == "projects/p/fleets/f" for batch in found)
    assert list(requests.batches("projects/p/fleets/f", [])) == []


def test_batches_stay_below_what_a_message_may_be() -> None:
    sent = messages(120, freeze=256)  # of 65 kB each
    found = list(requests.batches("projects/p/fleets/f", sent))
    assert len(found) > 1
    assert max(batch.ByteSize() for batch in found) < 4 * 2**20
    assert [model.model for batch in found for model in batch.models] == [model.model for model in sent]


def test_a_models_message_has_what_a_job_has() -> None:
    model = FleetModel(
        name="a", source=f"bundle:{'0' * 64}", delta=2.0, labels={"a": "b"}, priority=3, budget={"evaluations": 5}
    )
    message = requests.model_message(model, model.source, "vision")
    assert (message.model, dict(message.job.labels), message.job.priority) == ("a", {"a": "b"}, 3)
    assert message.job.spec.bundle == f"projects/vision/bundles/{'0' * 64}"
    assert (message.job.spec.delta, message.job.spec.budget.evaluations) == (2.0, 5)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"delta": 0.0}, r"models\['a'\].delta: 0 is not a tolerance; give a number over 0"),
        ({"effort": "quik"}, r"models\['a'\].effort: 'quik' is not known"),
        ({"priority": 1.5}, r"models\['a'\].priority: 1.5 is no whole number"),
        ({"deadline": datetime(2030, 1, 1)}, r"models\['a'\].deadline: 2030-01-01 00:00:00 has no time zone"),
        ({"source": "digits"}, r"models\['a'\].source: 'digits' is not of the form zoo:NAME; did you mean zoo:digits"),
    ],
)
def test_a_wrong_field_is_named_with_its_model(wrong: dict[str, object], told: str) -> None:
    model = FleetModel(**{"name": "a", "source": "zoo:digits", **wrong})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=told):
        requests.model_message(model, model.source, "p")


def test_every_wrong_model_is_told_at_once() -> None:
    models = [
        FleetModel(name="a", source="zoo:digits"),
        FleetModel(name="a", source="zoo:digits"),
        FleetModel(name="../b", source="zoo:digits"),
        FleetModel(name="none"),
        FleetModel(name="both", source="zoo:digits", bundle=Path("here")),
    ]
    with pytest.raises(InvalidArgumentError) as caught:
        requests.check_models(models)
    assert [each.description.split(";")[0] for each in caught.value.violations] == [
        "'a' is there twice",
        "'../b' is no model's name",
        "'' names nothing",
        "'zoo:digits' is given beside a bundle",
    ]


def test_fleets_are_called_by_id_or_by_name() -> None:
    assert requests.fleet_name("p", "vision") == "projects/p/fleets/vision"
    assert requests.fleet_name("p", "projects/q/fleets/vision") == "projects/q/fleets/vision"
    assert requests.parts("projects/q/fleets/vision") == ("projects/q", "vision")
    for wrong in ("", "Vision", "a/b", "projects/q/jobs/a", "x" * 41):
        with pytest.raises(InvalidArgumentError, match="is neither a fleet's id"):
            requests.fleet_name("p", wrong)


def test_a_fleet_of_a_newer_server_has_an_unknown_state() -> None:
    states = [fleet_pb2.StateCount(state=job_pb2.JOB_STATE_FAILED, jobs=2), fleet_pb2.StateCount(state=99, jobs=1)]  # type: ignore[arg-type]
    states += [fleet_pb2.StateCount(state=job_pb2.JOB_STATE_SUCCEEDED, jobs=4)]
    info = requests.fleet_info(
        fleet_pb2.Fleet(
            name="projects/p/fleets/f", counts=fleet_pb2.FleetCounts(models=7, states=states, inside_delta=3)
        )
    )
    assert info.states == {JobState.FAILED: 2, JobState.UNKNOWN: 1, JobState.SUCCEEDED: 4}
    assert (info.fleet_id, info.ended, info.failed, info.outside, info.create_time) == ("f", 6, 2, 1, None)
