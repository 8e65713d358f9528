"""The report's page: what it tells, that it is one file, the same for the same result, and escaped."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diminuendo.client.display.folder import ResultFolderError
from diminuendo.client.report import render

if TYPE_CHECKING:
    from tests.client.report.conftest import Edit

SECTIONS = ["summary", "figures", "candidates", "layers", "search", "latency", "exports", "certificate", "load"]
VOID = {"meta", "link", "br", "img", "hr"}


class Page(HTMLParser):
    """A page's elements, and its text; fails where elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_it_tells_what_was_asked_and_found(folder: Path) -> None:
    text = Page(render(folder)).text
    for words in (
        "Make the network's params as small as possible and lose at most 2 points of top1.",
        "Budget: at most 18 evaluations.",
        "A network with 3,630 of 41,074 params (11.32x) and 44,656 of 300,554 MACs (6.73x).",
        "It scores 99.25, the original 99.75: a drop of 0.50 points, 95 % interval [-0.35, 1.34], on 400 samples",
        "That is inside delta 2.",
        "Kept what was asked for",
    ):
        assert words in text


def test_it_has_figures_layers_candidates_latency_exports_and_certificate(folder: Path) -> None:
    text = Page(render(folder)).text
    for words in (
        "Memory, for one sample 0.187 MB 0.046 MB",
        "layers.6 tucker2(4,4) 27,648 67.3% 592 16.3% 46.70x 110,592 4,672",  # 27648/41074, 592/3630
        "20, returned certify final",
        "17 candidates by their ratio of params and their drop on the search half: 13 of them keep delta 2.",
        "model.onnx 0.020 MB 2.9e-06 99.25 0.50 dynamic",
        "Failed: ONNX Runtime has no bf16 kernel on CPUs for Conv",
        "Judged by the estimate rule: the drop as estimated has to be inside delta.",
        "400 evaluation samples steered the search. The other 400 were sealed: 5 finalists were judged on them once",
        "The interval contains 0",
        "Dense control: the original with the same tuning (22 epochs",
        "DELTA_BELOW_NOISE",
        "network = load(folder, my_network)",
        "onnxruntime.InferenceSession('model.onnx')",
        "torch.export.load('model.pt2')",
    ):
        assert words in text


def test_the_counts_of_the_charts_are_those_of_the_search(folder: Path) -> None:
    """Told again from search.json, without the package."""
    trials = [t for t in json.loads((folder / "search.json").read_text())["trials"] if t["role"] != "control"]
    kept = [t for t in trials if t["drop"] <= 2.0]
    page = render(folder)
    assert f"{len(trials)} candidates by their ratio" in page
    assert f"{len(kept)} of them keep delta 2" in page
    assert f"came to {max(t['params_ratio'] for t in kept):.2f}x" in page
    assert f"{sum(t['drop'] > 6.0 for t in trials)} with larger drops are at the upper edge" in page


def test_it_is_one_file_that_asks_for_nothing(folder: Path) -> None:
    html = render(folder)
    assert "://" not in html
    assert "<script" not in html
    page = Page(html)
    assert {a["href"] for a in page.all("link")} == {"data:,"}
    references = [value for _, attributes in page.elements for name, value in attributes.items() if "href" in name]
    assert references
    assert {str(reference)[0] for reference in references} == {"#", "d"}
    assert not re.search(r"url\((?!#)|@import|\bsrc=", html)


def test_ids_are_unique_and_references_are_there(folder: Path) -> None:
    page = Page(render(folder))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = [str(a["href"])[1:] for _, a in page.elements if str(a.get("href", "")).startswith("#")]
    wanted += [str(a["aria-labelledby"]) for _, a in page.elements if "aria-labelledby" in a]
    wanted += re.findall(r"url\(#([^)]*)\)", render(folder))
    assert set(wanted) <= set(ids)


def test_it_is_laid_out_for_everybody(folder: Path) -> None:
    page = Page(render(folder))
    assert page.all("html")[0]["lang"] == "en"
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert len(page.all("main")) == len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) == 4
    drawings = [a for a in page.all("svg") if a.get("role") == "img"]
    assert len(drawings) == len(page.all("figcaption")) == len(page.all("figure")) == 4
    assert all(a["aria-label"] for a in drawings)


