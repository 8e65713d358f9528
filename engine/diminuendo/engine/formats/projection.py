"""Data-aware truncation: projections on leading eigenvectors of what a layer gives on the data.

For a linear map ``y = W x``, the map W' of rank r with the least ``E ||W x - W' x||^2`` is ``U U^T W``, where U
holds the r leading eigenvectors of the covariance of y; what is lost is the sum of the other eigenvalues. It
needs neither an inverse nor the SVD of anything as large as W.

Legend: M rows of a map, N columns, R directions kept at most, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PINV_CUTOFF = 1e-10
"""Directions of the stored factors below this share of the largest are taken for rounding."""


@dataclass(frozen=True, slots=True)
class Product:
    """A map as ``left @ right``, its directions in descending order of variance.

    Attributes:
        left: (M, R), orthonormal columns.
        right: (R, N).
        spectrum: (R,) variance that each direction carries on the data, descending.
    """

    left: Tensor
    right: Tensor
    spectrum: Tensor


def leading_eigenvectors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (descending, clamped at 0) and eigenvectors (columns) of a symmetric matrix, float64.

    Signs are deterministic: the component of largest magnitude of each vector is positive.
    """
    values, vectors = torch.linalg.eigh(covariance.to(torch.float64))
    return values.flip(0).clamp_min(0.0), orient(vectors.flip(1))


def output_directions(weight: Tensor, moment: Tensor) -> Product:
    """Factor a map by the leading eigenvectors of its output.

    Args:
        weight: (M, N) float64.
        moment: (M, M) second moment of ``weight @ x`` on the data, about the mean or about zero.

    Returns:
        ``U`` and ``U^T W`` with R = min(M, N). At full rank the product is the weight, also where the data never
        reach some of its directions: eigenvectors are taken within the range of W.
    """
    if weight.shape[1] < weight.shape[0]:
        basis, _ = torch.linalg.qr(weight)  # (M, R): a basis of the range of W
        spectrum, inner = leading_eigenvectors(basis.T @ moment @ basis)
        left = orient(basis @ inner)
    else:
        spectrum, left = leading_eigenvectors(moment)
    return Product(left, left.T @ weight, spectrum)


def product_directions(left: Tensor, right: Tensor, moment: Tensor) -> Product:
    """Factor ``left @ right`` anew by the leading eigenvectors of its output.

    Args:
        left: (M, r) float64.
        right: (r, N) float64.
        moment: (r, r) second moment of ``right @ x`` on the data.

    Returns:
        R = min(M, r) directions, in the order in which dropping them loses least. All work is on r x r matrices
        once ``left`` is written as an orthonormal basis times a square.
    """
    basis, square = torch.linalg.qr(left)  # (M, R), (R, r)
    spectrum, inner = leading_eigenvectors(square @ moment @ square.T)
    columns = basis @ inner
    signs = _signs(columns)
    return Product(columns * signs, (inner * signs).T @ (square @ right), spectrum)


def orient(vectors: Tensor) -> Tensor:
    """The same columns, each with the sign that makes its component of largest magnitude positive."""
    return vectors * _signs(vectors)


def _signs(vectors: Tensor) -> Tensor:
    """(R,) of 1 or -1: sign of the component of largest magnitude of each column."""
    pivot = vectors.abs().argmax(dim=0)
    picked = vectors[pivot, torch.arange(vectors.shape[1], device=vectors.device)]
    return torch.where(picked < 0, -torch.ones_like(picked), torch.ones_like(picked))


@dataclass(frozen=True, slots=True)
class OnData:
    """What a map gives on the data.

    Attributes:
        moment: (r, r) second moment of its output, about the point that the stored spectrum was taken about.
        mean: (r,) mean of its output; zeros where means are not corrected.
    """

    moment: Tensor
    mean: Tensor


def on_data(tuned: Tensor, stored: Tensor, spectrum: Tensor, stored_mean: Tensor | None) -> OnData:
    """Tell what a tuned map gives on the data from what is known of the stored one, without any data.

    The outputs of ``stored @ x`` are uncorrelated with variances `spectrum`. The tuned map is written as
    ``T @ stored``, as nearly as least squares can, so its outputs have second moment ``T diag(spectrum) T^T`` and
    mean ``T stored_mean``. What tuning added outside the range of the stored map is not seen.

    Args:
        tuned: (r, N).
        stored: (R, N).
        spectrum: (R,).
        stored_mean: (R,) mean of ``stored @ x``, or None.
    """
    stored, tuned = stored.to(torch.float64), tuned.to(torch.float64)
    values, vectors = leading_eigenvectors(stored @ stored.T)
    kept = values > values[0] * _PINV_CUTOFF
    inverse = torch.where(kept, values, torch.ones_like(values)).reciprocal() * kept
    transform = ((tuned @ stored.T) @ vectors * inverse) @ vectors.T  # (r, R)
    mean = tuned.new_zeros(len(tuned)) if stored_mean is None else transform @ stored_mean.to(transform)
    return OnData((transform * spectrum.to(transform)) @ transform.T, mean)


def pad(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """The tensor in the corner of zeros of a larger shape."""
    grown = tensor.new_zeros(tuple(shape))
    grown[tuple(slice(0, n) for n in tensor.shape)] = tensor
    return grown
