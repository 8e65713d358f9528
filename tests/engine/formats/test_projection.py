from __future__ import annotations

import pytest
import torch

from diminuendo.engine.formats.projection import on_data, orient, output_directions, pad, product_directions


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(9, 4, 7), (3, 5, 7), (6, 6, 2)])
def test_a_product_is_factored_anew_without_loss(shape: tuple[int, int, int]) -> None:
    m, r, n = shape
    left, right, data = normal(m, r), normal(r, n, seed=1), normal(n, 200, seed=2)
    inner = right @ data
    product = product_directions(left, right, inner @ inner.T / 200)
    torch.testing.assert_close(product.left @ product.right, left @ right, atol=1e-12, rtol=0)
    torch.testing.assert_close(product.left.T @ product.left, torch.eye(min(m, r), dtype=torch.float64))
    # The directions' variances on the data are the spectrum, and they are uncorrelated.
    outputs = product.right @ data
    torch.testing.assert_close(outputs @ outputs.T / 200, product.spectrum.diag(), atol=1e-10, rtol=1e-10)


def test_a_map_within_the_range_of_the_stored_one_is_known_exactly() -> None:
    stored, data, mix = normal(4, 9), normal(9, 300, seed=1), normal(3, 4, seed=2)
    outputs = stored @ data
    values, vectors = torch.linalg.eigh(outputs @ outputs.T / 300)
    stored, mean = vectors.T @ stored, vectors.T @ outputs.mean(dim=1)
    tuned = mix @ stored
    found = on_data(tuned, stored, values, mean)
    torch.testing.assert_close(found.moment, tuned @ data @ data.T @ tuned.T / 300, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found.mean, (tuned @ data).mean(dim=1), atol=1e-10, rtol=0)


def test_stored_maps_of_lower_rank_and_of_zeros_are_no_error() -> None:
    stored = torch.cat([normal(2, 5), torch.zeros(2, 5, dtype=torch.float64)])
    found = on_data(stored, stored, torch.tensor([2.0, 1.0, 0.0, 0.0]), None)
    assert bool(torch.isfinite(found.moment).all())
    nothing = on_data(torch.zeros(2, 5), torch.zeros(3, 5), torch.zeros(3), None)
    assert nothing.moment.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_orientation_makes_the_largest_component_positive() -> None:
    vectors = torch.tensor([[1.0, -3.0, 0.0], [-2.0, 1.0, 0.0]])
    assert orient(vectors).tolist() == [[-1.0, 3.0, 0.0], [2.0, -1.0, 0.0]]


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_a_map_is_factored_by_its_output_without_loss(shape: tuple[int, int]) -> None:
    matrix, data = normal(*shape), normal(shape[1], 300, seed=1)
    outputs = matrix @ data
    product = output_directions(matrix, outputs @ outputs.T / 300)
    torch.testing.assert_close(product.left @ product.right, matrix, atol=1e-12, rtol=0)
    torch.testing.assert_close(product.left.T @ product.left, torch.eye(min(shape), dtype=torch.float64))
    seen = product.right @ data
    torch.testing.assert_close(seen @ seen.T / 300, product.spectrum.diag(), atol=1e-10, rtol=1e-10)


def test_output_directions_stay_within_the_maps_range_where_the_data_say_nothing() -> None:
    # No data at all: any basis of the range will do, but one outside of it would lose the map.
    matrix = normal(6, 2)
    product = output_directions(matrix, torch.zeros(6, 6, dtype=torch.float64))
    torch.testing.assert_close(product.left @ product.right, matrix, atol=1e-12, rtol=0)
    assert product.spectrum.tolist() == [0.0, 0.0]


def test_pad_puts_the_tensor_into_the_corner() -> None:
    assert pad(torch.ones(1, 2), (2, 3)).tolist() == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
