"""Workers that tell each work's moments through the gate: one that answers from a made-up world, and the real one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.gate import tell
from tests.services.coordinator.workers import WorldWorker

from diminuendo.engine.search.work import Work
from diminuendo.engine.store import DirectoryStore

if TYPE_CHECKING:
    from diminuendo.engine.search.drive import AnyAnswer

WORLD = "tests.faults.workers:GatedWorldWorker"
REAL = "tests.faults.workers:GatedRealWorker"


class TellingStore(DirectoryStore):
    """Tells before content of a candidate is put into it."""

    work: Work | None = None

    def put(self, content: bytes) -> str:
        if self.work is not None and self.work.question.kind == "evaluate":
            tell("upload", "evaluate", self.work.key)
        return super().put(content)

    def put_file(self, path: Path, sha256: str) -> None:
        if self.work is not None and self.work.question.kind == "evaluate":
            tell("upload", "evaluate", self.work.key)
        super().put_file(path, sha256)


class GatedWorldWorker:
    """Answers from a made-up world."""

    def __init__(self, store: DirectoryStore) -> None:
        self._store = TellingStore(store.root)
        self._worker = self.make(self._store)
        tell("ready", "", "")

    def make(self, store: DirectoryStore) -> WorldWorker:
        return WorldWorker(store)

    def run(self, work: Work) -> AnyAnswer:
        tell("start", work.question.kind, work.key)
        self._store.work = work
        answer = self._worker.run(work)
        self._store.work = None
        tell("done", work.question.kind, work.key)
        return answer


class GatedRealWorker(GatedWorldWorker):
    """Does what the product's own evaluators do."""

    def make(self, store: DirectoryStore) -> WorldWorker:
        from diminuendo.engine.evaluate import Worker

        worker: WorldWorker = Worker(store)  # type: ignore[assignment]
        return worker
