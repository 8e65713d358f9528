"""What the database says that there is to compute."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from diminuendo.v1 import cluster_service_pb2, job_pb2

from diminuendo.services.conductor.notify import QUEUE, Notifier
from diminuendo.services.conductor.store.base import Clock, Store

HEARD_US = 15_000_000
"""For how long a coordinator's word counts."""


class Queue:
    """The jobs that are to be worked on, and the works that coordinators have of them."""

    def __init__(self, store: Store, notifier: Notifier, clock: Clock) -> None:
        """Read from a store.

        Args:
            clock: The store's.
        """
        self._store, self._notifier, self._clock = store, notifier, clock

    @asynccontextmanager
    async def waking(self, wake: asyncio.Event) -> AsyncIterator[None]:
        """Inside, the event is set whenever a job may have been queued."""

        async def pass_on() -> None:
            with self._notifier.listen(QUEUE) as changed:
                while True:
                    await changed.wait()
                    changed.clear()
                    wake.set()

        task = asyncio.create_task(pass_on(), name="queue")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def jobs(self) -> Mapping[str, int]:
        """Jobs by project, of the projects that have any.

        Raises:
            StoreUnavailableError: The database cannot be read now.
        """
        return await self._store.count_active()

    async def works(self) -> Mapping[str, int]:
        """Works by coordinator, of those that have a job: that evaluators work on, and that wait for one.

        Raises:
            StoreUnavailableError: The database cannot be read now.
        """
        heard = await self._store.list_coordinators(since=self._clock() - HEARD_US)
        told = [cluster_service_pb2.Coordinator.FromString(one.body) for one in heard]
        return {one.name: _works(one) for one in told if one.jobs}


def _works(told: cluster_service_pb2.Coordinator) -> int:
    busy = sum(1 for evaluator in told.evaluators if evaluator.state == job_pb2.EVALUATOR_STATE_BUSY)
    return busy + told.works_waiting
