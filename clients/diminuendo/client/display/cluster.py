"""What computes, as tables: coordinators, their nodes, and what each evaluator does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from diminuendo.client.cluster import Cluster, ClusterNode, Coordinator, Evaluator, EvaluatorState
from diminuendo.client.display import text

NOBODY = (
    "nothing computes: no coordinator has been heard of for 15 s; start one with `diminuendo coordinator`, or a whole "
    "server with `diminuendo serve`"
)
STYLES = {
    EvaluatorState.BUSY: "cyan",
    EvaluatorState.IDLE: "dim",
    EvaluatorState.STARTING: "yellow",
    EvaluatorState.LOST: "red",
}


def cluster_view(cluster: Cluster, now: datetime) -> RenderableType:
    """Everything that computes.

    Args:
        cluster: As the server told.
        now: For how long things have been as they are.
    """
    if not cluster.coordinators:
        return Text(NOBODY)
    parts: list[RenderableType] = []
    for coordinator in cluster.coordinators:
        parts += [*([Text()] if parts else []), *_coordinator(coordinator, now)]
    return Group(*parts)


def counts(evaluators: Iterable[Evaluator]) -> str:
    """Evaluators by what they do: ``2 busy, 1 idle``."""
    states = [evaluator.state for evaluator in evaluators]
    found = [f"{number} {state.value.lower()}" for state in EvaluatorState if (number := states.count(state))]
    return ", ".join(reversed(found))


def doing(evaluator: Evaluator) -> str:
    """What an evaluator works on: ``evaluate #12 first 7.5x, attempt 2``; empty when it has no work."""
    subject = text.one_line(evaluator.subject)
    if evaluator.state is not EvaluatorState.BUSY:
        return f"for {subject}" if subject else ""
    again = f", attempt {evaluator.attempt}" if evaluator.attempt > 1 else ""
    return f"{text.one_line(evaluator.kind)} #{evaluator.index} {subject}{again}"


def for_s(evaluator: Evaluator, now: datetime) -> str:
    """For how long an evaluator has been at what it does."""
    return "" if evaluator.since is None else text.clock(max(0.0, (now - evaluator.since).total_seconds()))


def _coordinator(coordinator: Coordinator, now: datetime) -> Iterator[RenderableType]:
    up = "" if coordinator.start_time is None else text.clock((now - coordinator.start_time).total_seconds())
    facts = [
        f"version {text.one_line(coordinator.version)}",
        f"ray {text.one_line(coordinator.ray_address)}",
        *([f"up {up}"] if up else []),
        f"{len(coordinator.jobs)} {'job' if len(coordinator.jobs) == 1 else 'jobs'}",
        f"{coordinator.works_waiting} works waiting",
    ]
    yield Text.assemble((f"coordinator {text.one_line(coordinator.name)}", "bold"), "  ", ", ".join(facts))
    if coordinator.nodes:
        yield _nodes(coordinator.nodes)
    if coordinator.evaluators:
        yield _evaluators(coordinator.evaluators, now)
    yield Text(f"{len(coordinator.evaluators)} evaluators: {counts(coordinator.evaluators) or 'none'}")


def _nodes(nodes: Iterable[ClusterNode]) -> Table:
    table = _table("node", "state")
    for name in ("CPUs", "GPUs", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for node in nodes:
        state = Text("alive", style="green") if node.alive else Text("gone", style="red")
        memory = f"{node.memory_bytes / 2**30:.1f} GB" if node.memory_bytes else ""
        table.add_row(Text(text.one_line(node.name)), state, f"{node.cpus:g}", f"{node.gpus:g}", memory)
    return table


def _evaluators(evaluators: Iterable[Evaluator], now: datetime) -> Table:
    table = _table("evaluator", "state")
    table.add_column("for", justify="right", no_wrap=True)
    table.add_column("node", no_wrap=True, overflow="ellipsis")
    table.add_column("has", no_wrap=True)
    table.add_column("job", overflow="ellipsis")  # these two give way where there is no room
    table.add_column("work", overflow="ellipsis")
    for one in evaluators:
        working = one.state is not EvaluatorState.IDLE
        cells = [
            Text(text.one_line(one.name)),
            Text(one.state.value.lower(), style=STYLES.get(one.state, "")),
            Text(for_s(one, now)),
            Text(text.one_line(one.node)),
            Text(f"{one.gpus:g} GPU" if one.gpus else f"{one.cpus:g} CPU"),
            Text(_short(text.one_line(one.job)) if working else "", no_wrap=True, overflow="ellipsis"),
            Text(doing(one), no_wrap=True, overflow="ellipsis"),
        ]
        table.add_row(*cells)
    return table


def _short(job: str) -> str:
    """``default/a`` of ``projects/default/jobs/a``: there is little room."""
    parts = job.split("/")
    return f"{parts[1]}/{parts[3]}" if len(parts) == 4 else job


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in names:
        table.add_column(name, no_wrap=True)
    return table
