"""The report in a browser: Chromium opens it, has all of it, draws it, and fetches nothing from anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from diminuendo.client.report import write_report

CHROMIUM = shutil.which("chromium")
SECTIONS = ("summary", "figures", "candidates", "layers", "search", "latency", "exports", "certificate", "load")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1000,1400",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the path: install it with `apt-get install chromium`"
)


@dataclass(frozen=True)
class Opened:
    """What came of opening a page.

    Attributes:
        dom: As the browser has it, as HTML.
        fetched: Addresses other than the page's own that it asked for, by its own doing.
    """

    dom: str
    fetched: list[str]
    picture: Image.Image


def opened(page: Path, scratch: Path, *, dark: bool = False) -> Opened:
    """Open a page in a browser that finds no host, and see what it tried."""
    scratch.mkdir()
    log, picture = scratch / "net.json", scratch / "page.png"
    done = subprocess.run(
        [
            str(CHROMIUM), *FLAGS, f"--user-data-dir={scratch / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--log-net-log={log}",
            f"--screenshot={picture}", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    with Image.open(picture) as image:
        return Opened(done.stdout, _fetched(log, page), image.convert("RGB"))


def _fetched(log: Path, page: Path) -> list[str]:
    """Requests that a page made; the browser's own have no origin."""
    kept = json.loads(log.read_text())
    start = kept["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    asked = [event.get("params", {}) for event in kept["events"] if event["type"] == start]
    own = [request["url"] for request in asked if request.get("initiator", "not an origin") != "not an origin"]
    return [url for url in own if url != page.as_uri() and not url.startswith("data:")]


def test_it_opens_whole_in_light_and_dark_and_fetches_nothing(folder: Path, tmp_path: Path) -> None:
    page = write_report(folder)
    light, dark = opened(page, tmp_path / "light"), opened(page, tmp_path / "dark", dark=True)
    assert light.fetched == dark.fetched == []
    for section in SECTIONS:
        assert f'<section id="{section}"' in light.dom
    assert light.dom.count('role="img"') == 4
    assert light.dom.rstrip().endswith("</html>")
    assert light.picture.size == (1000, 1400)
    assert light.picture.getpixel((5, 5)) == (255, 255, 255)
    assert dark.picture.getpixel((5, 5)) == (0x10, 0x14, 0x18)
    colours = light.picture.getcolors(maxcolors=2**24)
    assert colours is not None
    assert (0x0A, 0x58, 0xB8) in {colour for _, colour in colours}  # the chart's blue, by its variable


def test_a_page_that_fetches_is_found_out(tmp_path: Path) -> None:
    """The check above can fail."""
    page = tmp_path / "page.html"
    page.write_text('<html><body><img src="http://example.invalid/x.png"></body></html>')
    assert opened(page, tmp_path / "scratch").fetched == ["http://example.invalid/x.png"]
