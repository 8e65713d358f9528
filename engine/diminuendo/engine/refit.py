"""Fits layers of a candidate in closed form to what the original's give, on the inputs that they have themselves.

Factors are made for the activations of the original. In a candidate a layer sees what the compressed layers before it
have left, and its errors add to theirs. So each layer that was replaced is fitted again, in the order of the forward:
given its inputs there, the last two of its stages become those that bring its outputs nearest to the original's, which
takes two ridge regressions (as the asymmetric reconstruction of Zhang et al. 2016, "Accelerating very deep
convolutional networks", section 3.3, but for the choice of the strength, see `diminuendo.engine.ridge`, and for the
middle stage). One forward of the candidate and one of the original are all that it takes of the network. The head,
whose outputs are the logits, is fitted by itself, and once more after tuning, which leaves it off.

Legend: N samples, P positions, O output channels, K inputs of an output.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import ridge, tree
from diminuendo.engine.counting import buffers_kept, every_module_called
from diminuendo.engine.formats.layers import Conv, ConvTranspose, base_of
from diminuendo.engine.modules import evaluating
from diminuendo.engine.plan import ZERO, Plan
from diminuendo.engine.score import rows_of
from diminuendo.engine.survey.observe import only_input

LAYER_SAMPLES = 1024
HEAD_SAMPLES = 4000
"""Most training samples that layers, and the head, are fitted on."""

LEAST_SAMPLES = 20
"""With fewer nothing is fitted: a fifth of them is held back."""

HELD = 5
"""One sample in so many is held back to choose by."""

LEAST_ROWS, ROWS, ROWS_EACH = 2048, 16384, 16
"""A layer is fitted on rows at random positions of every sample: so many for each input of an output, within bounds."""

ELEMENTS = 2**25
"""Most elements of these rows' outputs."""

WIDEST = 2304
"""Most inputs of an output that are fitted: solving takes the third power of them."""

OUTPUT_BYTES = 256 * 2**20
"""See `refit`."""

_PROBED = 2
_Stage = nn.Linear | Conv


@dataclass(frozen=True)
class Goal:
    """What a layer of the reference gives.

    Attributes:
        grid: The shape of its positions.
        positions: (N, P) chosen ones of them, each sample's own: two thousand such rows fit as well as sixteen
            thousand of positions that all samples share.
        outputs: (N P, O), sample by sample.
    """

    grid: tuple[int, ...]
    positions: Tensor
    outputs: Tensor


def inherited(before: Plan, plan: Plan) -> list[str]:
    """The layers of a child that are fitted to its parent's: those of another choice, where the parent's compute."""
    return [name for name in plan if plan[name] != before[name] and before[name] != ZERO]


