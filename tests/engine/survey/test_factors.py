from __future__ import annotations

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor

from diminuendo.engine.survey import factors
from diminuendo.engine.survey.discover import discover
from diminuendo.engine.survey.moments import collect


def test_every_format_that_supports_the_layer_and_back_from_bytes() -> None:
    model, inputs = small(), images(10)
    layers = discover(model, inputs[:1]).layers
    moments = collect(model, layers, inputs)
    before = fingerprint(model)
    made = {spec.name: factors.factor(model, spec, moments[spec.name]) for spec in layers}
    assert fingerprint(model) == before
    assert {name: list(forms) for name, forms in made.items()} == {
        "conv1": ["svd", "svd_input", "spatial", "tucker2", "cp", "tt", "zero"],
        "conv2": ["svd", "svd_input", "spatial", "tucker2", "cp", "tt", "zero"],
        "mix": ["svd", "zero"],
        "fc": ["svd", "zero"],
    }
    for forms in made.values():
        for tensors in forms.values():
            content = factors.to_bytes(tensors)
            back = factors.from_bytes(content)
            assert set(back) == set(tensors)
            assert all(torch.equal(back[name], tensors[name]) for name in tensors)
            assert factors.to_bytes(back) == content


@pytest.mark.parametrize(("layer", "count"), [("conv2", 3), ("mix", 1), ("fc", 1)])
def test_nothing_is_decomposed_twice(layer: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = small(), images(10)
    spec = next(found for found in discover(model, inputs[:1]).layers if found.name == layer)
    moments = collect(model, [spec], inputs)[layer]
    calls: list[torch.Size] = []
    eigh = torch.linalg.eigh

    def counting(matrix: Tensor) -> object:
        calls.append(matrix.shape)
        return eigh(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", counting)
    formats = ("svd", "svd_input", "spatial", "tucker2", "tt")
    made = factors.factor(model, spec, moments, formats)
    assert len(made) == (len(formats) if layer == "conv2" else 1)
    assert len(calls) == count  # of the output; and of a kernel's input and between its axes
