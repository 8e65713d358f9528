"""Reads a loader of the owner's: with its own settings, in spawned workers, seeded, and closed afterwards.

The loader itself is never iterated over and not changed: a shallow copy is. Its workers are spawned, for a process
with threads (of gRPC, of Ray, of torch) cannot be forked safely.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler
from torch.utils.data.datapipes.datapipe import IterDataPipe, MapDataPipe

from diminuendo.engine import bundle
from diminuendo.engine.randomness import Randomness
from diminuendo.engine.task import Samples, TaskError
from diminuendo.engine.usercode import user_code

MOST_SAMPLES = 10_000_000
"""A sampler or a loader without a length that gives more is taken to have no end."""

_END = object()


@dataclass(frozen=True)
class Reader:
    """Batches of a loader.

    Attributes:
        loader: Not changed.
        what: Field of the task, for messages.
    """

    loader: DataLoader[Any]
    what: str

    @property
    def by_index(self) -> bool:
        """Whether batches can be read by the indices of their samples."""
        mapped = not isinstance(self.loader.dataset, IterableDataset) and self.loader.batch_sampler is not None
        return mapped and self._plain

    @property
    def _plain(self) -> bool:
        """Whether it reads as torch's loaders do, and not in a way of its own."""
        return type(self.loader).__iter__ is DataLoader.__iter__

    @property
    def _batch_sampler(self) -> Iterable[Sequence[Any]]:
        found = self.loader.batch_sampler
        return () if found is None else found  # what has no length is neither true nor false

    @property
    def steps(self) -> int | None:
        """Batches of a pass; None where the loader cannot tell."""
        try:
            with user_code(f"{self.what}: the length of the loader"):
                return len(self.loader)
        except Exception as error:
            if isinstance(error.__cause__, TypeError | NotImplementedError):  # an iterable without a length
                return None
            raise

    def index_lists(self, seed: int) -> list[list[Any]]:
        """Indices of the samples of a pass, batch by batch.

        Raises:
            TaskError: The sampler has no end.
        """
        found: list[list[Any]] = []
        count = 0
        with Randomness(seed), _generators(self.loader, seed, 0), user_code(f"{self.what}: the loader's sampler"):
            for indices in islice(iter(self._batch_sampler), self.steps):
                found.append(list(indices))
                count += len(found[-1])
                if count > MOST_SAMPLES:
                    raise endless(self.what, count)
        return found

    @property
    def in_full(self) -> bool:
        """Whether every pass has each sample of the dataset once, in whatever order."""
        sampler, batches = self.loader.sampler, self.loader.batch_sampler
        if type(batches) is not BatchSampler or batches.sampler is not sampler:
            return False
        if not isinstance(sampler, SequentialSampler | RandomSampler):
            return False
        once = isinstance(sampler, SequentialSampler) or not sampler.replacement
        return once and len(sampler) == self.samples

    @property
    def samples(self) -> int:
        """Samples of the dataset."""
        with user_code(f"{self.what}: the length of the dataset"):
            return len(self.loader.dataset)  # type: ignore[arg-type]

    def batches(
        self, seed: int, *, lists: Sequence[Sequence[Any]] | None = None, passes: int | None = 1
    ) -> Generator[Samples, None, None]:
        """Batches as the loader makes them. Close the generator when some are left over: that closes the workers.

        Args:
            seed: Of the order, and of what the dataset draws.
            lists: Indices of the samples of each batch; None: as the loader chooses them.
            passes: How often the loader is gone through; None: without end.

        Raises:
            TaskError: A batch is not (inputs, targets), or the workers cannot be started.
            UserCodeError: The owner's code raised.
        """
        loader = self._copy(seed, lists, persistent=passes != 1)
        limit = self.steps if lists is None else len(lists)
        randomness, number = Randomness(seed), 0
        batches: Iterator[Any] = iter(())
        try:
            while number != passes:
                count = 0
                with _generators(self.loader, seed, number):
                    with randomness:
                        batches = self._started(loader)
                    while count != limit:
                        with randomness:
                            batch = self._next(batches)
                        if batch is _END:
                            break
                        yield self._pair(batch)
                        count += 1
                if not count:
                    return
                number += 1
        finally:
            _close(batches)

    def _copy(self, seed: int, lists: Sequence[Sequence[Any]] | None, *, persistent: bool) -> DataLoader[Any]:
        """The loader with spawned workers that live as long as the copy is read from."""
        loader = copy.copy(self.loader)
        own = vars(loader)  # some attributes of a loader refuse to be set
        own["_iterator"] = None
        own["generator"] = torch.Generator().manual_seed(seed)
        own["pin_memory"] = loader.pin_memory and torch.cuda.is_available()
        if lists is not None:
            own["batch_sampler"] = lists
        if loader.num_workers:
            own["persistent_workers"] = persistent
            loader.multiprocessing_context = "spawn"
            if self._plain and not isinstance(loader.dataset, IterDataPipe | MapDataPipe):
                own |= {name: _Sent(own[name]) for name in ("dataset", "collate_fn", "worker_init_fn")}
        return loader

    def _started(self, loader: DataLoader[Any]) -> Iterator[Any]:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Got pickle error")  # what is said of it here says more
                return iter(loader)
        except Exception as error:
            if loader.num_workers and isinstance(error, pickle.PicklingError | AttributeError | TypeError):
                raise TaskError(
                    f"{self.what}: the loader cannot be sent to its workers, which are spawned "
                    f"({type(error).__name__}: {error}); define dataset, collate_fn and worker_init_fn at the top of a "
                    "module, or give the loader num_workers=0"
                ) from error
            with user_code(f"{self.what}: reading the data"):
                raise

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            with user_code(f"{self.what}: reading the data"):
                return next(batches, _END)
        except Exception as error:
            said = str(error.__cause__)
            if not said.startswith("DataLoader worker") or not isinstance(error.__cause__, RuntimeError):
                raise
            if "signal: Killed" in said:
                raise MemoryError(f"{self.what}: {said}; give the loader fewer workers") from error
            raise TaskError(
                f"{self.what}: {said}; its last words are on stderr. Workers are spawned: a script that starts the job "
                'needs `if __name__ == "__main__":` around it; otherwise try the loader with num_workers=0'
            ) from error

    def _pair(self, batch: Any) -> Samples:
        """A batch as inputs and targets."""
        if not isinstance(batch, tuple | list) or len(batch) != 2 or isinstance(batch[0], str):
            remedy = "let the dataset give (input, target) pairs, or give the loader a collate_fn that returns them"
            raise TaskError(
                f"{self.what}: a batch is {_described(batch)}, not (inputs, targets): there are no labels in it, or "
                f"they cannot be told apart; {remedy}"
            )
        inputs, targets = batch
        if type(inputs) is list:  # torch's collate makes lists of tuples
            inputs = tuple(inputs)
        try:
            return Samples(inputs, targets)
        except TaskError as error:
            raise TaskError(f"{self.what}: in a batch, {error}") from None


