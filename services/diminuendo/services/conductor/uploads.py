"""Content that is on its way: each upload grows in a file of its own until it is whole, and then goes to the store.

The files are in a folder of this conductor's alone. Several conductors do not know of each other's: whoever sends on
to another one starts there from the beginning. What is here outlives the process; what nobody sent on to for long is
swept.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from pathlib import Path

from diminuendo.engine.store import ArtifactMissingError, SharedStore
from diminuendo.services.common import logs
from diminuendo.services.common.errors import ArtifactDamagedError, StoreUnavailableError, UploadOffsetError

MAX_CHUNK = 2**20
KEEP_S = 86_400.0
"""How long an upload that nobody sends on to is kept."""
_log = logs.get(__name__)


class Upload:
    """One content that is being sent, by however many at once. Its methods block; they may be called from any thread.

    Attributes:
        sha256: Of the whole content.
        size: Of the whole content, in bytes.
        path: Where it grows. The size is in its name: who lies about it spoils nobody else's upload.
    """

    def __init__(self, folder: Path, sha256: str, size: int) -> None:
        """Nothing is written yet."""
        self.sha256, self.size = sha256, size
        self.path = folder / f"{sha256}.{size}"
        self._lock = threading.Lock()
        self._stored = False

    def held(self) -> int:
        """Bytes that are here, from the first one on."""
        if self._stored:
            return self.size
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, offset: int, data: bytes) -> int:
        """Take what is new of a chunk, and say how many bytes are here.

        Raises:
            UploadOffsetError: The chunk lies past what is here.
            StoreUnavailableError: It cannot be written. What was written of it stays, and is right.
        """
        with self._lock:
            held = self.held()
            if offset > held:
                raise UploadOffsetError(
                    f"offset {offset} of {self.sha256} is past the {held} bytes that are here; send on from {held}",
                    sha256=self.sha256,
                    offset=str(held),
                )
            new = data[held - offset :]
            if self._stored or (self.path.exists() and not new):
                return held
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as file:
                    file.write(new)
            except OSError as error:
                raise unwritable(error) from None
            return held + len(new)

    def store(self, artifacts: SharedStore) -> None:
        """Put the whole into the store, checked.

        Raises:
            ArtifactDamagedError: It has another sha256, and was thrown away.
            StoreUnavailableError: The store cannot take it now. It stays here.
        """
        with self._lock:
            if self._stored:
                return
            try:
                artifacts.put_file(self.path, self.sha256)
            except ValueError:
                self.path.unlink(missing_ok=True)
                raise ArtifactDamagedError(
                    f"what was sent as {self.sha256} ({self.size} bytes) has another sha256; nothing of it was kept: "
                    "send it again from the start",
                    sha256=self.sha256,
                ) from None
            except OSError as error:
                raise unwritable(error) from None
            self._stored = True
            self.path.unlink(missing_ok=True)


class Uploads:
    """The uploads of one conductor. Belongs to one event loop."""

    def __init__(self, folder: Path, artifacts: SharedStore) -> None:
        """Let uploads grow in a folder, which is made when the first one comes, and then go to a store."""
        self._folder, self._artifacts = folder, artifacts
        self._open: weakref.WeakValueDictionary[Path, Upload] = weakref.WeakValueDictionary()
        self._storing: dict[Path, asyncio.Task[None]] = {}

    def of(self, sha256: str, size: int) -> Upload:
        """The upload of this content: the same one for all who send it."""
        fresh = Upload(self._folder, sha256, size)
        return self._open.setdefault(fresh.path, fresh)

    def stored(self, upload: Upload) -> bool:
        """Whether the store has the content. Blocks.

        Raises:
            StoreUnavailableError: It cannot be asked now.
        """
        try:
            return self._artifacts.size(upload.sha256) == upload.size
        except ArtifactMissingError:
            return False
        except OSError as error:
            raise unwritable(error) from None

    async def store(self, upload: Upload) -> None:
        """Store an upload that is whole; see `Upload.store`.

        It is done once for all who wait, and goes on when they leave.
        """
        task = self._storing.get(upload.path)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(upload.store, self._artifacts), name="store-upload")
            self._storing[upload.path] = task
            task.add_done_callback(lambda done: self._has_stored(upload, done))
        await asyncio.shield(task)

    def _has_stored(self, upload: Upload, task: asyncio.Task[None]) -> None:
        del self._storing[upload.path]
        error = None if task.cancelled() else task.exception()  # looked at, in case that all who waited have left
        _log.info("upload_ended", sha256=upload.sha256, bytes=upload.size, error=None if error is None else str(error))

    def sweep(self, *, before: float) -> int:
        """Remove what nobody has sent on to since a time (seconds since the epoch), and say how many. Blocks."""
        count = 0
        try:
            entries = list(os.scandir(self._folder))
        except FileNotFoundError:
            return 0
        for entry in entries:
            try:
                if entry.stat().st_mtime < before:
                    os.unlink(entry.path)
                    count += 1
            except FileNotFoundError:
                continue
        return count


def unwritable(error: OSError) -> StoreUnavailableError:
    """What a full disk or a store that is away means for whoever sends content."""
    why = error.strerror or str(error)
    return StoreUnavailableError(f"the content cannot be stored now ({why}); send on when there is room again")
