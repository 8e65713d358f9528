"""Trains the zoo's networks: ``python -m diminuendo.engine.zoo.train NAME --data DIR``.

Goes on from its checkpoint with ``--resume``; SIGINT and SIGTERM leave one that is worth going on from. The same seed,
data, number of threads and version of torch give the same bytes on a CPU.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import torch
import typer

from diminuendo.engine import zoo
from diminuendo.engine.task import Samples, TaskError
from diminuendo.engine.zoo import checkpoint as files
from diminuendo.engine.zoo import cifar, digits, train_digits
from diminuendo.engine.zoo.catalog import Source, UnknownNetworkError
from diminuendo.engine.zoo.recipes import RECIPES, RecipeName, TrainingRecipe
from diminuendo.engine.zoo.training import Epoch, Progress, Settings, StoppedError, Training, accuracy, fresh

MISTAKE = 2
REPORT_S = 60.0
"""Longest silence within an epoch."""


def main(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Network of the zoo: NAME or NAME?classes=N.")],
    data: Annotated[Path | None, typer.Option(help="Folder of train-*.parquet and test-*.parquet.")] = None,
    recipe: Annotated[RecipeName, typer.Option(help="The usual one of 200 epochs, or a short cycle.")] = "usual",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data; the recipe's, stretched.")] = None,
    rate: Annotated[float | None, typer.Option(min=1e-9, help="Largest learning rate; default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Samples of a step; default: the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and augmentation.")] = 0,
    bf16: Annotated[bool | None, typer.Option(help="bfloat16 forwards; default: where the device gains.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU when there is one.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: beside the weights.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where the weights go; default: NAME.safetensors.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Matrices and convolutions as float16.")] = False,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many samples; for a trial.")] = None,
) -> None:
    """Train a network of the zoo and write its weights as safetensors."""
    try:
        source = Source.parse(name)
        path = _writable(out or Path(re.sub(r"[^\w.-]+", "-", source.text) + ".safetensors"))
        if source.entry.bundled:
            options = {"data": data, "recipe": recipe != "usual", "rate": rate, "batch_size": batch_size, "bf16": bf16}
            options |= {"device": device != "auto", "threads": threads, "checkpoint": checkpoint, "resume": resume}
            _refuse(options | {"half": half, "limit": limit})
            _train_digits(seed, epochs or train_digits.EPOCHS, path)
            return
        course = _course(recipe, epochs, rate, batch_size)
        training = _prepare(source, course, data, limit, seed, bf16, _device(device), threads)
        _run(training, checkpoint or path.with_name(f"{path.stem}.checkpoint"), resume=resume)
        _finish(training, source, path, half=half)
    except (UnknownNetworkError, TaskError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(MISTAKE) from None


def _refuse(options: Mapping[str, object]) -> None:
    """Refuse what was given for a network that is trained by a recipe of its own."""
    for option, value in options.items():
        if value is not None and value is not False:
            raise TaskError(
                f"{option}: digits is trained by a recipe of its own; leave --{option.replace('_', '-')} out"
            )


def _train_digits(seed: int, epochs: int, path: Path) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = digits.network()
    training, evaluation = digits.data()
    state = train_digits.train(model, training, seed=seed, epochs=epochs)
    model.load_state_dict(state)
    files.write_weights(path, state)
    typer.echo(
        f"digits: {accuracy(model, evaluation):.2f} % on {len(evaluation)} images it was not trained on, "
        f"{accuracy(model, training):.2f} % on the {len(training)} it was; seed {seed}, {epochs} epochs: {path}"
    )


def _course(name: RecipeName, epochs: int | None, rate: float | None, batch_size: int | None) -> TrainingRecipe:
    """A recipe with what was given in the place of its own."""
    recipe = RECIPES[name]
    return replace(
        recipe,
        epochs=epochs or recipe.epochs,
        rate=rate or recipe.rate,
        batch_size=batch_size or recipe.batch_size,
    )


def _prepare(
    source: Source,
    recipe: TrainingRecipe,
    data: Path | None,
    limit: int | None,
    seed: int,
    bf16: bool | None,
    device: torch.device,
    threads: int | None,
) -> Training:
    """A training at its beginning, with data and network on the device."""
    if not source.entry.data:
        raise TaskError(
            f"data: the zoo loads no data for {source}; bring your own network and data as a bundle, a folder with a "
            "task.py that defines task()"
        )
    if data is None:
        raise TaskError(
            "data: give a folder with train-*.parquet and test-*.parquet (columns image and label) with --data DIR"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    train, test = (_on(samples, device) for samples in cifar.load(data, source, limit=limit))
    settings = Settings(str(source), recipe, seed, gains_from_bf16(device) if bf16 is None else bf16, len(train))
    model = fresh(lambda: zoo.network(source.text), seed).to(device)
    return Training(model, train, test, settings, cifar.augment)


def _writable(path: Path) -> Path:
    """Where the weights go, checked before hours of training."""
    if path.is_dir() or not path.parent.is_dir():
        raise TaskError(f"out: {path} is no file in a folder that is there; make the folder, or name another file")
    return path


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise TaskError("device: there is no CUDA device here; say --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def gains_from_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is quicker there: a GPU that has it, or a processor with matrix units for it (AMX)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _on(samples: Samples, device: torch.device) -> Samples:
    return Samples(samples.inputs.to(device), samples.targets.to(device))


def _run(training: Training, path: Path, *, resume: bool) -> None:
    """Train to the end, with a checkpoint after each epoch and when stopped."""
    _writable(path)
    if path.exists() and not resume:
        raise TaskError(f"checkpoint: {path} is there; go on from it with --resume, or remove it")
    if path.exists():
        try:
            training.load_state_dict(files.read(path))
        except TaskError as error:
            text = str(error)
            raise TaskError(text if text.startswith("checkpoint") else f"checkpoint: {path}: {text}") from error
    settings, done = training.settings, training.progress.step
    _say(
        f"{settings.source}: {settings.recipe.epochs} epochs, recipe {settings.recipe.name}, {settings.samples} "
        f"samples, {'bfloat16' if settings.bf16 else 'float32'} on {training.train.targets.device}; "
        f"{f'going on after step {done} of' if done else 'checkpoint'} {path}"
    )
    reporter = _Reporter(training)
    with _stopping() as asked:
        try:
            training.run(
                on_epoch=reporter.epoch,
                on_step=reporter.step,
                save=lambda: files.write(path, training.state_dict()),
                stop=lambda: bool(asked),
            )
        except StoppedError:
            files.write(path, training.state_dict())
            _say(f"stopped after step {training.progress.step}; go on with --resume: {path}")
            raise typer.Exit(128 + asked[0]) from None


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """The signals that came; SIGINT and SIGTERM only put themselves there."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Reporter:
    """Says how a training goes."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.first, self.begun = training.progress.step, time.perf_counter()
        self.last = self.begun

    def step(self, progress: Progress) -> None:
        """Break a long silence within an epoch."""
        now = time.perf_counter()
        if now - self.last >= REPORT_S:
            self.last = now
            per_epoch, (loss, top1) = self.training.steps_per_epoch, progress.means()
            step = progress.step - len(progress.epochs) * per_epoch
            _say(
                f"epoch {len(progress.epochs) + 1}: step {step}/{per_epoch}, loss {loss:.4f}, "
                f"train {top1:.2f} %, {self._left()} left"
            )

    def epoch(self, epoch: Epoch) -> None:
        """One line for each epoch."""
        self.last = time.perf_counter()
        _say(
            f"epoch {epoch.number}/{self.training.settings.recipe.epochs}: loss {epoch.loss:.4f}, "
            f"train {epoch.train_top1:.2f} %, test {epoch.test_top1:.2f} %, rate {epoch.rate:.4g}, "
            f"{epoch.samples_per_s:.0f} samples/s, {self._left()} left"
        )

    def _left(self) -> str:
        """Time that is left, at the mean pace of this process."""
        step = self.training.progress.step
        total = self.training.settings.recipe.epochs * self.training.steps_per_epoch
        pace = (time.perf_counter() - self.begun) / max(1, step - self.first)
        hours, rest = divmod(int(pace * (total - step)), 3600)
        return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def _finish(training: Training, source: Source, path: Path, *, half: bool) -> None:
    """Write the weights, with the accuracy that they have as they are stored."""
    state = training.model.state_dict()
    top1 = training.progress.epochs[-1].test_top1
    if half or training.settings.bf16:
        state = files.halved(state) if half else state
        training.model.load_state_dict(state)
        top1 = accuracy(training.model, training.test)
    recipe = training.settings.recipe
    about = {"architecture": source.entry.name, "classes": str(source.classes), "top1": f"{top1:.2f}"}
    about |= {"recipe": recipe.name, "epochs": str(recipe.epochs), "seed": str(training.settings.seed)}
    files.write_weights(path, state, about)
    typer.echo(
        f"{source.text}: {top1:.2f} % on {len(training.test)} images it was not trained on; recipe {recipe.name}, "
        f"seed {training.settings.seed}, {recipe.epochs} epochs: {path}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 # progress is for people, not for a pipe


if __name__ == "__main__":
    typer.run(main)
