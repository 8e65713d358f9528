"""Workers that go wrong on command, and one that lives in a made-up world. They run in real evaluators."""

from __future__ import annotations

import importlib
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from tests.engine.search.world import World

from diminuendo.engine.cost import Cost
from diminuendo.engine.search.drive import AnyAnswer
from diminuendo.engine.search.work import Evaluate, Evaluated, Prepare, Prepared, Surveyed, SurveyLayer, Work
from diminuendo.engine.store import DirectoryStore

SCRIPTED = "tests.services.coordinator.workers:ScriptedWorker"
WORLD = "tests.services.coordinator.workers:WorldWorker"
SLOW_WORLD = "tests.services.coordinator.workers:SlowWorldWorker"
LATE = "tests.services.coordinator.workers:LateWorker"
DEADLY = "tests.services.coordinator.workers:DeadlyWorker"
HELD_UP = "tests.services.coordinator.workers:HeldUpWorker"
MISSING = "tests.services.coordinator.workers:NoSuchWorker"


def evaluate(index: int, script: str = "") -> Work:
    question = Evaluate("zoo:digits", "task", (), (), None, 0, 1.0, index, 0, 1)
    return Work(index, question, script)


def prepare(index: int, script: str = "") -> Work:
    return Work(index, Prepare("zoo:digits", index, 1), script)


def survey(index: int, script: str = "") -> Work:
    return Work(index, SurveyLayer("zoo:digits", "task", "moments", "layer", index, 1), script)


class ScriptedWorker:
    """Does what the work's subject says: ``sleep 0.3``, ``kill``, ``kill-once NAME``, ``memory``, ..."""

    def __init__(self, store: DirectoryStore) -> None:
        self.folder = store.root

    def run(self, work: Work) -> AnyAnswer:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "starts").open("a") as file:
            file.write(f"{work.index} {os.getpid()}\n")
        command, _, argument = work.subject.partition(" ")
        self.obey(work, command, argument)
        return Evaluated(float(work.index), 0.0, "w", Cost(1, 1), 1, 0.0)

    def obey(self, work: Work, command: str, argument: str) -> None:
        if command == "sleep":
            time.sleep(float(argument))
        elif command == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == "kill-once":
            marker = self.folder / argument
            if not marker.exists():
                marker.touch()
                os._exit(3)
        elif command == "memory":
            raise MemoryError
        elif command == "gpu":  # room for so many parts at the least
            import torch

            if work.parts < int(argument):
                raise torch.OutOfMemoryError(f"CUDA out of memory with {work.parts} part(s)")
        elif command == "take":  # so many MiB
            import torch

            torch.ones(int(argument) * 2**18)
        elif command == "import":
            (self.folder / "imported").write_text(str(importlib.import_module(argument).__file__))
        elif command == "user":
            from diminuendo.engine.workbench import UserCodeError

            raise UserCodeError("the metric raised ValueError: 7", "Traceback: line 7")
        elif command == "exit":
            raise SystemExit(4)
        elif command == "bug":
            raise KeyError("no such layer")


class HeldUpWorker(ScriptedWorker):
    """Is not there before a file ``hold`` beside the artifacts is gone."""

    def __init__(self, store: DirectoryStore) -> None:
        super().__init__(store)
        while (store.root.parent / "hold").exists():
            time.sleep(0.02)


class WorldWorker:
    """Answers from a made-up world, and puts the weights that it names into the store."""

    seconds = 0.0

    def __init__(self, store: DirectoryStore) -> None:
        self.store, self.world = store, World()

    def run(self, work: Work) -> AnyAnswer:
        time.sleep(self.seconds)
        answer = self.world.run(work)
        if isinstance(answer, Prepared):
            return replace(answer, moments=self.store.put(answer.moments.encode()))
        if isinstance(answer, Surveyed):
            factors = tuple((name, self.store.put(content.encode())) for name, content in answer.factors)
            return replace(answer, factors=factors)
        if isinstance(answer, Evaluated) and answer.weights is not None:
            if isinstance(work.question, Evaluate) and work.question.parent is not None:
                self.store.get(work.question.parent.weights)
            return replace(answer, weights=self.store.put(answer.weights.encode()))
        return answer


class LateWorker(WorldWorker):
    """Cannot be made before there is a file ``up`` beside the artifacts."""

    def __init__(self, store: DirectoryStore) -> None:
        if not (store.root.parent / "up").exists():
            raise RuntimeError("no room on the node")
        super().__init__(store)


class DeadlyWorker(WorldWorker):
    """Its process ends at the first work, once; the work takes a while afterwards."""

    def run(self, work: Work) -> AnyAnswer:
        marker = self.store.root.parent / "kills"
        if marker.exists():
            marker.unlink()
            os._exit(3)
        if work.index == 0:
            time.sleep(2.0)  # longer than a beat of the heart takes
        return super().run(work)


class SlowWorldWorker(WorldWorker):
    seconds = 0.15


def starts(folder: Path) -> list[tuple[int, int]]:
    """(work index, pid) of every start of a work, in order."""
    lines = (folder / "starts").read_text().splitlines()
    return [(int(index), int(pid)) for index, pid in (line.split() for line in lines)]
