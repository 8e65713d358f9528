"""Following a fleet: its newest jobs as they are, then each time what has changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice

from diminuendo.services.conductor.notify import Notifier
from diminuendo.services.conductor.records import Fleet, FleetCounts, Job, State
from diminuendo.services.conductor.store.base import FleetStore

PAGE = 250
"""Models that are read at a time."""
PAUSE_S = 0.5
"""From a change to when it is told, with all that has changed meanwhile."""


@dataclass(frozen=True, slots=True)
class Told:
    """A part of what there is to tell.

    Attributes:
        fleet: With its counts as far as has been told.
        jobs: Newest jobs of models that are new or changed.
        caught_up: Whether everything has been told for now.
    """

    fleet: Fleet
    jobs: tuple[Job, ...]
    caught_up: bool


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a watch keeps of a model's newest job."""

    id: int
    last_sequence: int
    state: State
    inside_delta: bool

    @classmethod
    def of(cls, job: Job) -> _Standing:
        inside = job.state is State.SUCCEEDED and job.result is not None and job.result.inside_delta
        return cls(job.id, job.last_sequence, job.state, inside)


@dataclass(slots=True)
class _Known:
    """What a watch has told."""

    last: Fleet
    models: dict[str, _Standing] = field(default_factory=dict)

    def news(self, jobs: Collection[Job]) -> tuple[Job, ...]:
        """Those that are new or changed; from here on they are known."""
        fresh = list[Job]()
        for job in jobs:
            standing = _Standing.of(job)
            if self.models.get(job.model) != standing:
                self.models[job.model] = standing
                fresh.append(job)
        return tuple(fresh)

    def forget(self, models: Set[str]) -> bool:
        """Models that have no job any more; whether any of them was known."""
        gone = self.models.keys() & models
        for model in gone:
            del self.models[model]
        return bool(gone)

    @property
    def ended(self) -> bool:
        """Whether all jobs have ended."""
        return all(standing.state.final for standing in self.models.values())

    def fleet(self, fresh: Collection[Job]) -> Fleet:
        """The fleet with its counts as far as they are known."""
        states = Counter(standing.state for standing in self.models.values())
        inside = sum(standing.inside_delta for standing in self.models.values())
        changed = max((job.update_time for job in fresh), default=0)
        self.last = replace(
            self.last,
            counts=FleetCounts(dict(sorted(states.items())), inside),
            update_time=max(self.last.update_time, changed),
        )
        return self.last


async def follow_fleet(
    fleets: FleetStore, notifier: Notifier, name: str, *, page: int = PAGE, pause_s: float = PAUSE_S
) -> AsyncIterator[Told]:
    """The newest job of each model, then those that change, until all have ended.

    It goes by what is stored: of changes it is told which models they concern, and reads those.

    Raises:
        FleetNotFoundError: There is no such fleet.
        StoppingError: The server stops.
    """
    with notifier.listen_to_fleet(name) as hints:
        notifier.check_open()
        known, first = _Known(await fleets.get(name)), True
        while True:
            changed = hints.take()
            notifier.check_open()
            reading = _everything(fleets, name, known, page) if changed is None else _some(fleets, name, changed, page)
            told = False
            async for jobs, gone, last in reading:
                fresh = known.news(jobs)
                told |= bool(fresh) | known.forget(gone)
                if fresh or (last and (told or first)):
                    yield Told(known.fleet(fresh), fresh, last)
            if known.ended and not hints.waiting:
                return
            first = False
            await hints.wait()
            await notifier.pause(pause_s)


_Part = tuple[Sequence[Job], Set[str], bool]
"""Jobs, models without any, and whether it is the last part."""


async def _everything(fleets: FleetStore, name: str, known: _Known, page: int) -> AsyncIterator[_Part]:
    """All models, in their order."""
    seen, after, last = set[str](), "", False
    while not last:
        jobs = await fleets.models_after(name, after, limit=page)
        last = len(jobs) < page
        seen |= {job.model for job in jobs}
        after = jobs[-1].model if jobs else after
        yield jobs, known.models.keys() - seen if last else frozenset(), last


async def _some(fleets: FleetStore, name: str, models: Collection[str], page: int) -> AsyncIterator[_Part]:
    """These models."""
    left = iter(sorted(models))
    asked = list(islice(left, page))
    while asked:
        found = await fleets.newest(name, asked)
        following = list(islice(left, page))
        yield [found[model] for model in asked if model in found], set(asked) - found.keys(), not following
        asked = following
