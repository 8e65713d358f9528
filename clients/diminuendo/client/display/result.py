"""The tables of a result: original against compressed, then the plan layer by layer."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diminuendo.client.display import text
from diminuendo.client.display.exports import exports_table
from diminuendo.client.display.folder import Certificate, ResultFolder

EXPORT_FAILED = "EXPORT_FAILED"
"""A warning that the table of exports tells."""


def show_result(console: Console, result: ResultFolder, *, warnings: bool = True) -> None:
    """Print everything that a person wants to know of a result, apart from the folder's line.

    Args:
        console: Where to.
        result: What was read from a folder.
        warnings: Whether to tell them; not where they were shown as they came.
    """
    console.print()
    console.print(comparison(result))
    console.print()
    for line in verdict(result.certificate):
        console.print(line)
    console.print(Text(f"times measured on {text.one_line(result.machine)}", style="dim"))
    console.print()
    console.print(layers(result))
    if result.certificate.exports:
        console.print()
        console.print(exports_table(result.certificate.exports))
    for form, entry in result.certificate.exports.items():
        if entry.error:
            console.print(Text(f"{form} was not exported: {text.one_line(entry.error)}", style="yellow"))
    for name, reason in result.left_dense.items():
        console.print(Text(f"{name} was left as it is: {text.one_line(reason)}", style="dim"))
    told = [each for each in result.certificate.warnings if each[0] != EXPORT_FAILED] if warnings else []
    for reason, message in told:
        console.print(Text(f"warning {reason}: {text.one_line(message)}", style="yellow"))
    console.print()


def comparison(result: ResultFolder) -> Table:
    """Original, compressed and ratio of every figure."""
    certificate, old, new = result.certificate, result.original, result.compressed
    table = _table()
    table.add_column(Text(text.source(result.source)), no_wrap=True)
    for name in ("original", "compressed", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(
        f"{certificate.metric}, sealed half",
        text.points(certificate.original),
        text.points(certificate.compressed),
        f"drop {text.points(certificate.drop)}",
    )
    rows = (
        ("params", old.params, new.params, "{:,}"),
        ("size", old.size_mb, new.size_mb, "{:.3f} MB"),
        ("MACs", old.macs, new.macs, "{:,}"),
        ("memory", old.memory_mb, new.memory_mb, "{:.3f} MB"),
        ("time", old.time_ms, new.time_ms, "{:.3f} ms"),
    )
    for name, before, after, form in rows:
        table.add_row(name, form.format(before), form.format(after), _ratio(before, after))
    return table


def verdict(certificate: Certificate) -> list[Text]:
    """Whether the result is inside delta or target, why, and what the dense control says."""
    low, high = certificate.drop_ci
    judged = "95 % upper bound" if certificate.accept == "strict" else "estimate"
    judged = "" if certificate.delta is None else f" (judged by the {judged})"
    word, style = ("inside", "bold green") if certificate.inside_delta else ("NOT inside", "bold yellow")
    wanted = text.figures(certificate.target) if certificate.delta is None else f"delta {certificate.delta:g}"
    lines = [
        Text.assemble(
            (f"{word} {wanted}", style),
            f": drop {text.points(certificate.drop)} points, 95 % interval"
            f" [{text.points(low)}, {text.points(high)}],"
            f" on {certificate.sealed_samples:,} sealed samples{judged}",
        )
    ]
    if not certificate.inside_delta and certificate.evaluations > 1:  # a plan that was applied is the one asked for
        kind = "delta" if certificate.target == {} else "target"
        lines.append(Text(f"nothing inside {kind} was found: this is the nearest; try a larger {kind} or effort"))
    if certificate.control is not None:
        control = certificate.control
        lines.append(
            Text(
                f"dense control: the original with the same tuning ({control.epochs:g} epochs) scores"
                f" {text.points(control.score)}, drop {text.points(control.drop)}"
            )
        )
    lines.append(
        Text(
            f"{certificate.evaluations:,} evaluations, {certificate.epochs:g} epochs of tuning,"
            f" {text.clock(certificate.seconds)} of evaluators' time, seed {certificate.seed}",
            style="dim",
        )
    )
    return lines


def layers(result: ResultFolder) -> Table:
    """The plan: every layer's form, and its params before and after."""
    table = _table()
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    table.add_column("form", no_wrap=True)
    for name in ("params", "after", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, form in result.forms.items():
        before = result.original.layer_params.get(name)
        after = result.compressed.layer_params.get(name)
        style = "dim" if form == "dense" else ""
        known = before is not None and after is not None
        table.add_row(
            Text(name),
            Text(form),
            "" if before is None else f"{before:,}",
            "" if after is None else f"{after:,}",
            _ratio(before, after) if known and before is not None and after is not None else "",
            style=style,
        )
    return table


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")


def _ratio(before: float, after: float) -> str:
    return text.times(before / after) if after > 0 else "-"
