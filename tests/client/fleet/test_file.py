"""fleet.yaml: what it may say, and that every mistake is told at once with its line."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diminuendo.client import FleetFile, FleetFileError, FleetModel
from diminuendo.client.fleet.file import names_in

if TYPE_CHECKING:
    from tests.client.fleet.conftest import MakeBundle


def read(folder: Path, text: str) -> FleetFile:
    path = folder / "fleet.yaml"
    path.write_text(text)
    return FleetFile.read(path)


def problems(folder: Path, text: str) -> list[str]:
    """What is told of a file, without the folder."""
    with pytest.raises(FleetFileError) as caught:
        read(folder, text)
    assert caught.value.message == "; ".join(caught.value.problems)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_everything_that_submit_takes(tmp_path: Path, make_bundle: MakeBundle) -> None:
    bundle = make_bundle("nets/mine")
    found = read(
        tmp_path,
        """
name: vision
project: team-a
labels: {team: no, release: 1.10}
defaults:
  effort: quick
models:
  - name: everything
    bundle: nets/mine
    target: {size: 25kB}
    objective: null
    limits: {macs: 50M, latency: 5}
    effort: deep
    stage: 1
    seed: 7
    formats: [svd, tucker2]
    freeze: ['layer1.*']
    max_ratio: {'layer2.*': 4}
    multiple: 8
    budget: {evaluations: 20, epochs: 90.5, minutes: 3}
    exports: [onnx, 'onnx:fp16']
    parallel: 2
    priority: -5
    labels: {kind: yes}
    deadline: 2030-01-31T18:00Z
  - name: strict
    source: zoo:digits
    delta: 0.5
    accept: strict
""",
    )
    assert (found.name, found.project, found.labels) == ("vision", "team-a", {"team": "no", "release": "1.10"})
    assert found.models == (
        FleetModel(
            name="everything",
            bundle=bundle,
            target={"size": 25 / 1024},
            limits={"macs": 50e6, "latency": 5.0},
            effort="deep",
            stage=1,
            seed=7,
            formats=("svd", "tucker2"),
            freeze=("layer1.*",),
            max_ratio={"layer2.*": 4.0},
            multiple=8,
            budget={"evaluations": 20.0, "epochs": 90.5, "minutes": 3.0},
            exports=("onnx", "onnx:fp16"),
            parallel=2,
            priority=-5,
            labels={"kind": "yes"},
            deadline=datetime(2030, 1, 31, 18, 0, tzinfo=UTC),
        ),
        FleetModel(name="strict", source="zoo:digits", delta=0.5, accept="strict", effort="quick"),
    )


def test_mappings_are_laid_over_the_defaults_and_the_rest_replaces_them(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
name: f
defaults:
  delta: 2
  accept: strict
  limits: {macs: 1M, size: 2}
  labels: {team: a, kind: b}
  max_ratio: {fc: 2}
  budget: {evaluations: 10}
  formats: [svd]
models:
  - {name: over, zoo: digits, limits: {size: 1}, labels: {kind: c}, budget: {minutes: 3}, formats: [cp]}
  - {name: away, zoo: digits, limits: null, labels: {kind: null}, max_ratio: ~, formats: null, delta: null}
  - {name: aimed, zoo: digits, target: {params: 1k}, limits: null}
  - {name: plain, zoo: zoo:digits}
""",
    )
    over, away, aimed, plain = found.models
    assert over == FleetModel(
        name="over",
        source="zoo:digits",
        delta=2.0,
        accept="strict",
        limits={"macs": 1e6, "size": 1.0},
        labels={"team": "a", "kind": "c"},
        max_ratio={"fc": 2.0},
        budget={"minutes": 3.0},
        formats=("cp",),
    )
    assert (away.limits, away.labels, away.max_ratio, away.formats, away.delta) == (None, {"team": "a"}, None, (), None)
    # What the defaults say of delta is of no use to a target.
    assert (aimed.target, aimed.delta, aimed.accept) == ({"params": 1000.0}, None, "estimate")
    assert (plain.source, plain.limits) == ("zoo:digits", {"macs": 1e6, "size": 2.0})


