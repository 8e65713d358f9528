"""The networks of the zoo against the published figures, and what they take and give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diminuendo.engine import zoo
from diminuendo.engine.profile import profile
from diminuendo.engine.zoo.catalog import CATALOG, Source

PUBLISHED = {
    # params, GMACs, memory in MB: "original" rows of the published table, at 100 classes
    "resnet18": (11_220_132, 0.5567, 48.4389),
    "resnet50": (23_705_252, 1.3049, 123.5033),
    "vgg19": (20_086_692, 0.3995, 80.2270),
    "densenet121": (7_048_548, 0.8982, 66.1506),
    "googlenet": (6_258_500, 1.5341, 64.5977),
    "mobilenet_v1": (3_309_476, 0.0473, 16.6215),
    "mobilenet_v2": (2_412_212, 0.0947, 22.8999),
}
LAST_WIDTH = {"vgg19": 512, "resnet18": 512, "resnet50": 2048, "mobilenet_v2": 1280}
"""Channels that the last linear layer takes; 1024 for the others."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_figures_are_as_published_to_four_decimals(name: str) -> None:
    params, gmacs, memory_mb = PUBLISHED[name]
    figures = profile(zoo.network(name), zoo.example(name), time=False)
    assert figures.params == params
    assert f"{figures.macs / 1e9:.4f}" == f"{gmacs:.4f}"
    assert f"{figures.memory_mb:.4f}" == f"{memory_mb:.4f}"
    assert f"{figures.size_mb:.4f}" == f"{params * 4 / 2**20:.4f}"
    assert figures.uncounted == ()


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("classes", [2, 1000])
def test_other_numbers_of_classes_change_the_last_layer_alone(name: str, classes: int) -> None:
    model = zoo.network(f"{name}?classes={classes}")
    params = sum(parameter.numel() for parameter in model.parameters())
    assert params == PUBLISHED[name][0] + (classes - 100) * (LAST_WIDTH.get(name, 1024) + 1)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [layer.out_features for layer in last] == [classes]


@pytest.mark.parametrize(("classes", "params"), [(2, 11_177_538), (16, 11_184_720), (1000, 11_689_512)])
def test_resnet18_as_for_imagenet(classes: int, params: int) -> None:
    model = zoo.network(f"resnet18_imagenet?classes={classes}").eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == params
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 224, 224)).shape == (1, classes)
        assert model(torch.zeros(1, 3, 96, 160)).shape == (1, classes)  # as in every ResNet of this kind
    stages: list[tuple[int, ...]] = []
    for name in ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out: stages.append(tuple(out.shape[1:])))
    with torch.inference_mode():
        model(zoo.example("resnet18_imagenet"))
    assert stages == [(64, 112, 112), (64, 56, 56), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_the_catalogs_figures_are_the_networks(entry: object) -> None:
    found = next(known for known in CATALOG if known is entry)
    model = zoo.network(found.name).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == found.params
    example = zoo.example(found.name)
    assert tuple(example.shape) == (1, *found.input_shape)
    with torch.inference_mode():
        assert model(example).shape == (1, found.classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_state_goes_out_and_in_again(name: str) -> None:
    torch.manual_seed(0)
    first, second = zoo.network(name).eval(), zoo.network(name).eval()
    inputs = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = first(inputs)
        assert not torch.equal(second(inputs), expected)
        second.load_state_dict(first.state_dict())
        assert torch.equal(second(inputs), expected)


def test_resnet18_has_the_usual_names() -> None:
    names = set(zoo.network("resnet18").state_dict())
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{part}" for part in norm)}
    for block in blocks:
        for number in (1, 2):
            expected |= {f"{block}.conv{number}.weight", *(f"{block}.bn{number}.{part}" for part in norm)}
    for stage in (2, 3, 4):
        shortcut = f"layer{stage}.0.downsample"
        expected |= {f"{shortcut}.0.weight", *(f"{shortcut}.1.{part}" for part in norm)}
    assert names == expected


def test_the_source_of_every_network_is_canonical() -> None:
    for entry in CATALOG:
        assert str(Source.parse(entry.name)) == f"zoo:{entry.name}"
