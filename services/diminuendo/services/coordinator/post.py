"""Where a job hears of what becomes of its works. Imports no ray."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field

from diminuendo.engine.search.drive import Done
from diminuendo.services.coordinator.attempts import AttemptLost


@dataclass
class Accounts:
    """What a job has had: works that came to an answer, attempts that did not, and evaluator-seconds of all."""

    works_done: int = 0
    attempts_lost: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True)
class Post:
    """Where a job hears of what happens.

    Attributes:
        outbox: Works that are done.
        warnings: (reason, message) of what its owner should know.
        losses: Attempts that came to nothing, for its log.
        changed: Set whenever an evaluator takes or leaves a work of any job; whoever waits for it clears it.
        accounts: The dispatcher's; ask it for them.
        trace_parent: W3C traceparent of the call that created the job; empty: that was not traced.
    """

    outbox: queue.SimpleQueue[Done] = field(default_factory=queue.SimpleQueue)
    warnings: queue.SimpleQueue[tuple[str, str]] = field(default_factory=queue.SimpleQueue)
    losses: queue.SimpleQueue[AttemptLost] = field(default_factory=queue.SimpleQueue)
    changed: threading.Event = field(default_factory=threading.Event)
    accounts: Accounts = field(default_factory=Accounts)
    trace_parent: str = ""
