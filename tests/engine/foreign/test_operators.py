"""Each ONNX operator against onnxruntime, in graphs of a few nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.engine.foreign.graphs import Node, run, written
from torch import Tensor, nn

from diminuendo.engine import tree
from diminuendo.engine.foreign import load_network
from diminuendo.engine.foreign.values import OPERATORS
from diminuendo.engine.task import TaskError

INT = np.int64


def weights(*shape: int, seed: int = 0) -> NDArray[Any]:
    made: NDArray[Any] = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return made


def real(value: float) -> NDArray[Any]:
    return np.array(value, np.float32)


def positive(*shape: int) -> NDArray[Any]:
    made: NDArray[Any] = np.abs(weights(*shape)) + np.float32(0.5)
    return made


def numbers(*values: int) -> NDArray[Any]:
    return np.array(values, INT)


class Case(NamedTuple):
    nodes: Sequence[Node]
    shape: Sequence[int | str] = ("n", 4, 6, 6)
    constants: Mapping[str, NDArray[Any]] = {}
    opset: int = 18
    dtype: str = "float32"


def one(op: str, more: str = "", shape: Sequence[int | str] = ("n", 4, 6, 6), opset: int = 18, **given: Any) -> Case:
    """A single node: arrays among the options are constants, everything else attributes."""
    constants = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
    attributes = {name: value for name, value in given.items() if name not in constants}
    return Case([(op, f"x {more}".strip(), "y", attributes)], shape, constants, opset)


def chain(*nodes: Node, shape: Sequence[int | str] = ("n", 4, 6, 6), **constants: NDArray[Any]) -> Case:
    return Case(nodes, shape, constants)


K33, B5 = weights(5, 4, 3, 3), weights(5)
CASES: dict[str, Case] = {
    "conv": one("Conv", "k b", k=K33, b=B5, pads=[1, 1, 1, 1], strides=[2, 1]),
    "conv, uneven pads": one("Conv", "k", k=K33, pads=[0, 1, 2, 1], dilations=[1, 2]),
    "conv, same": one("Conv", "k", k=K33, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv, same at the front": one("Conv", "k", k=weights(5, 4, 2, 2), auto_pad="SAME_LOWER"),
    "conv in groups": one("Conv", "k", k=weights(8, 2, 1, 3), group=2),
    "conv of a line": one("Conv", "k", ("n", 4, 9), k=weights(3, 4, 3)),
    "conv of a room": one("Conv", "k", ("n", 2, 4, 4, 4), k=weights(3, 2, 2, 2, 2)),
    "transposed conv": one(
        "ConvTranspose", "k b", k=weights(4, 3, 3, 3), b=weights(3), strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]
    ),
    "transposed conv, uneven": one("ConvTranspose", "k", k=weights(4, 3, 3, 3), strides=[2, 2], pads=[0, 1, 1, 1]),
    "gemm": one("Gemm", "w b", ("n", 6), w=weights(6, 3), b=weights(3)),
    "gemm, turned and scaled": one(
        "Gemm", "w b", ("n", 6), w=weights(3, 6), b=weights(3), transB=1, alpha=0.5, beta=2.0
    ),
    "matmul": one("MatMul", "w", ("n", 3, 6), w=weights(6, 5)),
    "matmul in parts": one("MatMul", "w", ("n", 4, 3, 6), w=weights(4, 6, 5)),
    "matmul and bias": chain(
        ("MatMul", "x w", "a", {}), ("Add", "b a", "y", {}), shape=("n", 3, 6), w=weights(6, 5), b=weights(5)
    ),
    "batch norm": one(
        "BatchNormalization", "s b m v", s=weights(4), b=weights(4, seed=1), m=weights(4, seed=2), v=positive(4)
    ),
    "layer norm": one("LayerNormalization", "s b", s=weights(6, 6), b=weights(6, 6, seed=1), axis=2, epsilon=1e-3),
    "instance norm": one("InstanceNormalization", "s b", s=weights(4), b=weights(4, seed=1)),
    "group norm": one("GroupNormalization", "s b", opset=21, s=weights(4), b=weights(4, seed=1), num_groups=2),
    "relu": one("Relu"),
    "leaky relu": one("LeakyRelu", alpha=0.3),
    "prelu": one("PRelu", "s", s=positive(4, 1, 1)),
    "prelu of places": one("PRelu", "s", s=positive(6)),
    "elu": one("Elu", alpha=0.7),
    "celu": one("Celu", alpha=0.7),
    "selu": one("Selu"),
    "sigmoid": one("Sigmoid"),
    "hard sigmoid": one("HardSigmoid", alpha=0.3, beta=0.4),
    "hard swish": one("HardSwish"),
    "thresholded relu": one("ThresholdedRelu", alpha=0.3),
    "softplus": one("Softplus"),
    "softsign": one("Softsign"),
    "mish": one("Mish"),
    "gelu": one("Gelu", opset=20),
    "gelu by tanh": one("Gelu", opset=20, approximate="tanh"),
    "erf": one("Erf"),
    "softmax": one("Softmax", axis=1),
    "softmax of old": one("Softmax", axis=1, opset=11),
    "log softmax": one("LogSoftmax", axis=-1),
    "clip": one("Clip", "low high", low=real(-0.5), high=real(0.7)),
    "clip above": one("Clip", "- high", high=real(0.7)),
    "clip of old": one("Clip", opset=10, min=-0.5, max=0.5),
    "max pool": one("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "max pool, uneven": one("MaxPool", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    "average pool": one("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "average pool with pads": one("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1),
    "global average": one("GlobalAveragePool"),
    "global maximum": one("GlobalMaxPool"),
    "flatten": one("Flatten"),
    "flatten further on": chain(("Flatten", "x", "a", {"axis": 2}), ("Reshape", "a s", "y", {}), s=numbers(-1, 4, 36)),
    "reshape": one("Reshape", "s", s=numbers(0, -1, 3)),
    "transpose": one("Transpose", perm=[0, 3, 1, 2]),
    "squeeze and unsqueeze": chain(
        ("Unsqueeze", "x a", "b", {}), ("Squeeze", "b c", "y", {}), a=numbers(1, 4), c=numbers(1)
    ),
    "squeeze of old": Case([("Squeeze", "x", "y", {"axes": [1]})], ("n", 1, 5), {}, 11),
    "concat": chain(("Relu", "x", "a", {}), ("Concat", "a x", "y", {"axis": 1})),
    "split": chain(("Split", "x s", "a b", {"axis": 1}), ("Concat", "b a", "y", {"axis": 1}), s=numbers(1, 3)),
    "split evenly": chain(
        ("Split", "x", "a b", {"axis": 2, "num_outputs": 2}), ("Mul", "a b", "y", {}), shape=("n", 4, 6)
    ),
    "slice": one("Slice", "a b c d", a=numbers(1, -4), b=numbers(3, 2**62), c=numbers(1, 3), d=numbers(1, 2)),
    "slice backwards": one("Slice", "a b c d", a=numbers(-1), b=numbers(-(2**62)), c=numbers(2), d=numbers(-1)),
    "slice of old": Case([("Slice", "x", "y", {"starts": [1], "ends": [3], "axes": [1]})], opset=9),
    "gather": one("Gather", "i", i=numbers(3, -1, 0), axis=1),
    "gather one": one("Gather", "i", i=np.array(-2, INT), axis=2),
    "gather a matrix": one("Gather", "i", i=np.array([[0, 1], [2, 3]], INT), axis=1),
    "embedding": Case([("Gather", "t x", "y", {})], ("n", 7), {"t": weights(9, 5)}, dtype="int64"),
    "gather elements": chain(
        ("Shape", "x", "s0", {"end": 1}),
        ("Concat", "s0 r", "s", {"axis": 0}),
        ("Expand", "i s", "a", {}),
        ("GatherElements", "x a", "y", {"axis": 1}),
        i=np.array([[[[1]]]], INT),
        r=numbers(2, 6, 6),
    ),
    "expand": one("Expand", "s", ("n", 4, 1), s=numbers(1, 1, 5)),
    "tile": one("Tile", "r", ("n", 4, 2), r=numbers(1, 2, 3)),
    "pad": one("Pad", "p v", p=numbers(0, 0, 1, 2, 0, 0, 0, 1), v=real(0.5)),
    "pad by axes": one("Pad", "p - a", p=numbers(1, 2), a=numbers(2)),
    "pad, mirrored": one("Pad", "p", p=numbers(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
    "pad, repeated": one("Pad", "p", p=numbers(0, 0, 1, 2, 0, 0, 2, 1), mode="edge"),
    "pad less": one("Pad", "p", p=numbers(0, 0, -1, 0, 0, 0, -2, 1)),
    "resize": one(
        "Resize",
        "- s",
        s=np.array([1, 1, 2, 2], np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "resize by halves": one("Resize", "- s", s=np.array([1, 1, 2, 2], np.float32), mode="nearest"),
    "resize, linear": one("Resize", "- - s", s=numbers(1, 4, 9, 11), mode="linear")._replace(shape=(1, 4, 6, 6)),
    "resize to the corners": one(
        "Resize",
        "- s",
        s=np.array([1, 1, 2, 3], np.float32),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "resize, cubic": one("Resize", "- s", s=np.array([1, 1, 2, 2], np.float32), mode="cubic", cubic_coeff_a=-0.75),
    "upsample": one("Upsample", "s", opset=9, s=np.array([1, 1, 2, 3], np.float32)),
    "depth to space": one("DepthToSpace", blocksize=2),
    "depth to space by columns": one("DepthToSpace", blocksize=2, mode="CRD"),
    "space to depth": one("SpaceToDepth", blocksize=3),
    "mean": one("ReduceMean", "a", a=numbers(2, 3), keepdims=0),
    "mean of old": one("ReduceMean", opset=13, axes=[1]),
    "sum": one("ReduceSum", "a", a=numbers(-1)),
    "largest": one("ReduceMax", "a", a=numbers(1, 3)),
    "smallest": one("ReduceMin", "a", a=numbers(1)),
    "product": one("ReduceProd", "a", a=numbers(1, 2)),
    "norm": one("ReduceL2", "a", a=numbers(1)),
    "sum of absolutes": one("ReduceL1", "a", a=numbers(1)),
    "sum of squares": one("ReduceSumSquare", "a", a=numbers(1)),
    "log of sums": one("ReduceLogSumExp", "a", a=numbers(1)),
    "running sums": one("CumSum", "a", a=np.array(2, INT), exclusive=1, reverse=1),
    "argmax": one("ArgMax", axis=1),
    "einsum": chain(("Einsum", "x w", "y", {"equation": "nchw,cd->ndhw"}), w=weights(4, 3)),
    "constant": chain(("Constant", "", "c", {"value_floats": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}), ("Sub", "x c", "y", {})),
    "comparisons": chain(
        ("Greater", "x h", "a", {}),
        ("LessOrEqual", "x o", "b", {}),
        ("And", "a b", "c", {}),
        ("Not", "c", "d", {}),
        ("Xor", "d a", "e", {}),
        ("Where", "e x h", "y", {}),
        h=real(0.1),
        o=real(1.0),
    ),
    "arithmetic": chain(
        ("Mul", "x w", "a", {}),
        ("Div", "a v", "b", {}),
        ("Pow", "b two", "c", {}),
        ("Neg", "c", "d", {}),
        ("Abs", "d", "e", {}),
        ("Sqrt", "e", "f", {}),
        ("Min", "f x w", "g", {}),
        ("Max", "g x", "h", {}),
        ("Sum", "h x", "i", {}),
        ("Sub", "one i", "y", {}),
        w=weights(6),
        v=positive(4, 1, 1),
        two=real(2.0),
        one=real(1.0),
    ),
    "functions": chain(
        ("Exp", "x", "a", {}),
        ("Log", "a", "b", {}),
        ("Sin", "b", "c", {}),
        ("Cos", "c", "d", {}),
        ("Floor", "x", "e", {}),
        ("Ceil", "x", "f", {}),
        ("Round", "x", "g", {}),
        ("Sign", "x", "h", {}),
        ("Reciprocal", "a", "i", {}),
        ("Sum", "d e f g h i", "y", {}),
    ),
    "whole numbers": Case(
        [
            ("Div", "x three", "a", {}),
            ("Mod", "x three", "b", {}),
            ("Add", "a b", "c", {}),
            ("Equal", "c three", "d", {}),
            ("Cast", "d", "e", {"to": 1}),
            ("CastLike", "c e", "f", {}),
            ("Add", "e f", "y", {}),
        ],
        ("n", 5),
        {"three": np.array(3, INT), "t": weights(50, 2)},
        dtype="int64",
    ),
    "triangle": one("Trilu", "k", k=np.array(1, INT), upper=0),
    "normalized": one("LpNormalization", axis=1),
    "identity and dropout": chain(("Dropout", "x", "a", {}), ("Identity", "a", "y", {})),
    "sizes": chain(
        ("Shape", "x", "s", {}),
        ("Gather", "s zero", "n", {}),
        ("Gather", "s last", "w", {}),
        ("Mul", "n w", "nw", {}),
        ("Unsqueeze", "nw first", "v", {}),
        ("Concat", "v minus", "t", {"axis": 0}),
        ("Reshape", "x t", "r", {}),
        ("Slice", "s first one", "b", {}),
        ("Concat", "b rest", "u", {"axis": 0}),
        ("Reshape", "r u", "y", {}),
        zero=np.array(0, INT),
        last=np.array(3, INT),
        first=numbers(0),
        one=numbers(1),
        minus=numbers(-1),
        rest=numbers(4, 36),
    ),
    "sizes that vary": chain(
        ("Shape", "x", "s", {}),
        ("Gather", "s two", "h", {}),
        ("Range", "zero h step", "r", {}),
        ("Cast", "r", "f", {"to": 1}),
        ("Unsqueeze", "f one", "g", {}),
        ("ConstantOfShape", "s", "c", {}),
        ("Add", "c g", "a", {}),
        ("Add", "a x", "y", {}),
        two=np.array(2, INT),
        zero=np.array(0, INT),
        step=np.array(1, INT),
        one=numbers(1),
    )._replace(shape=("n", 4, "h", "w")),
    "an expansion as of old": chain(
        ("Shape", "x", "s", {}),
        ("Gather", "s zero", "n", {}),
        ("Unsqueeze", "n first", "v", {}),
        ("Concat", "v ones", "t", {"axis": 0}),
        ("Equal", "t minus", "q", {}),
        ("Where", "q unit t", "u", {}),
        ("Expand", "token u", "e", {}),
        ("Concat", "e x", "y", {"axis": 1}),
        shape=("n", 3, 2),
        zero=np.array(0, INT),
        first=numbers(0),
        ones=numbers(-1, -1),
        minus=numbers(-1, -1, -1),
        unit=numbers(1, 1, 1),
        token=weights(1, 1, 2),
    ),
}
FIXED = {"resize, linear"}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_what_onnxruntime_computes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = written(tmp_path / "m.onnx", case.nodes, case.shape, case.constants, dtype=case.dtype, opset=case.opset)
    network = load_network(path)
    x = _values(case, 1 if name in FIXED else 5)
    with torch.no_grad():
        found = list(tree.leaves(network(x)))
    expected = run(path, x)
    assert [each.dtype for each in found] == [each.dtype for each in expected]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _values(case: Case, count: int) -> Tensor:
    shape = [count, *(8 if isinstance(size, str) else size for size in case.shape[1:])]
    generator = torch.Generator().manual_seed(7)
    if case.dtype == "int64":
        return torch.randint(0, 9, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def test_every_operator_has_a_case() -> None:
    tried = {node[0] for case in CASES.values() for node in case.nodes}
    rare = {"Atan", "Tan", "IsNaN", "Or", "Less", "GreaterOrEqual", "Size", "ArgMin", "Sigmoid", "Tanh"}
    more = {"GatherND", "GridSample", "RMSNormalization", "com.microsoft.Gelu"}
    assert set(OPERATORS) - tried <= rare | more


def test_layers_are_modules_with_parameters(tmp_path: Path) -> None:
    constants = {"stem.weight": K33, "stem.bias": B5, "head.weight": weights(80, 3), "pos": weights(80)}
    nodes: list[Node] = [
        ("Conv", "x stem.weight stem.bias", "a", {}),
        ("Flatten", "a", "b", {}),
        ("Add", "b pos", "c", {}),
        ("MatMul", "c head.weight", "y", {}),
    ]
    network = load_network(written(tmp_path / "m.onnx", nodes, ["n", 4, 6, 6], constants))
    assert isinstance(network.get_submodule("stem"), nn.Conv2d)
    assert isinstance(network.get_submodule("head"), nn.Linear)
    assert sorted(name for name, _ in network.named_parameters()) == ["head.weight", "pos", "stem.bias", "stem.weight"]
    torch.testing.assert_close(network.get_submodule("head").weight, torch.from_numpy(weights(80, 3)).t())


def test_what_data_is_normalised_by_is_not_tuned(tmp_path: Path) -> None:
    nodes: list[Node] = [("Sub", "x mean", "a", {}), ("Div", "a std", "y", {})]
    constants = {"mean": weights(4, 1, 1), "std": positive(4, 1, 1)}
    network = load_network(written(tmp_path / "m.onnx", nodes, ["n", 4, 6, 6], constants))
    assert not list(network.parameters())
    assert len(list(network.buffers())) == 2


def test_equal_biases_of_layers_are_not_one(tmp_path: Path) -> None:
    nodes: list[Node] = [("Gemm", "x a zero", "h", {"transB": 1}), ("Gemm", "h b zero", "y", {"transB": 1})]
    constants = {"a": weights(4, 4), "b": weights(4, 4, seed=1), "zero": np.zeros(4, np.float32)}
    network = load_network(written(tmp_path / "m.onnx", nodes, ["n", 4], constants))
    assert len(list(network.parameters())) == 4


def test_a_layer_that_is_called_twice_is_one(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", "x w", "h", {}), ("Relu", "h", "r", {}), ("MatMul", "r w", "y", {})]
    network = load_network(written(tmp_path / "m.onnx", nodes, ["n", 4], {"w": weights(4, 4)}))
    assert [type(module) for module in network.modules()].count(nn.Linear) == 1


def test_several_outputs_are_named(tmp_path: Path) -> None:
    nodes: list[Node] = [("Relu", "x", "logits", {}), ("Neg", "x", "other.1", {})]
    path = written(tmp_path / "m.onnx", nodes, ["n", 4], outputs=["logits", "other.1"])
    assert list(load_network(path)(torch.ones(2, 4))) == ["logits", "other_1"]


def test_all_unknown_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes: list[Node] = [("Det", "x", "a", {}), ("Hardmax", "x", "b", {}), ("Det", "x", "y", {})]
    path = written(tmp_path / "m.onnx", nodes, ["n", 4, 4])
    with pytest.raises(TaskError, match=r"Det \(n0, n2\); Hardmax \(n1\); write the bundle's task.py"):
        load_network(path)


def test_a_use_of_an_operator_that_is_not_known_names_its_node(tmp_path: Path) -> None:
    path = written(
        tmp_path / "m.onnx", [("AveragePool", "x", "y", {"kernel_shape": [2], "dilations": [2]})], ["n", 2, 8]
    )
    with pytest.raises(TaskError, match=r"node 'n0' \(AveragePool\) cannot be imported: its window has holes"):
        load_network(path)


def test_a_fixed_batch_in_a_reshape_is_the_batch(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("Reshape", "x s", "a", {}),
        ("Concat", "t a", "b", {"axis": 1}),
        ("Transpose", "b", "c", {"perm": [1, 0, 2]}),
        ("Reshape", "c u", "d", {}),  # the batch is second here, and joined with what is before it
        ("Reshape", "d v", "e", {}),
        ("Transpose", "e", "y", {"perm": [1, 0, 2]}),
    ]
    constants = {
        "s": numbers(1, 4, 6),
        "t": weights(1, 1, 6),
        "u": numbers(5, 6),
        "v": numbers(5, 1, 6),
    }
    path = written(tmp_path / "m.onnx", nodes, [1, 24], constants)
    network = load_network(path)
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(0))
    expected = torch.cat([run(path, each[None])[0] for each in x])
    torch.testing.assert_close(network(x), expected)


def test_a_file_that_needs_its_batch_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", [("Squeeze", "x a", "y", {})], [1, 4], {"a": numbers(0)})
    with pytest.raises(TaskError, match=r"takes the batch's dimension away; the file is made for batches of 1.*Dim\("):
        load_network(path)
    path = written(tmp_path / "m.onnx", [("Add", "x a", "y", {})], [2, 4], {"a": weights(2, 4)})
    with pytest.raises(TaskError, match=r"batches of 2: export it for any number"):
        load_network(path)


def test_inputs_without_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"input 'x' has no samples as its first dimension"):
        load_network(written(tmp_path / "m.onnx", [("Relu", "x", "y", {})], []))
