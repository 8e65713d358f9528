"""`init` and `check` as a user meets them: what they write, what they say of a bundle, and of what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.client.conftest import Run

from diminuendo.client import requirements
from diminuendo.client.cli.main import MISTAKE
from diminuendo.client.errors import BundleError

TASK = """import torch
from torch import nn
from diminuendo.engine import Samples, Task
{more}
def task():
    torch.manual_seed(0)
    inputs = torch.randn(400, 8)
    targets = (inputs.sum(dim=1) > 0).long()
    network = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    steps = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        steps.zero_grad()
        nn.functional.cross_entropy(network(inputs), targets).backward()
        steps.step()
    return Task(network, Samples(inputs, targets), Samples(inputs, targets){arguments})
"""


def written(folder: str = "b", more: str = "", arguments: str = "", **files: str) -> Path:
    path = Path(folder)
    path.mkdir()
    (path / "task.py").write_text(TASK.format(more=more, arguments=arguments))
    for name, text in files.items():
        (path / name.replace("_", ".")).write_text(text)
    return path


def test_what_init_writes_passes_the_check_as_it_is(run_here: Run) -> None:
    done = run_here("init", "mine")
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == sorted(str(path) for path in Path("mine").iterdir())
    assert "next: diminuendo check mine" in done.stderr
    checked = run_here("check", "mine", "--effort", "quick", "--output", "json")
    assert checked.returncode == 0, checked.stderr
    found = json.loads(checked.stdout)
    assert found["baseline"] > 95
    assert found["requirements"] == "none"
    assert "task.py" in found["bundle"]["files"]
    assert {layer["name"] for layer in found["layers"]} == {"layers.0", "layers.3", "layers.6", "classify"}
    assert 0 < found["minutes"] < 30
    assert 0 < found["evaluations"] < 60
    assert found["looked_at"] == 400
    again = run_here("init", "mine")
    assert (again.returncode, again.stdout) == (MISTAKE, "")
    assert "mine" in again.stderr


def test_check_says_what_a_job_would_do_and_what_its_owner_should_know(run_here: Run) -> None:
    written(more="print('hello from the task')", _gitignore="notes.txt\n", notes_txt="")
    (Path("b") / "data").mkdir()
    done = run_here("check", "b", "--effort", "quick", "--freeze", "0")
    assert done.returncode == 0, done.stderr
    assert "hello from the task" in done.stderr
    assert "hello" not in done.stdout
    for words in (
        "2 files", "left out by .gitignore: notes.txt", "354 params", "top1 100.00 on 200 samples", "higher is better",
        "400 samples to train with", "can be compressed: 0, 2", "an epoch ", "at most 35 evaluations",
    ):  # fmt: skip
        assert words in done.stdout, done.stdout
    assert "diminuendo submit --bundle" in done.stderr
    assert not (Path("b") / "__pycache__").exists()


def test_files_that_are_read_from_elsewhere_are_named(run_here: Run, tmp_path: Path) -> None:
    data = tmp_path / "elsewhere" / "data.bin"
    data.parent.mkdir()
    data.write_text("1")
    more = f"import pathlib\npathlib.Path('beside.txt').read_text()\npathlib.Path({str(data)!r}).read_bytes()"
    written(more=more, beside_txt="2")
    done = run_here("check", "b", "--effort", "quick", "--output", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reads_outside"] == [str(data)]
    assert f"{data}: evaluators must find that under the same path" in " ".join(run_here("check", "b").stdout.split())


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        ("raise RuntimeError('boom')", "", "RuntimeError: boom"),
        ("raise SystemExit(3)", "", "it asks to exit with 3; return a Task instead"),
        ("import no_such_package_at_all", "", "name it in requirements.txt for the evaluators"),
        (
            "WEIGHTS = open('weights.txt').read()",
            "",
            "add the line !weights.txt, or name its place by an absolu",
        ),
        ("", ", loss=lambda outputs, targets: (outputs * float('nan')).sum()", "fine-tuning: the loss"),
        ("", ", metric=3", "metric"),
        ("", ", loss=lambda outputs, targets: outputs.nothing()", "no attribute 'nothing'"),
    ],
)
def test_check_says_what_is_wrong_and_where(run_here: Run, more: str, arguments: str, message: str) -> None:
    folder = written(more=more, arguments=arguments, _gitignore="weights.txt\n", weights_txt="1").resolve()
    done = run_here("check", "b", "--effort", "quick")
    assert (done.returncode, done.stdout) == (MISTAKE, ""), done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    if "boom" in more or "nothing" in arguments:
        line = 4 if more else 15
        assert f'File "{folder}/task.py", line {line}' in done.stderr
        assert f"task.py:{line}" in done.stderr
    assert "/tmp/diminuendo-check-" not in done.stderr


def test_commands_run_a_bundle_in_its_own_folder(run_here: Run) -> None:
    """As evaluators do: what it opens by a relative path lies beside its task.py."""
    written(more="import pathlib\nprint('note', pathlib.Path('note.txt').read_text())", note_txt="here")
    budget = ["--effort", "quick", "--budget", "evaluations=3", "--delta", "5"]
    done = run_here("compress", "--bundle", "b", *budget, "--out", "out/small", "--work", "kept")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "result: out/small"
    assert "note here" in done.stderr
    assert "note" not in done.stdout
    exported = run_here("export", "out/small", "--bundle", "b", "--format", "pt2", "--output", "json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["pt2"]["file"] == "model.pt2"
    assert run_here("apply", "out/small/plan.json", "--to", "b", "--out", "again").returncode == 0
    assert run_here("profile", "b", "--no-time").returncode == 0
    assert sorted(path.name for path in Path("b").iterdir()) == ["note.txt", "task.py"]
    assert sorted(path.name for path in Path().iterdir()) == ["again", "b", "kept", "out"]


def test_what_a_bundles_code_raises_is_a_users_mistake_with_its_line(run_here: Run) -> None:
    written(more="raise RuntimeError('boom')")
    done = run_here("compress", "--bundle", "b", "--out", "small")
    assert (done.returncode, done.stdout) == (MISTAKE, "")
    assert "RuntimeError: boom (task.py:4); --debug shows the traceback" in done.stderr
    assert not Path("small").exists()


def test_a_bundle_that_cannot_be_packed_is_not_run(run_here: Run) -> None:
    written(more="print('ran')")
    (Path("b") / "data").symlink_to("/etc")
    for command in (["check", "b"], ["submit", "--bundle", "b"]):
        done = run_here(*command)
        assert (done.returncode, done.stdout) == (MISTAKE, "")
        assert "data is a link out of the folder" in done.stderr
        assert "ran" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["submit"], "source: there is none; give SOURCE, as zoo:NAME, or --bundle DIR"),
        (
            ["submit", "zoo:digits", "--bundle", "."],
            "source: 'zoo:digits' is given beside --bundle .; give one of them",
        ),
        (["submit", "bundle:abc"], "is not bundle:SHA256"),
        (["submit", "--bundle", "nowhere"], "nowhere is not a folder"),
        (["submit", "--bundle", "."], "has no task.py; write one that defines task()"),
        (["compress"], "source: there is none; give SOURCE, as zoo:NAME, or --bundle DIR"),
        (["compress", "--bundle", "nowhere"], "'nowhere' is neither zoo:NAME nor a folder"),
        (["compress", "--bundle", ".", "--data", "."], "data: . is for zoo:NAME"),
        (["check", "nowhere"], "nowhere is not a folder"),
        (["check", ".", "--delta", "0"], "delta: 0 is not"),
    ],
)
def test_mistakes_are_one_line(run_here: Run, words: list[str], message: str) -> None:
    done = run_here(*words)
    assert (done.returncode, done.stdout) == (MISTAKE, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_requirements_are_tried_without_installing_anything(tmp_path: Path) -> None:
    assert requirements.check(tmp_path) == "none"
    file = tmp_path / requirements.FILE
    file.write_text("# nothing\n\n")
    assert requirements.check(tmp_path) == "none"
    file.write_text("pytest\n")  # it is here: pip need ask nobody
    assert requirements.check(tmp_path) == "can be installed"
    file.write_text("nowhere @ file:///nowhere/nowhere-1.0-py3-none-any.whl\n")
    with pytest.raises(BundleError, match=r"requirements\.txt: it cannot be installed: ERROR.*; correct it, and try"):
        requirements.check(tmp_path)
    file.write_text("two words\n")
    with pytest.raises(BundleError, match="it cannot be installed: ERROR: Invalid requirement"):
        requirements.check(tmp_path)