def refit(
    candidate: nn.Module,
    reference: nn.Module,
    names: Collection[str],
    inputs: Any,
    *,
    absorbed: Collection[str] = (),
    batch_size: int = 250,
    seed: int = 0,
    output_bytes: int = OUTPUT_BYTES,
) -> tuple[str, ...]:
    """Fit replaced layers of a candidate, each on what those before it leave.

    BatchNorms go by the statistics of the samples meanwhile; their running statistics have to be estimated afterwards.

    Args:
        candidate: Changed in place, in the weights of these layers.
        reference: A network whose layers of these names give what is wanted; not changed.
        names: Layers that are chains of stages (`surgery.build`). One that is called more than once, or of another
            kind, stays as it is.
        inputs: (N, ...) training inputs; of too many for the memory the first ones are taken.
        absorbed: Of these, those whose outputs go straight into a BatchNorm: it takes up a constant.
        batch_size: Samples of a forward of the reference.
        seed: Of the positions.
        output_bytes: Most memory for one module's outputs on all samples: the candidate sees them at once.

    Returns:
        The layers that were changed.
    """
    chains = {name: list(m) for name in names if isinstance(m := candidate.get_submodule(name), nn.Sequential)}
    if not chains:
        return ()
    inputs = _affordable(reference, inputs, output_bytes)
    if tree.count(inputs) < LEAST_SAMPLES:
        return ()
    widths = {name: _width(stages[-2:]) for name, stages in chains.items()}
    goals = _goals(reference, widths, inputs, batch_size, seed)
    held, shared, changed = _held(tree.count(inputs)), _shared(candidate), list[str]()

    def fit(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            goal, given = goals.pop(name, None), only_input(args, kwargs)
            if goal is None or given is None or len(given) != len(goal.positions):
                return
            if _Fitting(goal, held, shared).chain(chains[name], given, absorbed=name in absorbed):
                changed.append(name)

        return hook

    with torch.no_grad(), evaluating(candidate), ExitStack() as hooks:
        for name in chains:
            module = candidate.get_submodule(name)
            hooks.callback(module.register_forward_pre_hook(fit(name), with_kwargs=True).remove)
        for module in candidate.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train()
        tree.call(candidate, inputs)
    return tuple(changed)


def head_of(model: nn.Module, names: Collection[str], inputs: Any, logits: Callable[[Any], Tensor]) -> str | None:
    """The layer whose outputs are the network's logits, if there is one.

    Args:
        names: Layers that may be it.
        inputs: (N, ...) inputs of a few samples.
        logits: The network's outputs -> its logits.
    """
    found: dict[str, Tensor] = {}
    with _watched(model, [(model.get_submodule(name), _kept(found, name)) for name in names]):
        wanted = rows_of(logits(tree.call(model, inputs)))
    for name, outputs in found.items():
        module = model.get_submodule(name)
        if _is_stage(module) and outputs.dim() > 1 and outputs.numel() == wanted.numel():
            rows, _ = _by_position(module, outputs)
            if torch.equal(rows.flatten(0, 1), wanted):
                return name
    return None


@contextmanager
def _watched(model: nn.Module, hooks: Iterable[tuple[nn.Module, Callable[..., None]]]) -> Iterator[None]:
    """Forwards inside are in eval mode, leave the network as it was, and tell hooks what its modules give."""
    with torch.no_grad(), evaluating(model), buffers_kept(model), every_module_called(), ExitStack() as handles:
        for module, hook in hooks:
            handles.callback(module.register_forward_hook(hook).remove)
        yield


def _kept(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, outputs: Tensor) -> None:
        found[name] = outputs

    return hook


class Head:
    """The layer that gives the logits, and what it gives in the original on training samples.

    Attributes:
        name: Of the layer.
    """

    def __init__(self, original: nn.Module, name: str, inputs: Any, *, batch_size: int = 250, seed: int = 0) -> None:
        """Note what the original's gives.

        Args:
            original: The original network; not changed.
            inputs: (N, ...) training inputs.
            batch_size: Samples of a forward.
            seed: Of the positions.
        """
        self.name = name
        self._batch_size = batch_size
        self._goal = _goals(original, {name: ROWS}, inputs, batch_size, seed).get(name)

    def fit(self, candidate: nn.Module, inputs: Any) -> bool:
        """Fit a candidate's head, or the last stage of it, to the original's logits.

        Args:
            candidate: Changed in place.
            inputs: Those that were noted.

        Returns:
            Whether it was changed.
        """
        goal, samples = self._goal, tree.count(inputs)
        last = _last(candidate.get_submodule(self.name))
        if goal is None or samples < LEAST_SAMPLES:
            return False
        fitting = _Fitting(goal, _held(samples), _shared(candidate))
        if not fitting.may(last):
            return False
        seen, size = list[Tensor](), self._batch_size

        def hook(stage: nn.Module, args: tuple[Any, ...], _: Any) -> None:
            if args:
                own = goal.positions[len(seen) * size : len(seen) * size + len(args[0])]
                seen.append(made_of(stage, args[0], goal.grid, own))

        with _watched(candidate, [(last, hook)]):
            for batch in tree.batches(inputs, self._batch_size):
                tree.call(candidate, batch)
        inputs = torch.cat(seen) if seen else torch.empty(0)
        with torch.no_grad():
            return len(inputs) == len(goal.outputs) and fitting.stage(
                last, inputs, goal.outputs, centred=last.bias is not None
            )


class _Fitting:
    """Fits the stages of one layer."""

    def __init__(self, goal: Goal, held: Tensor, taken: Collection[int]) -> None:
        self.goal = goal
        self._held = held.repeat_interleave(goal.positions.shape[1]).to(goal.outputs.device)
        self._taken = taken

    def chain(self, stages: Sequence[nn.Module], inputs: Tensor, *, absorbed: bool) -> bool:
        """Fit the last two stages, the one before the last first; whether any was changed."""
        last, changed = stages[-1], False
        centred = absorbed or last.bias is not None
        for stage in stages[:-2]:
            inputs = stage(inputs)
        if len(stages) > 1:
            if (wanted := self._before(stages[-2], last)) is not None:
                changed = self.stage(stages[-2], self._rows(stages[-2], inputs), wanted, centred=centred)
            inputs = stages[-2](inputs)
        if self.may(last):
            rows = self._rows(last, inputs)
            if self.stage(last, rows, self.goal.outputs, centred=centred):
                return True
            if changed and last.bias is not None:  # the stage before it may have moved the outputs' mean
                weight = last.weight.flatten(1)
                last.bias.copy_(self.goal.outputs.mean(0) - weight @ rows.mean(0).to(weight.dtype))
        return changed

    def may(self, stage: nn.Module) -> TypeGuard[_Stage]:
        """Whether a stage can be fitted: its weights are its own, and not too many for an output."""
        return (
            _is_stage(stage)
            and isinstance(stage._parameters.get("weight"), Tensor)
            and stage.weight[0].numel() <= WIDEST
            and stage.weight.requires_grad
            and id(stage.weight) not in self._taken
        )

    def _before(self, stage: nn.Module, last: nn.Module) -> Tensor | None:
        """What the stage before the last would have to give: outputs taken back through the last, (N P, R)."""
        if not (self.may(stage) and _is_stage(last) and _is_pointwise(last)):
            return None
        weight = last.weight.flatten(1).to(torch.float64)
        if weight.shape[0] < weight.shape[1] or stage.bias is not None:
            return None
        outputs = self.goal.outputs.to(torch.float64)
        if last.bias is not None:
            outputs = outputs - last.bias
        back: Tensor = torch.linalg.pinv(weight)
        return (outputs @ back.mT).to(self.goal.outputs.dtype)

    def _rows(self, stage: nn.Module, inputs: Tensor) -> Tensor:
        return made_of(stage, inputs, self.goal.grid, self.goal.positions)

    def stage(self, stage: nn.Module, inputs: Tensor, wanted: Tensor, *, centred: bool) -> bool:
        """Fit one stage to what it is to give, (N P, its outputs); whether it was changed."""
        if not _is_stage(stage):
            raise TypeError(f"a {type(stage).__name__} is no stage")
        weight = stage.weight
        found = ridge.fitted(inputs.float(), wanted.float(), weight.flatten(1), self._held, centred=centred)
        if found is None:
            return False
        weight.copy_(found.weight.reshape(weight.shape))
        if stage.bias is not None:
            stage.bias.copy_(found.bias)
        return True


def made_of(stage: nn.Module, inputs: Tensor, grid: Sequence[int], positions: Tensor) -> Tensor:
    """What a stage's outputs at some positions are made of: times its weight they are these outputs, less the bias.

    Args:
        stage: A linear layer, or a convolution without groups that pads with zeros.
        inputs: (N, C, ...) of a convolution; (N, ..., K) of a linear layer.
        grid: The shape of the positions of its outputs.
        positions: (N, P) numbers of positions in it, each sample's own.

    Returns:
        (N P, K), sample by sample; K as in ``weight.flatten(1)``.
    """
    samples = torch.arange(len(inputs), device=inputs.device).unsqueeze(1)
    if isinstance(stage, nn.Linear):
        return inputs.reshape(len(inputs), -1, inputs.shape[-1])[samples, positions].flatten(0, 1)
    if not isinstance(stage, Conv):
        raise TypeError(f"a {type(stage).__name__} has no rows")
    padding = [pad for each in reversed(stage.padding) for pad in (each, each)]
    padded = functional.pad(inputs, padding) if any(padding) else inputs  # type: ignore[arg-type]
    offsets: list[tuple[int, ...]] = list(zip(*itertools.product(*map(range, stage.kernel_size)), strict=True))
    places: tuple[Tensor, ...] = tuple(
        at.unsqueeze(2) * stride + torch.tensor(offset, device=at.device) * dilation
        for at, offset, stride, dilation in zip(
            torch.unravel_index(positions, tuple(grid)),
            offsets,
            stage.stride,
            stage.dilation,
            strict=True,
        )
    )
    index: tuple[Tensor | slice, ...] = (samples.unsqueeze(2), slice(None), *places)
    found: Tensor = padded[index]  # (N, P, kernel, C)
    return found.flatten(0, 1).mT.flatten(1)


def _is_stage(module: nn.Module) -> TypeGuard[_Stage]:
    """Whether it is a linear layer, or a convolution without groups that pads with zeros."""
    kind = base_of(module)
    if kind is nn.Linear:
        return True
    if kind not in (nn.Conv1d, nn.Conv2d, nn.Conv3d) or not isinstance(module, Conv):
        return False
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _width(stages: Sequence[nn.Module]) -> int:
    """The most inputs that an output of any of these stages has, of those that are fitted."""
    widths = [stage.weight[0].numel() for stage in stages if _is_stage(stage)]
    return max([width for width in widths if width <= WIDEST], default=0)


def _is_pointwise(stage: _Stage) -> bool:
    return isinstance(stage, nn.Linear) or (
        set(stage.kernel_size) == {1} and set(stage.stride) == {1} and set(stage.padding) == {0}
    )


def _shared(model: nn.Module) -> set[int]:
    """Ids of the parameters that several modules have."""
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                (shared if id(parameter) in seen else seen).add(id(parameter))
    return shared


def _held(samples: int) -> Tensor:
    """(N,) bool: the last ones."""
    return torch.arange(samples) >= samples - samples // HELD


def _goals(reference: nn.Module, widths: Mapping[str, int], inputs: Any, batch_size: int, seed: int) -> dict[str, Goal]:
    """What layers of the reference give on all samples, at random positions; of those that are called once.

    Args:
        widths: By layer: the most inputs of an output that are to be fitted.
    """
    generator = torch.Generator().manual_seed(seed)
    samples, done, size = tree.count(inputs), 0, 0
    places: dict[str, tuple[tuple[int, ...], Tensor]] = {}
    kept: dict[str, list[Tensor]] = {name: [] for name in widths}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _: Any, outputs: Tensor) -> None:
            if outputs.dim() < 2 or len(outputs) != size:  # its rows are not those of samples, one after the other
                return
            rows, grid = _by_position(module, outputs)
            if name not in places:
                room, most = rows.shape[1], ELEMENTS // max(1, samples * rows.shape[2])
                wanted = min(ROWS, max(LEAST_ROWS, ROWS_EACH * widths[name]))
                count = min(room, max(1, min(round(wanted / samples), most)))
                chosen = torch.rand(samples, room, generator=generator).topk(count, dim=1).indices
                places[name] = grid, chosen.to(rows.device)
            if places[name][0] == grid:
                at = torch.arange(size, device=rows.device).unsqueeze(1)
                kept[name].append(rows[at, places[name][1][done : done + size]].flatten(0, 1).clone())

        return hook

    with _watched(reference, [(reference.get_submodule(name), keep(name)) for name in widths]):
        for batch in tree.batches(inputs, batch_size):
            size = tree.count(batch)
            tree.call(reference, batch)
            done += size
    goals = {}
    for name, (grid, chosen) in places.items():
        outputs = torch.cat(kept[name])
        if len(outputs) == chosen.numel():
            goals[name] = Goal(grid, chosen, outputs)
    return goals


def _by_position(module: nn.Module, outputs: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(N, positions, O), and the shape of the positions."""
    if isinstance(_last(module), Conv | ConvTranspose):
        return outputs.flatten(2).mT, tuple(outputs.shape[2:])
    return outputs.reshape(len(outputs), -1, outputs.shape[-1]), tuple(outputs.shape[1:-1])


def _last(module: nn.Module) -> nn.Module:
    """A chain's last stage; any other layer itself."""
    return module[-1] if isinstance(module, nn.Sequential) and len(module) else module


def _affordable(reference: nn.Module, inputs: Any, output_bytes: int) -> Any:
    """As many samples as there is memory for."""
    found: dict[str, Tensor] = {}
    few = tree.take(inputs, slice(0, _PROBED))
    with _watched(reference, [(module, _kept(found, name)) for name, module in reference.named_modules()]):
        tree.call(reference, few)
    each = max((tree.size_bytes(outputs) for outputs in found.values()), default=1) / tree.count(few)
    return tree.take(inputs, slice(0, max(1, int(output_bytes / max(1.0, each)))))
