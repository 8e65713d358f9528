"""Traces go where they are asked to, by OTLP: from the client's span to each evaluation; nothing by default."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from diminuendo.v1 import job_service_pb2
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from tests.observability.life import Life
from tests.observability.receiver import receiving
from tests.observability.rig import Conductor, fetched, until

from diminuendo.client import AsyncClient, Client
from diminuendo.engine import phases
from diminuendo.engine.phases import Phase
from diminuendo.engine.search.work import Prepare, Work
from diminuendo.services import common
from diminuendo.services.common import tracing
from diminuendo.services.common.errors import StartError
from diminuendo.services.coordinator import tracks
from diminuendo.services.coordinator.tracks import Try

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="the extra [traces] is not installed")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CLAIM = "projects/p/jobs/a#3"


def test_the_span_of_a_call_is_the_callers_child_and_the_jobs_origin(tmp_path: Path) -> None:
    with receiving() as receiver:
        with (
            Conductor(tmp_path, "--traces", receiver.target) as conductor,
            grpc.insecure_channel(conductor.grpc) as channel,
        ):
            life = Life(channel)
            life.create("a", metadata=(("traceparent", f"00-{TRACE}-{SPAN}-01"),))
            life.create("b")
            lease = life.lease()
            life.evaluate(lease)
            page, kind = fetched(f"http://{conductor.http}/metrics", "application/openmetrics-text; version=1.0.0")
        (mine,) = receiver.of(TRACE)
        assert (mine.service, mine.name, mine.parent) == ("diminuendo-conductor", "CreateJob", SPAN)
        assert lease.job.trace_parent == f"00-{TRACE}-{mine.span}-01"
        others = {span.name for span in receiver.spans if span.trace != TRACE}
        assert others == {"CreateJob"}, "calls that create no job are traced only where their caller traces"
    assert kind.startswith("application/openmetrics-text")
    evaluated = tracing.evaluation_trace_id(lease.job.name, 1, 0)
    assert f'# {{trace_id="{evaluated}"}}' in page, "an exemplar names the trace of its evaluation"
    assert re.search(r'rpc_seconds_bucket\{.*method="CreateJob"\} \S+ # \{trace_id="[0-9a-f]{32}"\}', page)


async def test_the_client_sends_the_span_that_its_user_is_in(tmp_path: Path) -> None:
    span = NonRecordingSpan(SpanContext(int(TRACE, 16), int(SPAN, 16), is_remote=False, trace_flags=TraceFlags(1)))
    with Conductor(tmp_path) as conductor, Client(conductor.grpc) as client:
        with trace.use_span(span):
            traced = client.submit("zoo:digits", delta=1.0)
            async with AsyncClient(conductor.grpc) as other:
                also = await other.submit("zoo:digits", delta=1.0)
        untraced = client.submit("zoo:digits", delta=1.0)
        with grpc.insecure_channel(conductor.grpc) as channel:
            jobs = Life(channel).jobs
            found = [
                jobs.GetJob(job_service_pb2.GetJobRequest(name=job.name), timeout=10).trace_parent
                for job in (traced, also, untraced)
            ]
    assert found == [f"00-{TRACE}-{SPAN}-01"] * 2 + [""]


def test_an_evaluation_is_a_trace_of_its_own(tmp_path: Path) -> None:
    work = Work(7, Prepare("zoo:digits", 0, 1), "prepare")
    lost = Try("evaluator-0", 102.0, 105.0, "EVALUATOR_LOST: gone")
    done = Try("evaluator-1", 106.0, 110.0, phases=(Phase("train", 0.5, 2.0), Phase("upload", 2.5, 99.0)))
    origin = f"00-{TRACE}-{SPAN}-01"
    with receiving() as receiver:
        tracing.configure(service="coordinator", endpoint=receiver.target)
        try:
            tracks.tell(CLAIM, work, asked=100.0, tries=[lost, done], origin=origin)
            ids = tracks.ids(CLAIM, 7)
        finally:
            tracing.close()
        assert tracks.ids(CLAIM, 7) == {}
        spans = receiver.of(ids["trace_id"])
        assert len(spans) == len(receiver.spans) == 7
    (root,) = [span for span in spans if not span.parent]
    assert (root.name, root.links, root.error) == ("evaluation", (f"{TRACE}-{SPAN}",), "")
    assert root.attributes["diminuendo.job"] == "projects/p/jobs/a"
    assert (root.attributes["diminuendo.work"], root.attributes["diminuendo.kind"]) == (7, "prepare")
    times = {(s.name, s.start / 1e9, s.end / 1e9, s.error) for s in spans}
    assert times == {
        ("evaluation", 100.0, 110.0, ""),
        ("queue", 100.0, 102.0, ""),
        ("attempt", 102.0, 105.0, "EVALUATOR_LOST: gone"),
        ("queue", 105.0, 106.0, ""),
        ("attempt", 106.0, 110.0, ""),
        ("train", 106.5, 108.5, ""),
        ("upload", 108.5, 110.0, ""),
    }
    attempts = {span.span for span in spans if span.name == "attempt"}
    assert {span.parent for span in spans if span.name in ("train", "upload")} < attempts
    assert {span.parent for span in spans if span.name in ("queue", "attempt")} == {root.span}


def test_phases_are_kept_for_who_asks_and_in_no_ones_way() -> None:
    with phases.phase("unasked"):
        pass
    with phases.kept() as kept:
        with phases.phase("train"):
            pass
        with pytest.raises(ValueError, match="on purpose"), phases.phase("score"):
            raise ValueError("on purpose")
    assert [phase.name for phase in kept] == ["train", "score"]
    assert 0 <= kept[0].start_s <= kept[1].start_s
    assert all(phase.seconds >= 0 for phase in kept)


def test_where_nothing_is_traced_the_callers_span_is_handed_on() -> None:
    assert not tracing.active()
    assert tracing.exemplar(TRACE) is None
    with tracing.serving("CreateJob", f"00-{TRACE}-{SPAN}-01", root=True):
        assert tracing.trace_parent() == f"00-{TRACE}-{SPAN}-01"
    for wrong in ("", "00-1-2-3", f"01-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01"):
        with tracing.serving("CreateJob", wrong, root=True):
            assert tracing.trace_parent() == ""


def test_what_is_asked_for_and_cannot_be_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match="traces='collector:4317' is no endpoint of OTLP; give http://HOST:PORT"):
        tracing.configure(service="conductor", endpoint="collector:4317")
    monkeypatch.delitem(sys.modules, "diminuendo.services.common.otlp", raising=False)
    monkeypatch.delattr(common, "otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(StartError, match=r"needs OpenTelemetry .*pip install 'diminuendo\[traces\]'"):
        tracing.configure(service="conductor", endpoint="http://127.0.0.1:4317")


def test_without_an_endpoint_opentelemetry_is_not_even_imported(tmp_path: Path) -> None:
    code = "import sys, diminuendo.services.conductor.app; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


def test_an_endpoint_that_is_away_is_in_nobodys_way(tmp_path: Path) -> None:
    with (
        Conductor(tmp_path, "--traces", "http://127.0.0.1:9") as conductor,
        grpc.insecure_channel(conductor.grpc) as channel,
    ):
        name = Life(channel).create("a")
        until(lambda: "diminuendo_jobs_created_total 1.0" in conductor.metrics(), "it is counted")
    assert name == "projects/p/jobs/a"