@pytest.mark.parametrize(("scheme", "block"), [("light", 0), ("dark", 1), ("print", 2)])
def test_colours_have_enough_contrast(folder: Path, scheme: str, block: int) -> None:
    """WCAG AA: 4.5 for text, against the page and against code's background."""
    blocks = re.findall(r":root \{(.*?)\}", render(folder), flags=re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[block]))
    for ground in ("paper", "panel"):
        for name in ("ink", "muted", "blue", "green", "orange", "violet"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (scheme, name, ground)


def contrast(one: str, other: str) -> float:
    """Ratio of two colours' relative luminances, by WCAG 2.1."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_the_same_result_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copytree(folder, tmp_path / "other" / "name"))
    assert render(folder) == render(folder) == render(elsewhere)


def test_names_are_escaped_everywhere(edited: Edit) -> None:
    bad = '</text></svg><script>alert("x")</script>\x1b[31m $x^2$ #010101 id="y"'
    layers = {bad: {"format": "svd", "ranks": [7]}}
    edited("plan", source=bad, layers=layers, left_dense={bad: bad})
    profile = {"params": 10, "macs": 10, "size_mb": 0.1, "memory_mb": 0.1, "time_ms": 1.0}
    profile["layers"] = {bad: {"params": 5, "macs": 5}}  # type: ignore[assignment]
    edited("profile", machine=bad, original=profile, compressed=profile)
    entry = {"file": bad, "size_bytes": 1, "batch": bad}
    folder = edited("certificate", metric=bad, warnings=[{"reason": bad, "message": bad}], exports={"onnx": entry})
    html = render(folder)
    assert "<script" not in html
    assert "\x1b" not in html
    page = Page(html)
    assert not page.all("script")
    assert page.text.count("<script>alert(") >= 8
    assert "#010101" in page.text


def test_a_result_of_an_earlier_version_has_no_candidates(folder: Path) -> None:
    (folder / "search.json").unlink()
    page = Page(render(folder))
    assert page.text.count("This result has no search.json") == 2
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert len(page.all("figure")) == 2


def test_diverged_candidates_and_the_control_are_no_candidates(edited: Edit, folder: Path) -> None:
    record = json.loads((folder / "search.json").read_text())
    record["trials"][0] |= {"drop": None, "divergence": None}
    text = Page(render(edited("search", trials=record["trials"]))).text
    assert "16 candidates by their ratio" in text
    assert "12 of them keep delta 2" in text
    assert "1 diverged and are not shown" in text
    assert "explore first original 2 2.03x 1.54x diverged no" in text


def test_a_target_stands_in_place_of_delta(edited: Edit) -> None:
    edited("search", delta=None, target={"size": 0.02}, objective="size")
    text = Page(
        render(edited("certificate", delta=None, target={"size": 0.02}, target_met=True, objective="size"))
    ).text
    assert "Lose as little top1 as possible with at most size 0.02 MB." in text
    assert "That is inside size 0.02 MB." in text
    assert "Ratio, size" in text
    assert "Judged by the" not in text
    assert "came to a drop of -0.25" in text


def test_nothing_inside_is_said(edited: Edit) -> None:
    text = Page(render(edited("certificate", inside_delta=False, drop=2.5, drop_ci=[1.5, 3.5], delta=0.1))).text
    assert "Did not keep what was asked for" in text
    assert "That is NOT inside delta 0.1: nothing inside was found and this is the nearest" in text
    assert "The interval contains 0" not in text


def test_a_broken_limit_and_an_early_end_are_said(edited: Edit) -> None:
    fields = {"limits": {"macs": 1000}, "limits_exceeded": ["macs"], "inside_delta": False, "accept": "strict"}
    text = Page(render(edited("certificate", **fields, ended="the deadline", stage=1))).text
    assert "Limits: at most macs 1,000." in text
    assert "it breaks the limit of MACs" in text
    assert "The search ended early, by the deadline" in text
    assert "the upper end of the drop's 95 % interval has to be inside delta" in text
    assert "Only stage 1" in text


def test_a_zoo_network_needs_no_architecture_of_ones_own(edited: Edit) -> None:
    page = Page(render(edited("plan", source="zoo:digits")))
    assert "network = load(folder)" in page.text
    assert "my_network" not in page.text


def test_many_layers_and_candidates_stay_readable(edited: Edit, folder: Path) -> None:
    names = [f"block.{i}.conv" for i in range(60)]
    edited("plan", layers={name: {"format": "svd", "ranks": [7]} for name in names})
    profile = json.loads((folder / "profile.json").read_text())
    for network in ("original", "compressed"):
        profile[network]["layers"] = {name: {"params": 100 + i, "macs": 5} for i, name in enumerate(names)}
    edited("profile", **profile)
    trials = json.loads((folder / "search.json").read_text())["trials"]
    many = [trials[i % len(trials)] | {"index": i} for i in range(1200)]
    page = Page(render(edited("search", trials=many, returned=3)))
    assert "of the 40 largest of 60 layers" in page.text
    assert "The first 1,000 of 1,200" in page.text
    assert "block.0.conv" in page.text


@pytest.mark.parametrize(
    ("file", "fields", "words"),
    [
        ("search", {"trials": 3}, "search.json: trials is 3, not a list"),
        ("search", {"trials": [3]}, "search.json: trials: 0 is 3, not an object"),
        ("search", {"trials": [{}]}, "search.json: trials: 0: index is None, not a number"),
        ("search", {"returned": "x"}, "search.json: returned is 'x', not a number"),
        ("certificate", {"limits": {"macs": "few"}}, "certificate.json: limits: macs is 'few', not a number"),
        ("certificate", {"latency": {"ratio": True}}, "certificate.json: latency: ratio is True, not a number"),
    ],
)
def test_what_is_wrong_is_named(edited: Edit, file: str, fields: dict[str, object], words: str) -> None:
    with pytest.raises(ResultFolderError, match=re.escape(words)):
        render(edited(file, **fields))


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "search.json").write_text("{")
    with pytest.raises(ResultFolderError, match=r"search\.json is no JSON; download the result again"):
        render(folder)
