"""Every error of the tree has its place on the wire."""

from __future__ import annotations

import inspect

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped, unused-ignore]

from diminuendo.services.common import errors
from diminuendo.services.common.errors import DiminuendoError, InvalidFieldError, Violation, to_proto, to_status

TREE = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, DiminuendoError) and kind is not DiminuendoError
]


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_an_error_says_who_raises_it_and_has_a_code_and_a_reason(kind: type[DiminuendoError]) -> None:
    assert kind.__name__.endswith("Error")
    assert ":" in (kind.__doc__ or "")
    assert kind.reason == kind.reason.upper()
    assert kind.retried == (kind.code is grpc.StatusCode.UNAVAILABLE)


def test_reasons_are_unique() -> None:
    reasons = [kind.reason for kind in TREE]
    assert len(reasons) == len(set(reasons))


def test_an_error_carries_its_metadata() -> None:
    status = to_proto(errors.StaleEpochError("epoch 1 is over", job="projects/p/jobs/a", epoch="1"))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("diminuendo", "STALE_EPOCH")
    assert dict(info.metadata) == {"job": "projects/p/jobs/a", "epoch": "1"}
    assert (status.code, status.message) == (grpc.StatusCode.FAILED_PRECONDITION.value[0], "epoch 1 is over")
    assert to_status(errors.StaleEpochError("x")).code is grpc.StatusCode.FAILED_PRECONDITION


def test_bad_fields_are_listed() -> None:
    error = InvalidFieldError([Violation("delta", "-1 is not above 0"), Violation("parent", "'' is no project")])
    assert str(error) == "delta: -1 is not above 0; parent: '' is no project"
    bad = error_details_pb2.BadRequest()
    assert to_proto(error).details[1].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("delta", "-1 is not above 0"),
        ("parent", "'' is no project"),
    ]
