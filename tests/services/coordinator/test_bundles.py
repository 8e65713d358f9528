"""Works on bundles: processes of their own, with the packages asked for, which cost no evaluator any time."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from diminuendo.v1 import job_pb2, job_service_pb2
from tests.services.coordinator.conftest import Executors, Server, collect
from tests.services.coordinator.test_job import run
from tests.services.coordinator.workers import SCRIPTED, WORLD, evaluate, starts

from diminuendo.engine.search.work import Evaluated
from diminuendo.engine.store import DirectoryStore
from diminuendo.services.coordinator import failures
from diminuendo.services.coordinator.bundles import Environment
from diminuendo.services.coordinator.executor import JobExecutor
from diminuendo.services.coordinator.install import InstallStoppedError, RequirementsError, install, refused
from diminuendo.services.coordinator.line import Claim


def tar_of(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def never() -> bool:
    return False


def test_each_bundle_has_processes_of_its_own(executors: Executors) -> None:
    shared = executors.shared(SCRIPTED, evaluators=1)
    jobs = {name: shared.job(Claim(name)) for name in ("zoo", "one", "other")}
    jobs["one"].run_in(Environment("1" * 64))
    jobs["other"].run_in(Environment("2" * 64))
    order = ["zoo", "zoo", "one", "one", "other", "one", "zoo"]
    for index, name in enumerate(order):
        jobs[name].submit(evaluate(index))
        (done,) = collect(jobs[name], 1)
        assert isinstance(done.answer, Evaluated)
    pids = dict(starts(executors.folder))
    alike = [pids[i] == pids[i + 1] for i in range(len(order) - 1)]
    assert alike == [True, False, True, False, False, False]
    assert shared.stats().attempts_lost == 0


def test_a_job_that_is_cancelled_while_its_process_starts_leaves_the_evaluator_to_others(executors: Executors) -> None:
    shared = executors.shared(SCRIPTED, evaluators=1)
    one, other = shared.job(Claim("one")), shared.job(Claim("other"))
    other.submit(evaluate(0))
    collect(other, 1)
    one.run_in(Environment("1" * 64))
    one.submit(evaluate(1))
    one.cancel()
    other.submit(evaluate(2))
    (done,) = collect(other, 1)
    assert done.work.index == 2
    assert [index for index, _ in starts(executors.folder)] == [0, 2]


def a_job_on(server: Server, executors: Executors, content: bytes) -> str:
    """Its name; conductor and evaluators have stores of their own here, and the bundle is in both."""
    sha256 = DirectoryStore(server.conductor.data / "artifacts").put(content)
    DirectoryStore(executors.folder).put(content)
    spec = job_pb2.JobSpec(bundle=f"projects/p/bundles/{sha256}", delta=1.0, effort=job_pb2.EFFORT_QUICK)
    request = job_service_pb2.CreateJobRequest(parent="projects/p", job=job_pb2.Job(spec=spec))
    return server.jobs.CreateJob(request, timeout=10).name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no tar at all", "its archive is no uncompressed tar"),
        (tar_of(requirements_txt="x" * (2**20 + 1)), "name packages, one in a line"),
    ],
)
def test_what_is_no_bundle_fails_its_job_without_an_evaluators_time(
    server: Server, executors: Executors, content: bytes, message: str
) -> None:
    name = a_job_on(server, executors, content)
    executor = executors.shared(WORLD, evaluators=1)
    run(server, executor, executors.folder)
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_FAILED
    assert job.failure.reason == "USER_CODE"
    assert message in job.failure.message
    assert executor.stats().works_done == 0


def test_a_job_on_a_bundle_is_done_in_its_environment(server: Server, executors: Executors) -> None:
    name = a_job_on(server, executors, tar_of(task_py="def task(): ..."))
    executor = executors.shared(WORLD, evaluators=1)
    run(server, executor, executors.folder)
    job = server.get(name)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.spec.bundle.startswith("projects/p/bundles/")


def wheel(folder: Path, name: str) -> Path:
    """A package as pip takes it, made by hand: no index is asked."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "answer = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}")
    record = f"{info}/RECORD"
    made = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in (files | {record: "\n".join([*lines, f"{record},,"]) + "\n"}).items():
            archive.writestr(path, text)
    return made


@pytest.mark.apart
def test_packages_are_installed_before_an_evaluator_is_taken(executors: Executors, tmp_path: Path) -> None:
    shared = executors.shared(SCRIPTED, evaluators=1)
    packages = (f"dimtest @ {wheel(tmp_path, 'dimtest').as_uri()}",)
    environment = Environment("1" * 64, packages)
    with pytest.raises(InstallStoppedError):
        install(environment, lambda: True)
    install(environment, never)
    job: JobExecutor = shared.job(Claim("one"))
    job.run_in(environment)
    job.submit(evaluate(0, "import dimtest"))
    (done,) = collect(job, 1, timeout_s=60)
    assert isinstance(done.answer, Evaluated), done.answer
    assert "virtualenv" in (executors.folder / "imported").read_text()
    assert shared.stats().attempts_lost == 0


@pytest.mark.apart
def test_what_cannot_be_installed_is_said_with_pips_own_words(executors: Executors) -> None:
    with pytest.raises(RequirementsError, match=r"requirements\.txt: it cannot be installed on the evaluators: ERROR"):
        install(Environment("1" * 64, ("nowhere @ file:///nowhere/nowhere-1.0-py3-none-any.whl",)), never)


def test_of_what_pip_said_the_errors_are_repeated() -> None:
    said = """Failed to set up runtime environment.
    Traceback (most recent call last):
    Last 50 lines of stdout:
        Looking in indexes: https://index/simple
        ERROR: Could not find a version that satisfies the requirement no-such==1 (from versions: none)
        ERROR: No matching distribution found for no-such==1
    """
    assert refused(said).startswith(
        "requirements.txt: it cannot be installed on the evaluators: ERROR: Could not find a version that satisfies "
        "the requirement no-such==1 (from versions: none) ERROR: No matching distribution found for no-such==1; try"
    )
    assert "something else; try" in refused("something else")


def test_a_process_that_cannot_start_with_its_packages_is_on_the_jobs_account(executors: Executors) -> None:
    import ray.exceptions

    loss = failures.loss_of(ray.exceptions.RuntimeEnvSetupError("ERROR: no disk"))
    assert loss.cause == "EVALUATOR_LOST"
    assert "ERROR: no disk" in loss.detail
