"""ONNX operators on pictures: poolings, padding, resizing, blocks of pixels.

Legend: N samples, C channels, then 1 to 3 dimensions of the picture.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional

from diminuendo.engine.foreign import functions
from diminuendo.engine.foreign.importer import Importer
from diminuendo.engine.foreign.ops_reduce import axes_of
from diminuendo.engine.foreign.padding import padding_of
from diminuendo.engine.foreign.values import OnnxNode, UnsupportedError, Value, operator

_MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE: dict[int, Any] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_WHOLE_AVERAGE = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
_WHOLE_MAX = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_PADDINGS = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("MaxPool")
def max_pool(g: Importer, node: OnnxNode, x: Value) -> Value:
    """The largest value of each window."""
    kernel, options = _window(node)
    padding = padding_of(g, node, x, kernel, options["stride"], node.numbers("dilations") or [1] * len(kernel))
    if not padding.even or any(2 * each > size for each, size in zip(padding.before, kernel, strict=True)):
        x = g.call(functional.pad, x, padding.outwards, value=float("-inf"))
        before: tuple[int, ...] = (0,) * len(kernel)
    else:
        before = padding.before
    dilation = tuple(node.numbers("dilations") or [1] * len(kernel))
    made = _MAX[len(kernel)](tuple(kernel), padding=before, dilation=dilation, **options)
    return g.layer(g.title(), made, x)


@operator("AveragePool")
def average_pool(g: Importer, node: OnnxNode, x: Value) -> Value:
    """The mean of each window, with or without what is padded."""
    kernel, options = _window(node)
    if any(each != 1 for each in node.numbers("dilations") or []):
        raise UnsupportedError("its window has holes")
    padding = padding_of(g, node, x, kernel, options["stride"], [1] * len(kernel))
    counts = bool(node.number("count_include_pad", 0))
    before = padding.before
    if not padding.even:
        if not counts:
            raise UnsupportedError("its padding differs before and after and is left out of the means")
        x, before = g.call(functional.pad, x, padding.outwards), (0,) * len(kernel)
    made = _AVERAGE[len(kernel)](tuple(kernel), padding=before, count_include_pad=counts, **options)
    return g.layer(g.title(), made, x)


def _window(node: OnnxNode) -> tuple[list[int], dict[str, Any]]:
    kernel = node.numbers("kernel_shape") or []
    stride = tuple(node.numbers("strides") or [1] * len(kernel))
    return kernel, {"stride": stride, "ceil_mode": bool(node.number("ceil_mode", 0))}


@operator("GlobalAveragePool", "GlobalMaxPool")
def whole_pool(g: Importer, node: OnnxNode, x: Value) -> Value:
    """The mean or the largest value of each channel."""
    kinds: dict[int, Any] = {**(_WHOLE_AVERAGE if node.op == "GlobalAveragePool" else _WHOLE_MAX)}
    return g.layer(g.title(), kinds[g.dims(x) - 2](1), x)


@operator("Pad")
def pad(
    g: Importer,
    node: OnnxNode,
    x: Value,
    pads: Value | None = None,
    value: Value | None = None,
    axes: Value | None = None,
) -> Value:
    """More at the ends of dimensions: of one value, mirrored, or repeated; or less, where it is negative."""
    dims = g.dims(x)
    given = [*(node.numbers("pads") or [])] if pads is None else g.ints(pads)
    places = [each % dims for each in (axes_of(g, node, axes) or range(dims))]
    half = len(given) // 2
    pairs: dict[int, tuple[Any, Any]] = {
        place: (given[order], given[order + half]) for order, place in enumerate(places)
    }
    first = min((place for place, pair in pairs.items() if pair != (0, 0)), default=dims)
    outwards = [each for place in reversed(range(first, dims)) for each in pairs.get(place, (0, 0))]
    if not outwards:
        return x
    mode = node.text("mode", "constant")
    if mode == "constant":
        filling = node.real("value", 0.0) if value is None else g.constant(value).item()
        return g.call(functional.pad, x, outwards, value=filling)
    return g.call(functional.pad, x, outwards, mode=_PADDINGS[mode])


@operator("Resize", "Upsample")
def resize(g: Importer, node: OnnxNode, x: Value, *given: Value | None) -> Value:
    """Another number of pixels, by a factor or to a size."""
    if node.op == "Upsample":
        scales, sizes = given[0] if given else None, None
    else:  # (roi, scales, sizes); before opset 11 (scales)
        scales = given[0] if len(given) == 1 else (given[1] if len(given) > 1 else None)
        sizes = given[2] if len(given) > 2 else None
    options = _interpolation(g, node, x)
    axes = [each % g.dims(x) for each in node.numbers("axes") or range(g.dims(x))]
    wanted = _of_picture(g, x, axes, g.ints(sizes)) if sizes is not None else None
    if wanted is not None:
        return g.call(functional.interpolate, x, size=wanted, **options)
    factors = node.attributes["scales"] if scales is None else g.constant(scales).tolist()
    by_axis = dict(zip(axes, factors, strict=True))
    if any(by_axis.get(place, 1.0) != 1.0 for place in (0, 1)):
        raise UnsupportedError("it resizes the batch or the channels")
    picture = [float(by_axis.get(place, 1.0)) for place in range(2, g.dims(x))]
    return g.call(functional.interpolate, x, scale_factor=picture, **options)


def _of_picture(g: Importer, x: Value, axes: list[int], sizes: list[Any]) -> list[Any]:
    by_axis = dict(zip(axes, sizes, strict=True))
    return [by_axis.get(place, g.size(x, place)) for place in range(2, g.dims(x))]


def _interpolation(g: Importer, node: OnnxNode, x: Value) -> dict[str, Any]:
    """How pixels are found between others, in torch's words.

    Raises:
        UnsupportedError: Torch has no such way.
    """
    mode = node.text("mode", "nearest")
    where = node.text("coordinate_transformation_mode", "asymmetric" if node.op == "Upsample" else "half_pixel")
    if node.number("antialias", 0) or node.number("exclude_outside", 0):
        raise UnsupportedError("antialias or exclude_outside is set")
    if mode == "nearest":
        rounded = node.text("nearest_mode", "floor" if node.op == "Upsample" else "round_prefer_floor")
        plain = where in ("asymmetric", "tf_half_pixel_for_nn") and rounded == "floor"
        if not plain and "half_pixel" not in where:
            raise UnsupportedError(f"pixels are taken by {where} and {rounded}")
        return {"mode": "nearest" if plain else "nearest-exact"}
    if where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise UnsupportedError(f"pixels are interpolated by {where}")
    kind = _LINEAR[g.dims(x)] if mode == "linear" else "bicubic"
    return {"mode": kind, "align_corners": where == "align_corners"}


@operator("DepthToSpace", "SpaceToDepth")
def blocks(g: Importer, node: OnnxNode, x: Value) -> Value:
    """Channels as blocks of pixels, or the other way round."""
    size = node.number("blocksize", 1)
    if node.op == "SpaceToDepth":
        return g.call(functions.space_to_depth, x, size)
    if node.text("mode", "DCR") == "CRD":
        return g.call(functional.pixel_shuffle, x, size)
    return g.call(functions.depth_to_space, x, size)


@operator("GridSample")
def grid_sample(g: Importer, node: OnnxNode, x: Value, grid: Value) -> Value:
    """Pixels at the places of a grid."""
    mode = node.text("mode", "linear")
    return g.call(
        functional.grid_sample,
        x,
        grid,
        mode={"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode),
        padding_mode=node.text("padding_mode", "zeros"),
        align_corners=bool(node.number("align_corners", 0)),
    )
