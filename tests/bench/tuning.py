"""Benchmark: our fine-tuning against the same loop written by hand, and against a plain float32 one.

    python -m tests.bench.tuning [--networks digits resnet18] [--rounds N] [--threads N] [--seed N] [--out NAME]

The student is a network with a compressed plan. Three loops tune copies of it on the same images with the same kept
logits of the original, the same optimizer, rates, clipping and moving average:

- ours: `finetune`, in the type and the order in memory that `tryout` chose here;
- by hand: in plain PyTorch, in the same type and order. Ours over this is the overhead;
- plain: by hand, float32 and contiguous, with torch's SGD, which does less in a step. This over ours is the speed-up.

They take turns; the ratios are of neighbours in time, their median counts. Making the copies is not timed, and neither
is the original's forward: every loop finds its logits kept. ResNet18 has random weights and images: that changes no
time.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from tests.bench.results import command_line, record
from torch import Tensor, nn
from torch.nn import functional

from diminuendo.engine import surgery, zoo
from diminuendo.engine.finetune import finetune
from diminuendo.engine.orthogonal import Orthogonal, matrices
from diminuendo.engine.plan import Choice, Plan
from diminuendo.engine.precision import has_bf16_units, lay_out
from diminuendo.engine.search.work import OWN
from diminuendo.engine.stopwatch import clock_of, threads_set
from diminuendo.engine.task import Recipe, Samples, Task
from diminuendo.engine.teacher import Missing
from diminuendo.engine.workbench import Workbench

SHARE = 4
"""Channels of a layer for each rank of its form."""

IMAGES = 2048
BATCH = 128
"""Of ResNet18."""

WARM_UPS = 1


@dataclass(frozen=True)
class Subject:
    """A network to tune a form of.

    Attributes:
        passes: Over the training images, in each run.
    """

    name: str
    task: Task
    passes: int


@dataclass(frozen=True)
class Result:
    """Medians over the rounds.

    Attributes:
        params_ratio: Of the original and the student.
        numerics: What was chosen.
        ours_ms, hand_ms, plain_ms: Of a step.
        overhead_percent: Of ours over the same loop by hand.
        overhead_quartiles: Of the rounds.
        speedup: Of ours over the plain loop.
    """

    network: str
    params_ratio: float
    batch: int
    steps: int
    numerics: str
    ours_ms: float
    hand_ms: float
    plain_ms: float
    overhead_percent: float
    overhead_quartiles: tuple[float, float]
    speedup: float


def subjects(names: Sequence[str], seed: int) -> list[Subject]:
    """The networks by name."""
    return [Subject("digits", zoo.task("digits"), 4) if name == "digits" else resnet18(seed) for name in names]


def resnet18(seed: int) -> Subject:
    """ResNet18 for images of 32 x 32 pixels in 100 classes, untrained."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(IMAGES, 3, 32, 32, generator=generator)
    samples = Samples(images, torch.randint(0, 100, (IMAGES,), generator=generator))
    recipe = Recipe(rate=0.05, batch_size=BATCH, weight_decay=5e-4)
    return Subject("resnet18", Task(zoo.network("resnet18"), samples, samples, recipe=recipe), 1)


