"""A folder that keeps what a job in this process has done, so that it goes on from there when it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from diminuendo.engine.search.drive import AnyAnswer, Done
from diminuendo.engine.search.session import Session, StateError, Step
from diminuendo.engine.search.state import Request
from diminuendo.engine.search.work import answer_from_bytes, answer_to_bytes, artifacts_of
from diminuendo.engine.store import DirectoryStore, write_whole
from diminuendo.engine.task import TaskError

STATE = "state"


class WorkFolder:
    """A journal in a folder: ``artifacts/``, ``answers/KEY``, and the search's state after the last outcome.

    Files appear whole or not at all. One process at a time.
    """

    def __init__(
        self,
        folder: Path | str,
        on_step: Callable[[Step], None] | None = None,
        on_done: Callable[[Done], None] | None = None,
    ) -> None:
        """Use a folder, which is made when it is not there; the listeners are told of each step and each outcome."""
        self._on_step, self._on_done = on_step, on_done
        self.folder = Path(folder)
        self.store = DirectoryStore(self.folder / "artifacts")
        self._answers = self.folder / "answers"
        try:
            self._answers.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TaskError(f"work: {self.folder} cannot be made ({error}); name another folder") from error

    def session(self, request: Request) -> Session:
        """The session that was kept, or a new one.

        Raises:
            TaskError: The folder is of another request, or its state cannot be read.
        """
        try:
            state = (self.folder / STATE).read_bytes()
        except FileNotFoundError:
            return Session(request)
        try:
            session = Session.load(state)
        except StateError as error:
            raise TaskError(f"work: {self.folder}: {error}; name another folder, or remove this one") from error
        if session.request != request:
            raise TaskError(
                f"work: {self.folder} is of another job ({session.request}); ask for the same, or name another folder"
            )
        return session

    def recall(self, keys: Sequence[str]) -> dict[str, AnyAnswer]:
        """Outcomes of works that were done before."""
        found: dict[str, AnyAnswer] = {}
        for key in keys:
            try:
                answer = answer_from_bytes((self._answers / key).read_bytes())
            except (FileNotFoundError, ValidationError):
                continue  # never done, or of another version: it is done again
            if not self.store.missing(artifacts_of(answer)):  # else it is done again, too
                found[key] = answer
        return found

    def record(self, done: Done) -> None:
        """Keep an outcome before it is used, but for a failure."""
        if not done.remembered and done.answer.kind != "failed":
            write_whole(self._answers / done.work.key, lambda file: file.write(answer_to_bytes(done.answer)))
        if self._on_done:
            self._on_done(done)

    def commit(self, step: Step, session: Session) -> None:
        """Keep the search's state, unless it has ended."""
        state = session.dump()
        if state:
            write_whole(self.folder / STATE, lambda file: file.write(state))
        if self._on_step:
            self._on_step(step)

    def stopped(self) -> bool:
        """Never: who wants it to stop raises in a listener."""
        return False
