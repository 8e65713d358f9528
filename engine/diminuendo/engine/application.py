"""Applies a plan that someone wrote or edited: `apply(plan, task)`, without a search."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from diminuendo.engine import surgery
from diminuendo.engine.compression import Compressed, check_exports, check_request, empty_folder, write_result
from diminuendo.engine.evaluate import Worker
from diminuendo.engine.loading import PlanFile, load, read_plan
from diminuendo.engine.plan import DENSE, Choice, Plan, PlanError
from diminuendo.engine.search import exporting
from diminuendo.engine.search.doubts import doubts
from diminuendo.engine.search.result import NO_EXPORTS, finish
from diminuendo.engine.search.rng import keyed_seed
from diminuendo.engine.search.state import Request, Role, State, Trial
from diminuendo.engine.search.work import (
    Evaluate,
    Evaluated,
    ExportsMade,
    Judge,
    Judged,
    Prepare,
    Prepared,
    Surveyed,
    SurveyLayer,
    Tuned,
    Work,
)
from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.task import Task, TaskError
from diminuendo.engine.workbench import resolve


def apply(
    plan: Path | str | Plan,
    task: Task | str,
    *,
    delta: float = 1.0,
    epochs: int = 0,
    seed: int = 0,
    threads: int = 1,
    exports: Sequence[str] = (),
    out: Path | str | None = None,
    on_work: Callable[[str], None] | None = None,
) -> Compressed:
    """Put a plan into a network: data-aware factors, BatchNorm re-estimated, fine-tuned if asked, and judged.

    Args:
        plan: A plan, a ``plan.json``, or a folder that has one. Layers that it does not name stay dense.
        task: A task, or a source such as ``zoo:digits``.
        delta: Tolerance that the certificate is about, in points of the metric; a result outside of it is returned
            all the same.
        epochs: Epochs of fine-tuning; the dense control gets as many.
        seed: Of the split of the evaluation data, and of the tuning.
        threads: Torch's threads. Restored afterwards.
        exports: Forms that the result is exported in, see `diminuendo.engine.compress`.
        out: Result folder to write; must not exist or be empty.
        on_work: Told what is about to be done.

    Raises:
        PlanError: The plan does not fit the network: names every layer that is wrong, and what is legal.
        TaskError: An argument or the task is not usable.
        UserCodeError: The task's own code raised.
    """
    source = task if isinstance(task, str) else task.source or f"task:{task.name}"
    request = Request(
        source, float(delta) if type(delta) is int else delta, seed, threads=threads, exports=tuple(exports)
    )
    check_request(request)
    check_exports(request)
    if epochs < 0:
        raise TaskError(f"epochs: {epochs} is negative; give 0 for no fine-tuning")
    wanted = plan if isinstance(plan, Plan) else read_plan_of(plan).plan()
    folder = empty_folder(out)
    task = resolve(source, {}) if isinstance(task, str) else task
    surgery.check(task.model, wanted)
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
        store = DirectoryStore(scratch)
        worker = Worker(store, tasks={source: task})
        try:
            outcome = _Application(worker, request, wanted, epochs, on_work).run()
        finally:
            torch.set_num_threads(before)
        result = folder or Path(scratch) / "result"
        write_result(outcome, store, result)
        return Compressed(
            model=load(result, task.model),
            plan=read_plan(result / "plan.json").plan(),
            certificate=json.loads((result / "certificate.json").read_text()),
            inside_delta=outcome.inside_delta,
            folder=folder,
        )


def read_plan_of(path: Path | str) -> PlanFile:
    """A plan.json, or that of a result folder; PlanError as `read_plan`."""
    path = Path(path)
    return read_plan(path / "plan.json" if path.is_dir() else path)


_Answer = TypeVar("_Answer")


class _Application:
    """The works of a search that has one candidate."""

    def __init__(
        self, worker: Worker, request: Request, plan: Plan, epochs: int, on_work: Callable[[str], None] | None
    ) -> None:
        self._worker = worker
        self._state = State(request, stage="certify", epochs=2 * epochs)
        self._plan = plan
        self._epochs = epochs
        self._on_work = on_work

    def run(self) -> Any:
        """Everything, to the result's files."""
        request = self._state.request
        prepared = self._do(Prepare(request.source, request.seed, request.threads), "the original", Prepared)
        self._state.prepared = prepared
        self._state.warnings += doubts(request, prepared)
        plan = _complete(self._plan, prepared)
        factors = tuple(self._factors(prepared, name, choice) for name, choice in plan.items() if choice != DENSE)
        dense = Plan(tuple((name, DENSE) for name in plan))
        candidate = self._tuned(prepared, plan, factors, "final")
        control = self._tuned(prepared, dense, (), "control")
        self._state.trials = [candidate]
        judged = self._judged(prepared, candidate, control)
        return finish(self._state, prepared, [candidate], control, judged, self._exported(prepared, candidate))

    def _factors(self, prepared: Prepared, layer: str, choice: Choice) -> tuple[str, str, str]:
        """Layer, format and sha256 of its factors."""
        request = self._state.request
        question = SurveyLayer(
            request.source,
            prepared.task,
            prepared.moments,
            layer,
            request.seed,
            request.threads,
            formats=(choice.format,),
            points=0,
        )
        surveyed = self._do(question, f"{layer} as {choice}", Surveyed)
        return layer, choice.format, dict(surveyed.factors)[choice.format]

    def _tuned(self, prepared: Prepared, plan: Plan, factors: tuple[tuple[str, str, str], ...], role: Role) -> Trial:
        request, index = self._state.request, self._state.asked
        question = Evaluate(
            source=request.source,
            task=prepared.task,
            choices=plan.choices,
            factors=factors,
            parent=None,
            epochs=self._epochs,
            rate=1.0,
            tuning_seed=keyed_seed(request.seed, "tune", index),
            seed=request.seed,
            threads=request.threads,
            numerics=prepared.numerics,
        )
        subject = "the compressed network" if role == "final" else "the dense control"
        found = self._do(question, f"{subject}, {self._epochs} epochs" if self._epochs else subject, Evaluated)
        if found.weights is None or found.score is None:
            raise PlanError(
                f"{subject} gives outputs that are not finite; choose higher ranks, or a lower rate in the recipe"
            )
        sign = 1.0 if prepared.higher_is_better else -1.0
        drop = (prepared.baseline - found.score) * sign
        return Trial(
            index,
            role,
            plan.choices,
            None,
            self._epochs,
            self._epochs,
            found.cost,
            drop,
            found.divergence,
            found.weights,
        )

    def _judged(self, prepared: Prepared, candidate: Trial, control: Trial) -> Judged:
        request = self._state.request
        finalist = Tuned(candidate.choices, candidate.weights or "")
        question = Judge(
            source=request.source,
            task=prepared.task,
            finalists=(finalist,),
            control=Tuned(control.choices, control.weights or ""),
            threads=request.threads,
            seed=request.seed,
        )
        return self._do(question, "both on the sealed half", Judged)

    def _exported(self, prepared: Prepared, candidate: Trial) -> ExportsMade:
        """Exports of the candidate; a form that fails is a warning."""
        request = self._state.request
        if not request.exports:
            return NO_EXPORTS
        made = self._do(exporting.question(request, prepared, candidate), "exports", ExportsMade)
        self._state.warnings += [(exporting.REASON, complaint) for complaint in exporting.complaints(made)]
        return made

    def _do(self, question: Any, subject: str, kind: type[_Answer]) -> _Answer:
        if self._on_work:
            self._on_work(subject)
        answer = self._worker.run(Work(self._state.asked, question, subject))
        self._state.asked += 1
        self._state.seconds += getattr(answer, "seconds", 0.0)
        if not isinstance(answer, kind):
            raise TypeError(f"{subject}: a {kind.__name__} was expected, not a {type(answer).__name__}")
        return answer


def _complete(plan: Plan, prepared: Prepared) -> Plan:
    """The plan over every layer that can be compressed.

    Raises:
        PlanError: It compresses layers that must stay dense; says why they must.
    """
    reasons = dict(prepared.left_dense)
    problems = [
        f"layer {name!r}: {choice} is not possible: {reasons[name]}; legal: dense"
        for name, choice in plan.items()
        if choice != DENSE and name in reasons
    ]
    if problems:
        raise PlanError("; ".join(problems))
    return Plan(tuple((spec.name, plan.get(spec.name, DENSE)) for spec, _ in prepared.layers))
