"""Steps down a gradient: optimizer and rates, by the recipe or the owner, clipping, and the average of the weights."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from diminuendo.engine.orthogonal import Orthogonal, matrices
from diminuendo.engine.task import MakeOptimizer, MakeScheduler, Recipe, TaskError

WARM = 0.15
"""Share of the cycle in which the rate rises."""

AVERAGED = 0.1
"""Share of a short tuning that the moving average of the weights looks back over."""

_UNTRAINED = "loss: no weight that is trained bears on it or on the logits; compute it from the outputs"
_NARROW = (torch.bfloat16, torch.float16)


def one_cycle(progress: float) -> float:
    """Rate at 0 <= progress <= 1 relative to its peak: a linear rise, then half a cosine down to 0."""
    if progress < WARM:
        return (progress + 0.01) / (WARM + 0.01)
    return 0.5 * (1.0 + math.cos(math.pi * (progress - WARM) / (1.0 - WARM)))


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warning of layers before a quantized one, which get no gradient: what they bring is measured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="quantized::.*autograd kernel was not registered")
        yield


class Descent:
    """An optimizer on a network's trainable weights, and their moving average.

    Weights narrower than float32 are stepped on and averaged in float32, in which a small step is not rounded away.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps: int,
        *,
        rate: float = 1.0,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        distance: Callable[[], float] | None = None,
    ) -> None:
        """Begin with the network's weights.

        Args:
            steps: How many will be taken.
            rate: What the optimizer's rates are multiplied by.
            optimizer: None: `Orthogonal` or SGD, with Nesterov momentum, by the recipe.
            scheduler: None: `one_cycle`, with the optimizer's rates at its peak.
            distance: How far the network is from where it is to go, 0 to 1, see `teacher.Missing`; asked once, after
                the first losses. Orthogonalised steps are as long whatever the gradient is: they are shortened by it.
                None: as far as can be.

        Raises:
            TaskError: The owner's functions gave something else than they should.
        """
        self._clip = recipe.clip
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._wide = [nn.Parameter(p.detach().float()) if p.dtype in _NARROW else p for p in self._parameters]
        self._values: list[Tensor] = list(self._wide)
        self._is_narrow = any(p.dtype in _NARROW for p in self._parameters)
        self._optimizer = _checked(optimizer(self._wide), self._wide) if optimizer else self._by_recipe(model, recipe)
        for group in self._optimizer.param_groups:
            group["lr"] = group["lr"] * rate
        self._peaks = [group["lr"] for group in self._optimizer.param_groups]
        self._scheduler = _scheduled(scheduler(self._optimizer, steps), self._optimizer) if scheduler else None
        self._average = [p.detach().clone() for p in self._wide]
        self._decay = min(recipe.ema, max(0.0, 1.0 - 1.0 / max(1.0, AVERAGED * steps)))
        self._distance = distance
        self._steps, self._taken = steps, 0
        self._as_they_are = False

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss."""
        self.step_by_parts((loss,))

    def step_by_parts(self, losses: Iterable[Tensor]) -> Tensor:
        """One step down the gradient of a sum; each part's graph is gone when the next one is asked for.

        Returns:
            The sum, without a graph.
        """
        if self._scheduler is None:
            factor = one_cycle(min(1.0, self._taken / self._steps))
            for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
                group["lr"] = peak * factor
        for parameter in self._parameters:
            parameter.grad = None
        whole: Tensor | None = None
        for loss in losses:
            if not loss.requires_grad:
                raise TaskError(_UNTRAINED)
            loss.backward()  # type: ignore[no-untyped-call]
            whole = loss.detach() if whole is None else whole + loss.detach()
        if whole is None:
            raise ValueError("there is no loss")
        if self._taken == 0:
            if self._distance is not None and isinstance(self._optimizer, Orthogonal):
                self._optimizer.reach = self._distance()
            self._as_they_are = not self._is_narrow and not any(_is_sparse(p) for p in self._parameters)
        if not self._as_they_are:
            self._gather()
        torch.nn.utils.clip_grad_norm_(self._wide, self._clip, foreach=True)
        self._optimizer.step()
        if self._scheduler is not None:
            self._scheduler.step()
        self._taken += 1
        with torch.no_grad():
            if self._is_narrow:
                self._write(self._values)
            torch._foreach_lerp_(self._average, self._values, 1.0 - self._decay)
        return whole

    def finish(self) -> bool:
        """Leave the averages in the network; whether they are finite."""
        with torch.no_grad():
            torch._foreach_copy_(self._values, self._average)
            self._write(self._average)
        return all(bool(torch.isfinite(p).all()) for p in self._parameters)

    def _by_recipe(self, model: nn.Module, recipe: Recipe) -> Optimizer:
        own = {id(weight) for weight in matrices(model)} if recipe.orthogonal else set()
        return Orthogonal(
            self._wide,
            [wide for wide, weight in zip(self._wide, self._parameters, strict=True) if id(weight) in own],
            recipe.rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )

    def _gather(self) -> None:
        """Dense gradients, those of narrow weights in float32."""
        for parameter, wide in zip(self._parameters, self._wide, strict=True):
            if _is_sparse(parameter):
                parameter.grad = parameter.grad.to_dense()  # type: ignore[union-attr]
            if wide is not parameter:
                wide.grad = None if parameter.grad is None else parameter.grad.float()

    def _write(self, values: Sequence[Tensor]) -> None:
        """Round values into the narrow weights."""
        for parameter, wide, value in zip(self._parameters, self._wide, values, strict=True):
            if wide is not parameter:
                parameter.copy_(value)


def _is_sparse(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and parameter.grad.is_sparse


def _checked(made: object, parameters: list[nn.Parameter]) -> Optimizer:
    """The owner's optimizer, if it steps on these parameters and nothing else."""
    remedy = "return one, e.g. torch.optim.AdamW(parameters, lr=1e-3)"
    if not isinstance(made, Optimizer):
        raise TaskError(f"optimizer: it returned a {type(made).__name__}, not a torch.optim.Optimizer; {remedy}")
    own = {id(p) for p in parameters}
    strange = [p for group in made.param_groups for p in group["params"] if id(p) not in own]
    if strange:
        raise TaskError(
            f"optimizer: {len(strange)} of its parameters, the first of shape {tuple(strange[0].shape)}, are not the "
            f"candidate's; make it anew each time, of the parameters that it is given: {remedy}"
        )
    if any("lr" not in group for group in made.param_groups):
        raise TaskError(f"optimizer: a {type(made).__name__} has no rate `lr`; {remedy}")
    closure = next(iter(inspect.signature(made.step).parameters.values()), None)
    if closure is not None and closure.default is closure.empty and closure.kind is not closure.VAR_POSITIONAL:
        raise TaskError(f"optimizer: a {type(made).__name__} wants a closure, which it is not given here; {remedy}")
    return made


def _scheduled(made: object, optimizer: Optimizer) -> LRScheduler:
    """The owner's scheduler, if it is one of this optimizer, stepped without an argument."""
    remedy = "return one, e.g. torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)"
    if not isinstance(made, LRScheduler):
        raise TaskError(f"scheduler: it returned a {type(made).__name__}, not an LRScheduler; {remedy}")
    if isinstance(made, ReduceLROnPlateau):
        raise TaskError(f"scheduler: a ReduceLROnPlateau wants a score after each epoch, which there is not; {remedy}")
    if made.optimizer is not optimizer:
        raise TaskError(f"scheduler: it is of another optimizer than the one that it was given; {remedy}")
    return made