def endless(what: str, count: int) -> TaskError:
    """The error of data that does not end."""
    return TaskError(
        f"{what}: {count:,} samples were read and there is no end; give the dataset a __len__, so that a pass over it "
        "ends, or a dataset that is read by index"
    )


def _described(batch: Any) -> str:
    if isinstance(batch, torch.Tensor):
        return f"one tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with {', '.join(map(repr, list(batch)[:4]))}"
    return f"a {type(batch).__name__}"


@contextmanager
def _generators(loader: DataLoader[Any], seed: int, number: int) -> Iterator[None]:
    """The generators of the samplers, seeded; and those that keep count of passes are told the number."""
    samplers = (loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    held = {id(g): g for s in samplers if isinstance(g := getattr(s, "generator", None), torch.Generator)}
    states = [(generator, generator.get_state()) for generator in held.values()]
    for generator in held.values():
        generator.manual_seed((seed + number) % 2**63)
    for sampler in {id(s): s for s in samplers}.values():
        if callable(told := getattr(sampler, "set_epoch", None)):
            told(number)
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _close(batches: Iterator[Any]) -> None:
    """End the workers now, and not when the last reference is gone."""
    shut_down = getattr(batches, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()


class _Sent:
    """Stands for a value on its way to a spawned worker, which has none of the bundles that were loaded here."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        written = io.BytesIO()
        pickler = _Named(written)
        pickler.dump(self._value)
        return _received, (bundle.holding(pickler.modules), written.getvalue())


class _Named(ForkingPickler):
    """Notes of which modules the classes and functions of what it writes are."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.modules: set[str] = set()

    def reducer_override(self, value: Any) -> Any:
        if isinstance(module := getattr(value, "__module__", None), str):
            self.modules.add(module)
        return NotImplemented


def _received(bundles: tuple[str, ...], value: bytes) -> Any:
    """The value, in the worker, with the bundles' modules that it is of."""
    for path in bundles:
        bundle.imported(path)
    return pickle.loads(value)  # noqa: S301 - from the process that started this one
