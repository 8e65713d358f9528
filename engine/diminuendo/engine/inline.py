"""Runs a search in this process: one worker, one work at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import torch

from diminuendo.engine.evaluate import Worker
from diminuendo.engine.search.drive import AnyAnswer, Done
from diminuendo.engine.search.work import Evaluate, Failed, Work
from diminuendo.engine.workbench import UserCodeError

PARTS = (1, 2, 4)
"""Micro-batches of each step, in the attempts at a tuning."""


class InlineExecutor:
    """An executor that does the works itself, in the order in which they were submitted."""

    def __init__(self, worker: Worker, on_start: Callable[[Work], None] | None = None) -> None:
        """Use a worker; tell of each work before it is done."""
        self._worker, self._on_start = worker, on_start
        self._line: deque[Work] = deque()

    @property
    def slots(self) -> int:
        """One at a time."""
        return 1

    def submit(self, work: Work) -> None:
        """Put the work in line."""
        self._line.append(work)

    def wait(self, timeout_s: float) -> list[Done]:
        """Do the next work; it takes as long as it takes."""
        if not self._line:
            return []
        work, start = self._line.popleft(), time.perf_counter()
        if self._on_start is not None:
            self._on_start(work)
        answer: AnyAnswer
        try:
            answer = self._run(work)
        except UserCodeError as error:
            answer = Failed("USER_CODE", str(error), error.traceback_text)
        except torch.OutOfMemoryError as error:
            answer = Failed("GPU_OUT_OF_MEMORY", f"{work.subject}: {error}")
        except MemoryError as error:
            answer = Failed("OUT_OF_MEMORY", f"{work.subject}: {str(error) or 'out of host memory'}")
        return [Done(work, answer, "inline", time.perf_counter() - start)]

    def _run(self, work: Work) -> AnyAnswer:
        """The answer; a tuning for which the GPU has no room is tried again with half the micro-batch, twice."""
        for parts in PARTS:
            try:
                return self._worker.run(replace(work, parts=parts))
            except torch.OutOfMemoryError:
                if parts == PARTS[-1] or not isinstance(work.question, Evaluate):
                    raise
                torch.cuda.empty_cache()
        raise AssertionError("unreachable")

    def cancel(self) -> None:
        """Forget what is in line."""
        self._line.clear()
