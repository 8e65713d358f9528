"""The worker: does the works that a search asks for, one at a time, and keeps what the next one needs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from diminuendo.engine import bundle, surgery, weights
from diminuendo.engine.bundle import cache
from diminuendo.engine.bundle.archive import BundleError
from diminuendo.engine.cost import Cost
from diminuendo.engine.finetune import Tuning, finetune
from diminuendo.engine.fitting import Asked, fitted
from diminuendo.engine.formats import Moments
from diminuendo.engine.formats.layers import kernel_of
from diminuendo.engine.modules import unwrapped
from diminuendo.engine.phases import phase
from diminuendo.engine.plan import LayerSpec, Plan
from diminuendo.engine.precision import lay_out
from diminuendo.engine.profile import Profile, machine, profile, race_networks
from diminuendo.engine.refit import inherited
from diminuendo.engine.score import Comparison, NotFiniteError, deviation_of, divergence
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.work import (
    OWN,
    Evaluate,
    Evaluated,
    Export,
    ExportsMade,
    Judge,
    Judged,
    LayerTime,
    Option,
    Prepare,
    Prepared,
    ProfileSummary,
    Surveyed,
    SurveyLayer,
    Tuned,
    Verdict,
    Work,
)
from diminuendo.engine.store import SharedStore, is_sha256
from diminuendo.engine.survey import calibrate, factors, flow, moments
from diminuendo.engine.task import Metric, Recipe, Task, TaskError
from diminuendo.engine.workbench import Cache, UserCodeError, Workbench, resolve, user_code

__all__ = ["UserCodeError", "Worker"]

MOMENT_SAMPLES = 4000
"""Training samples for covariances."""


class Worker:
    """Does works. Holds the model, the data and the factors between them; decides nothing.

    Not thread-safe: it sets torch's number of threads to what each work asks for.
    """

    def __init__(
        self, store: SharedStore, *, threads: int | None = None, tasks: Mapping[str, Task] | None = None
    ) -> None:
        """Use a store for weights and factors.

        Args:
            store: Where tensors are put and found.
            threads: Overrides the works' number of threads; outcomes may then differ from other workers'.
            tasks: Tasks in memory by source, beside those that a source names by itself.
        """
        self._store = store
        self._threads = threads
        self._tasks = dict(tasks or {})
        self._cache = Cache(store)
        self._benches: dict[tuple[str, int], Workbench] = {}
        self._moments: dict[str, dict[str, Moments]] = {}

    def run(self, work: Work) -> AnyAnswer:
        """Do a work.

        Raises:
            UserCodeError: The owner's code raised, or the task cannot be worked on.
            ArtifactMissingError: The store lacks weights or factors that the work names.
        """
        question = work.question
        torch.set_num_threads(self._threads or question.threads)
        start = time.perf_counter()
        try:
            bench = self._bench(question.source, question.seed)
            if isinstance(question, Prepare):
                return self._prepare(bench, start)
            if question.task != bench.digest:
                raise TaskError(
                    f"source {question.source!r} is not what it was when the job began (task {question.task[:12]}, now "
                    f"{bench.digest[:12]}); submit a new job"
                )
            if isinstance(question, SurveyLayer):
                return self._survey(bench, question, start)
            if isinstance(question, Evaluate):
                return self._evaluate(bench, question, start, work.parts)
            if isinstance(question, Export):
                return self._export(bench, question, start)
            return self._judge(bench, question, start)
        except TaskError as error:
            raise UserCodeError(str(error), "") from error

    def _bench(self, source: str, seed: int) -> Workbench:
        """The workbench of a source and a split; the last one is kept."""
        if (source, seed) not in self._benches:
            folder = self._fetched(source)
            with user_code(f"building {source!r}"):
                task = bundle.load(folder, source=source) if folder else resolve(source, self._tasks)
                self._benches = {(source, seed): Workbench(task, seed)}
        return self._benches[source, seed]

    def _fetched(self, source: str) -> Path | None:
        """The folder of a stored bundle, which becomes the working folder; None for any other source."""
        sha256 = source.removeprefix("bundle:")
        if source in self._tasks or not is_sha256(sha256):
            return None
        try:
            folder = cache.fetched(self._store, sha256)
        except BundleError as error:
            raise TaskError(str(error)) from error
        os.chdir(folder)  # as on its owner's machine: what it opens by a relative path lies there
        return folder

    def _put(self, content: bytes) -> str:
        """Store content; its sha256."""
        with phase("upload"):
            return self._store.put(content)

    # --- prepare and survey --------------------------------------------------------------------------------

    def _prepare(self, bench: Workbench, start: float) -> Prepared:
        task = bench.task
        with user_code("the network's forward"):
            found = bench.discovery
            figures = profile(bench.model, bench.example, time=False)
        scoring = time.perf_counter()
        baseline = bench.baseline
        score_s = time.perf_counter() - scoring
        with user_code("fine-tuning"):
            pace = bench.pace
        with user_code(f"metric {task.metric.name!r}"):
            deviation = deviation_of(task.metric, bench.values)
        with user_code("the network's forward"):
            seen = moments.collect(bench.model, found.layers, bench.training_inputs(MOMENT_SAMPLES))
            wiring = flow.wiring_of(bench.model, [spec.name for spec in found.layers], bench.example)
        costs = {layer.name: Cost(layer.params, layer.macs) for layer in figures.layers}
        layers = tuple((spec, _dense_cost(spec, costs[spec.name], bench.model)) for spec in found.layers)
        return Prepared(
            task=bench.digest,
            metric=task.metric.name,
            higher_is_better=task.metric.higher_is_better,
            baseline=baseline,
            search_samples=len(bench.search_half),
            sealed_samples=len(bench.sealed_half),
            train_samples=len(bench.train),
            total=figures.cost,
            layers=layers,
            left_dense=found.left_dense,
            moments=self._put(save_tensors(moments.to_tensors(seen))),
            seconds=time.perf_counter() - start,
            own=OWN if bench.recipe.own is None and not pace.weighed else bench.recipe.own,
            epoch_s=pace.step_s * len(bench.train) / bench.recipe.batch_size,
            score_s=score_s,
            numerics=pace.numerics,
            labels=bench.labels(MOMENT_SAMPLES),
            hits=isinstance(task.metric, Metric) and bool(((bench.values == 0.0) | (bench.values == 100.0)).all()),
            deviation=deviation,
            wiring=wiring,
            notes=bench.notes(),
        )

    def _survey(self, bench: Workbench, question: SurveyLayer, start: float) -> Surveyed:
        model = bench.model
        if question.moments not in self._moments:
            self._moments = {question.moments: moments.from_tensors(self._cache.tensors(question.moments))}
        spec = next(layer for layer in bench.discovery.layers if layer.name == question.layer)
        seen, measure = self._moments[question.moments][spec.name], question.points > 0
        made = factors.factor(model, spec, seen, question.formats, paying=measure)
        options: tuple[Option, ...] = ()
        measured: calibrate.Measured = ()
        if measure:
            options, measured = bench.calibration.options(
                spec, made, points=question.points, multiple=question.multiple
            )
        timed: LayerTime | None = None
        if measure and question.latency:
            with user_code("the network's forward"):
                options, timed = bench.timetable.timed(spec, made, options)
        stored = tuple((name, self._put(factors.to_bytes(tensors))) for name, tensors in made.items())
        return Surveyed(spec.name, stored, options, measured, time.perf_counter() - start, timed)

    # --- candidates ----------------------------------------------------------------------------------------

    def _evaluate(self, bench: Workbench, question: Evaluate, start: float, parts: int) -> Evaluated:
        task = bench.task
        with phase("build"):
            model = self._candidate(bench, question, parts)
        cost = _cost_of(model, bench.example)
        if question.parent is None or question.choices != question.parent.choices:
            bench.settle(model)
        recipe = bench.recipe if bench.recipe.own is not None else replace(bench.recipe, own=question.own)
        before = time.perf_counter()
        with phase("train"):
            tuning = self._tune(bench, model, recipe, question, parts)
        tuned_s = time.perf_counter() - before
        if task.fit is None and tuning.samples and not tuning.diverged:
            bench.settle(model)
        seconds = time.perf_counter() - start
        lost = Evaluated(None, None, None, cost, tuning.samples, seconds, seconds - tuned_s)
        if tuning.diverged:
            return lost
        try:
            with phase("score"):
                scores, logits = bench.measure(model, bench.search_half)
                score = bench.value_of(scores)
        except NotFiniteError:  # the original's are finite
            return lost
        apart = divergence(bench.reference, logits)
        if not math.isfinite(apart):
            return lost
        stored = self._put(weights.to_bytes(model))
        seconds = time.perf_counter() - start
        return Evaluated(score, apart, stored, cost, tuning.samples, seconds, seconds - tuned_s)

    def _tune(self, bench: Workbench, model: nn.Module, recipe: Recipe, question: Evaluate, parts: int) -> Tuning:
        """Tune a candidate by the recipe, or by the owner's own loop."""
        task = bench.task
        with user_code("fine-tuning"):
            if not question.numerics.channels_last:
                lay_out(model, channels_last=False)
            if task.fit is not None:
                asked = Asked(question.epochs, question.rate, question.tuning_seed, question.start)
                tuning = fitted(model, task, bench.teacher, recipe, asked, len(bench.train))
            else:
                tuning = finetune(
                    model,
                    bench.teacher,
                    task.loss_of,
                    recipe,
                    epochs=question.epochs,
                    rate=question.rate,
                    seed=question.tuning_seed,
                    start=question.start,
                    optimizer=task.optimizer,
                    scheduler=task.scheduler,
                    bf16=question.numerics.bf16,
                    parts=parts,
                )
            bench.fast(model)
        return tuning

    def _candidate(self, bench: Workbench, question: Evaluate, parts: int) -> nn.Module:
        """The candidate before tuning: from its parent's weights, or from the stored factors, its layers fitted."""
        plan = Plan(question.choices)
        if question.parent is not None and question.parent.choices == question.choices:
            return self._tuned(bench, question.parent)
        candidate = bench.fast(surgery.build(bench.model, plan))
        made = {layer: self._cache.tensors(sha256) for layer, _, sha256 in question.factors}
        if question.parent is None:
            surgery.load_factors(candidate, bench.model, plan, made)
            bench.refit(candidate, bench.model, plan, parts=parts)
            return candidate
        before = Plan(question.parent.choices)
        parent = self._tuned(bench, question.parent)
        weights.load_into(candidate, surgery.warm_start(bench.model, before, parent.state_dict(), plan, made))
        bench.refit(candidate, parent, inherited(before, plan), parts=parts)
        return candidate

    def _tuned(self, bench: Workbench, tuned: Tuned) -> nn.Module:
        """A candidate with its tuned weights."""
        model = bench.fast(surgery.build(bench.model, Plan(tuned.choices)))
        weights.load_into(model, self._cache.tensors(tuned.weights))
        return model.eval()

    # --- the certificate -----------------------------------------------------------------------------------

    def _judge(self, bench: Workbench, question: Judge, start: float) -> Judged:
        task, sealed = bench.task, bench.sealed_half

        def scores(model: nn.Module) -> Tensor:
            with phase("score"):
                return bench.measure(model, sealed)[0]

        def judged(model: nn.Module) -> Verdict:
            found = scores(model)
            with user_code(f"metric {task.metric.name!r}"):
                return against.verdict(found)

        finalists = [self._tuned(bench, tuned) for tuned in question.finalists]
        original = scores(bench.model)
        with user_code(f"metric {task.metric.name!r}"):
            against = Comparison(task.metric, original)
        verdicts = tuple(judged(model) for model in finalists)
        control = judged(self._tuned(bench, question.control))
        networks = [bench.model, *finalists]
        with user_code("the network's forward"):
            figures = [profile(model, bench.example, time=False) for model in networks]
            times = race_networks(networks, bench.example)
        summaries = [_summary(own, bench, ms) for own, ms in zip(figures, times.ms, strict=True)]
        return Judged(
            original=against.original,
            finalists=verdicts,
            control=control,
            original_profile=summaries[0],
            profiles=tuple(summaries[1:]),
            machine=machine(bench.model, bench.example),
            seconds=time.perf_counter() - start,
            time_ratios=times.ratios[1:],
            time_spread=times.spread,
        )

    def _export(self, bench: Workbench, question: Export, start: float) -> ExportsMade:
        from diminuendo.engine.exports import sealed  # here, since the exporters take a second to import

        with phase("export"):
            made = sealed.stored(bench, self._tuned(bench, question.tuned), question.forms, self._store)
        return ExportsMade(made, time.perf_counter() - start)


def _cost_of(model: nn.Module, example: Any) -> Cost:
    return profile(model, example, time=False).cost


def _dense_cost(spec: LayerSpec, counted: Cost, model: nn.Module) -> Cost:
    """Cost of a layer as it is, with what its outputs take of the memory."""
    item_bytes = kernel_of(unwrapped(model).get_submodule(spec.name)).element_size()
    return replace(counted, size_bytes=item_bytes * counted.params, elements=spec.out_channels * spec.positions)


def _summary(figures: Profile, bench: Workbench, time_ms: float) -> ProfileSummary:
    """A profile with the parts of factored layers added up under the original layers' names."""
    found = bench.discovery
    names = [spec.name for spec in found.layers] + [name for name, _ in found.left_dense]
    totals = dict.fromkeys(names, Cost(0, 0))
    for layer in figures.layers:
        owner = next((n for n in names if layer.name == n or layer.name.startswith(n + ".")), None)
        if owner is not None:
            totals[owner] = totals[owner] + Cost(layer.params, layer.macs)
    return ProfileSummary(
        params=figures.params,
        macs=figures.macs,
        size_mb=figures.size_mb,
        memory_mb=figures.memory_mb,
        time_ms=time_ms,
        cost_by_layer=tuple(totals.items()),
    )
