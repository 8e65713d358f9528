"""Steps of orthogonalised momentum for weight matrices (Muon, Jordan et al. 2024), in the scale of each matrix.

The factors of a decomposed layer are badly conditioned: their columns are as large as the variance that each carries,
and plain gradient descent learns the small ones last. Orthogonalised, a step goes as far in every direction.

Legend: m <= n are the sides of a matrix; a kernel (O, I, k, k) is the matrix (O, I k k).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

_STEPS = 5
_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Newton-Schulz iterations, and the odd polynomial a x + b x^3 + c x^5 of each, which drives singular values between
1e-2 and 1 to about 0.7 to 1.2 (Jordan et al. 2024)."""

_LEAST = 1e-30

_SMALLEST, _SMALL = 8, 64
"""Sides of Gram matrices that are filled up to a power of two, at least the first."""

SHARE = 0.2
"""Of the rate, in steps on matrices: at the usual rate of 0.05 a step changes a matrix by a percent at the most."""


def matrices(model: nn.Module) -> list[nn.Parameter]:
    """Trainable weights that are matrices between features: of linear layers and of convolutions without groups.

    Not those that are zero, which have no scale, nor those of one row or column.
    """
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear) or (isinstance(module, _ConvNd) and module.groups == 1):
            weight = module._parameters.get("weight")
            if weight is not None and weight.requires_grad and weight.is_floating_point() and scale_of(weight) > 0:
                found[id(weight)] = weight
    return list(found.values())


def scale_of(weight: Tensor) -> float:
    """Root mean square of a matrix's singular values; 0 where it has one row or column, or no finite norm."""
    rank = min(weight.shape[0], weight[0].numel()) if weight.numel() else 0
    if rank <= 1:
        return 0.0
    norm = float(torch.linalg.vector_norm(weight.detach().float()))
    return norm / math.sqrt(rank) if math.isfinite(norm) else 0.0


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The nearest matrices with orthonormal rows or columns, roughly: their singular values are 0.7 to 1.2.

    The polynomials are of the smaller Gram matrices, which takes a third of the products where n is 9 m. Small ones are
    computed side by side, filled up with zeros, which changes nothing of them: each by itself would be little more than
    calls.

    Args:
        matrices: (O, ...) each, float32 or wider; not changed.
    """
    flats = [matrix.flatten(1) for matrix in matrices]
    flats = [flat / norm.clamp_min(_LEAST) for flat, norm in zip(flats, torch._foreach_norm(flats), strict=True)]
    talls = [flat.shape[0] > flat.shape[1] for flat in flats]
    grams = [flat.T @ flat if tall else flat @ flat.T for flat, tall in zip(flats, talls, strict=True)]
    alike: dict[tuple[int, torch.dtype, torch.device], list[int]] = {}
    for index, gram in enumerate(grams):
        alike.setdefault((_filled(len(gram)), gram.dtype, gram.device), []).append(index)
    products: dict[int, Tensor] = {}
    for (side, dtype, device), indices in alike.items():
        batch = torch.zeros(len(indices), side, side, dtype=dtype, device=device)
        for place, index in enumerate(indices):
            size = len(grams[index])
            batch[place, :size, :size] = grams[index]
        found = _product(batch)
        products |= {
            index: found[place, : len(grams[index]), : len(grams[index])] for place, index in enumerate(indices)
        }
    return [
        (flat @ products[index] if tall else products[index] @ flat).view_as(matrices[index])
        for index, (flat, tall) in enumerate(zip(flats, talls, strict=True))
    ]


def _filled(side: int) -> int:
    """The side to which a Gram matrix is filled up."""
    return max(_SMALLEST, 1 << (side - 1).bit_length()) if side <= _SMALL else side


def _product(grams: Tensor) -> Tensor:
    """(B, m, m) Gram matrices -> the products of their polynomials."""
    product: Tensor | None = None
    for step in range(_STEPS):
        polynomial = torch.baddbmm(grams, grams, grams, beta=_B, alpha=_C)
        polynomial.diagonal(dim1=1, dim2=2).add_(_A)
        product = polynomial if product is None else polynomial @ product
        if step < _STEPS - 1:
            grams = polynomial @ polynomial @ grams
    assert product is not None
    return product


class Orthogonal(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised for some matrices, and as `torch.optim.SGD` has it for all other weights.

    A step at rate r moves every direction of a matrix by about `SHARE` r `reach` times the root mean square of the
    singular values that it had at first, however large the gradient is, and without weight decay.

    Attributes:
        reach: 0 to 1, by how far there is to go: gradients grow smaller near the end, and these steps do not.
    """

    reach: float = 1.0

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        matrices: Sequence[nn.Parameter],
        lr: float,
        *,
        momentum: float,
        weight_decay: float = 0.0,
    ) -> None:
        """Step on parameters.

        Args:
            parameters: All of them.
            matrices: Those whose steps are orthogonalised, see `matrices`.
            lr: Peak rate of both kinds.
            weight_decay: Of the others.
        """
        own = {id(weight) for weight in matrices}
        others = [weight for weight in parameters if id(weight) not in own]
        kinds = [kind for kind in (others, list(matrices)) if kind]
        super().__init__([{"params": kind} for kind in kinds], {"lr": lr, "momentum": momentum})
        self._sgd: torch.optim.SGD | None = None
        if others:
            self._sgd = torch.optim.SGD(
                others, lr, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0, foreach=True
            )
            self.param_groups[0] = self._sgd.param_groups[0]  # one group of both: whoever sets its rate sets it in both
        self._matrices = self.param_groups[-1] if matrices else None
        for weight in matrices:
            self.state[weight].update(scale=scale_of(weight), momentum=torch.zeros_like(weight))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; weights without a gradient stay."""
        found = None
        if closure is not None:
            with torch.enable_grad():
                found = closure()
        if self._sgd is not None:
            self._sgd.step()
        if self._matrices is not None:
            self._step(self._matrices, SHARE * self.reach * self._matrices["lr"], self._matrices["momentum"])
        return found

    def _step(self, group: dict[str, Any], rate: float, momentum: float) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        gradients = [weight.grad for weight in weights]
        states = [self.state[weight] for weight in weights]
        means = [state["momentum"] for state in states]
        torch._foreach_mul_(means, momentum)
        torch._foreach_add_(means, gradients)
        steps = orthogonalised(torch._foreach_add(gradients, means, alpha=momentum))
        torch._foreach_mul_(steps, [-rate * state["scale"] for state in states])
        torch._foreach_add_(weights, steps)
