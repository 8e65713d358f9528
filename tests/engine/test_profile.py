from __future__ import annotations

import warnings

import pytest
import torch
from tests.engine.networks import fingerprint, images, small
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from diminuendo.engine.profile import LayerProfile, machine, profile


def test_a_small_network_by_hand() -> None:
    figures = profile(small(), images(4), time=False)
    assert figures.layers == (
        LayerProfile("conv1", "Conv2d", 144, 144 * 64),
        LayerProfile("bn1", "BatchNorm2d", 16, 2 * 8 * 64),
        # The ReLU module is called twice, on 8x8x8 and on 12x4x4; the functional one on `mix` counts nothing.
        LayerProfile("relu", "ReLU", 0, 8 * 64 + 12 * 16),
        LayerProfile("conv2", "Conv2d", 864, 864 * 16),
        LayerProfile("bn2", "BatchNorm2d", 24, 2 * 12 * 16),
        LayerProfile("mix", "Conv2d", 144, 144 * 16),
        LayerProfile("pool", "AdaptiveAvgPool2d", 0, 12 * 16),
        LayerProfile("fc", "Linear", 65, 12 * 5 + 5),
    )
    assert figures.params == 144 + 16 + 864 + 24 + 144 + 65
    assert figures.macs == 9216 + 1024 + 704 + 13824 + 384 + 2304 + 192 + 65
    # Input 128; conv1, bn1, relu 512 each; conv2, bn2, relu, mix 192 each; pool 12; drop 12; fc 5; the network 5.
    activations = 128 + 3 * 512 + 4 * 192 + 12 + 12 + 5 + 5
    assert figures.size_mb == pytest.approx(1257 * 4 / 2**20)
    assert figures.memory_mb == pytest.approx((1257 + activations) * 4 / 2**20)
    assert figures.time_ms is None
    assert figures.uncounted == ()


def test_biased_grouped_and_transposed_convolutions_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),  # on 6x6: 8*36 outputs, each 9*2 + 1
        nn.ConvTranspose2d(8, 2, 2, stride=2),  # 8*36 inputs, each 2*2*2; 2*144 biases
        nn.Conv1d(1, 1, 1, bias=False),
    )
    figures = profile(nn.Sequential(model[0], model[1]), torch.zeros(1, 4, 6, 6), time=False)
    assert [layer.macs for layer in figures.layers] == [8 * 36 * 19, 8 * 36 * 8 + 2 * 144]
    assert profile(nn.Sequential(model[2]), torch.zeros(1, 1, 5), time=False).macs == 5


def test_sequential_and_module_lists_are_transparent_for_memory() -> None:
    flat, nested = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Sequential(nn.Sequential(nn.Linear(3, 3))))
    x = torch.zeros(1, 3)
    assert profile(flat, x, time=False).memory_mb == profile(nested, x, time=False).memory_mb


def test_frozen_and_shared_parameters() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    figures = profile(nn.Sequential(first, second), torch.zeros(1, 4), time=False)
    assert figures.params == 16 + 4
    assert [layer.params for layer in figures.layers] == [20, 0]
    assert figures.macs == 2 * 20


def test_half_precision_is_half_the_size() -> None:
    model = nn.Sequential(nn.Linear(512, 512, bias=False)).to(torch.bfloat16)
    assert profile(model, torch.zeros(1, 512, dtype=torch.bfloat16), time=False).size_mb == 0.5


def test_kinds_without_a_rule_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.LayerNorm(4), nn.Identity())
    assert profile(model, torch.zeros(1, 4), time=False).uncounted == ("GELU", "LayerNorm")


def test_one_sample_is_profiled_and_the_network_is_left_as_it_was() -> None:
    model = small()
    before = fingerprint(model)
    many, one = profile(model, images(7), runs=3), profile(model, images(1), runs=3)
    assert (many.macs, many.memory_mb) == (one.macs, one.memory_mb)
    assert many.time_ms is not None
    assert many.time_ms > 0
    assert fingerprint(model) == before


