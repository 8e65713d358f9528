"""Exports, measured on the half of the evaluation data that only the certificate sees, as its figures are."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from diminuendo.engine.exports.checking import COMPARED
from diminuendo.engine.exports.forms import Exported, parse_all
from diminuendo.engine.exports.making import Measure, Measured, make
from diminuendo.engine.store import ArtifactStore
from diminuendo.engine.workbench import Workbench


def measure_on(bench: Workbench) -> Measure:
    """Measures a network on the sealed half, against the original there."""
    metric = bench.task.metric

    def value(network: nn.Module) -> float:
        return bench.value_of(bench.measure(network, bench.sealed_half)[0])

    original = value(bench.model)

    def measure(network: nn.Module) -> Measured:
        found = value(network)
        drop = original - found if metric.higher_is_better else found - original
        return Measured(found, drop, len(bench.sealed_half))

    return measure


def stored(
    bench: Workbench, network: nn.Module, forms: Sequence[str], store: ArtifactStore
) -> tuple[tuple[Exported, str | None], ...]:
    """Exports of a network, with their files in a store.

    Args:
        bench: Of the original.
        network: A candidate of it.
        forms: As `forms` has them.
        store: Where the files are put.

    Returns:
        What came of each form, and the sha256 of its file; None where it failed.
    """
    measure, inputs = measure_on(bench), bench.sealed_half.head(COMPARED).inputs
    found: list[tuple[Exported, str | None]] = []
    with tempfile.TemporaryDirectory(prefix="diminuendo-") as scratch:
        folder = Path(scratch)
        for form in parse_all(forms):
            made = make(network, form, folder, inputs, measure=measure)
            sha256 = store.put((folder / made.file).read_bytes()) if made.file else None
            found.append((made, sha256))
            (folder / form.file).unlink(missing_ok=True)
    return tuple(found)
