"""Pages of metrics: what is bounded, what replicas share, certificates, formats, fleets."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from diminuendo.v1 import artifact_service_pb2, cluster_service_pb2, fleet_service_pb2, job_pb2, job_service_pb2
from prometheus_client.parser import text_string_to_metric_families
from tests.certificates import Authority
from tests.postgres import Postgres

from diminuendo.services.conductor.figures import MAX_JOBS, Figures
from diminuendo.services.conductor.metrics import Host, Metrics
from diminuendo.services.conductor.metrics.certificate import expiry_of
from diminuendo.services.conductor.metrics.counted import CAUSES, MAX_VALUES, OTHER, STREAMS
from diminuendo.services.conductor.metrics.page import Page
from diminuendo.services.conductor.metrics.told import MAX_PROJECTS, OTHERS, families
from diminuendo.services.conductor.records import (
    Changes,
    Job,
    NewFleet,
    NewJob,
    Noted,
    Outcome,
    Report,
    State,
    WantedModel,
)
from diminuendo.services.conductor.store.sql import SqlStore

NOW = 1_700_000_000_000_000
SPEC = job_pb2.JobSpec(zoo="digits", delta=1.0)


def samples(page: Page) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values, in the order of the labels' names."""
    found = [s for family in text_string_to_metric_families(page.encoded()[0].decode()) for s in family.samples]
    return {(s.name, *(s.labels[label] for label in sorted(s.labels))): s.value for s in found}


def test_the_first_end_of_every_stream_is_an_increase() -> None:
    """Its series is there before: one that began with it would have no rate."""
    files = [service.DESCRIPTOR for service in (artifact_service_pb2, fleet_service_pb2, job_service_pb2)]
    methods = [method for file in files for service in file.services_by_name.values() for method in service.methods]
    assert sorted(method.name for method in methods if method.server_streaming) == sorted(STREAMS)


def test_projects_beyond_the_bound_are_counted_together() -> None:
    counts = {(f"p{i:03}", State.QUEUED): 1 for i in range(MAX_PROJECTS + 25)}
    counts[("p070", State.FAILED)] = 5
    page = Page(Metrics(lambda: NOW).registry, families(Figures(counts, None, None, (), (), ()), ()))
    jobs = {key: value for key, value in samples(page).items() if key[0] == "diminuendo_jobs"}
    assert len({project for _, project, _ in jobs}) == MAX_PROJECTS + 1
    assert jobs["diminuendo_jobs", OTHERS, "queued"] == 25
    assert jobs["diminuendo_jobs", "p070", "failed"] == 5, "those with most jobs are themselves"
    assert sum(jobs.values()) == MAX_PROJECTS + 25 + 5


def test_values_that_coordinators_choose_are_bounded() -> None:
    metrics = Metrics(lambda: NOW)
    job = Job(name="projects/p/jobs/a", project="p", spec=SPEC, labels={}, create_time=NOW, update_time=NOW)
    for i in range(MAX_VALUES + 5):
        event = job_pb2.JobEvent(attempt_lost=job_pb2.AttemptLost(cause=f"CAUSE_{i}"))
        metrics.committed(Changes(noted=(Noted(job, (event,)),)))
    found = {
        key[1]: value
        for key, value in samples(Page(metrics.registry, [])).items()
        if key[0] == "diminuendo_attempts_lost_total"
    }
    assert len(found) == MAX_VALUES + 1
    assert found[OTHER] == len(CAUSES) + 5
    assert [found[cause] for cause in CAUSES] == [0] * len(CAUSES), "there from the start, so that the first one counts"


