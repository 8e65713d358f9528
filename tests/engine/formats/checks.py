"""What holds of every format: checks that the tests of all formats, of random layers, and of the docs share."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from tests.engine.formats.cases import Case, formed, resized, tuned

from diminuendo.engine.formats import Factors, Format
from diminuendo.engine.profile import profile

ATOL = 1e-9


def check(form: Format, case: Case) -> None:
    """Everything, for a float64 layer."""
    before = copy.deepcopy(case.layer.state_dict())
    factors = form.factor(case.sides)
    top = form.max_ranks(case.spec)
    check_full_rank(form, case, factors)
    for ranks in {tuple(1 for _ in top), tuple((rank + 1) // 2 for rank in top), top}:
        check_cost(form, case, ranks, factors)
    check_ladder(form, case, factors)
    check_resizing(form, case, factors)
    assert all(torch.equal(value, before[name]) for name, value in case.layer.state_dict().items())
    assert all(torch.equal(value, factors[name]) for name, value in form.factor(case.sides).items())


def check_full_rank(form: Format, case: Case, factors: Factors, atol: float = ATOL) -> None:
    """At its highest ranks the form is the layer."""
    top = form.max_ranks(case.spec)
    expected = case.layer(case.inputs).detach()
    found = formed(form, case, top, factors)(case.inputs).detach()
    torch.testing.assert_close(found, expected, atol=atol, rtol=atol)
    assert form.energy(factors, top) == pytest.approx(0.0, abs=1e-12)


def check_cost(form: Format, case: Case, ranks: tuple[int, ...], factors: Factors) -> None:
    """The counted cost is the built module's."""
    figures = profile(formed(form, case, ranks, factors), case.inputs[:1], time=False)
    item_bytes = next(case.layer.parameters()).element_size()
    cost = form.cost(case.spec, ranks, item_bytes=item_bytes)
    inputs = case.inputs[:1].numel()
    assert cost == replace(figures.cost, elements=figures.elements - inputs)


def check_ladder(form: Format, case: Case, factors: Factors) -> None:
    """Legal, ascending, cheaper than dense, and dropping ever less."""
    ladder = form.ladder(case.spec, factors)
    params = [form.cost(case.spec, ranks).params for ranks in ladder]  # raises where one is not legal
    assert params == sorted(set(params))
    assert all(count < case.spec.params for count in params)
    assert bool(ladder) == form.pays(case.spec)
    for low, high in itertools.pairwise(ladder):
        assert all(a <= b for a, b in zip(low, high, strict=True))
    energies = [form.energy(factors, ranks) for ranks in ladder]
    assert energies == sorted(energies, reverse=True)
    assert all(0.0 <= energy <= 1.0 for energy in energies)


def check_resizing(form: Format, case: Case, factors: Factors) -> None:
    """Growing keeps the function, the same ranks are the same module, and shrinking has a result."""
    top = form.max_ranks(case.spec)
    low = tuple(max(1, rank // 2) for rank in top)
    parent = tuned(formed(form, case, low, factors))
    child = resized(form, case, parent, top, factors)
    torch.testing.assert_close(child(case.inputs), parent(case.inputs), atol=1e-8, rtol=1e-8)
    same = resized(form, case, parent, low, factors)
    torch.testing.assert_close(same(case.inputs), parent(case.inputs), atol=1e-8, rtol=1e-8)
    shrunk = resized(form, case, child, low, factors)
    assert all(bool(torch.isfinite(weight).all()) for weight in shrunk.parameters())
