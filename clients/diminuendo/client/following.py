"""Where a watcher is in a job's log: every event once, in order, whatever connections and servers do. No I/O."""

from __future__ import annotations

from diminuendo.v1 import job_pb2, job_service_pb2

from diminuendo.client import convert
from diminuendo.client.errors import ServerError, WaitTimeoutError
from diminuendo.client.types import Event, JobInfo, StateChanged


class Gap(Exception):  # noqa: N818 - it ends a stream, and is no error of anybody's
    """An event came whose forerunner has not: the stream is to be opened again."""


class Position:
    """The last event that a watcher of one job has seen."""

    def __init__(self, name: str, after_sequence: int) -> None:
        """Stand behind event number `after_sequence` of the job of this name; 0 is before the first."""
        self.name = name
        self.sequence = after_sequence

    def request(self) -> job_service_pb2.WatchJobRequest:
        """Asks for what comes after what has been seen."""
        return job_service_pb2.WatchJobRequest(name=self.name, after_sequence=self.sequence)

    def take(self, message: job_pb2.JobEvent) -> Event | None:
        """The event of a message that is the next one; None for one that has been seen.

        Raises:
            Gap: It is a later one; the position stays.
        """
        if message.sequence <= self.sequence:
            return None
        if message.sequence > self.sequence + 1:
            raise Gap
        self.sequence = message.sequence
        return convert.event(message)

    def at_end_of(self, info: JobInfo) -> bool:
        """Whether a job that looks so has nothing more to say."""
        return info.state.final and info.last_sequence <= self.sequence

    def lost(self) -> ServerError:
        """The error of a log that has a hole for good."""
        return ServerError(f"the server has lost the events of {self.name} after number {self.sequence}; see its log")


def is_final(event: Event) -> bool:
    """Whether a job's log ends with this event, but for changes of its labels."""
    return isinstance(event, StateChanged) and event.state.final


def in_time(info: JobInfo, timeout_s: float | None) -> JobInfo:
    """The job, when it has ended; WaitTimeoutError otherwise."""
    if info.state.final:
        return info
    after = "" if timeout_s is None else f" after {timeout_s:g} s"
    raise WaitTimeoutError(f"{info.name} is {info.state.value}{after}; it goes on, wait for it again")
