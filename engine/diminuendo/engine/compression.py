"""The whole job in one process: `compress(task, delta=1.0)`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diminuendo.engine.evaluate import Worker
from diminuendo.engine.exports.forms import FormError, check_installed, parse_all
from diminuendo.engine.inline import InlineExecutor
from diminuendo.engine.loading import load, read_plan
from diminuendo.engine.plan import Plan
from diminuendo.engine.search.budget import BudgetName
from diminuendo.engine.search.check import RequestError, check, request_of
from diminuendo.engine.search.drive import Done, drive
from diminuendo.engine.search.objective import ObjectiveName
from diminuendo.engine.search.result import Finished
from diminuendo.engine.search.session import Request, Step
from diminuendo.engine.search.settings import EffortName
from diminuendo.engine.search.state import AcceptName, StageNumber
from diminuendo.engine.search.work import Failed, Work
from diminuendo.engine.store import ArtifactStore
from diminuendo.engine.task import Task, TaskError
from diminuendo.engine.workbench import UserCodeError
from diminuendo.engine.workfolder import WorkFolder
from diminuendo.engine.zoo.catalog import find


@dataclass(frozen=True)
class Compressed:
    """The outcome of a compression.

    Attributes:
        model: The compressed network, in eval mode.
        plan: The form of every layer.
        certificate: Content of certificate.json.
        inside_delta: Whether all that was asked for is kept, as the certificate says: the drop on the sealed half is
            inside delta, or the figure within the target, and every limit holds; if not, this is the nearest.
        folder: Where the result folder was written; None when none was asked for.
    """

    model: nn.Module
    plan: Plan
    certificate: dict[str, Any]
    inside_delta: bool
    folder: Path | None


def check_request(request: Request) -> None:
    """Refuse a request that cannot be meant.

    Raises:
        TaskError: Names the field, its value and what is legal.
        UnknownNetworkError: The source is a zoo name that does not exist; suggests the nearest.
    """
    try:
        check(request)
    except RequestError as error:
        raise TaskError(str(error)) from error
    kind, _, name = request.source.partition(":")
    if kind == "zoo":
        find(name)


def check_exports(request: Request) -> None:
    """Refuse exports that cannot be made here, before hours of search; TaskError says what to install."""
    try:
        check_installed(parse_all(request.exports))
    except FormError as error:
        raise TaskError(f"exports: {error}") from error


def compress(
    task: Task | str,
    delta: float | None = None,
    *,
    target: Mapping[ObjectiveName, float] | None = None,
    effort: EffortName = "normal",
    accept: AcceptName = "estimate",
    seed: int = 0,
    threads: int = 1,
    formats: Sequence[str] = (),
    objective: ObjectiveName | None = None,
    limits: Mapping[ObjectiveName, float] | None = None,
    freeze: Sequence[str] = (),
    max_ratio: Mapping[str, float] | None = None,
    multiple: int = 1,
    stage: StageNumber = 2,
    budget: Mapping[BudgetName, float] | None = None,
    exports: Sequence[str] = (),
    out: Path | str | None = None,
    work: Path | str | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_done: Callable[[Done], None] | None = None,
    on_start: Callable[[Work], None] | None = None,
) -> Compressed:
    """Compress a trained network within a tolerance, or to a target, in this process.

    The same task, seed and threads give the same decisions as a cluster of any size.

    Args:
        task: A task, or a source such as ``zoo:digits``.
        delta: Tolerance in points of the metric, 0 < delta <= 100; the smallest network inside it is looked for. 1.0
            when neither delta nor a target is given.
        target: In place of delta the most that one figure may be, e.g. ``{"size": 1.0}``, in the units of the limits;
            the network within it that loses least is looked for.
        effort: How much searching is done.
        accept: What must be inside delta: the estimate, or (``strict``) the upper end of its 95 % interval.
        seed: Of every random choice.
        threads: Torch's threads; part of the numerics. Restored afterwards.
        formats: Forms that layers may take; empty: those of the effort.
        objective: The figure that gets as small as it can: ``params`` (the default), ``macs``, ``size``,
            ``memory`` or ``latency`` (on this device). A target has its own.
        limits: The most that figures may be: params, MACs, MB of 2^20 bytes of size and of memory, or ms of latency
            for one sample. What breaks one is never returned as inside.
        freeze: Shell patterns over the names of layers that stay dense, e.g. ``layer1.*``.
        max_ratio: The most by which the params of layers may shrink, by pattern.
        multiple: What ranks are multiples of, but for the lowest and the highest of each format.
        stage: 1 stops after the exploration, 2 anneals too.
        budget: The most ``evaluations`` and ``epochs``, certification included, and the ``minutes`` after which the
            best so far is certified.
        exports: Forms that the result is exported in, e.g. ``onnx``, ``onnx:fp16``, ``pt2``, ``torchscript``; see
            `diminuendo.engine.exports.forms`. Each file is run and compared with the network before it comes into the
            result; one that fails is told in the certificate, and costs nothing else.
        out: Result folder to write; must not exist or be empty.
        work: Folder that keeps what was done: the same call goes on from there when it was stopped. None: nothing
            is kept.
        on_step: Called after each step of the search.
        on_done: Called after each work.
        on_start: Called before each work that is not known already.

    Raises:
        TaskError: An argument or the task is not usable; names field, value and remedy.
        UnknownNetworkError: There is no such network in the zoo.
        UserCodeError: The task's own code raised.
    """
    source = task if isinstance(task, str) else task.source or f"task:{task.name}"
    try:
        request = request_of(
            source,
            delta,
            target=target,
            effort=effort,
            accept=accept,
            seed=seed,
            threads=threads,
            formats=formats,
            objective=objective,
            limits=limits,
            freeze=freeze,
            max_ratio=max_ratio,
            multiple=multiple,
            stage=stage,
            budget=budget,
            exports=exports,
        )
    except RequestError as error:
        raise TaskError(str(error)) from error
    check_request(request)
    check_exports(request)
    folder = empty_folder(out)
    tasks = {} if isinstance(task, str) else {source: task}
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
        journal = WorkFolder(scratch if work is None else work, on_step, on_done)
        store, session = journal.store, journal.session(request)
        worker = Worker(store, tasks=tasks)
        try:
            outcome = drive(session, InlineExecutor(worker, on_start), journal)
        finally:
            torch.set_num_threads(before)
        if isinstance(outcome, Failed):
            raise UserCodeError(outcome.message, outcome.traceback)
        result = folder or Path(scratch) / "result"
        write_result(outcome, store, result)
        architecture = None if isinstance(task, str) else task.model
        return Compressed(
            model=load(result, architecture),
            plan=read_plan(result / "plan.json").plan(),
            certificate=json.loads((result / "certificate.json").read_text()),
            inside_delta=outcome.inside_delta,
            folder=folder,
        )


def write_result(outcome: Finished, store: ArtifactStore, folder: Path) -> None:
    """Write a result folder's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in outcome.files:
        content = store.get(file.sha256) if file.sha256 is not None else file.content
        (folder / file.name).write_bytes(content or b"")


def empty_folder(out: Path | str | None) -> Path | None:
    """The folder that a result is to be written to; TaskError when it holds something already."""
    if out is None:
        return None
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TaskError(f"out: {folder} exists and is not an empty folder; name another one or remove it")
    return folder
