"""Handwritten digits as one sees them being written by a printer: row after row, from the top, and not yet all of them.

Legend: N digits, T rows, P pixels in a row.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits

from diminuendo.engine import Samples

CLASSES, ROWS, PIXELS = 10, 8, 8
EVALUATION = 1000


def samples() -> tuple[Samples, Samples]:
    """797 digits to train with and 1,000 that the network never sees.

    Inputs: (N, T, P) ``rows`` of 0..1, and (N, T) ``mask``, True where the row is there: the first 6 to 8 ones.
    Targets: (N,) classes.
    """
    pixels, classes = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(0)
    rows = torch.from_numpy(pixels).to(torch.float32).reshape(-1, ROWS, PIXELS) / 16
    there = torch.randint(6, ROWS + 1, (len(rows), 1), generator=generator)
    mask = torch.arange(ROWS) < there
    inputs = {"rows": rows * mask[:, :, None], "mask": mask}
    everything = Samples(inputs, torch.from_numpy(classes).to(torch.int64))
    order = torch.randperm(len(everything), generator=generator)
    return everything.take(order[EVALUATION:]), everything.take(order[:EVALUATION])
