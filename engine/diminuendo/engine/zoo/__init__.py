"""The zoo: networks with weights and data that come with the package.

Torch is imported when a network is asked for, so that `zoo.catalog` can be had without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diminuendo.engine.zoo.catalog import find

if TYPE_CHECKING:
    from torch import nn

    from diminuendo.engine.task import Task

__all__ = ["network", "task"]


def task(name: str) -> Task:
    """The compression task of a network of the zoo, with its trained weights and its data.

    Args:
        name: As in the catalog, e.g. ``digits``.

    Raises:
        UnknownNetworkError: The zoo has no such network; the message suggests the nearest.
    """
    find(name)
    from diminuendo.engine.zoo import digits

    return digits.task()


def network(name: str) -> nn.Module:
    """The architecture of a network of the zoo, untrained: what `load` puts compressed weights into.

    Raises:
        UnknownNetworkError: The zoo has no such network; the message suggests the nearest.
    """
    find(name)
    from diminuendo.engine.zoo import digits

    return digits.network()