def test_a_glob_gives_a_model_for_each_folder(tmp_path: Path, make_bundle: MakeBundle) -> None:
    for name in ("nets/b", "nets/a", "other/deep/c"):
        make_bundle(name)
    (tmp_path / "nets" / "README.md").write_text("no folder")
    text = "name: f\nmodels:\n  - {bundles: 'nets/*', delta: 3}\n  - {bundles: 'other/**/c'}\n"
    found = read(tmp_path, text)
    assert [(model.name, model.bundle, model.delta) for model in found.models] == [
        ("a", tmp_path / "nets/a", 3.0),
        ("b", tmp_path / "nets/b", 3.0),
        ("c", tmp_path / "other/deep/c", None),
    ]


def test_every_mistake_is_told_at_once(tmp_path: Path, make_bundle: MakeBundle) -> None:
    make_bundle("nets/a")
    (tmp_path / "empty").mkdir()
    told = problems(
        tmp_path,
        """name: Vision
lables: {}
defaults:
  delta: two
  effort: quik
  limits: {macs: lots, speed: 3, size: -1}
  budget: {evaluations: 2, hours: 3}
  stage: 3
models:
  - name: a
    zoo: digits
    delta: 1
    delta: 2
  - {name: a, bundle: nets/a, stge: 1, formats: svd}
  - bundles: nope/*
  - bundles: nets/*
  - name: x
  - just text
  - {name: y, zoo: digits, freeze: [a, a], priority: 1.5, labels: {a: {b: c}}, deadline: soon}
  - {name: z, zoo: digits, target: {size: 1MB, macs: 3}, delta: 1, seed: -1, max_ratio: {fc: 0.5}}
  - {name: UPPER, zoo: digits}
  - {name: e, bundle: empty}
  - {zoo: digits, source: zoo:digits}
  - {name: s, source: digits}
""",
    )
    name = "1 to 63 characters"
    assert told == [
        "fleet.yaml:1: name: 'Vision' is not 1 to 40 characters a-z, 0-9 and '-'; give another",
        "fleet.yaml:2: lables: this key is not known; did you mean labels?",
        "fleet.yaml:4: delta: 'two' is no number; give one",
        "fleet.yaml:5: effort: 'quik' is not known; did you mean quick?",
        "fleet.yaml:6: limits.macs: 'macs=lots' is not FIGURE=NUMBER; for example macs=50M or size=1.5MB",
        "fleet.yaml:6: limits.speed: 'speed' is no figure; give one of params, macs, size, memory, latency",
        "fleet.yaml:6: limits.size: '-1' is no limit; give a number over 0",
        "fleet.yaml:7: budget.evaluations: '2' is too little; give a whole number from 3 up",
        "fleet.yaml:7: budget.hours: 'hours' is no budget; give one of evaluations, epochs, minutes",
        "fleet.yaml:8: stage: '3' is no whole number from 1 to 2; give one",
        "fleet.yaml:13: delta: is there twice, in line 12 too; give it once",
        "fleet.yaml:14: stge: this key is not known; did you mean stage?",
        "fleet.yaml:14: formats: 'svd' is no list; give one, as [svd]",
        "fleet.yaml:14: name: 'a' is there twice, in line 10 too; give each model a name of its own",
        f"fleet.yaml:15: bundles: 'nope/*' matches no folder in {tmp_path}; correct it",
        "fleet.yaml:16: name: 'a' is there twice, in line 10 too; give each model a name of its own",
        "fleet.yaml:17: models: there is no source; give one of zoo, source, bundle and bundles",
        "fleet.yaml:18: models: 'just text' is no mapping; give one, as `{key: value}`",
        "fleet.yaml:19: freeze: 'a' is there twice; give it once",
        "fleet.yaml:19: priority: '1.5' is no whole number from -1000 to 1000; give one",
        "fleet.yaml:19: labels.a: a mapping is no text; give one",
        "fleet.yaml:19: deadline: 'soon' is no time; give one such as 2030-01-31T18:00, 2030-01-31T18:00Z, +90m or +2h",
        "fleet.yaml:20: target: size, macs are 2 figures; give one, the others as limits",
        f"fleet.yaml:20: seed: '-1' is no whole number from 0 to {2**63 - 1}; give one",
        "fleet.yaml:20: max_ratio.fc: 0.5 is no ratio; give a number from 1 (the layer stays dense) up",
        "fleet.yaml:20: target: is beside a delta; give one of them",
        f"fleet.yaml:21: name: 'UPPER' is not {name} a-z, 0-9, '.', '_' and '-', a letter or digit first; give another",
        f"fleet.yaml:22: bundle: {tmp_path}/empty has no task.py; write one that defines task() -> "
        "diminuendo.engine.Task (`diminuendo init` writes an example), or put an .onnx or .pt2 file and a data.toml "
        "there",
        "fleet.yaml:23: models: zoo and source are given; give one of zoo, source, bundle and bundles",
        "fleet.yaml:23: name: is missing; name the model",
        "fleet.yaml:24: source: 'digits' is not of the form zoo:NAME; did you mean zoo:digits?",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ["1: the file is empty; begin with `name:` and `models:`"]),
        ("- a\n", ["1: a list is no mapping; begin with `name:` and `models:`"]),
        ("name: f\n", ["1: models: is missing; list the fleet's models"]),
        ("name: f\nmodels: []\n", ["2: models: the list is empty; give one, with `- name: ...` for each model"]),
        ("name: f\nmodels: 3\n", ["2: models: '3' is no list; give one, with `- name: ...` for each model"]),
        (
            "name: f\nmodels:\n  - {name: a, zoo: digits\n",
            ["4: this is no YAML: while parsing a flow mapping, expected ',' or '}', but got '<stream end>'; correct"],
        ),
        (
            "name: f\nmodels: [a]\n---\nname: g\n",
            ["3: this is no YAML: expected a single document in the stream, but found another document; correct it"],
        ),
        ("name: f\x01\n", ["1: this is no YAML: unacceptable character #x0001: special characters are not allowed"]),
        (
            "name: f\ndefaults: &d {delta: 1}\nmodels:\n  - {name: a, zoo: digits, <<: *d}\n",
            ["4: models: '<<' is not taken; write what models share under `defaults:`"],
        ),
        ("[" * 5000, ["1: this is nested too deeply; a fleet needs five levels"]),
        (
            "name: f\nmodels: &m\n  - *m\n",  # a list that is its own element
            ["2: models: a list is no mapping; give one, as `{key: value}`"],
        ),
    ],
)
def test_what_is_no_fleet_at_all(tmp_path: Path, text: str, told: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) == len(told)
    for problem, start in zip(found, told, strict=True):
        assert problem.startswith(f"fleet.yaml:{start}")


