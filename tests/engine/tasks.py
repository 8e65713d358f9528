"""Small tasks whose networks take and return all kinds of values, trained in about a second each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from tests.engine.datasets import Items
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from diminuendo.engine import Metric, Recipe, Samples, Task, tree
from diminuendo.engine.data import Indexed, Stream
from diminuendo.engine.task import Data

RECIPE = Recipe(rate=0.05, batch_size=50)
WORDS = 11
TEXT = 6


class Two(nn.Module):
    """(N, 4) twice -> (N, 3) logits; one layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 24)
        self.right = nn.Linear(4, 24)
        self.middle = nn.Linear(48, 32)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Linear(32, 3)
        self.unused = nn.Linear(5, 5)

    def forward(self, left: Tensor, right: Tensor) -> Any:
        hidden = torch.cat([self.left(left), self.right(right)], dim=1).relu()
        return self.out(self.drop(self.middle(hidden).relu()))


class Records(Two):
    """The same from a record and a list, by name, with logits in a record beside words and other tensors."""

    def forward(self, sides: dict[str, Tensor], rest: list[Tensor]) -> dict[str, Any]:  # type: ignore[override]
        logits = super().forward(sides["left"], rest[0])
        return {"mean": logits.mean(), "words": "some", "logits": logits, "none": None}


