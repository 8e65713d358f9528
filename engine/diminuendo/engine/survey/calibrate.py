"""What each form of a layer harms: measured at a few ranks, interpolated at all others.

Truncate one layer, take the BatchNorms after it by the statistics of the batch, and measure the KL divergence to the
original treated alike. Measured at a few rungs of each format's ladder, and carried to the others by a monotone curve
of damage over dropped energy. What comes before the layer is computed once for all of its forms, see
`diminuendo.engine.survey.partial`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diminuendo.engine import surgery, tree
from diminuendo.engine.formats import FORMATS, Factors, Format
from diminuendo.engine.formats.layers import geometry, kernel_of
from diminuendo.engine.modules import unwrapped
from diminuendo.engine.plan import Choice, LayerSpec, Plan
from diminuendo.engine.score import Divergence, Varying
from diminuendo.engine.search.work import Option
from diminuendo.engine.survey.curve import DamageCurve
from diminuendo.engine.survey.norms import follow
from diminuendo.engine.survey.partial import Ending, UnlikeError
from diminuendo.engine.survey.trial import bare

Measured = tuple[tuple[str, tuple[int, ...], float], ...]
"""(format, ranks, KL divergence in nats per sample)."""

_LEAST_VARIATION = 1e-4
"""Of the variance over samples that the original's outputs have: below it a network does not see its input."""

_RUINED = 1e6
"""Damage of a form that gives no usable output: finite, so that it can be stored and compared."""

_TRIED = 2
"""Samples in each of the two batches on which partial forwards are held to whole ones."""

_LEAST_BATCH = 32
"""Samples from which BatchNorm's statistics can be taken; where no more can be kept, forwards are whole."""


