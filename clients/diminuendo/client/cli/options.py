"""Options that several commands share, and the client made from them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from diminuendo.client import contexts, moments
from diminuendo.client.cli.words import budget_of, limits_of, names_of, ratios_of
from diminuendo.client.config import DEFAULT_TARGET, ClientConfig
from diminuendo.client.errors import InvalidArgumentError
from diminuendo.client.types import DEFAULT_DELTA, JobInfo, JobState, check_delta, check_seed

if TYPE_CHECKING:
    from diminuendo.client.client import Client

SUCCEEDED, FAILED, NOTHING_INSIDE = 0, 1, 3

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="HOST:PORT",
        show_default=f"DIMINUENDO_SERVER, the context's, or {DEFAULT_TARGET}",
        help="The server.",
    ),
]
Project = Annotated[
    str | None,
    typer.Option(
        "--project", show_default="DIMINUENDO_PROJECT, the context's, or default", help="Project; list takes - for all."
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="CONTEXT",
        show_default="DIMINUENDO_CONTEXT, or the current one",
        help="Whom to call, by a name of `diminuendo config`.",
    ),
]
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
Tolerance = Annotated[
    str | None,
    typer.Option(
        "--delta",
        metavar="POINTS",
        show_default="1.0 without a target",
        help="Largest loss of the metric: over 0 and up to 100 points.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="FIGURE=MOST",
        show_default=False,
        help="In place of delta: the least loss within so much, e.g. size=1MB, macs=50M.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--formats", metavar="NAMES", help="Forms that layers may take, e.g. svd,tucker2; default: the effort's."
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        "--objective",
        metavar="FIGURE",
        show_default="params",
        help="What gets small: params|macs|size|memory|latency.",
    ),
]
Limit = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="FIGURE=MOST",
        help="The most that a figure may be, e.g. macs=50M, size=1.5 (MB), latency=5 (ms); repeatable.",
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

Export = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        metavar="FORM",
        help="A file to be made of the result: onnx, pt2, torchscript, onnx:fp16, ...; repeatable.",
    ),
]
Deadline = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="TIME",
        help="End with the best model so far at this local time, or after so long: 2030-01-31T18:00, +90m, +2h.",
        show_default=False,
    ),
]

Threads = Annotated[int, typer.Option("--threads", min=1, show_default=True, help="CPU threads.")]
Work = Annotated[
    Path | None,
    typer.Option(
        "--work",
        metavar="DIR",
        help="Folder that keeps what is done: the same command goes on from there when it was stopped.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Empty folder; default ./results/NAME.", show_default=False),
]

Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", metavar="DIR", help="In place of SOURCE: a folder with task.py.", show_default=False),
]


@dataclass(frozen=True, slots=True)
class Remote:
    """Whom a command calls: each field is an option of `remote` commands."""

    server: Server = None
    project: Project = None
    context: Context = None

    def connect(self) -> Client:
        """A client of the server that is asked for; what is wrong with the file of contexts is an error.

        Raises:
            InvalidArgumentError: See `contexts.resolve` and `Client`.
        """
        return connect(self.server, self.project, self.context)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What may be asked of a compression, here or of a server: each field is an option of `wishing` commands."""

    delta: Tolerance = None
    target: Target = None
    effort: Effort = "normal"
    accept: Accept = "estimate"
    seed: Seed = 0
    formats: Formats = None
    objective: Objective = None
    limit: Limit = None
    freeze: Freeze = None
    max_ratio: MaxRatio = None
    multiple: Multiple = 1
    stage: StageNumber = 2
    budget: Budget = None
    export: Export = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that `Client.submit` and the engine's `compress` both take.

        Raises:
            InvalidArgumentError: An option is not of its form.
        """
        return {
            "delta": self._tolerance(),
            "target": limits_of([self.target], "target") if self.target is not None else None,
            "effort": self.effort,
            "accept": self.accept,
            "seed": check_seed(self.seed),
            "formats": names_of(self.formats or ()),
            "objective": self.objective,
            "limits": limits_of(self.limit or ()),
            "freeze": self.freeze or [],
            "max_ratio": ratios_of(self.max_ratio or ()),
            "multiple": self.multiple,
            "stage": self.stage,
            "budget": budget_of(self.budget or ()),
            "exports": names_of(self.export or ()),
        }

    def _tolerance(self) -> float | None:
        """Delta as it is meant; None where a target stands in its place."""
        if self.delta is None:
            return DEFAULT_DELTA if self.target is None else None
        return check_delta(self.delta)


def wishing(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `Wishes`, in the place of its parameter `wishes`."""
    return _with_options(command, "wishes", Wishes)


def remote(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of `Remote`, in the place of its parameter `remote`."""
    return _with_options(command, "remote", Remote)


def _with_options(command: Callable[..., None], place: str, kind: type[Wishes | Remote]) -> Callable[..., None]:
    """The command with an option for each field of `kind`, in the place of a parameter."""
    names = [field.name for field in fields(kind)]
    hints, own = get_type_hints(kind, include_extras=True), inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(f.name, own.parameters[place].kind, default=f.default, annotation=hints[f.name])
        for f in fields(kind)
    ]
    parameters = [p for given in own.parameters.values() for p in (options if given.name == place else [given])]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(**{place: kind(**{name: given.pop(name) for name in names})}, **given)

    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # typer makes options of it
    return run


def connect(
    server: str | None = None,
    project: str | None = None,
    context: str | None = None,
    *,
    config: ClientConfig | None = None,
) -> Client:
    """A client of the server that is asked for, by options, the environment, or a context."""
    from diminuendo.client.client import Client  # gRPC takes a while to import

    found = contexts.resolve(server, project, context)
    return Client(
        found.server,
        project=found.project,
        config=config,
        **asdict(found.access),
    )


def moment(text: str | None) -> datetime | None:
    """A time to come, from ISO 8601 or from how far away it is; InvalidArgumentError for any other."""
    return None if text is None else moments.moment(text)


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
    """How a followed job ends the command: 0 with a model that keeps what was asked, 3 with none, 1 otherwise."""
    if info.state is not JobState.SUCCEEDED or info.result is None:
        return FAILED
    return SUCCEEDED if info.result.inside_delta else NOTHING_INSIDE
