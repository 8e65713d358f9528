"""Random layers and shapes: what must hold of every format for any of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.engine.formats.cases import Case, formed, of, resized, tuned
from tests.engine.formats.checks import check_cost, check_full_rank, check_ladder
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diminuendo.engine.formats import FORMATS, Format, get

EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
CONVS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def linears(draw: st.DrawFn) -> Case:
    inputs, outputs = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    layer = nn.Linear(inputs, outputs, bias=draw(st.booleans()), dtype=torch.float64)
    size = draw(st.sampled_from([(), (3,), (2, 2)]))
    return of(layer, size, batch=30, absorbs_mean=draw(st.booleans()), seed=draw(st.integers(0, 9)))


@st.composite
def convs(draw: st.DrawFn, *, padded: bool = True, transposed: bool = True) -> Case:
    """Any convolution of 1 to 3 dimensions, or its transpose, on images that it fits into."""
    dims = draw(st.integers(1, 3))
    sides = st.tuples(*[st.integers(1, 3)] * dims)
    kernel, stride, dilation = draw(sides), draw(sides), draw(st.tuples(*[st.integers(1, 2)] * dims))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = groups * draw(st.integers(1, 5 - dims)), groups * draw(st.integers(1, 5 - dims))
    options: dict[str, Any] = {
        "groups": groups,
        "bias": draw(st.booleans()),
        "dilation": dilation,
        "dtype": torch.float64,
    }
    if transposed and draw(st.booleans()):
        options["output_padding"] = tuple(min(s, d) - 1 for s, d in zip(stride, dilation, strict=True))
        layer: nn.Module = TRANSPOSED[dims](*channels, kernel, stride, **options)
    else:
        padding = _padding(draw, kernel, stride, dilation) if padded else 0
        mode = draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"])) if dims < 3 and padded else "zeros"
        stride = (1,) * dims if padding == "same" else stride
        layer = CONVS[dims](*channels, kernel, stride, padding, padding_mode=mode, **options)
    size = tuple(d * (k - 1) + draw(st.integers(1, 4)) for d, k in zip(dilation, kernel, strict=True))
    batch = max(4, math.ceil(60 / math.prod(size)))
    assume(not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or _fits(layer, size))
    return of(layer, size, batch=batch, absorbs_mean=draw(st.booleans()), seed=draw(st.integers(0, 9)))


def _padding(
    draw: st.DrawFn, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> str | tuple[int, ...]:
    # torch warns of "same" where it has to pad one side more than the other.
    even = all(d * (k - 1) % 2 == 0 for k, d in zip(kernel, dilation, strict=True))
    if even and draw(st.booleans()):
        return "same"
    return tuple(draw(st.integers(0, k // 2)) for k in kernel)


def _fits(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, size: tuple[int, ...]) -> bool:
    """Reflecting and wrapping around need images larger than what they add."""
    if layer.padding_mode == "zeros" or isinstance(layer.padding, str):
        needed = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    else:
        needed = [int(p) for p in layer.padding]
    return layer.padding_mode == "zeros" or all(n > p for n, p in zip(size, needed, strict=True))


layers_of_any_kind = st.one_of(linears(), convs(), convs())


def forms_of(case: Case) -> list[Format]:
    return [form for form in FORMATS.values() if form.exact and form.supports(case.spec)]


def ranks_of(form: Format, case: Case, share: float) -> tuple[int, ...]:
    return tuple(max(1, round(share * top)) for top in form.max_ranks(case.spec))


@EXAMPLES
@given(layers_of_any_kind)
def test_at_rank_zero_every_position_is_still_there(case: Case) -> None:
    form = get("zero")
    module, expected = formed(form, case, ()), case.layer(case.inputs)
    found = module(case.inputs)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    check_cost(form, case, (), form.factor(case.sides))


@EXAMPLES
@given(layers_of_any_kind)
def test_full_rank_reproduces_the_output_and_the_layer_is_never_changed(case: Case) -> None:
    before = copy.deepcopy(case.layer.state_dict())
    for form in forms_of(case):
        factors = form.factor(case.sides)
        check_full_rank(form, case, factors, atol=1e-8)
        tuned(formed(form, case, ranks_of(form, case, 0.5), factors))
    assert all(torch.equal(value, before[name]) for name, value in case.layer.state_dict().items())


@EXAMPLES
@given(layers_of_any_kind, st.floats(0, 1))
def test_the_counted_cost_is_the_built_modules(case: Case, share: float) -> None:
    for form in forms_of(case):
        check_cost(form, case, ranks_of(form, case, share), form.factor(case.sides))


@EXAMPLES
@given(layers_of_any_kind, st.floats(0, 1))
def test_macs_are_half_of_what_torchs_counter_counts_and_the_bias(case: Case, share: float) -> None:
    # torch counts two operations for each multiply-add and leaves out the bias, one addition for each output.
    for form in forms_of(case):
        ranks = ranks_of(form, case, share)
        module = formed(form, case, ranks)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            outputs = module(case.inputs[:1])
        bias = outputs.numel() if case.spec.bias else 0
        assert form.cost(case.spec, ranks).macs == counter.get_total_flops() // 2 + bias


@EXAMPLES
@given(st.one_of(linears(), convs(padded=False, transposed=False), convs()))
def test_svds_residual_on_the_data_is_the_energy_that_it_drops(case: Case) -> None:
    # Of all its outputs, borders too: for svd projects what was measured. Without a bias the mean is a BatchNorm's.
    svd = get("svd")
    factors = svd.factor(case.sides)
    outputs = case.outputs() - (0.0 if case.bias is None else case.bias)
    centred = outputs - outputs.mean(dim=0) if case.moments.absorbs_mean else outputs
    total = float(centred.pow(2).sum())
    (top,) = svd.max_ranks(case.spec)
    for rank in {1, (top + 1) // 2}:
        lost = case.rows(formed(svd, case, (rank,), factors)(case.inputs).detach()) - case.outputs()
        if case.moments.absorbs_mean:
            lost = lost - lost.mean(dim=0)
        expected = svd.energy(factors, (rank,)) * total
        assert float(lost.pow(2).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-9 * total + 1e-12)


@EXAMPLES
@given(layers_of_any_kind, st.floats(0, 1), st.floats(0, 1))
def test_growing_keeps_the_tuned_function(case: Case, low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    for form in forms_of(case):
        factors = form.factor(case.sides)
        parent = tuned(formed(form, case, ranks_of(form, case, low), factors))
        child = resized(form, case, parent, ranks_of(form, case, high), factors)
        torch.testing.assert_close(child(case.inputs), parent(case.inputs), atol=1e-7, rtol=1e-7)


@EXAMPLES
@given(layers_of_any_kind, st.floats(0, 1), st.floats(0, 1))
def test_shrinking_gives_a_module_of_those_ranks(case: Case, low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    for form in forms_of(case):
        factors = form.factor(case.sides)
        parent = tuned(formed(form, case, ranks_of(form, case, high), factors))
        child = resized(form, case, parent, ranks_of(form, case, low), factors)
        assert all(bool(torch.isfinite(weight).all()) for weight in child.parameters())


@EXAMPLES
@given(layers_of_any_kind)
def test_every_rung_of_the_ladder_is_legal_and_cheaper_than_dense(case: Case) -> None:
    for form in forms_of(case):
        check_ladder(form, case, form.factor(case.sides))
