from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.engine.formats.cases import formed, of
from torch import Tensor, nn

from diminuendo.engine.formats import get, layers
from diminuendo.engine.plan import PlanError


class Renamed(nn.Linear):
    """Merely another name."""


class Doubled(nn.Linear):
    """Computes something else."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def test_which_class_a_layer_computes_like() -> None:
    assert layers.base_of(nn.Linear(2, 3)) is nn.Linear
    assert layers.base_of(Renamed(2, 3)) is nn.Linear
    assert layers.base_of(Doubled(2, 3)) is None
    assert layers.base_of(nn.ConvTranspose1d(2, 3, 2)) is nn.ConvTranspose1d
    assert layers.base_of(nn.ReLU()) is None


def test_the_geometry_of_a_layer() -> None:
    spec = layers.geometry("up", nn.ConvTranspose2d(6, 4, (4, 3), groups=2, bias=False))
    assert (spec.name, spec.kind, spec.out_channels, spec.in_channels) == ("up", "conv_transpose", 4, 6)
    assert (spec.kernel, spec.bias, spec.groups, spec.calls) == ((4, 3), False, 2, ())
    assert spec.params == 4 * 3 * 12
    with pytest.raises(PlanError, match=r"layer 'act': a ReLU has no form but dense"):
        layers.geometry("act", nn.ReLU())
    with pytest.raises(PlanError, match=r"layer 'twice': a Doubled has no form but dense"):
        layers.geometry("twice", Doubled(2, 3))


def test_kernels_have_one_layout() -> None:
    # A transposed convolution's kernel, by hand: group g's (I, O, k) becomes (O, I, k), groups along the outputs.
    layer = nn.ConvTranspose1d(4, 6, 2, groups=2)
    kernel = layers.kernel_of(layer)
    assert kernel.shape == (6, 2, 2)
    for output in range(6):
        for own in range(2):
            group = output // 3
            assert torch.equal(kernel[output, own], layer.weight.detach()[group * 2 + own, output % 3])
    conv = nn.Conv1d(4, 6, 2, groups=2)
    assert torch.equal(layers.kernel_of(conv), conv.weight)
    assert not layers.kernel_of(conv).requires_grad


def test_transformers_conv1d_is_a_linear_layer_with_its_weight_transposed() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    layer = utils.Conv1D(6, 9).double()  # 9 -> 6
    spec = layers.geometry("mlp", layer)
    assert (spec.kind, spec.out_channels, spec.in_channels, spec.bias) == ("linear", 6, 9, True)
    assert torch.equal(layers.kernel_of(layer), layer.weight.detach().T)
    case = of(layer, (4,))
    svd = get("svd")
    module = formed(svd, case, (6,))
    assert [type(stage) for stage in module] == [nn.Linear, nn.Linear]
    torch.testing.assert_close(module(case.inputs), layer(case.inputs))


@pytest.mark.parametrize("name", ["svd", "svd_input", "spatial", "tucker2", "cp", "tt"])
def test_stride_padding_and_dilation_go_where_the_kernel_goes(name: str) -> None:
    layer = nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(1, 4), dilation=(1, 2), padding_mode="circular")
    module = get(name).build(layer, tuple(1 for _ in get(name).max_ranks(layers.geometry("", layer))))
    for index, key in enumerate(("kernel_size", "stride", "dilation")):
        for axis in range(2):
            neutral = 1
            values = [getattr(stage, key)[axis] for stage in module]
            wanted = getattr(layer, key)[axis]
            assert sorted(values) == sorted([wanted] + [neutral] * (len(values) - 1)), (index, axis)
    for axis in range(2):
        paddings = [int(_padding(stage)[axis]) for stage in module]
        assert sorted(paddings) == sorted([layer.padding[axis]] + [0] * (len(paddings) - 1))
    assert [stage.bias is not None for stage in module] == [False] * (len(module) - 1) + [True]


def _padding(stage: nn.Module) -> tuple[int, int]:
    assert isinstance(stage, nn.Conv2d)
    assert not isinstance(stage.padding, str)
    return stage.padding[0], stage.padding[1]


def test_stages_follow_the_layers_device_and_dtype() -> None:
    layer = nn.Conv2d(4, 6, 3, dtype=torch.bfloat16, device="meta")
    for parameter in get("cp").build(layer, (3,)).parameters():
        assert (parameter.dtype, parameter.device.type) == (torch.bfloat16, "meta")


def test_weights_come_back_from_a_state_of_other_ranks() -> None:
    for kind, form in ((nn.ConvTranspose2d(6, 4, 3, groups=2), "svd"), (nn.ConvTranspose2d(6, 4, 3), "cp")):
        spec = layers.geometry("", kind)
        ranks = (2,)
        module = get(form).build(kind, ranks)
        stages = get(form).stages(dataclasses.replace(spec), (5,))
        generator = torch.Generator().manual_seed(0)
        weights = [
            torch.randn(layers.weights_of(spec, stages, module.state_dict()).weights[i].shape, generator=generator)
            for i in range(len(module))
        ]
        state = layers.state_of(module, weights, torch.ones(4))
        back = layers.weights_of(spec, stages, state)
        for own, expected in zip(back.weights, weights, strict=True):
            torch.testing.assert_close(own.reshape(expected.shape), expected)
        assert back.bias is not None
