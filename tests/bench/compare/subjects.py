"""The networks that the search benchmarks run on, each with its search space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tests.bench import midsize
from tests.engine.tasks import held

from diminuendo.engine import zoo
from diminuendo.engine.search.work import OWN
from diminuendo.engine.task import Task

SubjectName = Literal["digits", "midsize"]

FORMATS = ("svd", "tucker2", "cp")
"""Forms that layers may take, for every method alike."""


@dataclass(frozen=True)
class Subject:
    """A network to compress.

    Attributes:
        source: What its works are asked under, as `compress` does.
        samples: Training images of an epoch.
        widest: The largest params ratio that is worth drawing.
    """

    name: SubjectName
    source: str
    task: Task
    samples: int
    widest: float


def subject(name: SubjectName, *, data: Path, samples: int) -> Subject:
    """A network by its name.

    Args:
        data: Folder of CIFAR-100's parquet files; digits bring their own.
        samples: Training images of an epoch of the mid-size network.
    """
    if name == "digits":
        task = _fixed(zoo.task("digits"))
        return Subject(name, "zoo:digits", task, len(held(task.train)), 64.0)
    return Subject(name, "task:midsize", _fixed(midsize.task(data, samples=samples)), samples, 16.0)


def _fixed(task: Task) -> Task:
    """The task with the weight of its loss settled: no method spends epochs on finding it."""
    return replace(task, recipe=replace(task.recipe, own=OWN))
