"""Files of networks: made, run by their own runtimes, and compared."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from tests.engine.exports.networks import (
    Deciding,
    Foldable,
    Large,
    OneAtATime,
    Outputs,
    Unfoldable,
    Unscriptable,
    settled,
)
from tests.engine.tasks import Parts, run_parts
from torch import Tensor, nn

from diminuendo.engine import tree, weights
from diminuendo.engine.exports import program
from diminuendo.engine.exports.border import Call
from diminuendo.engine.exports.forms import Exported, parse
from diminuendo.engine.exports.making import Measured, make
from diminuendo.engine.modules import with_forward


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def script(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; its files are in use all the same
        return torch.jit.load(str(path))  # type: ignore[no-untyped-call]


def made(network: nn.Module, form: str, folder: Path, inputs: Any, **options: Any) -> Exported:
    found = make(network, parse(form), folder, inputs, **options)
    assert found.error == ""
    assert found.file == parse(form).file
    assert found.size_bytes == (folder / found.file).stat().st_size
    return found


# --- folding ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foldable() -> nn.Module:
    torch.manual_seed(0)
    return settled(Foldable())


def test_batchnorms_are_folded_into_every_kind_of_layer_and_a_file_takes_any_number_of_samples(
    foldable: nn.Module, tmp_path: Path
) -> None:
    x = noise(40, 4, 6, 6)
    found = made(foldable, "onnx", tmp_path, x)
    assert (found.folded, found.unfolded, found.batch, found.opset, found.compared) == (5, 0, "dynamic", 18, 40)
    assert found.largest_difference is not None
    assert found.largest_difference < 1e-5
    file = session(tmp_path / "model.onnx")
    assert [(i.name, i.shape) for i in file.get_inputs()] == [("input", ["batch", 4, 6, 6])]
    assert [(o.name, o.shape) for o in file.get_outputs()] == [("output", ["batch", 5])]
    for count in (1, 2, 17):
        (outputs,) = file.run(None, {"input": x[:count].numpy()})
        torch.testing.assert_close(torch.as_tensor(outputs), foldable(x[:count]), rtol=0, atol=1e-5)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert not any(node.metadata_props for node in graph.node)
    bytes_of_weights = 4 * sum(parameter.numel() for parameter in foldable.parameters())
    assert (found.size_bytes or 0) < bytes_of_weights + 6000


def test_a_program_has_the_weights_names_and_computes_the_same(foldable: nn.Module, tmp_path: Path) -> None:
    x = noise(40, 4, 6, 6)
    found = made(foldable, "pt2", tmp_path, x)
    assert (found.folded, found.unfolded, found.batch) == (5, 0, "dynamic")
    opened = torch.export.load(tmp_path / "model.pt2")
    torch.testing.assert_close(opened.module()(x[:3]), foldable(x[:3]), rtol=0, atol=1e-5)
    assert {"factored.1.weight", "up.weight", "up.bias", "same.bias", "fc.weight"} <= set(opened.state_dict)
    assert not any("norm" in name for name in opened.state_dict)
    torch.testing.assert_close(opened.state_dict["factored.0.weight"], foldable.state_dict()["factored.0.weight"])
    assert not any("stack_trace" in node.meta for node in opened.graph.nodes)


def test_nobodys_samples_are_in_a_file(foldable: nn.Module, tmp_path: Path) -> None:
    x = noise(40, 4, 6, 6) * 2.0 + 7.0
    made(foldable, "pt2", tmp_path, x)
    examples: Any = torch.export.load(tmp_path / "model.pt2").example_inputs
    example = examples[0][0]
    assert example.shape == (2, 4, 6, 6)
    assert not torch.isin(example, x).any()
    assert abs(float(example.mean()) - 7.0) < 0.5


def test_what_cannot_be_folded_exactly_is_left(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = settled(Unfoldable())
    for form in ("pt2", "torchscript"):  # torch.jit.freeze would fold the first and be wrong
        found = made(network, form, tmp_path, noise(33, 4, 6, 6))
        assert (found.folded, found.unfolded) == (0, 5)
        assert (found.largest_difference or 0.0) < 1e-5


def test_torchscript_is_folded_too(foldable: nn.Module, tmp_path: Path) -> None:
    x = noise(40, 4, 6, 6)
    found = made(foldable, "torchscript", tmp_path, x)
    assert (found.folded, found.unfolded, found.batch) == (5, 0, "dynamic")
    module = script(tmp_path / "model.ts")
    torch.testing.assert_close(module(x[:7]), foldable(x[:7]), rtol=0, atol=1e-5)


# --- types ------------------------------------------------------------------------------------------------


def test_half_precision_keeps_float32_at_the_border(foldable: nn.Module, tmp_path: Path) -> None:
    x = noise(40, 4, 6, 6)
    half = made(foldable, "onnx:fp16", tmp_path, x)
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "model.fp16.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    (outputs,) = session(tmp_path / "model.fp16.onnx").run(None, {"input": x.numpy()})
    assert outputs.dtype.name == "float32"
    apart = float((torch.as_tensor(outputs) - foldable(x).detach()).abs().max())
    assert half.largest_difference is not None
    assert half.largest_difference == pytest.approx(apart, rel=0.3)
    assert 1e-5 < half.largest_difference < 0.05
    coarse = made(foldable, "pt2:bf16", tmp_path, x)
    assert torch.export.load(tmp_path / "model.bf16.pt2").module()(x).dtype == torch.float32
    assert coarse.largest_difference is not None
    assert coarse.largest_difference > half.largest_difference  # 8 bits of mantissa against 11


def test_weights_in_half_precision(foldable: nn.Module, tmp_path: Path) -> None:
    found = made(foldable, "safetensors:bf16", tmp_path, noise(9, 4, 6, 6))
    assert (found.folded, found.unfolded) == (0, 5)
    stored = weights.from_bytes((tmp_path / "model.bf16.safetensors").read_bytes())
    assert stored["fc.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(stored["fc.weight"], foldable.state_dict()["fc.weight"].bfloat16(), rtol=0, atol=0)


def test_a_bfloat16_network_is_exported_in_float32(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval().bfloat16()
    found = made(network, "pt2", tmp_path, noise(9, 3).bfloat16())
    assert found.largest_difference is not None
    assert 0.0 < found.largest_difference < 0.02
    assert torch.export.load(tmp_path / "model.pt2").state_dict["0.weight"].dtype == torch.float32


@pytest.mark.parametrize("form", ["torchscript:fp16", "safetensors:fp16"])
def test_values_out_of_a_types_range_are_an_error(tmp_path: Path, form: str) -> None:
    found = make(Large().eval(), parse(form), tmp_path, noise(9, 3))
    assert "not finite" in found.error
    assert "give bf16" in found.error
    assert not any(tmp_path.iterdir())


def test_a_weight_out_of_a_types_range_is_named(tmp_path: Path) -> None:
    network = nn.Linear(2, 1)
    nn.init.constant_(network.weight, 1e5)
    found = make(network.eval(), parse("safetensors:fp16"), tmp_path, noise(4, 2))
    assert found.error == "weight 'weight' is out of the range of float16; give bf16, or fp32"


def test_a_kernel_that_is_missing_is_told_with_the_remedy(tmp_path: Path) -> None:
    found = make(nn.Conv2d(2, 3, 3).eval(), parse("onnx:bf16"), tmp_path, noise(4, 2, 5, 5))
    assert "ONNX Runtime has no bf16 kernel on CPUs for Conv" in found.error
    assert "give onnx:fp16" in found.error
    assert not any(tmp_path.iterdir())


# --- inputs and outputs -----------------------------------------------------------------------------------


def test_inputs_and_outputs_by_name_in_any_container(tmp_path: Path) -> None:
    network = Outputs().eval()
    inputs: dict[str, Any] = {
        "extra": {"scale": noise(12, 1), "words": "x", "side": noise(12, 3, seed=5)},
        "image": noise(12, 3),
    }
    expected = network(**inputs)
    found = made(network, "onnx", tmp_path, inputs)
    assert found.batch == "dynamic"
    file = session(tmp_path / "model.onnx")
    assert [each.name for each in file.get_inputs()] == ["extra_scale", "extra_side", "image"]
    assert [each.name for each in file.get_outputs()] == ["logits", "box"]
    assert {each.shape[0] for each in file.get_inputs()} == {"batch"}
    given = {"extra_scale": inputs["extra"]["scale"], "extra_side": inputs["extra"]["side"], "image": inputs["image"]}
    logits, box = file.run(None, {name: tensor.numpy() for name, tensor in given.items()})
    torch.testing.assert_close(torch.as_tensor(logits), expected["logits"])
    torch.testing.assert_close(torch.as_tensor(box), expected["box"])
    for form in ("pt2", "torchscript"):
        made(network, form, tmp_path, inputs)
    module = script(tmp_path / "model.ts")
    own = {"extra": {"scale": inputs["extra"]["scale"], "side": inputs["extra"]["side"]}, "image": inputs["image"]}
    torch.testing.assert_close(module(**own)["box"], expected["box"])
    opened = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(opened(**own)["logits"], expected["logits"])


@dataclasses.dataclass(frozen=True)
class Pair:
    left: Tensor
    right: Tensor


class Records(nn.Module):
    def forward(self, pair: Pair) -> Pair:
        return Pair(pair.left + pair.right, pair.left - pair.right)


def test_records_become_mappings_of_their_fields(tmp_path: Path) -> None:
    left, right = noise(5, 2), noise(5, 2, seed=4)
    made(Records().eval(), "pt2", tmp_path, Pair(left, right))
    outputs = torch.export.load(tmp_path / "model.pt2").module()({"left": left, "right": right})
    assert list(outputs) == ["left", "right"]
    torch.testing.assert_close(outputs["right"], left - right)


def test_a_network_that_its_owner_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = with_forward(Parts().eval(), run_parts)
    x = noise(9, 8)
    made(network, "torchscript", tmp_path, x)
    module = script(tmp_path / "model.ts")
    torch.testing.assert_close(module(x)["size"], run_parts(network, x)["size"])


def test_a_network_that_takes_one_sample_has_a_static_batch(tmp_path: Path) -> None:
    network, x = OneAtATime().eval(), noise(9, 6)
    found = made(network, "pt2", tmp_path, x[:1])
    assert (found.batch, found.compared) == ("static", 1)
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(x[3:4]), network(x[3:4]))


def test_a_static_batch_can_be_asked_for_and_is_checked_on_all_samples(foldable: nn.Module, tmp_path: Path) -> None:
    found = made(foldable, "onnx", tmp_path, noise(40, 4, 6, 6), dynamic=False, opset=20)
    assert (found.batch, found.compared, found.opset) == ("static", 40, 20)
    assert session(tmp_path / "model.onnx").get_inputs()[0].shape == [1, 4, 6, 6]
    assert [each.version for each in onnx.load(tmp_path / "model.onnx").opset_import] == [20]


def test_a_scripted_network_stays_a_script(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        network: Any = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))).eval()
    x = noise(9, 3)
    made(network, "torchscript:fp16", tmp_path, x)
    torch.testing.assert_close(script(tmp_path / "model.fp16.ts")(x), network(x), rtol=0, atol=1e-2)
    found = make(network, parse("onnx"), tmp_path, x)
    assert found.error.startswith("a network with scripted parts cannot be exported as onnx; give torchscript")


# --- failures ---------------------------------------------------------------------------------------------


def test_a_network_that_decides_by_its_data_fails_with_its_line_and_leaves_no_file(tmp_path: Path) -> None:
    x = torch.stack([noise(3).abs(), -noise(3).abs()] * 4)
    for form, network in (("onnx", Deciding()), ("pt2", Deciding()), ("torchscript:fp16", Deciding())):
        found = make(network.eval(), parse(form), tmp_path, x)
        assert "decides by the values of its data" in found.error
        assert "networks.py:" in found.error
        assert "torch.where" in found.error
        assert (found.file, found.size_bytes) == (None, None)
    assert not any(tmp_path.iterdir())
    made(Deciding().eval(), "torchscript", tmp_path, x[:1])  # scripted: it goes both ways
    module = script(tmp_path / "model.ts")
    network = Deciding().eval()
    network.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x[1:2]), network(x[1:2]))
    found = make(Unscriptable().eval(), parse("torchscript"), tmp_path, x)
    assert "torch.jit.script does not take it" in found.error


def test_a_file_that_computes_something_else_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(path: Path, call: Call) -> Callable[[list[Tensor]], list[Tensor]]:
        return lambda leaves: [nn.functional.linear(leaves[0], torch.ones(2, 3))]

    monkeypatch.setattr(program, "runner", wrong)
    found = make(nn.Linear(3, 2).eval(), parse("pt2"), tmp_path, noise(9, 3))
    assert "what it computes is not the same" in found.error
    assert not any(tmp_path.iterdir())


def test_an_error_of_the_metric_is_the_forms(tmp_path: Path) -> None:
    def measure(network: nn.Module) -> Measured:
        raise ZeroDivisionError("no classes")

    found = make(nn.Linear(3, 2).eval(), parse("safetensors:fp16"), tmp_path, noise(9, 3), measure=measure)
    assert found.error.startswith("ZeroDivisionError: no classes; leave safetensors:fp16 out")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, KeyboardInterrupt])
def test_what_is_no_matter_of_the_form_is_raised_and_leaves_no_file(tmp_path: Path, error: type[BaseException]) -> None:
    def measure(network: nn.Module) -> Measured:
        raise error

    with pytest.raises(error):
        make(nn.Linear(3, 2).eval(), parse("safetensors:fp16"), tmp_path, noise(9, 3), measure=measure)
    assert not any(tmp_path.iterdir())


def test_the_network_is_left_as_it_was_and_nothing_is_printed(
    foldable: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {name: value.clone() for name, value in foldable.state_dict().items()}
    foldable.train()
    try:
        make(foldable, parse("torchscript"), tmp_path, noise(9, 4, 6, 6))
        assert all(module.training for module in foldable.modules())
    finally:
        foldable.eval()
    make(Deciding().eval(), parse("pt2"), tmp_path, noise(9, 3))
    assert all(torch.equal(value, before[name]) for name, value in foldable.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_the_metric_is_of_the_file(foldable: nn.Module, tmp_path: Path) -> None:
    x = noise(40, 4, 6, 6)

    def measure(network: nn.Module) -> Measured:
        return Measured(float(tree.call(network, x).detach().sum()), 0.5, 40)

    found = made(foldable, "pt2", tmp_path, x, measure=measure)
    assert found.metric == pytest.approx(float(foldable(x).detach().sum()), rel=1e-4)
    assert (found.drop, found.samples) == (0.5, 40)
