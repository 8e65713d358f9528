"""What each evaluator does, as others are told of it. Imports no ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StandingState = Literal["starting", "idle", "busy", "lost"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What an evaluator does.

    Attributes:
        evaluator: Its name.
        state: ``lost`` from when its process is gone, or could not be started, until the next one is up.
        since: Seconds since the epoch, UTC: since when it is in this state, or at this work.
        node: Host name of the node that it is on; empty while it is not known.
        claim: Whose work it does, or did last; as the line knows the job. Empty: nobody's.
        kind: Of the work's question, while busy.
        index: Of the work in its job, while busy.
        attempt: At this work, from 1, while busy.
        subject: What the work that it does, or is started for, is about, for a person; empty: none.
    """

    evaluator: str
    state: StandingState = "starting"
    since: float = 0.0
    node: str = ""
    claim: str = ""
    kind: str = ""
    index: int = 0
    attempt: int = 0
    subject: str = ""

    @property
    def what(self) -> tuple[str, StandingState, str, int, int]:
        """What `since` is about."""
        return self.evaluator, self.state, self.claim, self.index, self.attempt
