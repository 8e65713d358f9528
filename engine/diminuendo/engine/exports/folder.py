"""Exports of a result later, from its folder: `export("smaller", ["onnx"])`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from diminuendo.engine import bundle, zoo
from diminuendo.engine.exports import program
from diminuendo.engine.exports.checking import COMPARED
from diminuendo.engine.exports.forms import OPSETS, Exported, Form, FormError, check_installed, parse_all
from diminuendo.engine.exports.making import Measure, make
from diminuendo.engine.exports.reasons import quiet
from diminuendo.engine.exports.sealed import measure_on
from diminuendo.engine.loading import load, read_plan
from diminuendo.engine.modules import with_forward
from diminuendo.engine.plan import PlanError
from diminuendo.engine.store import write_whole
from diminuendo.engine.task import Task, TaskError
from diminuendo.engine.usercode import UserCodeError
from diminuendo.engine.workbench import Workbench
from diminuendo.engine.zoo.catalog import UnknownNetworkError

CERTIFICATE, PLAN, PROGRAM = "certificate.json", "plan.json", Form("pt2").file


def export(
    folder: Path | str,
    forms: Sequence[str],
    *,
    task: Task | None = None,
    model: nn.Module | None = None,
    inputs: Any = None,
    opset: int | None = None,
    dynamic_batch: bool = True,
    out: Path | str | None = None,
    overwrite: bool = False,
) -> tuple[Exported, ...]:
    """Export a result in further forms; each file is run, and compared with the network.

    The network is built as by `load`, or taken from the folder's ``model.pt2``, which needs no code. Inputs to compare
    on, and the metric, come from the sealed half of the evaluation data where the plan's source or a task brings it;
    else inputs are those given, or made-up ones that ``model.pt2`` carries.

    Args:
        folder: A result folder.
        forms: E.g. ``onnx``, ``onnx:fp16``, ``pt2``; see `diminuendo.engine.exports.forms`.
        task: The task that was compressed, where the source does not bring it.
        model: The original architecture, where there is neither source nor task; see `load`.
        inputs: (N, ...) samples as the network takes them.
        opset: Of ONNX files, 18 to 24; None: 18, and 22 for bf16.
        dynamic_batch: Whether files take any number of samples; if not, one.
        out: Where files come; None: into the folder, whose certificate then tells of them.
        overwrite: Whether files of the same name are replaced.

    Returns:
        What came of each form. One that failed has its `error`, and no file.

    Raises:
        TaskError: An argument is not usable, or there is nothing to build the network or to run it with.
        PlanError: The folder's plan does not fit the network, or a file is missing.
        UserCodeError: The task's own code raised.
    """
    wanted = _wanted(forms, opset)
    folder, target = Path(folder), Path(folder if out is None else out)
    if not overwrite:
        _check_free(target, wanted)
    found = _source(folder, wanted, task, model, inputs)
    target.mkdir(parents=True, exist_ok=True)
    made = tuple(
        make(found.network, form, target, found.inputs, opset=opset, dynamic=dynamic_batch, measure=found.measure)
        for form in wanted
    )
    if out is None:
        _record(folder, [each for each in made if each.file or not _file(folder, each).exists()])
    return made


def _wanted(forms: Sequence[str], opset: int | None) -> tuple[Form, ...]:
    if isinstance(forms, str):
        raise TaskError(f"forms: {forms!r} is one text; give a list of them, such as [{forms!r}]")
    if not forms:
        raise TaskError("forms: there are none; give some, such as ['onnx']")
    if opset is not None and opset not in OPSETS:
        raise TaskError(f"opset: {opset!r} cannot be written; give {OPSETS[0]} to {OPSETS[-1]}")
    try:
        wanted = parse_all(forms)
        check_installed(wanted)
    except FormError as error:
        raise TaskError(f"forms: {error}") from error
    return wanted


def _check_free(folder: Path, forms: Sequence[Form]) -> None:
    there = [form.file for form in forms if (folder / form.file).exists()]
    if there:
        raise TaskError(
            f"{', '.join(there)}: there already in {folder}; say overwrite=True (--overwrite), or leave the form out"
        )


def _file(folder: Path, made: Exported) -> Path:
    return folder / parse_all([made.form])[0].file


@dataclass(frozen=True)
class _Source:
    """What is exported, and what it is run on."""

    network: nn.Module
    inputs: Any
    measure: Measure | None = None


def _source(folder: Path, forms: Sequence[Form], task: Task | None, model: nn.Module | None, inputs: Any) -> _Source:
    """The network and its inputs, from the first of what brings them."""
    if not folder.is_dir():
        raise TaskError(f"folder: {folder} is not there; name a result folder")
    carried = _carried(folder)
    if not (folder / PLAN).is_file() and carried is None:
        raise TaskError(f"folder: {folder} has neither {PLAN} nor {PROGRAM}; name a result folder")
    brought, complaint = (task, "") if task is not None else _task_of(folder)
    if brought is not None and (folder / PLAN).is_file():
        return _of_task(folder, brought, model, inputs)
    network = _built(folder, model, carried, forms)
    sample = carried.inputs if inputs is None and carried is not None else inputs
    if sample is None:
        raise TaskError(
            f"inputs: the network is to be run, and there are none ({complaint}); give inputs=, a few samples as it "
            "takes them, or the task as task= (--bundle FOLDER)"
        )
    return _Source(network, sample)


def _built(folder: Path, model: nn.Module | None, carried: _Source | None, forms: Sequence[Form]) -> nn.Module:
    """The network of the plan; where its architecture cannot be had, that of ``model.pt2``."""
    try:
        return load(folder, model)
    except PlanError:
        if carried is None or model is not None:
            raise
    other = next((form for form in forms if form.dtype != "fp32"), None)
    if other is not None:
        raise TaskError(
            f"forms: {other} cannot be made from {PROGRAM}, which computes in float32 alone; give the architecture as "
            "model=, or the task as task= (--bundle FOLDER)"
        )
    return carried.network


def _of_task(folder: Path, task: Task, model: nn.Module | None, inputs: Any) -> _Source:
    """With the metric, on the half of the data that the result was judged on."""
    bench = Workbench(task, _seed(folder))
    network = with_forward(load(folder, task.model if model is None else model), task.forward)
    sample = bench.sealed_half.head(COMPARED).inputs if inputs is None else inputs
    return _Source(network, sample, measure_on(bench))


def _task_of(folder: Path) -> tuple[Task | None, str]:
    """The task of the plan's source; None, and why, where it cannot be had here."""
    if not (folder / PLAN).is_file():
        return None, f"{folder} has no {PLAN}"
    source = read_plan(folder / PLAN).source
    kind, _, name = source.partition(":")
    try:
        if kind == "zoo":
            return zoo.task(name), ""
        if kind == "bundle" and Path(name).is_dir():
            return bundle.load(name), ""
    except (TaskError, UserCodeError, UnknownNetworkError) as error:
        return None, f"source {source!r}: {error}"
    return None, f"source {source!r} cannot be built here"


