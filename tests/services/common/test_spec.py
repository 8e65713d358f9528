"""What a client puts on the wire is what the engine is asked for."""

from __future__ import annotations

from typing import Any

import pytest
from diminuendo.v1 import job_pb2

from diminuendo.client import convert
from diminuendo.engine.search.check import problems, request_of
from diminuendo.services.common import spec as common
from diminuendo.services.coordinator import translate
from diminuendo.services.coordinator.translate import UnknownSpecError

WISHES: dict[str, Any] = {
    "delta": 2.5,
    "effort": "deep",
    "accept": "strict",
    "seed": 7,
    "formats": ["svd", "tucker2"],
    "objective": "macs",
    "limits": {"size": 0.25, "memory": 1.5, "params": 2e6},
    "freeze": ["conv", "block1.*"],
    "max_ratio": {"fc": 1.0, "*": 20.0},
    "multiple": 8,
    "stage": 1,
    "budget": {"evaluations": 20, "epochs": 90.5, "minutes": 3.25},
}
AIMED: dict[str, Any] = {"target": {"size": 1.5}, "limits": {"macs": 5e7}}


@pytest.mark.parametrize("wishes", [{}, WISHES, AIMED, *({name: value} for name, value in WISHES.items())], ids=repr)
def test_a_request_is_the_same_through_the_wire_and_without(wishes: dict[str, Any]) -> None:
    if "accept" not in wishes and "target" not in wishes:
        wishes = wishes | {"accept": "estimate"}
    spec = job_pb2.JobSpec.FromString(convert.job_spec("zoo:digits", **wishes).SerializeToString())
    assert translate.to_request(spec) == request_of("zoo:digits", **wishes)


def test_a_spec_of_the_first_version_means_what_it_did() -> None:
    spec = job_pb2.JobSpec.FromString(b"\n\x06digits\x11\x00\x00\x00\x00\x00\x00\xf8?\x18\x03 \x01")
    assert translate.to_request(spec) == request_of("zoo:digits", 1.5, seed=3, effort="quick")


def test_what_is_left_out_is_unchecked_here() -> None:
    request = common.to_request(job_pb2.JobSpec(zoo="digits"))
    assert [problem.field for problem in problems(request)] == ["delta"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x9a\x06\x01x", "spec: fields [99] are not known to this coordinator; update it"),
        (b"2\x05\n\x03abc", "spec.target: 'abc' is unknown; choose one of params"),
        (b"B\x05\n\x03abc", "spec.limits: 'abc' is unknown; choose one of params"),
        (b"J\x03abc", "spec.formats: abc: unknown; choose some of "),
    ],
)
def test_what_a_newer_conductor_accepted_is_refused_with_its_name(content: bytes, says: str) -> None:
    spec = job_pb2.JobSpec(zoo="digits")
    if not content.startswith(b"2"):
        spec.delta = 1.0
    spec.MergeFromString(content)
    with pytest.raises(UnknownSpecError) as caught:
        translate.to_request(spec)
    assert says in str(caught.value)
