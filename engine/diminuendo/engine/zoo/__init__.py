"""The zoo: networks that are known by name, as the field measures them; one has weights and data in the package.

Torch is imported when a network is asked for, so that `zoo.catalog` can be had without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from diminuendo.engine.zoo.catalog import Source

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from diminuendo.engine.task import Task

__all__ = ["example", "network", "task"]

_FAMILIES = {
    "resnet18": "resnet",
    "resnet50": "resnet",
    "resnet18_imagenet": "resnet",
    "vgg19": "vgg",
    "densenet121": "densenet",
    "googlenet": "googlenet",
    "mobilenet_v1": "mobilenet",
    "mobilenet_v2": "mobilenet",
}
"""The module that has the function of a network's name."""


def network(name: str) -> nn.Module:
    """The architecture of a network of the zoo, untrained: what `load` puts compressed weights into.

    Args:
        name: As in the catalog, with or without options: ``digits``, ``resnet18?classes=16``.

    Raises:
        UnknownNetworkError: The zoo has no such network or option; the message suggests the nearest.
    """
    source = Source.parse(name)
    if source.entry.bundled:
        from diminuendo.engine.zoo import digits

        return digits.network()
    family = importlib.import_module(f"{__name__}.{_FAMILIES[source.entry.name]}")
    model: nn.Module = getattr(family, source.entry.name)(source.classes)
    return model


def example(name: str) -> Tensor:
    """(1, C, H, W) zeros: one sample in the shape that a network of the zoo takes.

    Raises:
        UnknownNetworkError: As `network`.
    """
    import torch

    return torch.zeros(1, *Source.parse(name).entry.input_shape)


def task(name: str, *, weights: Path | None = None, data: Path | None = None) -> Task:
    """The compression task of a network of the zoo, with its trained weights and its data.

    Args:
        name: As in the catalog, with or without options.
        weights: Safetensors file of trained weights; needed where the package has none.
        data: Folder of parquet files with the network's data; needed where the package has none.

    Raises:
        UnknownNetworkError: As `network`.
        TaskError: Weights or data are missing or do not fit the network; the message says what to do.
    """
    source = Source.parse(name)
    from diminuendo.engine.zoo.tasks import task as make

    return make(source, weights=weights, data=data)
