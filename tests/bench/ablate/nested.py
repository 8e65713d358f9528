"""Shared nested factors: one training in which every step draws a plan, and every rank is a slice of the same weights.

LoRA-like nested dropout over whole plans (Rippel et al. 2014; slimmable networks, Yu et al. 2019): afterwards every
plan that was drawn is there, with BatchNorm re-estimated for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine.plan import Choice, Plan

NESTED = ("svd", "tucker2")
"""Formats whose ranks are slices of the same factors, stage by stage."""


class Sliced(nn.Module):
    """A form's chain of layers of which the first channels between its stages are used.

    Attributes:
        ranks: Channels between the stages.
    """

    def __init__(self, chain: nn.Sequential) -> None:
        """Use a chain at its highest ranks."""
        super().__init__()
        self.chain = chain
        self.ranks = tuple(len(_weight(stage)) for stage in chain)[:-1]

    def forward(self, x: Tensor) -> Tensor:
        """(N, I, ...) -> (N, O, ...)."""
        wide = len(self.chain) - 1
        for place, stage in enumerate(self.chain):
            weight = _weight(stage)
            if place < wide:
                weight = weight[: self.ranks[place]]
            if place > 0:
                weight = weight[:, : self.ranks[place - 1]]
            x = _applied(stage, x, weight)
        return x


def _weight(stage: nn.Module) -> Tensor:
    """(O, I, ...)."""
    return stage.get_parameter("weight")


def _applied(stage: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(stage, nn.Linear):
        return functional.linear(x, weight, stage.bias)
    if isinstance(stage, nn.Conv2d):
        return functional.conv2d(x, weight, stage.bias, stage.stride, stage.padding, stage.dilation, stage.groups)
    raise TypeError(f"{type(stage).__name__} has no slices here")


class Nested(nn.Module):
    """A network of sliced layers: in training every forward draws one of its plans, in eval it has what was taken."""

    def __init__(self, model: nn.Module, largest: Plan, plans: Sequence[Plan], seed: int) -> None:
        """Take a network that was built as the largest plan.

        Args:
            model: Changed: its chains become sliced.
            largest: Has for every layer the highest ranks of all plans, or it is dense in all.
            plans: Drawn with equal chances.
            seed: Of the draws.
        """
        super().__init__()
        self.model = model
        self._plans = list(plans)
        self._generator = torch.Generator().manual_seed(seed)
        self._layers: dict[str, Sliced] = {}
        for name, choice in largest.items():
            if choice.ranks:
                chain = model.get_submodule(name)
                assert isinstance(chain, nn.Sequential)
                owner, _, last = name.rpartition(".")
                self._layers[name] = Sliced(chain)
                setattr(model.get_submodule(owner), last, self._layers[name])

    def take(self, plan: Mapping[str, Choice]) -> None:
        """Have the ranks of a plan."""
        for name, layer in self._layers.items():
            layer.ranks = plan[name].ranks

    def forward(self, x: Tensor) -> Tensor:
        """Of the plan that is drawn, or that was taken."""
        if self.training:
            draw = int(torch.randint(len(self._plans), (), generator=self._generator))
            self.take(self._plans[draw])
        outputs: Tensor = self.model(x)
        return outputs

    def state_of(self, plan: Plan) -> dict[str, Tensor]:
        """State dict for a network that is built as a plan: the slices, and everything that is shared."""
        self.take(plan)
        state: dict[str, Tensor] = {}
        for key, value in self.model.state_dict().items():
            name, _, inside = key.partition(".chain.")
            state[key.replace(".chain.", ".")] = self._slice(name, inside, value) if inside else value
        return state

    def _slice(self, name: str, inside: str, value: Tensor) -> Tensor:
        stage, _, what = inside.partition(".")
        if what != "weight":
            return value
        place, layer = int(stage), self._layers[name]
        value = value[: layer.ranks[place]] if place < len(layer.ranks) else value
        return (value[:, : layer.ranks[place - 1]] if place else value).contiguous()
