"""Average precision of boxes (Everingham et al. 2010) as a metric of a set.

Legend: N scenes, K answers kept of each scene, M objects at most, C classes, G x G cells.
"""

from __future__ import annotations

import torch
from data import CLASSES, MOST, centres
from torch import Tensor
from torch.nn import functional

KEPT = 6
OVERLAP = 0.5
"""Intersection over union from which an answer is right."""


def boxes_of(sides: Tensor) -> Tensor:
    """(N, 4, G, G) distances -> (N, 4, G, G) left, top, right, bottom."""
    at = centres().to(sides.device)
    return torch.cat([at - sides[:, :2], at + sides[:, 2:]], dim=1)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """(N, K, 4) and (N, M, 4) boxes -> (N, K, M) intersections over unions."""
    a, b = boxes[:, :, None], others[:, None]
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides.prod(dim=-1)
    areas = (a[..., 2:] - a[..., :2]).prod(dim=-1) + (b[..., 2:] - b[..., :2]).prod(dim=-1)
    return shared / (areas - shared).clamp(min=1e-6)


def answers(outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The surest answers of each scene, from cells that are surer than their neighbours.

    Returns:
        (N, K) scores, falling; (N, K) classes; (N, K, 4) boxes.
    """
    scores, classes = outputs["classes"].softmax(dim=1)[:, 1:].max(dim=1)
    peaks = scores == functional.max_pool2d(scores, 3, stride=1, padding=1)
    best, cells = (scores * peaks).flatten(1).topk(KEPT, dim=1)
    boxes = boxes_of(outputs["sides"]).flatten(2).movedim(1, 2)
    return best, 1 + classes.flatten(1).gather(1, cells), boxes.gather(1, cells[..., None].expand(-1, -1, 4))


def statistics(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """(N, K + M, 3): (class, score, whether it is right) of each answer, then (class, -1, 0) of each object.

    An object is found once, by the surest answer that fits it. Class 0 fills up.
    """
    scores, classes, boxes = answers(outputs)
    wanted, cells = targets["classes"].flatten(1).topk(MOST, dim=1)
    places = targets["boxes"].flatten(2).movedim(1, 2).gather(1, cells[..., None].expand(-1, -1, 4))
    fits = (overlaps(boxes, places) >= OVERLAP) & (classes[:, :, None] == wanted[:, None])
    free, right = torch.ones_like(wanted, dtype=torch.bool), []
    for k in range(KEPT):
        found, which = (fits[:, k] & free).max(dim=1)
        right.append(found)
        free &= ~(found[:, None] & functional.one_hot(which, MOST).to(torch.bool))
    answered = torch.stack([classes.to(scores.dtype), scores, torch.stack(right, dim=1).to(scores.dtype)], dim=2)
    objects = torch.stack([wanted.to(scores.dtype), -torch.ones_like(scores[:, :MOST]), 0 * scores[:, :MOST]], dim=2)
    return torch.cat([answered, objects], dim=1)


def value(rows: Tensor) -> float:
    """(N, K + M, 3) of any scenes -> the mean over classes of the area under precision against recall, in points."""
    answered, objects = rows[:, :KEPT].flatten(0, 1), rows[:, KEPT:].flatten(0, 1)
    answered = answered[answered[:, 1].argsort(descending=True, stable=True)]
    mine = functional.one_hot(answered[:, 0].to(torch.int64), CLASSES)[:, 1:].to(torch.float64)
    right = mine * answered[:, 2:]
    hits, count = right.cumsum(dim=0), mine.cumsum(dim=0)
    precision = (hits / count.clamp(min=1)).flip(0).cummax(dim=0).values.flip(0)  # at this recall or a higher one
    there = functional.one_hot(objects[:, 0].to(torch.int64), CLASSES)[:, 1:].sum(dim=0)
    areas = (precision * right).sum(dim=0) / there.clamp(min=1)
    return float(100 * areas[there > 0].mean())