def test_a_series_for_each_job_ends_with_the_newest_hundred() -> None:
    job = Job(name="", project="p", spec=SPEC, labels={}, create_time=NOW, update_time=NOW, state=State.RUNNING)
    held = [replace(job, name=f"projects/p/jobs/j{i}") for i in range(MAX_JOBS)]
    page = Page(Metrics(lambda: NOW).registry, families(Figures({}, None, None, held, (), ()), ()))
    assert sum(key[0] == "diminuendo_job_info" for key in samples(page)) == MAX_JOBS
    assert "diminuendo_job_info" not in {
        key[0] for key in samples(Page(Metrics(lambda: NOW).registry, families(None, ())))
    }


async def test_two_conductors_of_one_database_count_each_event_once_and_tell_the_same(postgres: Postgres) -> None:
    with postgres.database() as url:
        metrics = [Metrics(lambda: NOW) for _ in range(2)]
        stores = [await asyncio.to_thread(SqlStore.open, url, clock=lambda: NOW) for _ in metrics]
        for store, own in zip(stores, metrics, strict=True):
            store.subscribe(own.committed)
        for i, store in enumerate(stores):
            await store.create_job(NewJob(name=f"projects/p/jobs/j{i}", project="p", spec=SPEC, labels={}))
        leases = [await stores[0].lease_job(coordinator="c", request_id="r", lease_us=10**6) for _ in range(2)]
        again = await stores[1].lease_job(coordinator="c", request_id="r", lease_us=10**6)
        assert again is not None
        assert {lease.job.name for lease in leases if lease} == {again.job.name}
        report = Report(job_pb2.EvaluationFinished(index=0, key="k", kind="survey", seconds=2.0))
        for store in stores:
            await store.report_evaluation(again.job.name, epoch=1, report=report)
        evaluator = job_pb2.EvaluatorStatus(state=job_pb2.EVALUATOR_STATE_BUSY)
        told = cluster_service_pb2.Coordinator(name="c", evaluators=[evaluator])
        await stores[0].report_coordinator("c", told.SerializeToString())
        pages = [samples(await own.page(store)) for own, store in zip(metrics, stores, strict=True)]
        for own in metrics:
            await own.settle()
        for store in stores:
            await store.close()
    assert [page["diminuendo_jobs_created_total",] for page in pages] == [1, 1]
    assert [page["diminuendo_leases_total", "first"] for page in pages] == [1, 0]
    assert [page.get(("diminuendo_evaluations_total", "survey", "done"), 0) for page in pages] == [1, 0]
    for page in pages:
        assert (page["diminuendo_jobs", "p", "queued"], page["diminuendo_jobs", "p", "running"]) == (1, 1)
        assert page["diminuendo_evaluators", "busy"] == 1


async def test_leases_are_told_apart_by_how_the_job_came_free(tmp_path: Path) -> None:
    now, metrics = [NOW], Metrics(lambda: NOW)
    store = await asyncio.to_thread(SqlStore.open, f"sqlite:///{tmp_path / 'a.db'}", clock=lambda: now[0])
    store.subscribe(metrics.committed)
    await store.create_job(NewJob(name="projects/p/jobs/a", project="p", spec=SPEC, labels={}))
    await store.lease_job(coordinator="c1", lease_us=10**6)
    now[0] += 2 * 10**6
    await store.lease_job(coordinator="c2", lease_us=10**6)
    await store.release_job("projects/p/jobs/a", epoch=2, outcome=None)
    await store.lease_job(coordinator="c3", lease_us=10**6)
    await store.release_job("projects/p/jobs/a", epoch=3, outcome=job_pb2.JobFailure(reason="TIMEOUT", message="late"))
    page = samples(Page(metrics.registry, []))
    await store.close()
    assert {key[1]: value for key, value in page.items() if key[0] == "diminuendo_leases_total"} == {
        "first": 1,
        "again": 1,
        "taken_over": 1,
    }
    assert page["diminuendo_queue_wait_seconds_count",] == 1
    assert page["diminuendo_jobs_ended_total", "failed", "TIMEOUT"] == 1


