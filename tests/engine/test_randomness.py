from __future__ import annotations

import random

import numpy
import torch

from diminuendo.engine.randomness import Randomness


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(numpy.random.rand())


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    numpy.random.seed(number)


def test_outside_is_as_if_nothing_had_been_drawn() -> None:
    seed(3)
    expected = [drawn(), drawn()]
    seed(3)
    found = [drawn()]
    with Randomness(5):
        inside = drawn()
        numpy.random.seed(9)  # what code inside does stays inside
    found.append(drawn())
    assert found == expected
    assert inside not in expected


def test_inside_follows_the_seed_and_goes_on_where_it_was_left() -> None:
    with Randomness(5):
        whole = [drawn(), drawn()]
    seed(1)
    randomness, parts = Randomness(5), []
    for _ in range(2):
        with randomness:
            parts.append(drawn())
        drawn()
    with Randomness(6):
        other = drawn()
    assert parts == whole
    assert all(a != b for a, b in zip(other, whole[0], strict=True))


def test_an_error_inside_gives_the_outside_back() -> None:
    seed(3)
    expected = drawn()
    seed(3)
    try:
        with Randomness(5):
            raise ValueError
    except ValueError:
        pass
    assert drawn() == expected
