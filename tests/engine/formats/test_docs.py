"""The format that docs/formats.md writes out is one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests.engine.formats.cases import Case, formed, of
from tests.engine.formats.checks import check
from torch import nn

from diminuendo.engine.formats import FORMATS, Format, get

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "formats.md").read_text(encoding="utf-8")
F64 = torch.float64


@pytest.fixture(scope="module")
def across() -> Format:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {"__name__": "across"}
    exec(compile(block, "docs/formats.md", "exec"), names)
    kind = names["Across"]
    assert isinstance(kind, type)
    form = kind()
    assert isinstance(form, Format)
    return form


@pytest.mark.parametrize(
    "case",
    [
        of(nn.Conv2d(5, 6, 3, padding=1, dtype=F64)),
        of(nn.Conv2d(12, 4, (2, 3), stride=2, bias=False, dtype=F64)),
        of(nn.Conv2d(3, 9, 3, dilation=2, padding="same", padding_mode="reflect", dtype=F64), absorbs_mean=False),
        of(nn.Conv2d(6, 8, 3, groups=2, dtype=F64)),
        of(nn.Conv3d(3, 4, (3, 2, 3), padding=(1, 0, 1), dtype=F64), (5, 6, 4)),
        of(nn.ConvTranspose2d(6, 4, 3, stride=2, dtype=F64), (4, 5)),
    ],
    ids=["conv2d", "strided", "same", "grouped", "conv3d", "transposed"],
)
def test_the_worked_example_passes_the_checks_of_all_formats(across: Format, case: Case) -> None:
    check(across, case)


def test_the_worked_example_is_spatial_of_the_transposed_image(across: Format) -> None:
    # Across a layer is along the layer with its axes swapped, when nothing is known of neighbours.
    layer = nn.Conv2d(5, 6, 3, padding=1, dtype=F64)
    case = of(layer)
    turned = nn.Conv2d(5, 6, 3, padding=1, dtype=F64)
    with torch.no_grad():
        turned.weight.copy_(layer.weight.mT)
        assert turned.bias is not None
        assert layer.bias is not None
        turned.bias.copy_(layer.bias)
    other = Case(case.spec, turned, case.inputs.mT.contiguous(), case.moments).retaken()
    bare = type(other.moments)(
        **{name: getattr(other.moments, name) for name in other.moments.__slots__ if name != "input_lags"},
        input_lags=None,
    )
    other = Case(case.spec, turned, other.inputs, bare)
    ours, theirs = formed(across, case, (4,)), formed(get("spatial"), other, (4,))
    torch.testing.assert_close(ours(case.inputs), theirs(other.inputs).mT, atol=1e-9, rtol=0)


def test_every_format_has_a_section_and_a_picture() -> None:
    for name in FORMATS:
        assert f"\n## {name}\n" in PAGE
        assert f"(img/{name}.svg)" in PAGE
    for image in re.findall(r"\((img/\w+\.svg)\)", PAGE):
        assert (DOCS / image).read_text(encoding="utf-8").startswith("<svg ")
