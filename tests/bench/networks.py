"""Networks of the zoo and inputs for them, for benchmarks that need neither data nor training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from diminuendo.engine import zoo
from diminuendo.engine.zoo.catalog import Source

SEED = 0


def inputs_of(source: Source, data: Path | None, count: int) -> Tensor:
    """(count, C, H, W) evaluation images, or noise."""
    if data is not None and source.entry.data:
        from diminuendo.engine.zoo import cifar

        found: Tensor = cifar.read(data, "test", source, limit=count).inputs
        return found
    return torch.randn(count, *source.entry.input_shape, generator=torch.Generator().manual_seed(SEED))


def network_of(source: Source, weights: Path | None) -> nn.Module:
    """A network of the zoo, in eval mode."""
    torch.manual_seed(SEED)
    model = zoo.network(source.text)
    if weights is not None:
        from diminuendo.engine.zoo.state import load_weights

        load_weights(model, weights, source)
    return model.eval()