def student_of(bench: Workbench, seed: int) -> nn.Module:
    """The network with every 3x3 convolution as tucker2 at a quarter of its channels, with random weights there."""
    generator = torch.Generator().manual_seed(seed)
    plan = Plan.of(
        {
            spec.name: Choice("tucker2", (max(1, spec.in_channels // SHARE), max(1, spec.out_channels // SHARE)))
            for spec in bench.discovery.layers
            if spec.kernel_size == 9 and spec.groups == 1
        }
    )
    student = surgery.build(bench.model, plan)
    for name in plan:
        for parameter in student.get_submodule(name).parameters():
            with torch.no_grad():
                scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.0
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return student


def by_hand(
    model: nn.Module, images: Samples, wanted: Tensor, recipe: Recipe, *, passes: int, seed: int, bf16: bool = False
) -> None:
    """The loop that one would write: no more than it takes."""
    parameters = list(model.parameters())
    averages = [p.detach().clone() for p in parameters]
    optimizer = Orthogonal(
        parameters,
        matrices(model) if recipe.orthogonal else [],
        recipe.rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    total = passes * math.ceil(len(images) / recipe.batch_size)
    own = OWN if recipe.own is None else recipe.own
    decay = min(recipe.ema, max(0.0, 1.0 - 10.0 / total))
    generator = torch.Generator().manual_seed(seed)
    step = 0
    model.train()
    for _ in range(passes):
        for index in torch.split(torch.randperm(len(images), generator=generator), recipe.batch_size):
            progress = step / total
            share = (
                (progress + 0.01) / 0.16
                if progress < 0.15
                else 0.5 + 0.5 * math.cos(math.pi * (progress - 0.15) / 0.85)
            )
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * share
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                outputs = model(images.inputs[index])
            outputs = outputs.float()
            if step == 0:
                missing = Missing(recipe.tau)
                missing.add(outputs, wanted[index])
                optimizer.reach = missing.value
            student = functional.log_softmax(outputs / recipe.tau, dim=1)
            teacher = functional.log_softmax(wanted[index] / recipe.tau, dim=1)
            loss = own * functional.cross_entropy(outputs, images.targets[index])
            loss = loss + recipe.tau**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, list(parameters), 1.0 - decay)
            step += 1
    with torch.no_grad():
        torch._foreach_copy_(list(parameters), averages)
    model.eval()


def measure(subject: Subject, *, rounds: int, seed: int) -> Result:
    """Tune copies of a student in the three ways, in turn."""
    task = replace(subject.task, augment=None)  # each pass has the same inputs: all loops find the logits kept
    bench = Workbench(task, seed)
    numerics, recipe = bench.pace.numerics, bench.recipe
    student, images = student_of(bench, seed), bench.train
    if not isinstance(images, Samples):
        raise TypeError(f"{subject.name}: the images are not in memory")
    wanted = bench.teacher.on(images.inputs).clone()

    def ours(model: nn.Module) -> None:
        finetune(
            model, bench.teacher, task.loss_of, recipe, epochs=subject.passes, rate=1.0, seed=seed, bf16=numerics.bf16
        )

    def hand(model: nn.Module) -> None:
        by_hand(model, images, wanted, recipe, passes=subject.passes, seed=seed, bf16=numerics.bf16)

    def plain(model: nn.Module) -> None:
        by_hand(model, images, wanted, replace(recipe, orthogonal=False), passes=subject.passes, seed=seed)

    fast, slow = laid(student, numerics.channels_last), laid(student, channels_last=False)
    taken = turns([(ours, fast), (hand, fast), (plain, slow)], images, rounds)
    steps = subject.passes * math.ceil(len(images) / recipe.batch_size)
    own, other, most = ([ms / steps for ms in each] for each in taken)
    overheads = [100 * (a / b - 1) for a, b in zip(own, other, strict=True)]
    low, _, high = statistics.quantiles(overheads, n=4) if len(overheads) > 1 else overheads * 3
    return Result(
        network=subject.name,
        params_ratio=params(bench.model) / params(student),
        batch=recipe.batch_size,
        steps=steps,
        numerics=str(numerics),
        ours_ms=statistics.median(own),
        hand_ms=statistics.median(other),
        plain_ms=statistics.median(most),
        overhead_percent=statistics.median(overheads),
        overhead_quartiles=(low, high),
        speedup=statistics.median(a / b for a, b in zip(most, own, strict=True)),
    )


def turns(
    loops: Sequence[tuple[Callable[[nn.Module], None], nn.Module]], images: Samples, rounds: int
) -> list[list[float]]:
    """Milliseconds of each loop on copies of its network, round by round; each round begins with another one."""
    clock = clock_of(images.inputs)
    taken: list[list[float]] = [[] for _ in loops]
    for turn in range(-WARM_UPS, rounds):
        for place in range(len(loops)):
            which = (place + turn) % len(loops)
            run, model = loops[which][0], copy.deepcopy(loops[which][1])
            start = clock.mark()
            run(model)
            ms = clock.ms(start, clock.mark())
            if turn >= 0:
                taken[which].append(ms)
    return taken


def laid(student: nn.Module, channels_last: bool) -> nn.Module:
    """A copy with its weights in an order."""
    model = copy.deepcopy(student)
    lay_out(model, channels_last=channels_last)
    return model


def params(model: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in model.parameters())


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=["digits", "resnet18"], default=["digits", "resnet18"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="tuning", help="name of the record under results/")
    options = parser.parse_args()
    units = has_bf16_units(torch.device("cpu"))
    with threads_set(options.threads):
        results = []
        for subject in subjects(options.networks, options.seed):
            results.append(found := measure(subject, rounds=options.rounds, seed=options.seed))
            print(
                f"{found.network}: {found.numerics}; ours {found.ours_ms:.1f} ms a step, by hand {found.hand_ms:.1f}, "
                f"plain {found.plain_ms:.1f}; overhead {found.overhead_percent:.1f} % (aim: under 3), "
                f"{found.speedup:.2f}x a plain loop ({'aim: 2' if units else 'no bf16 units here'})",
                flush=True,
            )
        figures = {"bf16_units": units, "networks": [asdict(found) for found in results]}
        path = record(
            options.out, figures, command=command_line("tests.bench.tuning"), seed=options.seed, rounds=options.rounds
        )
    print(f"result: {path}")


if __name__ == "__main__":
    main()
