"""Looks at a task for a few seconds before a job is made of it: what would be done, and what it would cost."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from diminuendo.engine.evaluate import Worker
from diminuendo.engine.plan import DENSE
from diminuendo.engine.search import budget, doubts, feasible
from diminuendo.engine.search.check import RequestError, check
from diminuendo.engine.search.rng import keyed
from diminuendo.engine.search.settings import EFFORTS
from diminuendo.engine.search.state import Request
from diminuendo.engine.search.work import Evaluate, Evaluated, Prepare, Prepared, Surveyed, SurveyLayer, Work
from diminuendo.engine.store import DirectoryStore
from diminuendo.engine.task import Data, Samples, Task, TaskError
from diminuendo.engine.usercode import UserCodeError

MOST_SAMPLES = 2000
"""Of training and of evaluation data that are looked at, where samples can be picked."""

SURVEY_S = 4.0
TUNING_S = 3.0
"""How long layers are surveyed, and a candidate is tuned, about."""


@dataclass(frozen=True, slots=True)
class CheckedLayer:
    """A layer that can be compressed, and its params and MACs."""

    name: str
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class Checkup:
    """What a job on a task would do and cost.

    Attributes:
        name: Of the task.
        metric: Its name.
        baseline: The original's metric on the samples that were looked at, in its own points.
        higher_is_better: The metric's direction.
        looked_at: Evaluation samples that the baseline is of; fewer than there are where there are many.
        train_samples: Of a pass over the training data.
        evaluation_samples: All of them; half steers the search, half is sealed.
        params: Of the original.
        macs: Of the original, for one sample.
        layers: That can be compressed.
        left_dense: (layer, reason) of those with weights that cannot.
        epoch_s: Seconds of a pass of fine-tuning, on this machine.
        evaluation_s: Seconds of one candidate's usual tuning and scoring.
        survey_s: Seconds of the survey, about.
        evaluations: The most candidates that the job tunes.
        minutes: The most that the job takes on one evaluator like this machine, about.
        warnings: (reason, message) of what its owner should know.
    """

    name: str
    metric: str
    baseline: float
    higher_is_better: bool
    looked_at: int
    train_samples: int
    evaluation_samples: int
    params: int
    macs: int
    layers: tuple[CheckedLayer, ...]
    left_dense: tuple[tuple[str, str], ...]
    epoch_s: float
    evaluation_s: float
    survey_s: float
    evaluations: int
    minutes: float
    warnings: tuple[tuple[str, str], ...]


def examine(task: Task, request: Request, *, on_work: Callable[[str], None] = lambda subject: None) -> Checkup:
    """Do a little of everything that a job does, on some of the data.

    Args:
        task: Its source is the request's.
        request: As for the job.
        on_work: Told what is about to be done.

    Raises:
        TaskError: The task or the request is not usable.
        UserCodeError: The task's own code raised, or there is nothing that a job could do.
    """
    try:
        check(request)
    except RequestError as error:
        raise TaskError(str(error)) from error
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
        try:
            worker = Worker(DirectoryStore(scratch), tasks={request.source: _some(task)})
            return _Examination(task, request, worker, on_work).run()
        finally:
            torch.set_num_threads(before)


class _Examination:
    """The first works of a job, in small."""

    def __init__(self, task: Task, request: Request, worker: Worker, on_work: Callable[[str], None]) -> None:
        self._task, self._request, self._worker, self._on_work = task, request, worker, on_work
        self._index = 0

    def run(self) -> Checkup:
        request = self._request
        prepared = self._do(Prepare(request.source, request.seed, request.threads), "the original network", Prepared)
        complaint = doubts.hopeless(prepared) or feasible.misnamed(request, prepared)
        if complaint or not prepared.layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in prepared.left_dense) or "none has weights"
            raise UserCodeError(complaint or f"model: it has no layer that can be compressed ({why})", "")
        train, evaluation = (length(data) for data in (self._task.train, self._task.evaluation))
        counts = train or prepared.train_samples, evaluation or prepared.search_samples + prepared.sealed_samples
        survey_s = prepared.seconds + self._survey_s(prepared)
        epoch_s = prepared.epoch_s * counts[0] / prepared.train_samples
        beside_s = self._tuned(prepared) * counts[1] / (prepared.search_samples + prepared.sealed_samples)
        whole = budget.forecast(request, EFFORTS[request.effort])
        seconds = survey_s + whole.epochs * epoch_s + whole.evaluations * beside_s
        return Checkup(
            name=self._task.name,
            metric=prepared.metric,
            baseline=prepared.baseline,
            higher_is_better=prepared.higher_is_better,
            looked_at=prepared.search_samples,
            train_samples=counts[0],
            evaluation_samples=counts[1],
            params=prepared.total.params,
            macs=prepared.total.macs,
            layers=tuple(CheckedLayer(spec.name, cost.params, cost.macs) for spec, cost in prepared.layers),
            left_dense=prepared.left_dense,
            epoch_s=epoch_s,
            evaluation_s=beside_s + epoch_s * whole.epochs / max(1, whole.evaluations),
            survey_s=survey_s,
            evaluations=whole.evaluations,
            minutes=min(seconds / 60, budget.of(request, "minutes")),
            warnings=tuple(doubts.doubts(request, prepared)),
        )

    def _survey_s(self, prepared: Prepared) -> float:
        """Seconds that all layers take, from those of some."""
        request, start, done = self._request, time.perf_counter(), 0
        order = sorted(prepared.layers, key=lambda entry: entry[1].params)
        picked = [order[len(order) // 2], *(entry for entry in order if entry is not order[len(order) // 2])]
        formats = request.formats or EFFORTS[request.effort].formats
        for spec, _ in picked:
            question = SurveyLayer(
                request.source,
                prepared.task,
                prepared.moments,
                spec.name,
                request.seed,
                request.threads,
                formats=tuple(formats),
                multiple=request.multiple,
            )
            self._do(question, f"layer {spec.name}", Surveyed)
            done += 1
            if time.perf_counter() - start > SURVEY_S:
                break
        return (time.perf_counter() - start) * len(picked) / done

    def _tuned(self, prepared: Prepared) -> float:
        """Tune the original a little; seconds of what is not tuning: building and scoring."""
        request = self._request
        epochs = min(1.0, TUNING_S / prepared.epoch_s) if prepared.epoch_s else 1.0
        question = Evaluate(
            source=request.source,
            task=prepared.task,
            choices=tuple((spec.name, DENSE) for spec, _ in prepared.layers),
            factors=(),
            parent=None,
            epochs=epochs,
            rate=1e-3,
            tuning_seed=0,
            seed=request.seed,
            threads=request.threads,
            numerics=prepared.numerics,
        )
        found = self._do(question, "a little fine-tuning", Evaluated)
        if found.score is None:
            raise UserCodeError(
                "fine-tuning: the loss, or what the network gives after a few steps, is not finite; check the loss, "
                "the optimizer's rate, and the training data",
                "",
            )
        return float(found.beside_s)

    def _do(self, question: Any, subject: str, kind: type[Any]) -> Any:
        self._on_work(subject)
        answer = self._worker.run(Work(self._index, question, subject))
        self._index += 1
        if not isinstance(answer, kind):
            raise TypeError(f"{subject}: a {kind.__name__} was expected, not a {type(answer).__name__}")
        return answer


def _some(task: Task) -> Task:
    """The task on some of its data."""
    return replace(task, train=_part(task.train), evaluation=_part(task.evaluation))


def _part(data: Data) -> Data:
    """A fixed random choice of samples; all of them where they cannot be picked one by one."""
    count = length(data)
    if count is None or count <= MOST_SAMPLES:
        return data
    order = keyed(0, "some samples").permutation(count)[:MOST_SAMPLES]
    if isinstance(data, Samples):
        return data.take(torch.from_numpy(order.copy()))
    places = order.tolist()
    if not isinstance(data, DataLoader):
        return Subset(data, places)
    if not _plain(data):
        return data
    return DataLoader(
        Subset(data.dataset, places),
        batch_size=data.batch_size,
        shuffle=True,
        num_workers=data.num_workers,
        collate_fn=data.collate_fn,
        drop_last=data.drop_last,
        worker_init_fn=data.worker_init_fn,
    )


def _plain(loader: DataLoader[Any]) -> bool:
    """Whether a loader reads its dataset by index, as torch's own samplers have it."""
    samplers = (torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler)
    return type(loader) is DataLoader and loader.batch_size is not None and isinstance(loader.sampler, samplers)


def length(data: Data) -> int | None:
    """Samples of a pass; None where that takes reading them."""
    whole = data.dataset if isinstance(data, DataLoader) else data
    try:
        return len(whole)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None
