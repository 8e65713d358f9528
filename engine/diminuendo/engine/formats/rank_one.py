"""Sums of rank-one tensors: alternating least squares by tensorly, without components that cancel each other.

Legend: O, K, J sides of a tensor, r components. A sum is ``(output (O, r), kernel (K, r), input (J, r))``.
"""

from __future__ import annotations

import torch
from torch import Tensor

Sum = tuple[Tensor, Tensor, Tensor]

ITERATIONS = range(15, 61)
"""Fewest and most alternations."""

WORK = 5e9
"""Elements of the tensor times components, over all alternations of a fit: what decides how many there are."""

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


def fit(tensor: Tensor, rank: int) -> Sum:
    """The nearest sum of components that alternating least squares finds.

    Args:
        tensor: (O, K, J) float64.
        rank: Components at most; fewer come back where fewer are the tensor itself.
    """
    norm = float(tensor.norm())
    if norm == 0:
        output, kernel, inner = (tensor.new_zeros(side, 0) for side in tensor.shape)
        return output, kernel, inner
    start, exact = sliced(tensor / norm, rank)
    return _scaled(start if exact else _alternate(tensor / norm, _shaken(start), ITERATIONS[-1]), norm)


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


def sliced(tensor: Tensor, rank: int) -> tuple[Sum, bool]:
    """The largest components of the tensor's slices along its principal kernels, a deterministic start.

    Along the principal directions of the kernel the slices are uncorrelated; each is a sum of rank-one matrices, its
    SVD, and all of them are the tensor.

    Returns:
        The sum, norms balanced, and whether nothing is left out.
    """
    kernels, _, _ = torch.linalg.svd(tensor.movedim(1, 0).flatten(1), full_matrices=False)  # (K, n)
    left, values, right = torch.linalg.svd(torch.einsum("okj,kn->noj", tensor, kernels), full_matrices=False)
    flat = values.flatten()
    kept = int((flat > flat.max() * _EXACT).sum())
    chosen = flat.argsort(descending=True, stable=True)[: min(rank, kept)]
    which, place = chosen // values.shape[1], chosen % values.shape[1]
    size = flat[chosen].pow(1 / 3)
    return (left[which, :, place].T * size, kernels[:, which] * size, right[which, place].T * size), kept <= rank


def _alternate(tensor: Tensor, start: Sum, most: int) -> Sum:
    """tensorly's CP-ALS of a tensor of norm 1, imported when first needed: it takes half a second to load."""
    import tensorly
    from tensorly.decomposition import parafac

    affordable = int(WORK / (tensor.numel() * start[0].shape[1]))
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        weights = tensor.new_ones(start[0].shape[1])
        _, (output, kernel, inner) = parafac(
            tensor,
            rank=len(weights),
            n_iter_max=min(max(affordable, ITERATIONS[0]), most),
            init=(weights, list(start)),
            tol=TOLERANCE,
            l2_reg=RIDGE,
        )
    return output, kernel, inner


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
