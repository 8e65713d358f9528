"""Removes what no job refers to: content in the artifact store, outcomes of evaluations, uploads that were given up.

Mark and sweep, safe beside running jobs. What nobody refers to is listed with the time when that was found, and is
removed only when a later round finds it so still and the time to keep is over. A writer that finds content in place
makes it count as stored now, and what was stored lately is never removed, whatever the list says; so whoever stores
content has the time to keep to have it referred to. Where content is gone all the same, a search that needs it computes
it again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from diminuendo.engine.store import SharedStore, Stored
from diminuendo.services.common import logs
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.metrics import Metrics
from diminuendo.services.conductor.store.base import Clock, Store
from diminuendo.services.conductor.uploads import KEEP_S as UPLOADS_KEEP_S
from diminuendo.services.conductor.uploads import Uploads, unwritable

SECOND_US = 1_000_000
BATCH = 500
_log = logs.get(__name__)


@dataclass(slots=True)
class Amount:
    """Content by number and bytes."""

    artifacts: int = 0
    bytes: int = 0

    def add(self, some: Collection[Stored]) -> None:
        """Count these in."""
        self.artifacts += len(some)
        self.bytes += sum(stored.size for stored in some)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round found and did.

    Attributes:
        removed: Content that was removed; in a dry run, that would be.
        waiting: Content that no job refers to and that is kept for now.
        kept: Content that a job refers to.
        evaluations: Outcomes that were forgotten; in a dry run, that would be.
    """

    removed: Amount
    waiting: Amount
    kept: Amount
    evaluations: int


class Collector:
    """Collects the garbage of one conductor's stores, one round at a time. Belongs to one event loop."""

    def __init__(
        self, store: Store, artifacts: SharedStore, uploads: Uploads, metrics: Metrics, clock: Clock, *, keep_s: float
    ) -> None:
        """Keep what no job refers to for so long. The clock must be the artifact store's as well, about."""
        self._store, self._artifacts, self._uploads, self._metrics = store, artifacts, uploads, metrics
        self._clock, self._keep_us = clock, round(keep_s * SECOND_US)
        self._one_at_a_time = asyncio.Lock()

    async def collect(self, *, dry_run: bool = False) -> Collected:
        """One round.

        Raises:
            StoreUnavailableError: The database or the artifact store is away. What was done until then stands.
        """
        async with self._one_at_a_time:
            try:
                return await self._collect(dry_run)
            except OSError as error:
                raise unwritable(error) from None

    async def _collect(self, dry_run: bool) -> Collected:
        before = self._clock() - self._keep_us
        evaluations = await self._store.age_evaluations(unused_before=before, dry_run=dry_run)
        if not dry_run:
            self._metrics.evaluations_removed.inc(evaluations)
        result = Collected(Amount(), Amount(), Amount(), evaluations)
        everything = self._artifacts.stored()
        while batch := await asyncio.to_thread(_next, everything):
            await self._sort({stored.sha256: stored for stored in batch}, before, result, dry_run)
        if not dry_run:
            await self._tidy(before)
            self._tell(result)
        return result

    async def _sort(self, batch: dict[str, Stored], before: int, result: Collected, dry_run: bool) -> None:
        found = await self._store.sort_artifacts(list(batch), unused_before=before, dry_run=dry_run)
        result.kept.add([batch[sha256] for sha256 in found.held])
        result.waiting.add([batch[sha256] for sha256 in found.waiting])
        due = [batch[sha256] for sha256 in sorted(found.due)]
        if not due:
            return
        removed = [one for one in due if one.time < before / SECOND_US]
        if not dry_run:
            removed = await asyncio.to_thread(self._remove, removed, before / SECOND_US)
            self._metrics.artifacts_removed.inc(len(removed))
            self._metrics.artifacts_removed_bytes.inc(sum(one.size for one in removed))
            await self._store.removed_artifacts([one.sha256 for one in due])
        result.removed.add(removed)
        result.waiting.add([one for one in due if one not in removed])

    def _remove(self, due: Collection[Stored], before_s: float) -> list[Stored]:
        """Remove content, but for what was stored again meanwhile."""
        return [one for one in due if self._artifacts.remove(one.sha256, before=before_s)]

    async def _tidy(self, before: int) -> None:
        """Remove what writers, senders and rounds left half-done a day ago."""
        await self._store.forget_overdue_artifacts(due_before=before - round(UPLOADS_KEEP_S * SECOND_US))
        before_s = self._clock() / SECOND_US - UPLOADS_KEEP_S
        swept = await asyncio.to_thread(self._uploads.sweep, before=before_s)
        swept += await asyncio.to_thread(self._artifacts.sweep, before=before_s)
        if swept:
            _log.info("half_done_swept", files=swept)

    def _tell(self, result: Collected) -> None:
        for state, amount in (("kept", result.kept), ("waiting", result.waiting)):
            self._metrics.artifacts.labels(state).set(amount.artifacts)
            self._metrics.artifacts_bytes.labels(state).set(amount.bytes)
        _log.info(
            "garbage_collected",
            artifacts=result.removed.artifacts,
            bytes=result.removed.bytes,
            evaluations=result.evaluations,
            waiting=result.waiting.artifacts,
            kept=result.kept.artifacts,
        )


def _next(everything: Iterator[Stored]) -> list[Stored]:
    return list(islice(everything, BATCH))


async def collect_now_and_then(collector: Collector, every_s: float) -> None:
    """For as long as the server runs. The first round comes at some time within the first period, so that several
    conductors that start together do not all go through the same content at once."""
    await asyncio.sleep(random.uniform(0.0, every_s))
    while True:
        try:
            await collector.collect()
        except StoreUnavailableError as error:
            _log.warning("garbage_not_collected", error=str(error))
        except Exception:  # noqa: BLE001 - a defect in one round must not be the last of all rounds
            _log.exception("garbage_not_collected")
        await asyncio.sleep(every_s)