class Named(nn.Module):
    """Takes keyword arguments and gives a mapping; calls its layers with keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool1d(2)
        self.up = nn.ConvTranspose1d(2, 3, 2, stride=2, bias=False)
        self.fc = nn.Linear(4, 6)

    def forward(self, *, left: Tensor, right: dict[str, Tensor]) -> dict[str, Tensor]:
        pooled = self.pool(input=self.fc(input=left))  # (1, 2, 6) -> (1, 2, 3)
        return {"up": self.up(input=pooled), "right": right["x"]}


def test_nested_inputs_and_keyword_arguments_by_hand() -> None:
    inputs = {"left": torch.zeros(3, 2, 4), "right": {"x": torch.zeros(3, 5)}}
    figures = profile(Named(), inputs, time=False)
    assert {layer.name: layer.macs for layer in figures.layers} == {
        "pool": 12,  # its inputs
        "up": 6 * 3 * 2,  # each of 2x3 inputs goes to 3 channels at 2 places
        "fc": 12 * (4 + 1),
    }
    # Inputs 8 + 5; fc 12, pool 6, up 3x6; the network 18 + 5.
    assert figures.memory_mb == pytest.approx((12 + 30 + 13 + 12 + 6 + 18 + 23) * 4 / 2**20)
    assert [layer.output_shape for layer in figures.layers] == [(1, 2, 3), (1, 3, 6), (1, 2, 6)]


def test_kinds_that_only_move_values_are_counted_as_nothing() -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.ZeroPad1d(1), nn.Unflatten(1, (1, 3)), nn.Dropout(), nn.Flatten())
    figures = profile(model, torch.zeros(1, 3, dtype=torch.int64), time=False)
    assert (figures.macs, figures.params, figures.uncounted) == (0, 28, ())


class Recurrent(nn.Module):
    """An LSTM, attention, and a linear layer whose weight other code reads."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(x)
        x, _ = self.attention(x, x, x)
        return functional.linear(x, self.fc.weight)


def test_what_could_not_be_counted_is_said() -> None:
    figures = profile(Recurrent(), torch.zeros(1, 5, 4), time=False)
    assert figures.macs == 0
    assert figures.uncounted == (
        "LSTM",
        "Linear (not called)",
        "MultiheadAttention",
        "NonDynamicallyQuantizableLinear (not called)",
    )
    assert figures.params == sum(p.numel() for p in Recurrent().parameters())


def test_a_scripted_network_is_not_said_to_cost_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4)))
    figures = profile(scripted, torch.zeros(1, 4), time=False)
    assert (figures.params, figures.macs) == (20, 0)
    assert figures.uncounted == ("RecursiveScriptModule (not called)",)


def test_the_fused_encoder_layer_is_counted_through_its_modules() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    before = torch.backends.mha.get_fastpath_enabled()
    figures = profile(layer.eval(), torch.zeros(1, 3, 8), time=False)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert {layer.name: layer.macs for layer in figures.layers if layer.macs} == {
        "linear1": 3 * 16 * 9,
        "linear2": 3 * 8 * 17,
    }
    assert "MultiheadAttention" in figures.uncounted


def test_what_is_wrapped_around_a_network_is_left_out() -> None:
    model = small()
    plain = profile(model, images(1), time=False)
    assert profile(nn.DataParallel(model), images(1), time=False) == plain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch's compiler about torch
        compiled = torch.compile(model)
    assert profile(compiled, images(1), time=False) == plain  # type: ignore[arg-type]


def test_lazy_layers_are_given_weights_in_a_copy() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))
    figures = profile(model, torch.zeros(2, 3, 6, 6), time=False)
    assert figures.layers == (
        LayerProfile("0", "Conv2d", 4 * 27 + 4, 4 * 36 * 28),
        LayerProfile("1", "BatchNorm2d", 8, 2 * 4 * 36),
        LayerProfile("3", "Linear", 5 * 144 + 5, 5 * 145),
    )
    assert [type(module).__name__ for module in model] == ["LazyConv2d", "LazyBatchNorm2d", "Flatten", "LazyLinear"]
    assert model.training


