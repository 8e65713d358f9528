from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from diminuendo.engine.orthogonal import SHARE, Orthogonal, matrices, scale_of
from diminuendo.engine.orthogonal import orthogonalised as all_orthogonalised

SHAPES = [(24, 24), (8, 40), (40, 8), (12, 6, 3, 3), (40, 3, 1, 1)]


def spread(*shape: int) -> Tensor:
    """A matrix of which the singular values lie a factor of 30 apart."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)
    u, _, v = torch.linalg.svd(made.flatten(1), full_matrices=False)
    found: Tensor = u * torch.logspace(0, -1.5, u.shape[1], dtype=torch.float64) @ v
    return found.view(shape)


def orthogonalised(matrix: Tensor) -> Tensor:
    return all_orthogonalised([matrix])[0]


def singular_values(matrix: Tensor) -> Tensor:
    found: Tensor = torch.linalg.svdvals(matrix.flatten(1))
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e9])
def test_singular_values_come_near_to_one_whatever_they_were(shape: tuple[int, ...], size: float) -> None:
    given = spread(*shape) * size
    found = singular_values(orthogonalised(given))
    assert float(found.min()) > 0.6
    assert float(found.max()) < 1.3


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_are_kept(shape: tuple[int, ...]) -> None:
    given = spread(*shape)
    u, _, v = torch.linalg.svd(given.flatten(1), full_matrices=False)
    along = u.T @ orthogonalised(given).flatten(1) @ v.T
    torch.testing.assert_close(along, torch.diag(along.diagonal()), atol=1e-9, rtol=0)
    assert float(along.diagonal().min()) > 0.6


def test_single_precision_gives_the_same() -> None:
    given = spread(8, 40)
    torch.testing.assert_close(orthogonalised(given.float()).double(), orthogonalised(given), atol=1e-4, rtol=0)


def test_matrices_of_all_sizes_come_out_side_by_side_as_each_by_itself() -> None:
    shapes = [*SHAPES, (100, 70), (64, 65), (5, 3), (2, 2), (3, 100)]
    given = [spread(*shape) for shape in shapes] + [spread(8, 40).float()]
    for matrix, found in zip(given, all_orthogonalised(given), strict=True):
        assert found.dtype == matrix.dtype
        torch.testing.assert_close(found, orthogonalised(matrix))


def test_nothing_comes_of_nothing() -> None:
    assert orthogonalised(torch.zeros(3, 5)).eq(0).all()


def test_matrices_are_those_between_features() -> None:
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 3),
            "conv": nn.Conv2d(3, 4, 3),
            "shared": nn.Linear(2, 2),
            "depthwise": nn.Conv2d(4, 4, 3, groups=4),
            "embedding": nn.Embedding(5, 4),
            "norm": nn.BatchNorm2d(4),
            "row": nn.Linear(4, 1),
            "zero": nn.Linear(4, 3),
            "frozen": nn.Linear(4, 3),
        }
    )
    model["again"] = model["shared"]
    nn.init.zeros_(model["zero"].get_parameter("weight"))
    model["frozen"].requires_grad_(False)
    found = {name for name, p in model.named_parameters() if any(p is matrix for matrix in matrices(model))}
    assert found == {"linear.weight", "conv.weight", "shared.weight"}
    assert len(matrices(model)) == 3


def test_a_step_goes_as_far_in_every_direction_and_by_the_scale_of_the_matrix() -> None:
    weight = nn.Parameter(100 * spread(8, 40))
    before, scale = weight.detach().clone(), scale_of(weight)
    assert scale == pytest.approx(float(singular_values(before).square().mean().sqrt()))
    optimizer = Orthogonal([weight], [weight], 0.5, momentum=0.9)
    weight.grad = 1e-6 * spread(8, 40)
    optimizer.step()
    steps = singular_values(before - weight.detach()) / (SHARE * 0.5 * scale)
    assert float(steps.min()) > 0.6
    assert float(steps.max()) < 1.3


def test_other_weights_are_stepped_on_as_by_sgd() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    plain = copy.deepcopy(model)
    ours = Orthogonal(list(model.parameters()), matrices(model), 0.1, momentum=0.9, weight_decay=0.01)
    sgd = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(3):
        for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        ours.step()
        sgd.step()
    for (name, mine), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, other) == (name != "0.weight"), name


def test_a_scheduler_sets_the_rate_of_both_kinds() -> None:
    model = nn.Linear(4, 3)
    before = copy.deepcopy(model.state_dict())
    optimizer = Orthogonal(list(model.parameters()), matrices(model), 0.1, momentum=0.9)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_matrix_without_a_gradient_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3))
    before = model[1].get_parameter("weight").detach().clone()
    optimizer = Orthogonal(list(model.parameters()), matrices(model), 0.1, momentum=0.9)
    model[0](torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(model[1].get_parameter("weight"), before)