async def test_a_fleet_counts_the_newest_job_of_each_model_and_what_it_saves(tmp_path: Path) -> None:
    metrics = Metrics(lambda: NOW)
    store = await asyncio.to_thread(SqlStore.open, f"sqlite:///{tmp_path / 'a.db'}", clock=lambda: NOW)
    store.subscribe(metrics.committed)
    fleet = "projects/p/fleets/f"
    await store.fleets.create(NewFleet(name=fleet, project="p", labels={}))
    wanted = [
        WantedModel(NewJob(name=f"projects/p/jobs/{m}", project="p", spec=SPEC, labels={}, fleet=fleet, model=m))
        for m in ("a", "b", "c", "d")
    ]
    await store.fleets.create_jobs(fleet, wanted)
    results: list[Outcome] = [
        job_pb2.JobResult(
            inside_delta=True,
            params_ratio=4.0,
            original=job_pb2.Figures(params=100, size_bytes=400),
            compressed=job_pb2.Figures(params=25, size_bytes=100),
        ),
        job_pb2.JobResult(original=job_pb2.Figures(params=7), compressed=job_pb2.Figures(params=1)),
        job_pb2.JobFailure(reason="USER_CODE", message="on purpose"),
    ]
    for outcome in results:
        lease = await store.lease_job(coordinator="c", lease_us=10**6, holding=["-"])
        assert lease is not None
        await store.release_job(lease.job.name, epoch=1, outcome=outcome)
    await metrics.page(store)
    await metrics.settle()
    page = samples(await metrics.page(store))
    await metrics.settle()
    await store.fleets.retry(fleet, ["c"])
    await metrics.page(store)
    await metrics.settle()
    later = samples(await metrics.page(store))
    await metrics.settle()
    await store.close()
    outcomes = ("inside_delta", "outside_delta", "failed", "cancelled", "unfinished")
    assert [page["diminuendo_fleet_models", fleet, outcome] for outcome in outcomes] == [1, 1, 1, 0, 1]
    assert [later["diminuendo_fleet_models", fleet, outcome] for outcome in outcomes] == [1, 1, 0, 0, 2]
    for found in (page, later):
        assert (
            found["diminuendo_fleet_params", fleet, "original"],
            found["diminuendo_fleet_params", fleet, "compressed"],
        ) == (
            100,
            25,
        )
        assert found["diminuendo_fleet_size_bytes", fleet, "compressed"] == 100
    assert page["diminuendo_result_ratio_points_total",] == 3.0


def test_when_a_certificate_ends_is_read_as_cryptography_reads_it(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("conductor")
    expected = x509.load_pem_x509_certificate(pair.cert.read_bytes()).not_valid_after_utc.timestamp()
    assert expiry_of(pair.cert.read_text()) == expected
    assert expiry_of(f"words before\n{pair.cert.read_text()}and another\n{pair.cert.read_text()}") == expected
    page = samples(Page(Metrics(lambda: NOW).registry, Host(tmp_path, tmp_path / "uploads", pair.cert).families()))
    assert page["diminuendo_certificate_expiry_timestamp_seconds",] == expected
    assert page["diminuendo_data_dir_size_bytes",] > page["diminuendo_data_dir_free_bytes",] > 0


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "-----END CERTIFICATE----------BEGIN CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_what_is_no_certificate_is_left_out(tmp_path: Path, pem: str) -> None:
    with pytest.raises(ValueError):
        expiry_of(pem)
    file = tmp_path / "a.pem"
    file.write_text(pem)
    for cert in (file, tmp_path / "none.pem"):
        names = {family.name for family in Host(tmp_path, tmp_path, cert).families()}
        assert "diminuendo_certificate_expiry_timestamp_seconds" not in names
        assert "diminuendo_build" in names


def test_a_time_after_2049_is_read_too(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    end = datetime(2077, 5, 4, 3, 2, 1, tzinfo=UTC)
    made = builder.serial_number(1).not_valid_before(datetime(1999, 1, 1, tzinfo=UTC)).not_valid_after(end)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    assert expiry_of(pem) == end.timestamp()
