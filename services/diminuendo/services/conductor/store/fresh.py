"""Jobs as they were last read, each until its row is written: who asks again needs no database.

Only for a database that no other process writes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from diminuendo.services.conductor.records import Job

MOST = 2048
"""Jobs that are kept; the ones that were asked for longest ago go first."""


class Fresh:
    """Belongs to a store: the writer's thread says what it wrote, event loops read."""

    def __init__(self, most: int = MOST) -> None:
        """Keep nothing yet."""
        self._most = most
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._written: OrderedDict[str, int] = OrderedDict()
        self._now, self._known_since = 0, 0
        self._lock = threading.Lock()

    def get(self, name: str) -> Job | None:
        """The job as it is, if that is known."""
        with self._lock:
            job = self._jobs.get(name)
            if job is not None:
                self._jobs.move_to_end(name)
            return job

    def mark(self) -> int:
        """Say that a read begins; `keep` wants this back."""
        return self._now

    def keep(self, job: Job, mark: int) -> None:
        """Keep what was read, unless it may have been written since the read began."""
        with self._lock:
            if mark < self._known_since or self._written.get(job.name, 0) > mark:
                return
            self._jobs[job.name] = job
            self._jobs.move_to_end(job.name)
            if len(self._jobs) > self._most:
                self._jobs.popitem(last=False)

    def written(self, names: Collection[str] | None) -> None:
        """Forget jobs whose rows were written, before anybody is told of it. None: nobody knows which were."""
        with self._lock:
            self._now += 1
            if names is None:
                self._jobs.clear()
                self._written.clear()
                self._known_since = self._now
                return
            for name in names:
                self._jobs.pop(name, None)
                self._written[name] = self._now
                self._written.move_to_end(name)
            while len(self._written) > self._most:
                self._known_since = max(self._known_since, self._written.popitem(last=False)[1])
