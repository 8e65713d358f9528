"""`diminuendo logs`: a job's events, one a line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Literal

import typer

from diminuendo.client.cli import options
from diminuendo.client.display import text
from diminuendo.client.errors import DiminuendoError
from diminuendo.client.job import Job
from diminuendo.client.types import (
    AttemptLost,
    EvaluationFinished,
    Event,
    Leased,
    StateChanged,
    StepCommitted,
    Updated,
    WarningRaised,
)

_KINDS: dict[type[Event], str] = {
    StateChanged: "state_changed",
    StepCommitted: "step_committed",
    EvaluationFinished: "evaluation_finished",
    AttemptLost: "attempt_lost",
    WarningRaised: "warning",
    Leased: "leased",
    Updated: "updated",
}
"""As the API calls them."""

Form = Annotated[Literal["text", "json"], typer.Option("--output", show_default=True, help="How to write it.")]


@options.remote
def logs(
    name: options.Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, to the job's end.")] = False,
    since_sequence: Annotated[
        int, typer.Option("--since-sequence", metavar="N", min=0, show_default=True, help="Only events after number N.")
    ] = 0,
    output: Form = "text",
    *,
    remote: options.Remote,
) -> None:
    """Show a job's events: time, number, kind, and what it says; with JSON one object a line."""
    form = _json if output == "json" else _line
    with remote.connect() as client:
        _write(client.job(name), since_sequence, follow, form)


def _write(job: Job, seen: int, follow: bool, form: Callable[[Event], str]) -> None:
    """Write the events after number `seen`: those that there are, or all to the job's end."""
    last = job.info().last_sequence
    if seen >= last and not follow:
        return

    cut = False

    def lost(_: DiminuendoError) -> None:
        nonlocal cut
        if not cut:
            typer.echo("the connection to the server was lost; trying again", err=True)
        cut = True

    with contextlib.closing(job.watch(seen, on_cut=lost)) as events:  # type: ignore[type-var]  # it is a generator
        for event in events:
            cut = False
            typer.echo(form(event))
            if event.sequence >= last and not follow:
                return


def _kind(event: Event) -> str:
    return _KINDS.get(type(event), "unknown")


def _line(event: Event) -> str:
    when = event.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return f"{when}  {event.sequence:>5}  {_kind(event):<19}  {text.one_line(_words(event))}".rstrip()


def _words(event: Event) -> str:
    """What an event says, without its kind."""
    match event:
        case StateChanged():
            return f"{event.state.value}: {event.reason}" if event.reason else event.state.value
        case StepCommitted():
            done = f"{event.progress.works_done}/{event.progress.works_expected}"
            return f"{event.step} {event.progress.stage.value} {done} {event.summary}"
        case EvaluationFinished():
            return _evaluation(event)
        case AttemptLost():
            return f"{event.subject}, attempt {event.attempt} on {event.evaluator}: {event.cause}: {event.detail}"
        case WarningRaised():
            return f"{event.reason}: {event.message}"
        case Leased():
            return f"{event.coordinator}, epoch {event.epoch}"
        case Updated():
            return _update(event)
    return "of a kind that this client is too old to know"


def _evaluation(event: EvaluationFinished) -> str:
    by = f" by {event.evaluator}" if event.evaluator else ""
    tuned = f", {text.epochs(event)} epochs" if event.epochs else ""
    figures = ""
    if event.candidate is not None:
        figures = f": {text.times(event.candidate.params_ratio)} params, drop {text.points(event.candidate.drop)}"
    elif event.kind == "evaluate":
        figures = ": diverged"
    return f"{event.index} {event.kind} {event.subject}{figures}; {text.took(event)}{tuned}{by}"


def _update(event: Updated) -> str:
    values = {
        "labels": ",".join(f"{key}={value}" for key, value in sorted(event.labels.items())) or "none",
        "priority": str(event.priority),
        "deadline": event.deadline.astimezone().isoformat(" ", "seconds") if event.deadline else "none",
    }
    return ", ".join(f"{name} {values.get(name, '')}" for name in event.fields)


def _json(event: Event) -> str:
    """One line, with the fields' names as in the event's class; `event` is its kind, which some have a field for."""
    return json.dumps({"event": _kind(event), **asdict(event)}, default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
