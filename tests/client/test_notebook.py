"""What notebooks show: tables, and a job's live view that is drawn again in place."""

from __future__ import annotations

import atexit
import html.parser
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from diminuendo.client import AsyncClient, Client, ClientConfig, Failure, Figures, JobInfo, JobList, JobState, convert
from diminuendo.client.display.notebook import in_kernel

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer, Recorded

EVIL = "<script>alert(1)</script> & <b>"


class Read(html.parser.HTMLParser):
    """The cells of a page, and what else is in it.

    Attributes:
        rows: Of all tables, as text.
        tags: Every tag that was opened.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1] and "tr" in self.open:
            self.rows[-1][-1] += data


@pytest.fixture
def shell() -> Iterator[Any]:
    """IPython in this process, with what a kernel's has: a kernel, and outputs that go elsewhere than the terminal."""
    config = Config()
    config.HistoryManager.enabled = False
    hook, main = sys.excepthook, sys.modules["__main__"]
    shell: Any = InteractiveShell.instance(config=config, display_pub_class=CapturingDisplayPublisher)
    shell.kernel = object()
    yield shell
    shell.atexit_operations()
    atexit.unregister(shell.atexit_operations)
    InteractiveShell.clear_instance()
    sys.excepthook, sys.modules["__main__"] = hook, main  # a module of IPython's own cannot be spawned from


@pytest.fixture
def info(recorded: Recorded) -> JobInfo:
    return convert.job_info(recorded.job())


def html_of(shell: Any, value: object) -> str:
    data, _ = shell.display_formatter.format(value)
    text: str = data["text/html"]
    return text


def test_a_job_and_its_result_are_tables(shell: Any, info: JobInfo) -> None:
    page = Read(html_of(shell, info))
    fields = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert (fields["name"], fields["state"], fields["labels"]) == (info.name, "SUCCEEDED", "team=vision")
    assert fields["result"] == "inside delta: 7.92x fewer params, 5.10x fewer MACs, drop 0.25 of 1"
    assert ["params", "", "", "7.92x"] in page.rows
    assert info.result is not None
    figures = Figures(98.75, 175_258, 4_000_000, 2**20, 2**21, 1.5)
    half = Figures(98.5, 22_128, 784_000, 2**18, 2**20, 1.0)
    result = replace(info.result, metric="top1", original=figures, compressed=half, drop_ci=(-0.5, 1.0))
    assert Read(html_of(shell, result)).rows == [
        ["", "original", "compressed", "ratio"],
        ["top1, sealed half", "98.75", "98.50", "drop 0.25 (-0.50 to 1.00)"],
        ["params", "175,258", "22,128", "7.92x"],
        ["MACs", "4,000,000", "784,000", "5.10x"],
        ["size", "1.000 MB", "0.250 MB", "4.00x"],
        ["memory", "2.000 MB", "1.000 MB", "2.00x"],
        ["time", "1.500 ms", "1.000 ms", "1.50x"],
    ]


def test_jobs_are_one_table(shell: Any, info: JobInfo) -> None:
    waiting = replace(info, name="projects/default/jobs/other", state=JobState.QUEUED, result=None, progress=None)
    page = Read(html_of(shell, JobList([info, waiting])))
    assert page.rows[0] == ["job", "source", "state", "stage", "delta", "params", "drop", "created"]
    assert [row[:7] for row in page.rows[1:]] == [
        ["recorded", "zoo:digits", "SUCCEEDED", "", "1", "7.92x", "0.25"],
        ["other", "zoo:digits", "QUEUED", "", "1", "", ""],
    ]
    assert isinstance(JobList([info])[0], JobInfo)
    assert len(Read(html_of(shell, JobList())).rows) == 1


