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
from diminuendo.engine.exports.forms import Exported
from diminuendo.engine.plan import FORMAT_NAMES, Choice, LayerSpec
from diminuendo.engine.search.wiring import Wiring

ENGINE_REVISION = 15
"""Raised whenever the same work would give another outcome than before; part of every key."""

OWN, OWN_RIVAL = 0.03, 1.0
"""Weight of the owner's loss beside the distillation, and the other one that a search tries."""

Choices = tuple[tuple[str, Choice], ...]


@dataclass(frozen=True, slots=True)
class Numerics:
    """How a tuning computes. Scoring is in the weights' own type always.

    Attributes:
        dtype: Of the weights.
        bf16: Whether forwards are under bfloat16's autocast.
        channels_last: Order of the weights of a network on images.
    """

    dtype: str = "float32"
    bf16: bool = False
    channels_last: bool = True

    def __str__(self) -> str:
        """For people, e.g. ``float32, channels_last``."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{'bfloat16 autocast' if self.bf16 else self.dtype}, {layout}"


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
        latency: Whether the layer and its forms are to be timed.
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
    latency: bool = False
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
        epochs: Passes of fine-tuning over the training data, or a part of one; 0 only re-estimates BatchNorm.
        rate: Peak learning rate, relative to the recipe's.
        seed: The job's seed, which the evaluation data is split by.
        tuning_seed: Seed of this tuning's order of samples.
        start: Epochs that the parent's weights have had: the data goes on where they ended.
        own: Weight of the owner's loss, where the recipe says none.
        numerics: How it is tuned, as prepared.
    """

    source: str
    task: str
    choices: Choices
    factors: tuple[tuple[str, str, str], ...]
    parent: Tuned | None
    epochs: float
    rate: float
    tuning_seed: int
    seed: int
    threads: int
    start: float = 0.0
    numerics: Numerics = Numerics()
    own: float = OWN
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


@dataclass(frozen=True, slots=True)
class Export:
    """Export a tuned candidate, run each file, and compare it on the sealed half.

    Attributes:
        forms: As `exports.forms` has them.
    """

    source: str
    task: str
    tuned: Tuned
    forms: tuple[str, ...]
    seed: int
    threads: int
    kind: Literal["export"] = "export"


