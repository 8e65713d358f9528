"""Where the number of samples lies among the sizes of a reshape: cases by hand."""

from __future__ import annotations

import pytest

from diminuendo.engine.foreign.fixed import open_dimension


@pytest.mark.parametrize(
    ("before", "varying", "after", "batch", "place"),
    [
        ((1, 64, 7, 7), 0, (1, 3136), 1, 0),  # flattened for a classifier
        ((1, 64, 7, 7), 0, (64, 49), 1, 0),  # the batch of one is dropped
        ((4, 64, 7, 7), 0, (4, 3136), 4, 0),
        ((4, 12, 16, 8), 0, (48, 16, 8), 4, 0),  # heads join the samples
        ((48, 16, 16), 0, (4, 12, 16, 16), 4, 0),
        ((12, 16, 16), 0, (1, 12, 16, 16), 1, 0),
        ((65, 1, 24), 1, (65, 3, 8), 1, 1),  # tokens first: heads join the samples
        ((65, 1, 3, 8), 1, (65, 24), 1, 0),  # tokens first: rows of all samples
        ((65, 2, 3, 8), 1, (130, 24), 2, 0),
        ((65, 24), 0, (65, 1, 24), 1, 1),  # and back
        ((65, 1, 72), 1, (65, 1, 3, 24), 1, 1),
        ((65, 2, 72), 1, (65, 2, 3, 24), 2, 1),
        ((5, 3), 0, (15,), 5, 0),
        ((2, 3), 0, (3, 2), 2, None),  # no dimension holds whole samples
    ],
)
def test_the_open_dimension_is_the_one_of_the_samples(
    before: tuple[int, ...], varying: int, after: tuple[int, ...], batch: int, place: int | None
) -> None:
    assert open_dimension(before, varying, after, batch) == place
