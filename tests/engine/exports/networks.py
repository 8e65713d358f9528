"""Networks for exports: what can be folded, what cannot, and what cannot be exported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with BatchNorms that change what they are given."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NORMS) and module.running_mean is not None and module.running_var is not None:
                module.running_mean.uniform_(-1.0, 1.0, generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
                for parameter in module.parameters():
                    parameter.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


class Foldable(nn.Module):
    """(N, 4, 6, 6) -> (N, 5): every kind of layer that takes in a BatchNorm; two behind one layer; factored ones."""

    def __init__(self) -> None:
        super().__init__()
        self.factored = nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(3, 6, 3, padding=1))
        self.norm1 = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 8, 2, stride=2, groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(8, affine=False)
        self.same = nn.Conv2d(8, 6, 3, padding="same", groups=2, bias=False)
        self.norm3, self.norm4 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, 5)
        self.norm5 = nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.factored(x)).relu()
        x = self.norm2(self.up(x)).relu()
        x = self.norm4(self.norm3(self.same(x))).relu()
        out: Tensor = self.norm5(self.fc(x.mean((2, 3))))
        return out


class Unfoldable(nn.Module):
    """(N, 4, 6, 6) -> (N, 5): BatchNorms that stay.

    One is behind a layer whose output is used elsewhere, too; one behind a layer that is called twice; one behind an
    activation; one over the positions of a linear layer's output, and not over its channels; one goes by the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fork, self.twice = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(3))
        self.over_rows = nn.BatchNorm1d(4)
        self.rows = nn.Linear(36, 4)
        self.conv, self.by_batch = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        forked = self.fork(x)
        x = self.norms[0](forked) + forked
        x = self.twice(self.norms[1](self.twice(x)))
        x = self.norms[2](x.relu())
        rows = self.over_rows(self.rows(x.flatten(2)))
        out: Tensor = self.fc(self.by_batch(self.conv(x)).mean((2, 3)) * 0.0 + rows.mean(2))
        return out


class Outputs(nn.Module):
    """(N, 3) twice, by name -> a record of two tensors beside what is none."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(3, 2)

    def forward(self, image: Tensor, extra: dict[str, Any]) -> dict[str, Any]:
        hidden = self.one(image) * extra["scale"]
        return {"logits": hidden, "words": "some", "box": self.two(extra["side"]), "none": None}


class Deciding(nn.Module):
    """(N, 3) -> (N, 2): another way for other values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x)
        if x.sum() > 0:
            return out
        return -out


class Unscriptable(Deciding):
    """The same, in what TorchScript has no word for."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * {1: 1.0, "a": 1}[1]


class OneAtATime(nn.Module):
    """(1, 6) -> (1, 2): of any other number of samples it makes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x.reshape(1, 2, 3).flatten(1))
        return out


class Large(nn.Module):
    """(N, 3) -> (N, 2), by way of values that float16 does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.fc(x) * 1e3 * 1e3).square().sqrt() / 1e6
        return out