def test_what_servers_and_owners_write_is_text(shell: Any, info: JobInfo) -> None:
    """Names, labels, messages and tracebacks come from elsewhere: none of them may be a tag."""
    bad = replace(
        info,
        name=f"projects/default/jobs/{EVIL}",
        source=EVIL,
        labels={EVIL: f'" onload="{EVIL}'},
        failure=Failure(EVIL, EVIL, f"Traceback\n{EVIL}"),
        limits={EVIL: 1.0},
        retry_of=EVIL,
    )
    assert info.result is not None
    result = replace(info.result, metric=EVIL, original=Figures(1, 1, 1, 1, 1), compressed=Figures(1, 1, 1, 1, 1))
    for value in (bad, JobList([bad]), result):
        page = Read(html_of(shell, value))
        assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "pre", "caption"}
        assert page.attributes <= {"style", "scope"}
        assert EVIL in "".join(cell for row in page.rows for cell in row)


def pictures(shell: Any) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = shell.display_pub.outputs
    return outputs


def test_a_job_is_followed_in_a_cell(shell: Any, fake: FakeServer, client: Client, recorded: Recorded) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.cuts += [7]
    info = client.job("recorded").watch_live()
    assert info.state is JobState.SUCCEEDED
    shown = pictures(shell)
    assert [each["update"] for each in shown] == [False] + [True] * (len(shown) - 1)
    assert len({each["transient"]["display_id"] for each in shown}) == 1, "one output, drawn again"
    last = shown[-1]["data"]
    assert "SUCCEEDED" in last["text/plain"]
    assert Read(last["text/html"]).tags <= {"pre", "span"}
    assert "SUCCEEDED" in last["text/html"]


async def test_a_job_is_followed_in_a_cell_on_asyncio(
    shell: Any, fake: FakeServer, recorded: Recorded, quick: ClientConfig
) -> None:
    fake.add(recorded.job(), recorded.events())
    fake.cuts += [7]
    async with AsyncClient(fake.target, config=quick) as client:
        info = await client.job("recorded").watch_live()
    assert info.state is JobState.SUCCEEDED
    assert "SUCCEEDED" in pictures(shell)[-1]["data"]["text/plain"]


async def test_outside_of_a_kernel_the_terminal_is_used(
    fake: FakeServer, recorded: Recorded, quick: ClientConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not in_kernel()
    fake.add(recorded.job(), recorded.events())
    with Client(fake.target, config=quick) as client:
        client.job("recorded").watch_live()
    lines = capsys.readouterr().out
    assert lines.splitlines()[0].endswith("QUEUED")
    assert lines.splitlines()[-1].endswith("SUCCEEDED")
    async with AsyncClient(fake.target, config=quick) as aclient:
        await aclient.job("recorded").watch_live()
    assert capsys.readouterr().out == lines


def test_the_client_needs_no_ipython() -> None:
    code = (
        "import sys; from diminuendo.client import *; import diminuendo.client.display.notebook as n;"
        " assert not n.in_kernel(); bad = [m for m in sys.modules if m.split('.')[0] in ('IPython', 'ipykernel')];"
        " print(bad); sys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.apart
def test_a_real_notebook(fake: FakeServer, recorded: Recorded) -> None:
    """A kernel of its own runs the cells, and keeps what they show."""
    import nbclient
    import nbformat

    fake.add(recorded.job(), recorded.events())
    fake.cuts += [9]
    cells = [
        f"from diminuendo.client import AsyncClient, Client, JobList\nclient = Client({fake.target!r})",
        "client.get('recorded')",
        "JobList(client.list())",
        "info = client.job('recorded').watch_live()\ninfo.state.value",
        f"async with AsyncClient({fake.target!r}) as aclient:\n"
        "    info = await aclient.job('recorded').watch_live()\ninfo.result",
    ]
    v4: Any = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown = [cell.outputs for cell in notebook.cells]
    assert "projects/default/jobs/recorded" in shown[1][0].data["text/html"]
    assert len(Read(shown[2][0].data["text/html"]).rows) == 2
    picture, value = shown[3]
    assert "SUCCEEDED" in picture.data["text/html"], "the one output was drawn again"
    assert picture.output_type == "display_data"
    assert value.data["text/plain"] == "'SUCCEEDED'"
    picture, value = shown[4]
    assert "SUCCEEDED" in picture.data["text/plain"]
    assert "7.92x" in value.data["text/html"]
