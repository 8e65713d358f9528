"""The evaluator: the engine's worker behind bytes, one work at a time. It decides nothing.

A plain class: the coordinator makes a Ray actor of it, with ``max_restarts=0`` and ``max_task_retries=0``.
"""

from __future__ import annotations

import importlib
import os
import resource
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Protocol

from pydantic import TypeAdapter

from diminuendo.engine import hostmemory, phases
from diminuendo.engine.phases import Phase
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.work import Failed, Work, answer_to_bytes
from diminuendo.engine.store import ArtifactMissingError, ArtifactStore
from diminuendo.engine.stores import open_store

WORKER = "diminuendo.engine.evaluate:Worker"
_WORK: TypeAdapter[Work] = TypeAdapter(Work)


class WorkDoer(Protocol):
    """What an evaluator needs of a worker."""

    def run(self, work: Work) -> AnyAnswer:
        """Do a work."""
        ...


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answers a ping.

    Attributes:
        node: Host name of the machine that it is on.
    """

    evaluator: str
    pid: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """A work that an evaluator has done, or could not do: then the answer is a `Failed`.

    Attributes:
        answer: As `answer_to_bytes` writes it.
        seconds: Wall-clock seconds on the evaluator.
        phases: What they went to.
    """

    evaluator: str
    answer: bytes
    seconds: float
    phases: tuple[Phase, ...] = ()


def work_to_bytes(work: Work) -> bytes:
    """A work as it travels to an evaluator: UTF-8 JSON."""
    return _WORK.dump_json(work)


def work_from_bytes(data: bytes) -> Work:
    """The work back; pydantic.ValidationError when the bytes are of another version."""
    return _WORK.validate_json(data)


class Evaluator:
    """Does works with one worker, which keeps model, data and factors between them."""

    def __init__(self, name: str, artifacts: str, worker: str = WORKER, memory_bytes: int | None = None) -> None:
        """Make the worker.

        Args:
            name: ``evaluator-0``, ``evaluator-1``, ...
            artifacts: Where the artifact store is.
            worker: ``module:Class``, made with the store.
            memory_bytes: The most host memory that the process may have; None: as much as there is. What would take
                more fails, and nothing else on the node does.
        """
        if memory_bytes is not None:
            _limit_memory(memory_bytes)
        self._name = name
        self._worker = _make(worker, open_store(artifacts))

    def ping(self) -> Hello:
        """Answers once the evaluator is ready for works."""
        return Hello(self._name, os.getpid(), socket.gethostname())

    def run(self, work: bytes) -> Report:
        """Do a work. What goes wrong comes back as a `Failed`; only a lost process raises, at the caller."""
        start = time.perf_counter()
        with phases.kept() as kept:
            answer = self._answer(work_from_bytes(work))
        return Report(self._name, answer_to_bytes(answer), time.perf_counter() - start, tuple(kept))

    def _answer(self, work: Work) -> AnyAnswer:
        try:
            return self._worker.run(work)
        except SystemExit as error:
            # Only the owner's code would ask for the end of a process that is not its own.
            return Failed("USER_CODE", f"{work.subject}: asked to exit with {error.code!r}", traceback.format_exc())
        except Exception as error:  # noqa: BLE001 - whatever it is, the job's owner is to see it
            return failure_of(work, error)


def failure_of(work: Work, error: Exception) -> Failed:
    """The error of a work as what ends the job, or makes the coordinator try again."""
    if _is_user_code(error):
        return Failed("USER_CODE", str(error), getattr(error, "traceback_text", "") or "")
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ArtifactMissingError):
        return Failed("ARTIFACT_MISSING", f"{work.subject}: {error}", trace)
    if _is_out_of_gpu_memory(error):
        return Failed("GPU_OUT_OF_MEMORY", f"{work.subject}: {error}", trace)
    if hostmemory.is_full(error):
        return Failed("OUT_OF_MEMORY", f"{work.subject}: {str(error) or 'out of host memory'}", trace)
    return Failed("INTERNAL", f"{work.subject}: {type(error).__name__}: {error}", trace)


def _is_user_code(error: Exception) -> bool:
    workbench = sys.modules.get("diminuendo.engine.workbench")  # where it was raised, it was imported
    return workbench is not None and isinstance(error, workbench.UserCodeError)


def _is_out_of_gpu_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _limit_memory(most: int) -> None:
    """Let what would take more raise. Memory of its own counts; files that are mapped, and the GPU's, do not."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _make(path: str, store: ArtifactStore) -> WorkDoer:
    module, _, name = path.partition(":")
    worker: WorkDoer = getattr(importlib.import_module(module), name)(store)
    return worker
