"""The global random numbers of torch, Python and NumPy, which the owner's code may draw from: seeded for a while."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy
import torch


class Randomness:
    """Global random numbers of its own: inside they follow a seed, outside they are as if nothing had been drawn.

    It can be entered again and again, and goes on where it was left::

        randomness = Randomness(seed)
        with randomness:
            batch = next(batches)
    """

    def __init__(self, seed: int, devices: Sequence[int] = ()) -> None:
        """Of a seed.

        Args:
            seed: From 0.
            devices: Indices of the GPUs whose numbers are seeded too.
        """
        self._seed = seed
        self._devices = tuple(devices)
        self._array = numpy.random.MT19937(seed)
        self._inside: tuple[Any, ...] | None = None
        self._outside: tuple[Any, ...] = ()

    def __enter__(self) -> None:
        """Take the place of the numbers outside."""
        self._outside = (numpy.random.get_bit_generator(), *self._states())  # type: ignore[attr-defined]
        numpy.random.set_bit_generator(self._array)  # type: ignore[attr-defined]
        if self._inside is not None:
            self._set(*self._inside)
            return
        torch.default_generator.manual_seed(self._seed)
        for device in self._devices:
            torch.cuda.default_generators[device].manual_seed(self._seed)
        random.seed(self._seed)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._inside = self._states()
        array, *states = self._outside
        numpy.random.set_bit_generator(array)  # type: ignore[attr-defined] # its state is dear to copy
        self._set(*states)

    def _states(self) -> tuple[Any, ...]:
        gpus = (torch.cuda.get_rng_state(device) for device in self._devices)
        return torch.get_rng_state(), random.getstate(), *gpus

    def _set(self, cpu: Any, python: Any, *gpus: Any) -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        for device, state in zip(self._devices, gpus, strict=True):
            torch.cuda.set_rng_state(state, device)
