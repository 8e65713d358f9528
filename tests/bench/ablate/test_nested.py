from __future__ import annotations

import pytest
import torch
from tests.bench.ablate.nested import Nested, Sliced
from tests.engine.networks import Small, images, small
from torch import nn

from diminuendo.engine import surgery
from diminuendo.engine.plan import DENSE, Choice, Plan


def plan(two: tuple[int, int], mix: int) -> Plan:
    return Plan((("conv1", DENSE), ("conv2", Choice("tucker2", two)), ("mix", Choice("svd", (mix,))), ("fc", DENSE)))


LARGEST = plan((6, 8), 9)
SMALLER = plan((2, 5), 4)


def nested(*drawn: Plan) -> tuple[Small, Nested, nn.Module]:
    original = small().eval()
    built = surgery.build(original, LARGEST)
    with torch.no_grad():
        for name in ("conv2", "mix"):
            for index, parameter in enumerate(built.get_submodule(name).parameters()):
                nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    untouched = surgery.build(original, LARGEST)
    untouched.load_state_dict(built.state_dict())
    return original, Nested(built, LARGEST, drawn, seed=0).eval(), untouched


@pytest.mark.parametrize("wanted", [LARGEST, SMALLER])
def test_a_plan_taken_is_the_network_that_its_state_gives(wanted: Plan) -> None:
    original, shared, _ = nested()
    alone = surgery.build(original, wanted).eval()
    alone.load_state_dict(shared.state_of(wanted))
    shared.take(wanted)
    torch.testing.assert_close(shared(images(3)), alone(images(3)))


def test_at_the_highest_ranks_it_is_what_it_was_made_of() -> None:
    _, shared, untouched = nested()
    shared.take(LARGEST)
    torch.testing.assert_close(shared(images(3)), untouched.eval()(images(3)))


def test_training_draws_plans_and_leaves_ranks_that_were_not_drawn_alone() -> None:
    _, shared, _ = nested(SMALLER)
    shared.train().take(LARGEST)
    shared(images(3)).sum().backward()
    core = shared.model.get_submodule("conv2.chain.1").get_parameter("weight").grad
    assert core is not None
    assert core[:5, :2].abs().sum() > 0
    assert core[5:].abs().sum() == core[:, 2:].abs().sum() == 0


def test_both_plans_are_drawn() -> None:
    _, shared, _ = nested(LARGEST, SMALLER)
    shared.train()
    layer = shared.model.get_submodule("mix")
    assert isinstance(layer, Sliced)
    seen = set()
    for _ in range(12):
        shared(images(2))
        seen.add(layer.ranks)
    assert seen == {(9,), (4,)}
