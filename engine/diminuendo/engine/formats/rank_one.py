"""Sums of rank-one tensors: alternating least squares, without components that cancel each other.

Legend: O, K, J sides of a tensor, r components. A sum is ``(output (O, r), kernel (K, r), input (J, r))``.
"""

from __future__ import annotations

import torch
from torch import Tensor

Sum = tuple[Tensor, Tensor, Tensor]

ITERATIONS = range(15, 61)
"""Fewest and most alternations."""

WORK = 1e10
"""Elements of the tensor times components, over all alternations of a fit: what decides how many there are."""

_LARGE = 1e7
"""Elements of the tensor times components from which a fit is computed in float32: it is far from exact anyway."""

TOLERANCE = 1e-5
"""Of the relative error: where one more iteration gains less, alternating stops."""

RIDGE = 1e-4
"""Weight of the squared norms of the factors, for a tensor of norm 1.

Without it the best sum of few components may not exist: two of them grow without bound and cancel (de Silva and Lim
2008). The ridge also keeps the three norms of a component equal, at which their squares' sum is least.
"""

_SHAKE = 0.03
"""Of a component's norm for each element."""

_EXACT = 1e-12
"""Share of the largest singular value below which one counts as zero."""


def fit(tensor: Tensor, rank: int, start: Sum) -> Sum:
    """The nearest sum of components that alternating least squares finds.

    Args:
        tensor: (O, K, J) float64.
        rank: Components at most; fewer come back where fewer are the tensor itself.
        start: What `sliced` makes of the tensor.
    """
    if start[0].shape[1] <= rank:
        return start
    norm = float(tensor.norm())
    output, kernel, inner = (part[:, :rank] for part in start)
    return _scaled(_alternate(tensor / norm, _shaken(_scaled((output, kernel, inner), 1 / norm)), ITERATIONS[-1]), norm)


def refit(tensor: Tensor, start: Sum) -> Sum:
    """The sum of as many components that a few alternations from a start find; the tensor's norm is above 0."""
    norm = float(tensor.norm())
    return _scaled(_alternate(tensor / norm, _scaled(normal(start), 1 / norm), ITERATIONS[0]), norm)


def _shaken(parts: Sum) -> Sum:
    """A little off: where components are orthogonal, alternating may stand still on a saddle. The same every time."""
    generator = torch.Generator().manual_seed(0)
    output, kernel, inner = (
        part
        + _SHAKE * part.norm(dim=0) * torch.randn(part.shape, generator=generator, dtype=part.dtype).to(part.device)
        for part in parts
    )
    return output, kernel, inner


def _scaled(parts: Sum, factor: float) -> Sum:
    """Norms stay balanced if they were."""
    output, kernel, inner = (part * factor ** (1 / 3) for part in parts)
    return output, kernel, inner


def sliced(tensor: Tensor) -> Sum:
    """The components of the tensor's slices along its principal kernels, largest first: a deterministic start.

    Along the principal directions of the kernel the slices are uncorrelated; each is a sum of rank-one matrices, its
    SVD, and all of them are the tensor.

    Returns:
        The sum that is the tensor, norms balanced.
    """
    if not tensor.any():
        output, kernel, inner = (tensor.new_zeros(side, 0) for side in tensor.shape)
        return output, kernel, inner
    kernels, _, _ = torch.linalg.svd(tensor.movedim(1, 0).flatten(1), full_matrices=False)  # (K, n)
    left, values, right = torch.linalg.svd(torch.einsum("okj,kn->noj", tensor, kernels), full_matrices=False)
    flat = values.flatten()
    chosen = flat.argsort(descending=True, stable=True)[: int((flat > flat.max() * _EXACT).sum())]
    which, place = chosen // values.shape[1], chosen % values.shape[1]
    size = flat[chosen].pow(1 / 3)
    return left[which, :, place].T * size, kernels[:, which] * size, right[which, place].T * size


def _alternate(tensor: Tensor, start: Sum, most: int) -> Sum:
    """At most so many alternations over a tensor of norm 1.

    Two products with the tensor make one: what it gives with the input serves output and kernel.
    """
    rank = start[0].shape[1]
    values = tensor.to(torch.float32) if tensor.numel() * rank > _LARGE else tensor
    output, kernel, inner = (part.to(values) for part in start)
    before = torch.inf
    for _ in range(min(max(int(WORK / (tensor.numel() * rank)), ITERATIONS[0]), most)):
        narrow, squares = values @ inner, inner.T @ inner  # (O, K, r)
        output = _solved(squares * (kernel.T @ kernel), torch.einsum("okr,kr->or", narrow, kernel))
        kernel = _solved(squares * (output.T @ output), torch.einsum("okr,or->kr", narrow, output))
        others = (output.T @ output) * (kernel.T @ kernel)
        given = values.flatten(0, 1).T @ khatri_rao(output, kernel)  # (J, r)
        inner = _solved(others, given)
        lost = 1.0 - 2.0 * float((given * inner).sum()) + float((others * (inner.T @ inner)).sum())
        error = max(0.0, lost) ** 0.5
        if before - error < TOLERANCE:
            break
        before = error
    return output.to(tensor), kernel.to(tensor), inner.to(tensor)


def _solved(squares: Tensor, given: Tensor) -> Tensor:
    """(side, r): least squares with the ridge, from the other two factors' products (r, r)."""
    ridge = RIDGE * torch.eye(len(squares), dtype=squares.dtype, device=squares.device)
    factor: Tensor = torch.linalg.solve(squares + ridge, given, left=False)
    return factor


def total(parts: Sum) -> Tensor:
    """(O, K, J): the tensor that a sum is."""
    output, kernel, inner = parts
    return (output @ khatri_rao(kernel, inner).T).reshape(len(output), len(kernel), len(inner))


def khatri_rao(first: Tensor, second: Tensor) -> Tensor:
    """(A, r), (B, r) -> (A B, r): column by column."""
    return (first[:, None] * second[None]).flatten(0, 1)


def normal(parts: Sum) -> Sum:
    """The same sum in its one normal form: largest first, norms equal, kernel and input with positive pivots."""
    norms = torch.stack([part.norm(dim=0) for part in parts])  # (3, r)
    size = norms.prod(dim=0)
    order = size.argsort(descending=True, stable=True)
    scale = (size.pow(1 / 3) / norms.clamp_min(torch.finfo(norms.dtype).tiny))[:, order]
    output, kernel, inner = (part[:, order] * own for part, own in zip(parts, scale, strict=True))
    signs, others = _pivots(kernel), _pivots(inner)
    return output * signs * others, kernel * signs, inner * others


def _pivots(columns: Tensor) -> Tensor:
    """(r,) of 1 or -1: sign of each column's component of largest magnitude."""
    if not columns.numel():
        return columns.new_ones(columns.shape[1])
    picked = columns.gather(0, columns.abs().argmax(dim=0, keepdim=True))[0]
    return torch.where(picked < 0, -torch.ones_like(picked), torch.ones_like(picked))