@dataclass
class Calibration:
    """Measures what forms of a network's layers harm.

    Attributes:
        model: The original network; not changed.
        inputs: (N, ...) training inputs, as `tree` has them, on which the damage is measured.
        logits: The outputs' part that is compared.
        batch_size: Samples in one forward, of which BatchNorm takes the statistics.
        partial: Whether what comes before a layer is computed once; changes results by rounding only.
        kept_bytes: Most memory for what is kept of a batch.
    """

    model: nn.Module
    inputs: Any
    logits: Callable[[Any], Tensor] = lambda outputs: outputs
    batch_size: int = 250
    partial: bool = True
    kept_bytes: int = 2**30

    def options(
        self, spec: LayerSpec, factors: Mapping[str, Factors], *, points: int = 4, multiple: int = 1
    ) -> tuple[tuple[Option, ...], Measured]:
        """Every form of a layer with its cost and its damage.

        Args:
            spec: The layer.
            factors: Of this layer, by format.
            points: Measurements for each format, at least 1.
            multiple: What ranks between a ladder's ends are multiples of.

        Returns:
            Options by format and then by params, damage non-increasing within a format; and what was measured. A form
            that gives the same for every input is none where the network then does so too.
        """
        item_bytes = kernel_of(unwrapped(self.model).get_submodule(spec.name)).element_size()
        forms = [form for name, form in FORMATS.items() if name in factors]
        ladders = {form.name: form.snapped(spec, form.ladder(spec, factors[form.name]), multiple) for form in forms}
        choices = [
            Choice(name, ladder[rung])
            for name, ladder in ladders.items()
            for rung in rungs_to_measure(len(ladder), points)
        ]
        damages = dict(zip(choices, self.damages(spec, choices, factors), strict=True))
        damages = {choice: damage for choice, damage in damages.items() if math.isfinite(damage)}
        found: list[Option] = []
        for form in forms:
            own = factors[form.name]
            energies = {ranks: form.energy(own, ranks) for ranks in ladders[form.name]}
            known = [(energies[c.ranks], damage) for c, damage in damages.items() if c.format == form.name]
            if not known:
                continue
            found += _options_of(form, spec, energies, known, item_bytes)
        return tuple(found), tuple((c.format, c.ranks, damage) for c, damage in damages.items())

    def damages(self, spec: LayerSpec, choices: Sequence[Choice], factors: Mapping[str, Factors]) -> list[float]:
        """KL divergence to the original, in nats per sample, of each of some forms of a layer.

        BatchNorms that are called after the layer take the statistics of the batch, in the original too: what that
        does by itself is no fault of the form's. Those before it are left as they are.

        Returns:
            At most `_RUINED`, as where an output is not finite; but infinite for a form that gives the same for every
            input where the network's outputs then hardly vary.
        """
        if not choices:
            return []
        exchange = _Exchange(self.model, spec, choices[0])
        ending = Ending(exchange.network, exchange.place)
        exchange.put(choices[0], factors)
        size = self._partial_batch(ending) if self.partial else 0
        if tree.count(self.inputs) > 1:  # one by itself has no statistics
            exchange.take_statistics(follow(self.model, [spec], tree.take(self.inputs, slice(0, 2))).after[spec.name])
        if size:
            try:
                return self._measured(exchange, choices, factors, size, ending.from_layer)
            except UnlikeError:
                pass
        return self._measured(exchange, choices, factors, self.batch_size, ending.from_input)

    @torch.no_grad()
    def _partial_batch(self, ending: Ending) -> int:
        """Samples in a batch of which the beginning can be kept; 0 where forwards must be whole."""
        if tree.count(self.inputs) < 2 * _TRIED:
            return 0
        few = [tree.take(self.inputs, slice(start, start + _TRIED)) for start in (0, _TRIED)]
        kept = ending.tried(few)
        if kept is None:
            return 0
        size = min(self.batch_size, self.kept_bytes * 2 * _TRIED // max(1, kept))
        return size if size >= min(_LEAST_BATCH, self.batch_size) else 0

    @torch.no_grad()
    def _measured(
        self,
        exchange: _Exchange,
        choices: Sequence[Choice],
        factors: Mapping[str, Factors],
        batch_size: int,
        runs: Callable[[Any], Callable[[], Any]],
    ) -> list[float]:
        found = [_Damage(choice) for choice in choices]
        samples = tree.count(self.inputs)
        for index in torch.arange(samples).tensor_split(math.ceil(samples / batch_size)):
            run = runs(tree.take(self.inputs, slice(int(index[0]), int(index[-1]) + 1)))
            exchange.put_back()
            reference = self.logits(run())
            for damage in found:
                exchange.put(damage.choice, factors)
                damage.add(reference, self.logits(run()))
        return [damage.value for damage in found]


class _Damage:
    """What one form harms, batch by batch."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self._divergence = Divergence()
        self._varying = None if FORMATS[choice.format].exact else Varying()

    def add(self, reference: Tensor, outputs: Tensor) -> None:
        """Take in a batch."""
        self._divergence.add(reference, outputs)
        if self._varying:
            self._varying.add(reference, outputs)

    @property
    def value(self) -> float:
        """See `Calibration.damages`."""
        if self._varying and self._varying.share < _LEAST_VARIATION:
            return math.inf
        found = self._divergence.value
        return min(found, _RUINED) if math.isfinite(found) else _RUINED


class _Exchange:
    """A copy of a network in which one layer takes one form after the other.

    Attributes:
        network: In eval mode.
        place: What stands where the layer was; its stages are exchanged.
    """

    def __init__(self, model: nn.Module, spec: LayerSpec, first: Choice) -> None:
        self.network = surgery.build(model, Plan.of({spec.name: first})).eval()
        self._spec = spec
        self._layer = unwrapped(model).get_submodule(spec.name)
        place = self.network.get_submodule(spec.name)
        if not isinstance(place, nn.Sequential):
            raise TypeError(f"layer {spec.name!r}: {type(place).__name__} is no chain of stages")
        self.place = place

    def put(self, choice: Choice, factors: Mapping[str, Factors]) -> None:
        """Give the layer a form, of its factors in that format."""
        form = FORMATS[choice.format]
        module = form.build(self._layer, choice.ranks)
        form.load(module, geometry(self._spec.name, self._layer), factors[choice.format], choice.ranks)
        self._fill(module)

    def put_back(self) -> None:
        """The layer as it was."""
        self._fill([bare(self._layer)])

    def _fill(self, stages: Iterable[nn.Module]) -> None:
        del self.place[:]
        self.place.extend(stages)
        self.place.eval()

    def take_statistics(self, names: Sequence[str]) -> None:
        """Let BatchNorms, by name, take the statistics of each batch."""
        for norm in map(self.network.get_submodule, names):
            norm.train()


def rungs_to_measure(count: int, points: int) -> list[int]:
    """Indices of rungs spread evenly over a ladder of `count`, both ends among them.

    A ladder's rungs are even on a log scale of params. Spread like that, four points tell the damage at the rest
    nearer than when spread evenly over the logarithm of the energy, which crowds them where hardly anything is
    lost.
    """
    if count == 0:
        return []
    if points == 1:
        return [count // 2]
    return sorted({round(i * (count - 1) / (points - 1)) for i in range(points)})


def _options_of(
    form: Format,
    spec: LayerSpec,
    energies: Mapping[tuple[int, ...], float],
    known: Sequence[tuple[float, float]],
    item_bytes: int,
) -> list[Option]:
    """One option for each rung."""
    curve = DamageCurve(known)
    found: list[Option] = []
    ceiling = math.inf
    for ranks, energy in energies.items():
        ceiling = min(ceiling, curve(energy))
        found.append(Option(Choice(form.name, ranks), form.cost(spec, ranks, item_bytes=item_bytes), energy, ceiling))
    return found
