"""The command line: exit codes, one line on stderr, no traceback, JSON, lazy imports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.client.cli import main as cli
from diminuendo.client.errors import DiminuendoError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.client.conftest import FakeServer, Recorded

    Run = Callable[..., subprocess.CompletedProcess[str]]

CLI = [sys.executable, "-m", "diminuendo.client.cli.main"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    hidden = ("DIMINUENDO_SERVER", "COLUMNS", "FORCE_COLOR")
    return {name: value for name, value in os.environ.items() if name not in hidden}


@pytest.fixture
def run(
    fake: FakeServer, environment: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a process of its own, in an empty folder, against the scripted server."""

    def run(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={**environment, "DIMINUENDO_SERVER": fake.target, **extra},
        )

    return run


@pytest.fixture
def run_here(run_here: Run, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The same in this process: quicker."""
    monkeypatch.setenv("DIMINUENDO_SERVER", fake.target)
    return run_here


def one_error_line(done: subprocess.CompletedProcess[str], text: str) -> None:
    """Exactly one line on stderr, with this text, and nothing on stdout."""
    assert done.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_submit_prints_the_name_and_nothing_else(fake: FakeServer, run: Run) -> None:
    done = run("submit", "zoo:digits", "--delta", "2", "--job-id", "mine", "--label", "a=b", "--label", "c=d=e")
    assert (done.returncode, done.stdout, done.stderr) == (0, "projects/default/jobs/mine\n", "")
    (request,) = fake.asked(job_service_pb2.CreateJobRequest)
    assert dict(request.job.labels) == {"a": "b", "c": "d=e"}
    assert request.job.spec.delta == 2.0


def test_submit_takes_what_compress_takes(fake: FakeServer, run_here: Run) -> None:
    wishes = "--objective macs --limit size=100kB --limit memory=0.5 --freeze conv --freeze block1.* --multiple 8"
    wishes += " --max-ratio fc=1 --stage 1 --budget evaluations=20 --budget epochs=90.5 --formats svd,tucker2"
    done = run_here("submit", "zoo:digits", *wishes.split())
    assert (done.returncode, done.stderr) == (0, "")
    (request,) = fake.asked(job_service_pb2.CreateJobRequest)
    limit, ratio = job_pb2.Limit, job_pb2.MaxRatio
    assert request.job.spec == job_pb2.JobSpec(
        zoo="digits",
        delta=1.0,
        effort=job_pb2.EFFORT_NORMAL,
        accept=job_pb2.ACCEPT_ESTIMATE,
        objective="macs",
        limits=[limit(figure="size", most=100 / 1024), limit(figure="memory", most=0.5)],
        freeze=["conv", "block1.*"],
        max_ratio=[ratio(pattern="fc", most=1.0)],
        multiple=8,
        stage=1,
        budget=job_pb2.Budget(evaluations=20, epochs=90.5),
        formats=["svd", "tucker2"],
    )
    run_here("submit", "zoo:digits", "--target", "size=1.5MB", "--job-id", "aimed", "--parallel", "3")
    spec = fake.asked(job_service_pb2.CreateJobRequest)[-1].job.spec
    assert (spec.HasField("delta"), spec.target, spec.objective) == (False, limit(figure="size", most=1.5), "")
    assert spec.parallel == 3


def test_compress_and_submit_have_the_same_wishes() -> None:
    """By the options themselves: what one has and the other lacks is about where it runs."""
    compress, submit = ({option.name for option in cli.load(name).params} for name in ("compress", "submit"))
    assert compress - submit == {"weights", "data", "threads", "out", "work", "dry_run"}
    served = {"job_id", "label", "priority", "parallel", "deadline", "request_id", "watch"}
    served |= {"server", "project", "context"}
    assert submit - compress == served


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["submit", "zoo:digits", "--delta", "-1"], "delta: -1 is not a tolerance; give a number over 0 and up to 100"),
        (["submit", "zoo:digits", "--delta", "101"], "delta: 101 is not"),
        (["submit", "zoo:digits", "--delta", "few"], "delta: 'few' is not a number; give"),
        (["submit", "zoo:digits", "--delta", "nan"], "delta: nan is not"),
        (["submit", "digits"], "source: 'digits' is not of the form zoo:NAME; did you mean zoo:digits?"),
        (["submit", "zoo:digits", "--label", "x"], "label: 'x' is not KEY=VALUE; for example"),
        (["submit", "zoo:digits", "--effort", "big"], "'big' is not one of 'quick', 'normal', 'deep'"),
        (["submit", "zoo:digits", "--seed", "-1"], "seed: -1 is out of range; give"),
        (["submit"], "SOURCE"),
        (["submit", "zoo:digits", "--server", "nowhere"], "server: 'nowhere' is not HOST:PORT"),
        (["sumbit"], "No such command 'sumbit'"),
        (["get", "none"], "there is no job projects/default/jobs/none; see ListJobs"),
        (["watch", "none"], "there is no job projects/default/jobs/none"),
        (["cancel", "none"], "there is no job projects/default/jobs/none"),
        (["download", "none"], "there is no job projects/default/jobs/none"),
        (["get", "a/b"], "name: 'a/b' is neither a job's id nor projects/PROJECT/jobs/JOB"),
        (["list", "--state", "done"], "state: 'done' is not known; give one of queued, running"),
        (["list", "--output", "yaml"], "'yaml' is not one of 'table', 'json'"),
        (["compress", "zoo:digits", "--delta", "0"], "delta: 0 is not"),
        (
            ["compress", "zoo:digits", "--objective", "energy"],
            "objective: 'energy' is unknown; choose one of params, ",
        ),
        (["compress", "zoo:digits", "--limit", "macs"], "limit: 'macs' is not FIGURE=NUMBER; for example macs=50M"),
        (["compress", "zoo:digits", "--limit", "macs=5T"], "limit: 'macs=5T' is not FIGURE=NUMBER"),
        (["compress", "zoo:digits", "--limit", "time=5"], "limits: 'time' is unknown; choose one of params, macs, "),
        (["compress", "zoo:digits", "--limit", "macs=-5k"], "limits: macs=-5000.0 is no limit; give a number over 0"),
        (["compress", "zoo:digits", "--limit", "size=1", "--limit", "size=2"], "limit: 'size' is given twice"),
        (["compress", "zoo:digits", "--freeze", ""], "'' is no pattern; give layer names, with * for any part"),
        (["compress", "zoo:digits", "--max-ratio", "conv*"], "max_ratio: 'conv*' is not PATTERN=RATIO; for example"),
        (
            ["compress", "zoo:digits", "--max-ratio", "conv*=0.5"],
            "max_ratio: conv*=0.5 is no ratio; give a number from 1",
        ),
        (["compress", "zoo:digits", "--multiple", "0"], "multiple: 0 is no multiple of ranks; give a whole number"),
        (["compress", "zoo:digits", "--stage", "3"], "stage: 3 is unknown; give 1 (stop after exploration) or 2"),
        (["compress", "zoo:digits", "--budget", "20"], "budget: '20' is not KIND=NUMBER; for example evaluations=20"),
        (["compress", "zoo:digits", "--budget", "hours=2"], "budget: 'hours' is unknown; choose one of evaluations, "),
        (
            ["compress", "zoo:digits", "--target", "size=1MB", "--delta", "1"],
            "target: size=1.0 is beside delta=1.0; give",
        ),
        (["compress", "zoo:digits", "--target", "size=1W"], "target: 'size=1W' is not FIGURE=NUMBER; for example macs"),
        (["compress", "zoo:digits", "--target", "bytes=1"], "target: 'bytes' is unknown; choose one of params, macs, "),
        (["compress", "zoo:digits", "--formats", "svd,svd9"], "formats: svd9: unknown; choose some of svd, "),
        (["submit", "zoo:digits", "--limit", "macs=5T"], "limit: 'macs=5T' is not FIGURE=NUMBER"),
        (["submit", "zoo:digits", "--target", "1MB"], "target: '1MB' is not FIGURE=NUMBER; for example"),
        (["submit", "zoo:digits", "--max-ratio", "4"], "max_ratio: '4' is not PATTERN=RATIO; for example"),
        (
            ["submit", "zoo:digits", "--budget", "hours=2"],
            "budget: 'hours' is unknown; choose one of evaluations, epochs",
        ),
        (["submit", "zoo:digits", "--budget", "evaluations=2.5"], "budget: evaluations: 2.5 is no whole number below"),
        (["compress", "zoo:digits", "--budget", "epochs=0.5"], "budget: epochs=0.5 is too little; give at least 1"),
        (["compress", "zoo:digitz"], "source: the zoo has no network 'digitz'; did you mean 'digits'?"),
        (["compress", "zoo:resnet18"], "`python -m diminuendo.engine.zoo.train resnet18 --data DIR` and give the file"),
        (["compress", "zoo:resnet18", "--data", "."], "weights: the package has none for zoo:resnet18; train them"),
        (["compress", "zoo:resnet18", "--weights", "w", "--data", "."], "weights: w is not there; give a safetensors"),
        (["compress", "zoo:digits", "--data", "."], "data: zoo:digits brings its own data; leave . out"),
        (["compress", "zoo:vgg19?classes=1"], "classes: '1' of vgg19 is no number of classes; give a whole number"),
        (["compress", "zoo:digits", "--out", "."], "is not an empty folder; give another one, or empty it"),
        (["--bad"], "--bad"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run_here: Run, tmp_path: Path, words: list[str], text: str) -> None:
    (tmp_path / "something").touch()
    done = run_here(*words)
    one_error_line(done, text)
    assert done.returncode == 2
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_the_servers_refusals_have_their_codes(
    fake: FakeServer, run_here: Run, make_status: Callable[..., Any]
) -> None:
    fake.refusals.append(
        make_status(
            grpc.StatusCode.INVALID_ARGUMENT,
            "bad",
            violations=(("job.spec.zoo", "'digit' is not in the zoo; did you mean 'digits'?"),),
        )
    )
    done = run_here("submit", "zoo:digit")
    one_error_line(done, "job.spec.zoo: 'digit' is not in the zoo; did you mean 'digits'?")
    assert done.returncode == 2
    fake.refusals.append(make_status(grpc.StatusCode.ALREADY_EXISTS, "request_id r was used with another content"))
    done = run_here("submit", "zoo:digits", "--request-id", "r")
    one_error_line(done, "request_id r was used with another content")
    assert done.returncode == 2
    fake.refusals.append(make_status(grpc.StatusCode.INTERNAL, "it broke", reason="INTERNAL"))
    done = run_here("get", "x")
    one_error_line(done, "failed (INTERNAL): it broke; see its log")
    assert done.returncode == 1


def test_no_server_is_a_failure_that_names_address_and_remedy(run: Run, free_port: int) -> None:
    done = run("list", DIMINUENDO_SERVER=f"127.0.0.1:{free_port}")
    one_error_line(done, f"no Diminuendo server answers at 127.0.0.1:{free_port}; start one with `diminuendo serve`")
    assert done.returncode == 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_debug_shows_the_traceback_wherever_it_stands(run: Run, place: int) -> None:
    words = ["get", "none"]
    words.insert(place, "--debug")
    done = run(*words)
    assert done.returncode != 0
    assert "Traceback" in done.stderr
    assert "NotFoundError" in done.stderr


def test_an_unexpected_error_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "version", ("tests.client.no_such_module:command", "Broken."))
    with pytest.raises(SystemExit) as caught:
        cli.main(["version"])
    assert caught.value.code == 1
    assert re.fullmatch(r"error: [^\n]+--debug for the traceback\n", capsys.readouterr().err)


def test_a_part_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (
        ("conductor", "conductor"),
        ("serve", "cluster,conductor"),
        ("coordinator", "cluster,conductor"),
    ):
        monkeypatch.setitem(sys.modules, cli.COMMANDS[name][0].partition(":")[0], None)
        with pytest.raises(DiminuendoError, match=rf"pip install 'diminuendo\[{extra}\]'"):
            cli.load(name)


def test_without_the_engine_compress_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "diminuendo.engine.zoo.catalog", None)
    with pytest.raises(SystemExit) as caught:
        cli.main(["compress", "zoo:digits"])
    assert caught.value.code == 1
    assert "pip install 'diminuendo[engine]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from diminuendo.client.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: bad = [m for m in sys.modules if m in ('grpc', 'torch', 'rich', 'ray')"
        " or m.startswith('diminuendo.v1')]; print('imported', bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stdout.endswith("imported []\n")
    for name, (_, line) in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize(
    "name",
    [
        *("submit", "watch", "get", "list", "cancel", "pause", "resume", "retry", "update", "delete", "download"),
        *("compress", "gc", "profile", "version"),
    ],
)
def test_each_command_has_help(run_here: Run, name: str) -> None:
    done = run_here(name, "--help")
    assert done.returncode == 0
    assert f"Usage: diminuendo {name}" in done.stdout


def test_version(run: Run) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*\n", run("version").stdout)


def test_nothing_given_shows_the_help(run: Run) -> None:
    done = run()
    assert (done.returncode, "Usage: diminuendo" in done.stdout) == (2, True)


# --- jobs --------------------------------------------------------------------------------------------------


def test_get_as_table_and_json(fake: FakeServer, run: Run, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    table = run("get", "recorded").stdout
    assert re.search(r"^name +projects/default/jobs/recorded$", table, re.MULTILINE)
    assert re.search(r"^state +SUCCEEDED$", table, re.MULTILINE)
    assert re.search(r"^labels +team=vision$", table, re.MULTILINE)
    job = json.loads(run("get", "recorded", "--output", "json").stdout)
    assert (job["name"], job["state"], job["result"]["params_ratio"]) == (recorded.name, "SUCCEEDED", 7.92)
    assert job["create_time"] == "2026-01-02T03:04:05+00:00"


def test_a_jobs_wishes_are_shown(fake: FakeServer, run_here: Run, recorded: Recorded) -> None:
    job = recorded.job()
    limit = job_pb2.Limit(figure="macs", most=5e7)
    wishes = job_pb2.JobSpec(limits=[limit], freeze=["conv"], multiple=8, stage=1, formats=["svd"], parallel=3)
    wishes.max_ratio.add(pattern="fc", most=1.5)
    wishes.budget.minutes = 2.5
    job.spec.MergeFrom(wishes)
    job.spec.ClearField("delta")
    job.spec.target.CopyFrom(job_pb2.Limit(figure="size", most=1.5))
    job.result.objective_ratio = 6.25
    fake.add(job, recorded.events())
    shown = {
        line.split("  ")[0]: line.partition("  ")[2].strip() for line in run_here("get", "recorded").stdout.splitlines()
    }
    expected = {
        "target": "size 1.5 MB",
        "limits": "macs 50,000,000",
        "formats": "svd",
        "freeze": "conv",
        "max ratio": "fc 1.5x",
        "multiple": "8",
        "effort": "quick, stage 1, seed 7",
        "budget": "2.5 minutes",
        "parallel": "3 evaluations at a time",
        "result": "inside size 1.5 MB: 7.92x fewer params, 5.10x fewer MACs, 6.25x less size, drop 0.25",
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert "delta" not in shown
    found = json.loads(run_here("get", "recorded", "--output", "json").stdout)
    assert (found["delta"], found["target"], found["objective"], found["limits"]) == (
        *(None, {"size": 1.5}, "size"),
        {"macs": 5e7},
    )
    assert (found["budget"], found["max_ratio"], found["result"]["objective_ratio"]) == (
        *({"minutes": 2.5}, {"fc": 1.5}),
        6.25,
    )
    assert "size 1.5 MB" in run_here("list").stdout
    assert run_here("watch", "recorded").stderr.startswith("inside size 1.5 MB: 7.92x fewer params")


def test_list_as_table_and_json(fake: FakeServer, run_here: Run, recorded: Recorded) -> None:
    assert json.loads(run_here("list", "--output", "json").stdout) == []
    fake.add(recorded.job(), recorded.events())
    fake.add(job_pb2.Job(name="projects/default/jobs/young", state=job_pb2.JOB_STATE_QUEUED), [])
    rows = [line.split() for line in run_here("list").stdout.splitlines()]
    assert rows[0] == ["job", "source", "state", "stage", "delta", "params", "drop", "created"]
    assert rows[1][:6] == ["recorded", "zoo:digits", "SUCCEEDED", "1", "7.92x", "0.25"]
    assert rows[2][0] == "young"
    jobs = json.loads(run_here("list", "--output", "json", "--state", "queued").stdout)
    assert [job["name"] for job in jobs] == ["projects/default/jobs/young"]


def test_cancel_prints_name_and_state(fake: FakeServer, run: Run) -> None:
    fake.add(job_pb2.Job(name="projects/p/jobs/j", state=job_pb2.JOB_STATE_QUEUED), [])
    done = run("cancel", "j", "--project", "p")
    assert (done.returncode, done.stdout) == (0, "projects/p/jobs/j CANCELLED\n")


def test_gc_says_what_was_removed_or_would_be(fake: FakeServer, run: Run) -> None:
    fake.garbage.removed_artifacts, fake.garbage.removed_bytes, fake.garbage.removed_evaluations = 3, 3 * 2**19, 7
    fake.garbage.kept_artifacts, fake.garbage.kept_bytes = 2, 2**30
    rest = "waiting: 0 artifacts of 0.0 MiB\nkept: 2 artifacts of 1024.0 MiB\n"
    assert run("gc").stdout == f"removed: 3 artifacts of 1.5 MiB, 7 outcomes\n{rest}"
    assert run("gc", "--dry-run").stdout == f"would be removed: 3 artifacts of 1.5 MiB, 7 outcomes\n{rest}"
    assert json.loads(run("gc", "--output", "json").stdout)["removed_bytes"] == 3 * 2**19


def test_pause_resume_retry_and_delete_print_the_job(fake: FakeServer, run: Run) -> None:
    fake.add(job_pb2.Job(name="projects/p/jobs/j", state=job_pb2.JOB_STATE_QUEUED), [])
    assert run("pause", "j", "--project", "p").stdout == "projects/p/jobs/j PAUSED\n"
    assert run("list", "--project", "p", "--state", "paused").stdout.splitlines()[1].split()[:1] == ["j"]
    assert run("resume", "j", "--project", "p").stdout == "projects/p/jobs/j QUEUED\n"
    assert run("retry", "j", "--project", "p", "--job-id", "k").stdout == "projects/p/jobs/k\n"
    assert run("delete", "j", "--project", "p").stdout == "projects/p/jobs/j deleted\n"
    gone = run("delete", "j", "--project", "p")
    assert (gone.returncode, gone.stdout) == (2, "")
    assert "there is no job projects/p/jobs/j" in gone.stderr


def test_deadlines_are_local_times_or_times_from_now(fake: FakeServer, run: Run) -> None:
    fake.add(job_pb2.Job(name="projects/p/jobs/j"), [])
    before = time.time()
    assert run("update", "j", "--project", "p", "--deadline", "+90m").returncode == 0
    asked = fake.asked(job_service_pb2.UpdateJobRequest)[-1]
    assert list(asked.update_mask.paths) == ["deadline"]
    assert before - 1 <= asked.job.deadline.seconds - 90 * 60 <= time.time()
    assert run("update", "j", "--project", "p", "--deadline", "2100-01-31T18:00").returncode == 0
    local = datetime(2100, 1, 31, 18).astimezone().timestamp()
    assert fake.asked(job_service_pb2.UpdateJobRequest)[-1].job.deadline.seconds == local
    assert run("submit", "zoo:digits", "--project", "p", "--deadline", "2100-01-31T18:00Z").returncode == 0
    created = fake.asked(job_service_pb2.CreateJobRequest)[-1]
    assert created.job.deadline.ToDatetime(tzinfo=UTC) == datetime(2100, 1, 31, 18, tzinfo=UTC)
    assert run("update", "j", "--project", "p", "--no-deadline").returncode == 0
    asked = fake.asked(job_service_pb2.UpdateJobRequest)[-1]
    assert (list(asked.update_mask.paths), asked.job.HasField("deadline")) == (["deadline"], False)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--deadline", "2020-01-31"), "is over; give a time to come"),
        (("--deadline", "soon"), "'soon' is no time; give one such as 2030-01-31T18:00"),
        (("--deadline", "+99999999999d"), "is no time; give one such as"),
        (("--deadline", "+1h", "--no-deadline"), "is beside no_deadline; give one of them"),
    ],
)
def test_a_deadline_that_cannot_be_is_refused(fake: FakeServer, run: Run, words: tuple[str, ...], says: str) -> None:
    fake.add(job_pb2.Job(name="projects/p/jobs/j"), [])
    done = run("update", "j", "--project", "p", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "deadline: " in done.stderr
    assert says in " ".join(done.stderr.split())
    assert not fake.asked(job_service_pb2.UpdateJobRequest)


def test_update_keeps_the_other_labels_and_guards_them(fake: FakeServer, run: Run) -> None:
    job = job_pb2.Job(name="projects/p/jobs/j", etag="e7", labels={"team": "a", "run": "1", "old": "x"})
    fake.add(job, [])
    done = run("update", "j", "--project", "p", "--label", "team=b", "--remove-label", "old", "--priority", "5")
    assert done.returncode == 0, done.stderr
    (asked,) = fake.asked(job_service_pb2.UpdateJobRequest)
    assert (dict(asked.job.labels), asked.job.priority, asked.job.etag) == ({"team": "b", "run": "1"}, 5, "e7")
    assert list(asked.update_mask.paths) == ["labels", "priority"]
    assert run("update", "j", "--project", "p", "--priority", "0").returncode == 0
    asked = fake.asked(job_service_pb2.UpdateJobRequest)[-1]
    assert (list(asked.update_mask.paths), asked.job.priority, asked.job.etag) == (["priority"], 0, "")
    done = run("update", "j", "--project", "p", "--remove-label", "none")
    assert done.returncode == 2
    assert "'none' is no label of projects/p/jobs/j" in done.stderr


def test_list_asks_for_labels_and_an_order(fake: FakeServer, run: Run) -> None:
    assert run("list", "--label", "team=a", "--label", "run=1", "--order-by", "priority desc").returncode == 0
    (asked,) = fake.asked(job_service_pb2.ListJobsRequest)
    assert (dict(asked.labels), asked.order_by) == ({"team": "a", "run": "1"}, "priority desc")


def test_watch_writes_plain_lines_and_exits_0(fake: FakeServer, run: Run, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    done = run("watch", "recorded")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "   0:00  QUEUED"
    assert done.stdout.splitlines()[-1].endswith("SUCCEEDED")
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        "inside delta: 7.92x fewer params, 5.10x fewer MACs, drop 0.25 of 1",
        "fetch it with: diminuendo download projects/default/jobs/recorded",
    ]


@pytest.mark.parametrize(
    ("state", "code", "text"),
    [
        (job_pb2.JOB_STATE_SUCCEEDED, 3, "nothing inside delta; the nearest: 7.92x"),
        (job_pb2.JOB_STATE_FAILED, 1, "failed (OUT_OF_MEMORY): no room; use a smaller network"),
        (job_pb2.JOB_STATE_CANCELLED, 1, "is CANCELLED"),
    ],
)
def test_submit_and_watch_exits_by_the_outcome(
    fake: FakeServer,
    run: Run,
    recorded_outside: Recorded,
    state: job_pb2.JobState.ValueType,
    code: int,
    text: str,
) -> None:
    job, events = recorded_outside.job(), recorded_outside.events()
    job.state = events[-1].state_changed.state = state
    if state != job_pb2.JOB_STATE_SUCCEEDED:
        job.ClearField("result")
    if state == job_pb2.JOB_STATE_FAILED:
        job.failure.CopyFrom(job_pb2.JobFailure(reason="OUT_OF_MEMORY", message="no room; use a smaller network"))
    fake.add(job, events)
    done = run("submit", "zoo:digits", "--job-id", "recorded", "--watch")
    assert done.returncode == code
    assert done.stdout == "projects/default/jobs/recorded\n"
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_download_shows_the_tables_and_ends_with_the_folder(
    fake: FakeServer, run_here: Run, recorded: Recorded, tmp_path: Path
) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.contents = recorded.contents()
    done = run_here("download", "recorded")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "result: results/recorded"
    assert "7.92x" in done.stdout
    assert "tucker2(8,16)" in done.stdout
    files = [*recorded.files, "report.html"]
    assert sorted(path.name for path in (tmp_path / "results/recorded").iterdir()) == sorted(files)
    (tmp_path / "results/recorded/mine").touch()
    done = run_here("download", "recorded")
    one_error_line(done, "give another folder, or empty it")
    assert done.returncode == 2
    assert run_here("download", "recorded", "--out", "b").stdout.splitlines()[-1] == "result: b"


def test_ctrl_c_leaves_the_job_running_and_says_how_to_go_on(
    fake: FakeServer, environment: dict[str, str], recorded: Recorded
) -> None:
    job = recorded.job()
    fake.add(job, recorded.events()[:4])
    job.state = job_pb2.JOB_STATE_RUNNING
    process = subprocess.Popen(
        [*CLI, "watch", "recorded", "--server", fake.target],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[2].endswith("RUNNING\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == f"the job goes on; follow it again with: diminuendo watch {recorded.name}\n"
    assert fake.gone.wait(5)
    assert fake.asked(job_service_pb2.CancelJobRequest) == []


def test_a_reader_that_goes_away_is_no_error(fake: FakeServer, environment: dict[str, str], recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    command = f"{sys.executable} -m diminuendo.client.cli.main watch recorded --server {fake.target} | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert done.stdout == "   0:00  QUEUED\n"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_ctrl_c_ends_an_inline_run_and_leaves_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*CLI, "compress", "zoo:digits", "--effort", "quick", "--out", "a/b"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "   0:00  RUNNING\n"
    assert (tmp_path / "a/b").is_dir()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "stopped; nothing was written"
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_wish_that_does_not_fit_the_network_is_a_mistake_too(run_here: Run, tmp_path: Path) -> None:
    done = run_here("compress", "zoo:digits", "--freeze", "block1.convl", "--effort", "quick")
    assert done.returncode == 2
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: freeze: no layer is named like 'block1.convl'; the nearest are block1.conv")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_the_job_would_cost_and_leaves_nothing(run_here: Run, tmp_path: Path) -> None:
    words = ("--effort", "quick", "--stage", "1", "--freeze", "block*", "--budget", "evaluations=9", "--dry-run")
    done = run_here("compress", "zoo:digits", *words)
    assert done.returncode == 0
    evaluations, epochs, time = done.stdout.splitlines()
    assert re.fullmatch(r"evaluations: at most 9, [0-9.]+ s each beside its epochs", evaluations)
    assert re.fullmatch(r"epochs: at most [0-9]+, [0-9.]+ s each", epochs)
    assert re.fullmatch(r"time: at most about [0-9.]+ minutes on one evaluator like this machine, .*included", time)
    assert list(tmp_path.iterdir()) == []
