"""What the search asks of evaluators, and what comes back. Plain data; imports no torch.

A `Work` is one question with a key, the sha256 of everything that its outcome depends on. Outcomes hold only
small records: weights and factors stay in the artifact store under their sha256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from diminuendo.engine.cost import Cost
from diminuendo.engine.plan import FORMAT_NAMES, Choice, LayerSpec

ENGINE_REVISION = 3
"""Raised whenever the same work would give another outcome than before; part of every key."""

Choices = tuple[tuple[str, Choice], ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Profile the original, score it on the search half, take covariances over training samples."""

    source: str
    seed: int
    threads: int
    kind: Literal["prepare"] = "prepare"


@dataclass(frozen=True, slots=True)
class SurveyLayer:
    """Factor one layer in the formats that have a form of it, and calibrate each factorisation.

    Attributes:
        formats: Names of the formats to consider.
        points: Measurements of the damage for each format; 0: only factors are wanted, no options come back.
        multiple: What ranks between the ends of a format's ladder are multiples of.
    """

    source: str
    task: str
    moments: str
    layer: str
    seed: int
    threads: int
    formats: tuple[str, ...] = FORMAT_NAMES
    points: int = 4
    multiple: int = 1
    kind: Literal["survey"] = "survey"


@dataclass(frozen=True, slots=True)
class Tuned:
    """A candidate whose weights are in the store: where another one may start from."""

    choices: Choices
    weights: str


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Build a plan, from the stored factors or from a parent's tuned weights, tune it, score it.

    Attributes:
        factors: For every layer that is not dense: (layer, format, sha256 of its factors).
        epochs: Epochs of fine-tuning over the training data; 0 only re-estimates BatchNorm.
        rate: Peak learning rate, relative to the recipe's.
        seed: The job's seed, which the evaluation data is split by.
        tuning_seed: Seed of this tuning's order of samples and augmentation.
    """

    source: str
    task: str
    choices: Choices
    factors: tuple[tuple[str, str, str], ...]
    parent: Tuned | None
    epochs: int
    rate: float
    tuning_seed: int
    seed: int
    threads: int
    kind: Literal["evaluate"] = "evaluate"


@dataclass(frozen=True, slots=True)
class Judge:
    """Score finalists, the original and the dense control on the sealed half, once."""

    source: str
    task: str
    finalists: tuple[Tuned, ...]
    control: Tuned
    threads: int
    seed: int
    kind: Literal["judge"] = "judge"


Question = Annotated[Prepare | SurveyLayer | Evaluate | Judge, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Outcome of `Prepare`.

    Attributes:
        task: sha256 over the network's weights, the data and their split.
        metric: Name of the metric, in points.
        baseline: The original's metric on the search half, in points.
        total: Cost of the original network.
        layers: Every layer that can be compressed, in the network's order, with its dense cost.
        left_dense: (layer, reason) for layers with weights that cannot.
        moments: sha256 of the covariances.
    """

    task: str
    metric: str
    higher_is_better: bool
    baseline: float
    search_samples: int
    sealed_samples: int
    train_samples: int
    total: Cost
    layers: tuple[tuple[LayerSpec, Cost], ...]
    left_dense: tuple[tuple[str, str], ...]
    moments: str
    seconds: float
    kind: Literal["prepared"] = "prepared"


@dataclass(frozen=True, slots=True)
class Option:
    """One form that a layer could take.

    Attributes:
        energy: Share of the layer's output variance on the data that this form is expected to drop, 0 to 1.
        damage: KL divergence to the original, in nats per sample, when only this layer takes this form and
            BatchNorm is re-estimated; from the calibrated monotone curve.
    """

    choice: Choice
    cost: Cost
    energy: float
    damage: float


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Outcome of `SurveyLayer`.

    Attributes:
        factors: (format, sha256) of the factors in the store.
        options: Forms of this layer other than dense, by format and then by cost.
        measured: (format, ranks, KL) as measured for the calibration.
    """

    layer: str
    factors: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    measured: tuple[tuple[str, tuple[int, ...], float], ...]
    seconds: float
    kind: Literal["surveyed"] = "surveyed"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Outcome of `Evaluate`. A candidate that diverged has no score, no divergence and no weights.

    Attributes:
        score: Metric on the search half, in points.
        divergence: KL divergence to the original on the search half, in nats per sample.
        weights: sha256 of the tuned state dict.
        cost: Cost of the candidate as built.
    """

    score: float | None
    divergence: float | None
    weights: str | None
    cost: Cost
    samples: int
    seconds: float
    kind: Literal["evaluated"] = "evaluated"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One network on the sealed half: metric, and drop against the original with its 95 % interval."""

    score: float
    drop: float
    drop_low: float
    drop_high: float


@dataclass(frozen=True, slots=True)
class ProfileSummary:
    """A network by the rules of the profiler: see `diminuendo.engine.profile`."""

    params: int
    macs: int
    size_mb: float
    memory_mb: float
    time_ms: float
    cost_by_layer: tuple[tuple[str, Cost], ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """Outcome of `Judge`: finalists in the order asked."""

    original: float
    finalists: tuple[Verdict, ...]
    control: Verdict
    original_profile: ProfileSummary
    profiles: tuple[ProfileSummary, ...]
    machine: str
    seconds: float
    kind: Literal["judged"] = "judged"


FailureReason = Literal["USER_CODE", "OUT_OF_MEMORY", "EVALUATOR_LOST", "TIMEOUT", "INTERNAL"]


@dataclass(frozen=True, slots=True)
class Failed:
    """A work that cannot be done, whoever tries: ends the job."""

    reason: FailureReason
    message: str
    traceback: str = ""
    kind: Literal["failed"] = "failed"


Answer = Annotated[Prepared | Surveyed | Evaluated | Judged | Failed, Field(discriminator="kind")]

QUESTION: TypeAdapter[Prepare | SurveyLayer | Evaluate | Judge] = TypeAdapter(Question)
ANSWER: TypeAdapter[Prepared | Surveyed | Evaluated | Judged | Failed] = TypeAdapter(Answer)


@dataclass(frozen=True, slots=True)
class Work:
    """A question in proposal order.

    Attributes:
        index: 0, 1, 2, ... within the job; answers are applied in this order.
        subject: What it is about, for a person.
    """

    index: int
    question: Prepare | SurveyLayer | Evaluate | Judge
    subject: str

    @property
    def key(self) -> str:
        """sha256 of the question and the engine's revision: everything that the outcome depends on."""
        return hashlib.sha256(b"%d:" % ENGINE_REVISION + QUESTION.dump_json(self.question)).hexdigest()


def answer_to_bytes(answer: Prepared | Surveyed | Evaluated | Judged | Failed) -> bytes:
    """An outcome as it is stored: UTF-8 JSON."""
    return ANSWER.dump_json(answer)


def answer_from_bytes(data: bytes) -> Prepared | Surveyed | Evaluated | Judged | Failed:
    """The outcome back; pydantic.ValidationError when the bytes are of another version."""
    return ANSWER.validate_json(data)