def test_a_parametrized_layer_is_one_layer() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    figures = profile(model, torch.zeros(1, 4), time=False)
    # The weight's direction (3x4) and length (3x1), and the bias.
    assert figures.layers == (LayerProfile("0", "ParametrizedLinear", 12 + 3 + 3, 3 * 5),)
    assert figures.memory_mb == pytest.approx((18 + 4 + 3) * 4 / 2**20)
    assert figures.uncounted == ()


def test_quantized_weights_are_stored_in_a_byte_each() -> None:
    linear = nn.Linear(32, 16)
    linear.qconfig = torch.ao.quantization.default_dynamic_qconfig  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", (DeprecationWarning, UserWarning))
        quantized = torch.ao.nn.quantized.dynamic.Linear.from_float(linear)  # type: ignore[no-untyped-call]
    figures = profile(nn.Sequential(quantized, nn.Linear(16, 2)), torch.zeros(1, 32), time=False)
    assert figures.size_mb * 2**20 == 32 * 16 + 16 * 4 + (16 * 2 + 2) * 4
    assert figures.params == 34
    assert figures.uncounted == ("Linear",)  # the quantized one has the same name


def test_transformers_conv1d_is_a_linear_layer() -> None:
    from transformers.pytorch_utils import Conv1D

    layer = Conv1D(nf=6, nx=4)  # type: ignore[no-untyped-call]
    figures = profile(nn.Sequential(layer), torch.zeros(1, 5, 4), time=False)
    assert figures.layers == (LayerProfile("0", "Conv1D", 4 * 6 + 6, 5 * 6 * (4 + 1)),)
    assert figures.uncounted == ()


class Counting(nn.Module):
    """Writes to one buffer and replaces another in every forward."""

    calls: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(2))
        self.register_buffer("none", None)
        self.fc = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x[0] + 1
        out: Tensor = self.fc(x)
        return out


def test_buffers_modes_and_hooks_are_left_as_they_were() -> None:
    model = nn.Sequential(Counting(), nn.BatchNorm1d(2), nn.Dropout())
    model[1].eval()
    counting = model[0]
    assert isinstance(counting, Counting)
    calls, last = counting.calls, counting.last
    before = fingerprint(model)
    profile(model, torch.randn(4, 2, generator=torch.Generator().manual_seed(0)), runs=2)
    assert fingerprint(model) == before
    assert counting.calls is calls
    assert counting.last is last
    assert counting.none is None


def test_hooks_and_modes_are_restored_when_a_forward_fails() -> None:
    model = small()
    before = fingerprint(model)
    with pytest.raises(RuntimeError):
        profile(model, torch.zeros(1, 5, 8, 8))
    assert fingerprint(model) == before
    assert torch.backends.mha.get_fastpath_enabled()


def test_macs_of_convolutions_and_linear_layers_are_half_of_torchs_flops() -> None:
    layers = [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, bias=False), (1, 4, 9)),
        (nn.Conv2d(4, 6, (3, 2), dilation=2, groups=2, bias=False), (1, 4, 9, 8)),
        (nn.Conv3d(2, 4, 2, bias=False, padding=1), (1, 2, 3, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2, bias=False), (1, 4, 5, 4)),
        (nn.Linear(7, 3, bias=False), (1, 5, 7)),
    ]
    for layer, shape in layers:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(torch.zeros(shape))
        assert profile(layer, torch.zeros(shape), time=False).macs * 2 == counter.get_total_flops(), layer


def test_the_machine_is_described_with_what_the_time_depends_on() -> None:
    text = machine(small().to(torch.bfloat16), images(1))
    assert f"{torch.get_num_threads()} thread(s), batch 1, bfloat16, torch {torch.__version__}" in text
    assert not text.startswith(",")
