"""First and second moments of every layer on training samples: all that data-aware factors need of the data.

Legend: B samples of a batch, P positions, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diminuendo.engine.formats.base import Moments
from diminuendo.engine.plan import LayerSpec
from diminuendo.engine.survey.discover import evaluating
from diminuendo.engine.task import TaskError

_SEPARATOR = "|"


class _Accumulator:
    """Mean and covariance of (P, C) rows that come in batches, in float64.

    Rows are taken about the mean of the first batch, so that the subtraction at the end loses no digits.
    """

    def __init__(self) -> None:
        self.count = 0
        self.centre = torch.empty(0)
        self.sum = torch.empty(0)
        self.squares = torch.empty(0)

    def add(self, rows: Tensor) -> None:
        """Take in (P, C) rows of any floating-point type."""
        rows = rows.detach().to(torch.float64)
        if self.count == 0:
            self.centre = rows.mean(dim=0)
            self.sum = torch.zeros_like(self.centre)
            self.squares = self.centre.new_zeros(rows.shape[1], rows.shape[1])
        rows = rows - self.centre
        self.count += len(rows)
        self.sum += rows.sum(dim=0)
        self.squares += rows.T @ rows

    @property
    def mean(self) -> Tensor:
        """(C,)."""
        return self.centre + self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """(C, C), divided by the count."""
        shift = self.sum / self.count
        covariance = self.squares / self.count - torch.outer(shift, shift)
        return (covariance + covariance.T) / 2


def collect(model: nn.Module, specs: Sequence[LayerSpec], inputs: Tensor, batch_size: int = 250) -> dict[str, Moments]:
    """Moments of the layers' outputs (without bias) and input channels, over samples and positions.

    Args:
        model: Run in eval mode, left as it was.
        specs: Layers, as `discover` found them.
        inputs: (N, ...) training samples, on the model's device.
        batch_size: Samples in one forward; changes results only by rounding.

    Raises:
        TaskError: A layer's input or output is not finite, or there are no samples.
    """
    if len(inputs) == 0:
        raise TaskError("train: there are no samples; give at least one")
    absorbing = _absorbing(model, specs, inputs[:2])
    sums = {spec.name: (_Accumulator(), _Accumulator()) for spec in specs}
    handles = [
        model.get_submodule(spec.name).register_forward_hook(_accumulate(spec, *sums[spec.name])) for spec in specs
    ]
    try:
        with evaluating(model), torch.no_grad():
            for start in range(0, len(inputs), batch_size):
                model(inputs[start : start + batch_size])
    finally:
        for handle in handles:
            handle.remove()
    return {
        name: Moments(
            output_mean=output.mean,
            output_covariance=output.covariance,
            input_mean=source.mean,
            input_covariance=source.covariance,
            output_count=output.count,
            input_count=source.count,
            absorbs_mean=name in absorbing,
        )
        for name, (source, output) in sums.items()
    }


class _accumulate:  # noqa: N801 - used as a function
    """Forward hook that takes in a layer's input and output."""

    def __init__(self, spec: LayerSpec, source: _Accumulator, output: _Accumulator) -> None:
        self.spec, self.source, self.output = spec, source, output

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        axis = 1 if self.spec.kind == "conv2d" else -1
        rows = output.detach().movedim(axis, -1).flatten(0, -2)
        bias = module._parameters.get("bias")
        if bias is not None:
            rows = rows - bias.detach()
        self._take(self.source, inputs[0].movedim(axis, -1).flatten(0, -2), "input")
        self._take(self.output, rows, "output")

    def _take(self, sums: _Accumulator, rows: Tensor, side: str) -> None:
        sums.add(rows)
        if not bool(torch.isfinite(sums.sum).all()) or not bool(torch.isfinite(sums.squares.diagonal()).all()):
            raise TaskError(
                f"layer {self.spec.name!r}: its {side} is NaN or infinite on training samples; "
                "check the inputs and the weights of the network"
            )


def _absorbing(model: nn.Module, specs: Sequence[LayerSpec], inputs: Tensor) -> set[str]:
    """Layers after which a constant shift is corrected: by their own bias, or by the BatchNorm that follows.

    A BatchNorm follows when it is given the very tensor that the layer returned, at every call.
    """
    names = {id(model.get_submodule(spec.name)): spec.name for spec in specs}
    returned: dict[int, tuple[str, Tensor]] = {}  # the tensors are kept, so that no id is used twice
    pending: dict[str, int] = {spec.name: 0 for spec in specs}

    def remember(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[id(module)]
        returned[id(output)] = (name, output)
        pending[name] += 1

    def match(_: nn.Module, args: tuple[object, ...]) -> None:
        found = returned.pop(id(args[0]), None) if args else None
        if found is not None:
            pending[found[0]] -= 1

    handles = [model.get_submodule(spec.name).register_forward_hook(remember) for spec in specs]
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    handles += [module.register_forward_pre_hook(match) for module in norms]
    try:
        with evaluating(model), torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {spec.name for spec in specs if spec.bias or pending[spec.name] == 0}


def to_tensors(moments: Mapping[str, Moments]) -> dict[str, Tensor]:
    """A flat mapping for safetensors: ``layer|field`` to tensor."""
    flat: dict[str, Tensor] = {}
    for layer, m in moments.items():
        fields = {
            "output_mean": m.output_mean,
            "output_covariance": m.output_covariance,
            "input_mean": m.input_mean,
            "input_covariance": m.input_covariance,
            "counts": torch.tensor([m.output_count, m.input_count, int(m.absorbs_mean)], dtype=torch.int64),
        }
        flat |= {f"{layer}{_SEPARATOR}{name}": value.contiguous() for name, value in fields.items()}
    return flat


def from_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Moments]:
    """The moments back from what `to_tensors` made."""
    layers = sorted({key.rpartition(_SEPARATOR)[0] for key in tensors})
    return {layer: _one_from(tensors, layer + _SEPARATOR) for layer in layers}


def _one_from(tensors: Mapping[str, Tensor], prefix: str) -> Moments:
    output_count, input_count, absorbs = tensors[prefix + "counts"].tolist()
    return Moments(
        output_mean=tensors[prefix + "output_mean"],
        output_covariance=tensors[prefix + "output_covariance"],
        input_mean=tensors[prefix + "input_mean"],
        input_covariance=tensors[prefix + "input_covariance"],
        output_count=output_count,
        input_count=input_count,
        absorbs_mean=bool(absorbs),
    )