def test_bytes_that_are_no_utf8_have_a_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(b"name: f\n# caf\xe9\n")
    with pytest.raises(FleetFileError) as caught:
        FleetFile.read(path)
    assert caught.value.problems == (f"{path}:2: byte 0xe9 is no UTF-8; save the file as UTF-8",)


def test_anchors_are_taken(tmp_path: Path) -> None:
    text = (
        "name: f\nmodels:\n  - {name: a, zoo: digits, limits: &l {size: 1}}\n  - {name: b, zoo: digits, limits: *l}\n"
    )
    assert [model.limits for model in read(tmp_path, text).models] == [{"size": 1.0}] * 2


def test_a_files_name_is_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text("name: vision\nproject: p\nmodels:\n  - bundles: gone/*\n    stge: 1\n")
    assert names_in(path) == ("vision", "p")
    path.write_text("models: []\n")
    with pytest.raises(FleetFileError, match=r":1: name: is missing; name the fleet"):
        names_in(path)


def test_a_thousand_models_are_read_in_no_time(tmp_path: Path) -> None:
    text = "name: f\nmodels:\n" + "".join(
        f"  - {{name: m{i}, zoo: digits, seed: {i}, delta: 2}}\n" for i in range(1000)
    )
    start = time.process_time()
    assert len(read(tmp_path, text).models) == 1000
    assert time.process_time() - start < 10.0  # 0.5 s was measured
