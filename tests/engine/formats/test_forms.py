"""All formats, on layers of every kind."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load, save
from tests.engine.formats.cases import Case, formed, of, resized
from tests.engine.formats.checks import check, check_full_rank
from torch import nn

from diminuendo.engine.formats import FORMATS, Format, Sides, get
from diminuendo.engine.formats.moments import needs

F64 = torch.float64
CASES = {
    "linear": of(nn.Linear(9, 6, dtype=F64), (), batch=300),
    "linear on tokens": of(nn.Linear(5, 12, bias=False, dtype=F64), (3, 4), absorbs_mean=False),
    "1x1": of(nn.Conv2d(9, 7, 1, stride=2, dtype=F64)),
    "3x3": of(nn.Conv2d(5, 6, 3, padding=1, dtype=F64)),
    "3x3 without bias": of(nn.Conv2d(6, 8, 3, padding=1, bias=False, dtype=F64)),
    "3x3 about zero": of(nn.Conv2d(6, 8, 3, padding=1, bias=False, dtype=F64), absorbs_mean=False),
    "stem": of(nn.Conv2d(1, 12, 3, padding=1, bias=False, dtype=F64)),
    "strided": of(nn.Conv2d(4, 7, 3, stride=2, padding=1, dtype=F64)),
    "uneven": of(nn.Conv2d(4, 5, (2, 5), stride=(1, 3), padding=(0, 2), dilation=(3, 1), dtype=F64)),
    "1x3": of(nn.Conv2d(5, 6, (1, 3), dtype=F64)),
    "3x1": of(nn.Conv2d(5, 6, (3, 1), dtype=F64)),
    "same, reflect, dilated": of(nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect", dilation=2, dtype=F64)),
    "circular": of(nn.Conv2d(4, 6, (3, 2), padding=(1, 0), padding_mode="circular", dtype=F64)),
    "replicate": of(nn.Conv2d(4, 6, 3, padding=2, padding_mode="replicate", dtype=F64)),
    "same with an even kernel": of(nn.Conv1d(4, 6, 4, padding="same", padding_mode="reflect", dtype=F64), (9,)),
    "grouped": of(nn.Conv2d(6, 8, 3, groups=2, padding=1, dtype=F64)),
    "grouped 1x1": of(nn.Conv2d(12, 8, 1, groups=4, dtype=F64)),
    "depthwise": of(nn.Conv2d(5, 5, 3, groups=5, padding=1, bias=False, dtype=F64)),
    "depthwise, two for each": of(nn.Conv2d(4, 8, 3, groups=4, dtype=F64)),
    "conv1d": of(nn.Conv1d(5, 7, 3, stride=2, dtype=F64), (12,)),
    "conv3d": of(nn.Conv3d(3, 4, (3, 2, 3), stride=(1, 2, 1), padding=(1, 0, 1), dtype=F64), (5, 6, 4)),
    "transposed": of(nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, dtype=F64), (4, 5)),
    "transposed, grouped, dilated": of(
        nn.ConvTranspose2d(6, 4, (4, 3), stride=(2, 1), groups=2, dilation=(1, 2), dtype=F64), (4, 5)
    ),
    "transposed 1d": of(nn.ConvTranspose1d(5, 3, 4, stride=3, bias=False, dtype=F64), (7,)),
    "transposed 3d": of(nn.ConvTranspose3d(3, 4, 2, stride=2, dtype=F64), (2, 3, 3)),
    "transposed 1x1": of(nn.ConvTranspose2d(6, 5, 1, dtype=F64), (4, 4)),
}

EXACT = [form for form in FORMATS.values() if form.exact]
PAIRS = [
    pytest.param(form, case, id=f"{form.name}-{name}")
    for name, case in CASES.items()
    for form in EXACT
    if form.supports(case.spec)
]


@pytest.mark.parametrize(("form", "case"), PAIRS)
def test_every_form_of_every_layer(form: Format, case: Case) -> None:
    check(form, case)


def test_which_layers_have_which_forms() -> None:
    def forms(name: str) -> list[str]:
        return [form.name for form in FORMATS.values() if form.supports(CASES[name].spec)]

    assert forms("linear") == forms("1x1") == forms("grouped 1x1") == ["svd", "zero"]
    assert forms("3x3") == forms("transposed") == ["svd", "svd_input", "spatial", "tucker2", "cp", "tt", "zero"]
    assert forms("grouped") == forms("depthwise") == ["svd", "svd_input", "spatial", "zero"]
    assert forms("conv1d") == forms("1x3") == forms("3x1") == ["svd", "svd_input", "tucker2", "cp", "zero"]
    assert forms("conv3d") == ["svd", "svd_input", "spatial", "tucker2", "cp", "zero"]


CONVS = [form for form in EXACT if form.supports(CASES["3x3"].spec)]


@pytest.mark.parametrize("form", CONVS, ids=lambda form: form.name)
@pytest.mark.parametrize("kind", ["weights", "data", "both"])
def test_zero_weights_and_data_that_never_vary_are_no_error(form: Format, kind: str) -> None:
    case = of(nn.Conv2d(5, 6, 3, padding=1, dtype=F64))
    if kind in ("weights", "both"):
        nn.init.zeros_(case.layer.get_parameter("weight"))
    inputs = case.inputs if kind == "weights" else torch.zeros_like(case.inputs)
    dead = Case(case.spec, case.layer, inputs, case.moments).retaken()
    factors = form.factor(dead.sides)
    check_full_rank(form, dead, factors)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in factors.values())
    assert form.energy(factors, form.ladder(case.spec, factors)[0]) == 0.0
    top = form.max_ranks(case.spec)
    for ranks in (top, tuple(1 for _ in top)):
        child = resized(form, dead, formed(form, dead, top, factors), ranks, factors)
        torch.testing.assert_close(child(inputs), case.layer(inputs), atol=1e-9, rtol=0)


@pytest.mark.parametrize("form", CONVS, ids=lambda form: form.name)
def test_channels_that_never_fire_cost_nothing(form: Format) -> None:
    case = of(nn.Conv2d(6, 8, 3, padding=1, bias=False, dtype=F64))
    silent = case.inputs.clone()
    silent[:, 3:] = 0.0
    case = Case(case.spec, case.layer, silent, case.moments).retaken()
    factors = form.factor(case.sides)
    check_full_rank(form, case, factors)
    ladder = form.ladder(case.spec, factors)
    # Half of the input is silent: forms that narrow it are exact at rank 3 of 6.
    if form.name == "svd_input":
        assert ladder[-1] == (3,)
        assert case.share(formed(form, case, (3,), factors)) < 1e-20
    for ranks in ladder[::3]:
        loud = formed(form, case, ranks, factors)(torch.ones_like(silent)).detach()
        assert bool(torch.isfinite(loud).all())
        assert float(loud.abs().max()) < 1e3  # what was never seen is not blown up


@pytest.mark.parametrize("form", CONVS, ids=lambda form: form.name)
def test_fewer_samples_than_channels_are_enough(form: Format) -> None:
    # One image of 3x3: 9 positions for 20 channels.
    case = of(nn.Conv2d(20, 16, 3, padding=1, dtype=F64), (3, 3), batch=1)
    factors = form.factor(case.sides)
    check_full_rank(form, case, factors, atol=1e-8)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in factors.values())
    for ranks in form.ladder(case.spec, factors)[::5]:
        assert case.share(formed(form, case, ranks, factors)) < 1.01


@pytest.mark.parametrize("form", CONVS, ids=lambda form: form.name)
def test_rank_deficient_weights_are_exact_below_full_rank(form: Format) -> None:
    case = of(nn.Conv2d(8, 10, 3, padding=1, dtype=F64))
    weight = case.layer.get_parameter("weight")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # two directions of the output, two of the input, kernels of rank 1 along both axes
        outer, inner = (torch.randn(n, 2, generator=generator, dtype=F64) for n in (10, 8))
        first, second = (torch.randn(3, 2, generator=generator, dtype=F64) for _ in range(2))
        weight.copy_(torch.einsum("or,ir,ar,br->oiab", outer, inner, first, second))
    case = case.retaken()
    ranks = (2,) * len(form.max_ranks(case.spec))
    factors = form.factor(case.sides)
    assert case.share(formed(form, case, ranks, factors)) < (1e-4 if form.name == "cp" else 1e-20)
    check_full_rank(form, case, factors)


@pytest.mark.parametrize("form", CONVS, ids=lambda form: form.name)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_factors_and_modules_have_the_layers_dtype(form: Format, dtype: torch.dtype, atol: float) -> None:
    case = of(nn.Conv2d(5, 6, 3, padding=1, dtype=dtype))
    factors = form.factor(case.sides)
    assert {t.dtype for n, t in factors.items() if "spectrum" in n or n == "variance"} == {F64}
    assert {t.dtype for n, t in factors.items() if "spectrum" not in n and n != "variance"} == {dtype}
    top = form.max_ranks(case.spec)
    module = formed(form, case, top, factors)
    assert {p.dtype for p in module.parameters()} == {dtype}
    expected = case.layer(case.inputs).detach()
    assert float((module(case.inputs).detach() - expected).abs().max()) < atol * float(expected.abs().max())
    low = tuple(max(1, rank // 2) for rank in top)
    assert {p.dtype for p in resized(form, case, module, low, factors).parameters()} == {dtype}


@pytest.mark.parametrize("form", CONVS, ids=lambda form: form.name)
def test_everything_is_computed_in_float64(form: Format) -> None:
    # A mean 10^4 times the spread drowns a covariance in float32; here only the weights are.
    case = of(nn.Conv2d(5, 6, 3, bias=True, dtype=torch.float32))
    moments = dataclasses.replace(case.moments, input_mean=case.moments.input_mean * 1e4)
    case = dataclasses.replace(case, moments=moments)
    doubled = Case(case.spec, nn.Conv2d(5, 6, 3, dtype=F64), case.inputs, moments)
    doubled.layer.load_state_dict(case.layer.state_dict())
    low, high = form.factor(case.sides), form.factor(doubled.sides)
    for name in low:
        assert torch.equal(low[name], high[name].to(low[name].dtype)), name


@pytest.mark.parametrize("form", CONVS, ids=lambda form: form.name)
def test_the_same_layer_gives_the_same_bytes_and_they_come_back(form: Format) -> None:
    first, again = (form.factor(of(nn.Conv2d(5, 6, 3, padding=1)).sides) for _ in range(2))
    assert save(first) == save(again)
    case = of(nn.Conv2d(5, 6, 3, padding=1))
    ranks = tuple(1 for _ in form.max_ranks(case.spec))
    stored, fresh = formed(form, case, ranks, load(save(first))), formed(form, case, ranks, first)
    assert torch.equal(stored(case.inputs), fresh(case.inputs))


@pytest.mark.parametrize(
    ("name", "tensor", "dim"),
    [("svd", "left", 0), ("tucker2", "output", 0), ("tt", "output", 0), ("cp", "kernel@6", 1), ("cp", "input@6", 1)],
)
def test_signs_are_fixed_by_the_largest_component(name: str, tensor: str, dim: int) -> None:
    vectors = get(name).factor(of(nn.Conv2d(5, 6, 3, padding=1, dtype=F64)).sides)[tensor]
    vectors = vectors.flatten(1)
    assert bool((vectors.gather(dim, vectors.abs().argmax(dim=dim, keepdim=True)) > 0).all())


def test_what_is_decomposed_for_one_format_is_kept_for_the_others() -> None:
    case = CASES["3x3"]
    sides = Sides.of(case.layer, case.moments, case.spec)
    get("tucker2").factor(sides)
    outputs, inputs = sides.outputs, sides.inputs
    for form in CONVS:
        form.factor(sides)
    assert sides.outputs is outputs
    assert sides.inputs is inputs


MEASURED = ("3x3", "3x3 about zero", "strided", "grouped", "transposed", "conv3d")


@pytest.mark.parametrize(("form", "case"), [pair for pair in PAIRS if str(pair.id).endswith(MEASURED)])
def test_the_energy_tells_what_is_lost_on_the_data(form: Format, case: Case) -> None:
    # Exact for svd, measured on the same data; for the others an estimate by what is known of windows.
    factors = form.factor(case.sides)
    for ranks in form.ladder(case.spec, factors)[1::3]:
        energy = form.energy(factors, ranks)
        found = case.share(formed(form, case, ranks, factors), about_mean=case.moments.absorbs_mean)
        if form.name == "svd" and case.spec.bias:
            assert found == pytest.approx(energy, rel=1e-7)
        assert energy / 3 < found < 3 * energy


def test_needs_are_what_formats_ask_for() -> None:
    for case in CASES.values():
        assert (case.moments.output_covariance is not None) == needs(case.spec).output
        case.sides  # noqa: B018
    bare = dataclasses.replace(CASES["3x3"].moments, input_covariance=None)
    sides = Sides.of(CASES["3x3"].layer, bare, CASES["3x3"].spec)
    with pytest.raises(ValueError, match="layer 'layer': the covariance of its input was not taken"):
        get("svd_input").factor(sides)