class Shared(nn.Module):
    """(N, 8) -> (N, 3); two layers have one weight, and a third is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 24)
        self.one = nn.Linear(24, 24)
        self.two = nn.Linear(24, 24)
        self.two.weight = self.one.weight
        self.twice = nn.Linear(24, 24)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.first(x)).relu()).relu()
        logits: Tensor = self.out(self.twice(self.twice(x).relu()).relu())
        return logits


class Recurrent(nn.Module):
    """(N, 8) as two steps of 4 -> logits and the last states, whose samples are in dimension 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True)
        self.wide = nn.Linear(6, 40)
        self.middle = nn.Linear(40, 40)
        self.out = nn.Linear(40, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        outputs, states = self.lstm(x.reshape(-1, 2, 4))
        return self.out(self.middle(self.wide(outputs[:, -1]).relu()).relu()), states


class Language(nn.Module):
    """A GPT of one block: (N, T) words -> (N, T, V) logits, in a record; the head is the embedding."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.places = nn.Embedding(TEXT, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.head = nn.Linear(width, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> dict[str, Any]:
        x = self.words(ids) + self.places.weight
        query, key, value = (
            part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).flatten(2))
        x = x + self.narrow(functional.gelu(self.wide(self.norm2(x))))
        return {"logits": self.head(x), "cache": None}


def held(data: Data | Stream | Indexed) -> Samples:
    """Data that is in memory."""
    assert isinstance(data, Samples)
    return data


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 8) points about three centres, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2.0 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    classes = torch.randint(0, 3, (count,), generator=generator)
    return centres[classes] + torch.randn(count, 8, generator=generator), classes


def texts(count: int, seed: int) -> Samples:
    """Each word is the sum of the two before it, modulo the number of words; the first two are any."""
    words = torch.randint(0, WORDS, (count, TEXT + 1), generator=torch.Generator().manual_seed(seed))
    for place in range(2, TEXT + 1):
        words[:, place] = (words[:, place - 1] + words[:, place - 2]) % WORDS
    return Samples({"ids": words[:, :-1]}, words[:, 1:])


def classification(
    model: nn.Module, make: Callable[[Tensor], Any], dtype: torch.dtype = torch.float32, *, count: int = 300
) -> Task:
    """A task of telling the blobs apart from inputs made of their points."""
    train, evaluation = (Samples(make(points), classes) for points, classes in (blobs(count, 1), blobs(400, 2)))
    trained(Task(model, train, evaluation), steps=60).model.to(dtype)
    train, evaluation = (
        Samples(tree.combine(lambda tensor: tensor.to(dtype), half.inputs), half.targets)
        for half in (train, evaluation)
    )
    return Task(model, train, evaluation, recipe=RECIPE, name="blobs")


def trained(task: Task, steps: int, rate: float = 0.01) -> Task:
    """The task, its network trained with all samples at once, in eval mode."""
    optimizer = torch.optim.Adam(task.model.parameters(), rate)
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = tree.call(task.model.train(), held(task.train).inputs)
        task.loss_of(outputs, held(task.train).targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    task.model.eval()
    return task


def two_inputs(dtype: torch.dtype = torch.float32) -> Task:
    """Two positional inputs."""
    torch.manual_seed(0)
    return classification(Two(), lambda points: (points[:, :4], points[:, 4:]), dtype)


def narrow_weights() -> Task:
    """The same in bfloat16."""
    return two_inputs(torch.bfloat16)


def records() -> Task:
    """Nested inputs by name, outputs in a record."""
    torch.manual_seed(0)
    return classification(Records(), lambda points: {"sides": {"left": points[:, :4]}, "rest": [points[:, 4:], "x"]})


def shared_weights() -> Task:
    """A network with tied weights."""
    torch.manual_seed(0)
    return classification(Shared(), lambda points: points)


def recurrent() -> Task:
    """A network with an LSTM, which returns a nested tuple; samples for two unequal batches in each step of the job."""
    torch.manual_seed(0)
    return classification(Recurrent(), lambda points: points, count=520)


def quantized_in_part() -> Task:
    """A network whose middle layer is quantized: what comes before it gets no gradient."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    task = classification(model, lambda points: points)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the move of quantization to torchao
        quantized = torch.ao.quantization.quantize_dynamic(model, {"2"})  # type: ignore[no-untyped-call]
    return Task(quantized, task.train, task.evaluation, recipe=RECIPE, name="quantized")


def language() -> Task:
    """A language model."""
    torch.manual_seed(0)

    def logits(outputs: dict[str, Any]) -> Tensor:
        return outputs["logits"].flatten(0, 1)  # type: ignore[no-any-return]

    recipe = Recipe(rate=0.02, batch_size=50, clip=1.0)
    task = Task(Language(), texts(200, 1), texts(80, 2), recipe=recipe, name="language", logits=logits)
    return trained(task, steps=200, rate=0.005)


def regression() -> Task:
    """One number for each sample, with a loss and a metric of which less is better."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    direction = torch.randn(8, 1)

    def error(outputs: Tensor, targets: Tensor) -> Tensor:
        return 100.0 * (outputs - targets).square().flatten(1).mean(dim=1)

    train, evaluation = (
        Samples(points, torch.tanh(points @ direction)) for points, _ in (blobs(300, 1), blobs(400, 2))
    )
    metric = Metric("error", error, higher_is_better=False)
    task = Task(model, train, evaluation, functional.mse_loss, metric, recipe=RECIPE, name="line")
    return trained(task, steps=150)


class Parts(nn.Module):
    """(N, 8) points to the right of two heads; it cannot be called, its owner runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
        self.classes = nn.Linear(32, 3)
        self.size = nn.Linear(32, 1)


def run_parts(network: nn.Module, points: Tensor) -> dict[str, Tensor]:
    """Outputs of `Parts`."""
    assert isinstance(network, Parts)
    hidden = network.body(points)
    return {"logits": network.classes(hidden), "size": network.size(hidden).squeeze(1)}


def own_everything() -> Task:
    """Loader, dataset, forward, losses, metric of which less is better, optimizer and scheduler of the owner's."""
    torch.manual_seed(0)

    def losses(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            "class": functional.cross_entropy(outputs["logits"], targets["class"]),
            "size": functional.mse_loss(outputs["size"], targets["size"]),
        }

    def errors(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        return 100.0 * (outputs["logits"].argmax(dim=1) != targets["class"])

    def pairs(count: int, seed: int) -> Items:
        points, classes = blobs(count, seed)
        return Items([(p, {"class": c, "size": p.norm()}) for p, c in zip(points, classes, strict=True)])

    model, train = Parts(), pairs(300, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    batch = next(iter(DataLoader(train, 300)))
    for _ in range(60):
        optimizer.zero_grad()
        sum(losses(run_parts(model, batch[0]), batch[1]).values(), torch.zeros(())).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Task(
        model.eval(),
        DataLoader(train, 50, shuffle=True),
        pairs(400, 2),
        losses,
        Metric("errors", errors, higher_is_better=False),
        recipe=RECIPE,
        name="own",
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=5e-3),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps),
        forward=run_parts,
    )
