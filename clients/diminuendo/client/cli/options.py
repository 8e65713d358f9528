"""Options that several commands share, and the client made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from diminuendo.client.client import Client
from diminuendo.client.config import DEFAULT_TARGET
from diminuendo.client.errors import InvalidArgumentError
from diminuendo.client.types import JobInfo, JobState

SUCCEEDED, FAILED, NOTHING_INSIDE = 0, 1, 3

Server = Annotated[
    str, typer.Option("--server", envvar="DIMINUENDO_SERVER", show_default=True, help="HOST:PORT of the server.")
]
Project = Annotated[str, typer.Option("--project", show_default=True, help="Project of the job.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Id or full name of the job.", show_default=False)]
Output = Annotated[Literal["table", "json"], typer.Option("--output", show_default=True, help="How to write it.")]
Delta = Annotated[
    str,
    typer.Option(
        "--delta", metavar="POINTS", show_default=True, help="Largest loss of the metric: over 0 and up to 100 points."
    ),
]
Effort = Annotated[
    Literal["quick", "normal", "deep"], typer.Option("--effort", show_default=True, help="How much to search.")
]
Accept = Annotated[
    Literal["estimate", "strict"],
    typer.Option("--accept", show_default=True, help="What must be inside delta: the drop, or its 95 % upper bound."),
]
Seed = Annotated[int, typer.Option("--seed", show_default=True, help="Seed of every random choice.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", help="Trained weights of a zoo network (safetensors).", show_default=False
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="Folder of train-*.parquet and test-*.parquet.", show_default=False),
]
Objective = Annotated[
    str,
    typer.Option("--objective", metavar="FIGURE", show_default=True, help="What gets small: params|macs|size|memory."),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="FIGURE=MOST",
        help="The most that a figure may be, e.g. macs=50M, size=1.5 (MB); repeatable.",
    ),
]
Freeze = Annotated[
    list[str] | None,
    typer.Option("--freeze", metavar="PATTERN", help="Layers that stay dense, e.g. 'layer1.*'; repeatable."),
]
MaxRatio = Annotated[
    list[str] | None,
    typer.Option("--max-ratio", metavar="PATTERN=RATIO", help="Most by which layers may shrink; repeatable."),
]
Multiple = Annotated[int, typer.Option("--multiple", show_default=True, help="What ranks are multiples of.")]
StageNumber = Annotated[
    int, typer.Option("--stage", metavar="<1|2>", show_default=True, help="1: stop after exploration; 2: anneal too.")
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget", metavar="KIND=MOST", help="evaluations=N, epochs=N or minutes=N; the best so far comes back."
    ),
]

Threads = Annotated[int, typer.Option("--threads", min=1, show_default=True, help="CPU threads.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Empty folder; default ./results/NAME.", show_default=False),
]

SERVER = DEFAULT_TARGET


def connect(server: str, project: str) -> Client:
    """A client of the server that was asked for."""
    return Client(server, project=project)


def labels_of(words: list[str]) -> dict[str, str]:
    """Labels from ``key=value`` words; InvalidArgumentError for any other."""
    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise InvalidArgumentError.of("label", f"{word!r} is not KEY=VALUE; for example team=vision")
        labels[key] = value
    return labels


def exit_code(info: JobInfo) -> int:
    """How a followed job ends the command: 0 with a model inside delta, 3 with none, 1 otherwise."""
    if info.state is not JobState.SUCCEEDED or info.result is None:
        return FAILED
    return SUCCEEDED if info.result.inside_delta else NOTHING_INSIDE
