"""Makes tasks of the zoo's networks: weights and data from the package or from the user."""

from __future__ import annotations

from pathlib import Path

from diminuendo.engine import zoo
from diminuendo.engine.task import Recipe, Task, TaskError
from diminuendo.engine.zoo.catalog import Source, training_command

CIFAR_RECIPE = Recipe(rate=0.05, batch_size=128, weight_decay=5e-4)


def task(source: Source, *, weights: Path | None, data: Path | None) -> Task:
    """The task of a network; see `zoo.task`."""
    if source.entry.bundled:
        return _digits(source, weights, data)
    if not source.entry.data:
        raise TaskError(
            f"data: the zoo loads no data for {source}; bring network and data as a bundle, a folder with a task.py "
            "that defines task()"
        )
    if weights is None or data is None:
        raise TaskError(_missing(source, weights, data))
    return _cifar(source, weights, data)


def _missing(source: Source, weights: Path | None, data: Path | None) -> str:
    """Say what is missing, and how to come by it."""
    problems = []
    if weights is None:
        problems.append(
            f"weights: the package has none for {source}; train them with `{training_command(source)}` and give the "
            "file with --weights FILE"
        )
    if data is None:
        problems.append(
            "data: give a folder with train-*.parquet and test-*.parquet (columns image and label) with --data DIR"
        )
    return "; ".join(problems)


def _digits(source: Source, weights: Path | None, data: Path | None) -> Task:
    from diminuendo.engine.zoo import digits
    from diminuendo.engine.zoo.state import load_weights

    if data is not None:
        raise TaskError(f"data: {source} brings its own data; leave {data} out")
    found = digits.task()
    if weights is not None:
        load_weights(found.model, weights, source)
    return found


def _cifar(source: Source, weights: Path, data: Path) -> Task:
    from diminuendo.engine.zoo import cifar
    from diminuendo.engine.zoo.state import load_weights

    model = zoo.network(source.text)
    load_weights(model, weights, source)
    model.eval()
    train, evaluation = cifar.load(data, source)
    return Task(
        model=model,
        train=train,
        evaluation=evaluation,
        augment=cifar.augment,
        recipe=CIFAR_RECIPE,
        name=source.entry.name,
        source=str(source),
    )