def _carried(folder: Path) -> _Source | None:
    """The network and the made-up inputs of the folder's ``model.pt2``; None where there is none."""
    path = folder / PROGRAM
    if not path.is_file():
        return None
    try:
        with quiet():
            found = program.opened(path)
    except Exception as error:  # torch raises anything for a damaged file
        raise TaskError(f"{path}: it cannot be read ({type(error).__name__}); remove it, or export it again") from error
    network = found.module(check_guards=False)
    for name in ("train", "eval"):  # which it refuses: it computes as in eval mode always
        vars(network).pop(name, None)
    args, kwargs = found.example_inputs or ((), {})
    return _Source(network, dict(kwargs) if kwargs and not args else tuple(args))


def _seed(folder: Path) -> int:
    """Of the job, by which its evaluation data was split."""
    try:
        return int(json.loads((folder / CERTIFICATE).read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _record(folder: Path, made: Sequence[Exported]) -> None:
    """Tell of exports in the folder's certificate, beside those that it tells of; it appears whole or not at all."""
    path = folder / CERTIFICATE
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # a folder without one is exported all the same
    exports = certificate.get("exports")
    known = exports if isinstance(exports, dict) else {}
    certificate["exports"] = known | {each.form: each.entry() for each in made}
    content = (json.dumps(certificate, indent=2, allow_nan=False) + "\n").encode()
    write_whole(path, lambda file: file.write(content), mode=path.stat().st_mode)