Question = Annotated[Prepare | SurveyLayer | Evaluate | Judge | Export, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of targets that are class indices.

    Attributes:
        classes: That the network tells apart.
        majority: Share of the search half that is of its commonest class.
        unseen: Classes of the training data or the sealed half that the search half has no samples of.
        unjudged: Classes of the training data or the search half that the sealed half has no samples of.
        top1: Whether the metric is how often the largest logit is the target's.
    """

    classes: int
    majority: float
    unseen: tuple[int, ...] = ()
    unjudged: tuple[int, ...] = ()
    top1: bool = True


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
        wiring: Which layers feed which.
        own: Weight of the owner's loss as the recipe has it; None: to be found.
        epoch_s: Seconds that an epoch of tuning the original takes, about: its steps alone.
        score_s: Seconds that scoring it on the search half took.
        numerics: How tuning is fastest where this was prepared, and so how every candidate is tuned.
        labels: None where targets are no class indices.
        hits: Whether each sample's value of the metric is 0 or 100.
        deviation: Standard deviation of the original's values on the search half, in points; where the metric is no
            mean of values, its standard error times the root of the number of samples.
        notes: (reason in UPPER_SNAKE_CASE, message) of what the owner should know.
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
    epoch_s: float = 0.0
    score_s: float = 0.0
    numerics: Numerics = Numerics()
    own: float | None = None
    labels: Labels | None = None
    hits: bool = False
    deviation: float = 0.0
    wiring: Wiring = ()
    notes: tuple[tuple[str, str], ...] = ()
    kind: Literal["prepared"] = "prepared"


@dataclass(frozen=True, slots=True)
class Option:
    """One form that a layer could take.

    Attributes:
        energy: Share of the layer's output variance on the data that this form is expected to drop, 0 to 1.
        damage: KL divergence to the original, in nats per sample, when only this layer takes this form and both
            networks' BatchNorms after it go by the batch's statistics; from the calibrated monotone curve.
    """

    choice: Choice
    cost: Cost
    energy: float
    damage: float


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A layer timed in the original network, both in the same runs. Options' latencies are relative to it.

    Attributes:
        dense_ns: Of the layer, over all its calls in a forward of one sample.
        whole_ns: Of the whole forward.
        spread: How far the measurements were apart, 0.1 is 10 %.
        machine: What they were made on.
    """

    dense_ns: int
    whole_ns: int
    spread: float
    machine: str


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Outcome of `SurveyLayer`.

    Attributes:
        factors: (format, sha256) of the factors in the store.
        options: Forms of this layer other than dense, by format and then by cost.
        measured: (format, ranks, KL) as measured for the calibration.
        time: Of the layer itself; None where it was not asked for.
    """

    layer: str
    factors: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    measured: tuple[tuple[str, tuple[int, ...], float], ...]
    seconds: float
    time: LayerTime | None = None
    kind: Literal["surveyed"] = "surveyed"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Outcome of `Evaluate`. A candidate that diverged has no score, no divergence and no weights.

    Attributes:
        score: Metric on the search half, in points.
        divergence: KL divergence to the original on the search half, in nats per sample.
        weights: sha256 of the tuned state dict.
        cost: Cost of the candidate as built.
        beside_s: Those of the seconds that were not for tuning: it was built, scored and stored. 0 where not known.
    """

    score: float | None
    divergence: float | None
    weights: str | None
    cost: Cost
    samples: int
    seconds: float
    beside_s: float = 0.0
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
    """Outcome of `Judge`: finalists in the order asked.

    Attributes:
        machine: What the times of the profiles were measured on.
        time_ratios: How many times as fast as the original each finalist is, whole and side by side.
        time_spread: How far those were apart from round to round, 0.1 is 10 %.
    """

    original: float
    finalists: tuple[Verdict, ...]
    control: Verdict
    original_profile: ProfileSummary
    profiles: tuple[ProfileSummary, ...]
    machine: str
    seconds: float
    time_ratios: tuple[float, ...] = ()
    time_spread: float = 0.0
    kind: Literal["judged"] = "judged"


@dataclass(frozen=True, slots=True)
class ExportsMade:
    """Outcome of `Export`.

    Attributes:
        made: In the order asked: what came of each form, and the sha256 of its file; None where it failed.
    """

    made: tuple[tuple[Exported, str | None], ...]
    seconds: float
    kind: Literal["exported"] = "exported"


FailureReason = Literal[
    "USER_CODE", "OUT_OF_MEMORY", "GPU_OUT_OF_MEMORY", "EVALUATOR_LOST", "TIMEOUT", "ARTIFACT_MISSING", "INTERNAL"
]


@dataclass(frozen=True, slots=True)
class Failed:
    """A work that cannot be done, whoever tries: ends the job."""

    reason: FailureReason
    message: str
    traceback: str = ""
    kind: Literal["failed"] = "failed"


AnyAnswer = Prepared | Surveyed | Evaluated | Judged | ExportsMade | Failed
AnyQuestion = Prepare | SurveyLayer | Evaluate | Judge | Export
Answer = Annotated[AnyAnswer, Field(discriminator="kind")]

QUESTION: TypeAdapter[AnyQuestion] = TypeAdapter(Question)
ANSWER: TypeAdapter[AnyAnswer] = TypeAdapter(Answer)


@dataclass(frozen=True, slots=True)
class Work:
    """A question in proposal order.

    Attributes:
        index: 0, 1, 2, ... within the job; answers are applied in this order.
        subject: What it is about, for a person.
        parts: Micro-batches of each step of tuning: more take less memory. No part of the key: it is the same work.
    """

    index: int
    question: AnyQuestion
    subject: str
    parts: int = 1

    @property
    def key(self) -> str:
        """sha256 of the question and the engine's revision: everything that the outcome depends on."""
        return hashlib.sha256(b"%d:" % ENGINE_REVISION + QUESTION.dump_json(self.question)).hexdigest()


def artifacts_of(answer: AnyAnswer) -> tuple[str, ...]:
    """sha256s of what an outcome has in the artifact store, without which it is of no use."""
    if isinstance(answer, Prepared):
        return (answer.moments,)
    if isinstance(answer, Surveyed):
        return tuple(sha256 for _, sha256 in answer.factors)
    if isinstance(answer, Evaluated) and answer.weights is not None:
        return (answer.weights,)
    if isinstance(answer, ExportsMade):
        return tuple(sha256 for _, sha256 in answer.made if sha256 is not None)
    return ()


def answer_to_bytes(answer: AnyAnswer) -> bytes:
    """An outcome as it is stored: UTF-8 JSON."""
    return ANSWER.dump_json(answer)


def answer_from_bytes(data: bytes) -> AnyAnswer:
    """The outcome back; pydantic.ValidationError when the bytes are of another version."""
    return ANSWER.validate_json(data)
