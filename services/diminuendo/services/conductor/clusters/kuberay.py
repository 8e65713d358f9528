"""The provider of RayClusters on Kubernetes: makes and sizes them by the queue, removes them, keeps coordinators there.

Each round looks at three things (the objects, as the watch tells them; the queue; what coordinators report), has the
planner decide, and does the difference. Nothing of it lives only in memory: whoever comes next finds the objects by
their labels and goes on. A round that fails for one cluster is tried again for that one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from diminuendo.services.common import logs
from diminuendo.services.common.errors import StoreUnavailableError
from diminuendo.services.conductor.clusters import manifest
from diminuendo.services.conductor.clusters.backoff import Backoff
from diminuendo.services.conductor.clusters.base import ClusterStatus
from diminuendo.services.conductor.clusters.demand import Queue
from diminuendo.services.conductor.clusters.kube import KubeApi, KubeError, RayCluster
from diminuendo.services.conductor.clusters.leader import Leader, while_leading
from diminuendo.services.conductor.clusters.manifest import Template
from diminuendo.services.conductor.clusters.placing import Placement, Wanted
from diminuendo.services.conductor.clusters.planner import Demand, Memory, Plan, Policy, capacity, plan
from diminuendo.services.conductor.clusters.watching import Watcher
from diminuendo.services.conductor.notify import wait

log = logs.get(__name__)

ROUND_S = 5.0
"""The longest time between two rounds: what coordinators report wakes nobody."""
FIRST_DELAY_S, LAST_DELAY_S = 0.2, 30.0

Options = Callable[[str, str], Sequence[str]]
"""The flags of a coordinator, by its name and the project that it is for."""


@dataclass(slots=True)
class _Known:
    """One cluster between two rounds."""

    project: str
    placement: Placement
    task: asyncio.Task[None]
    memory: Memory = field(default_factory=Memory)
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_DELAY_S, LAST_DELAY_S))
    not_before: float = 0.0
    trouble: str = ""


class KubeRayProvider:
    """Keeps the RayClusters of one installation. Belongs to one event loop."""

    def __init__(
        self,
        api: KubeApi,
        template: Template,
        queue: Queue,
        leader: Leader,
        options: Options,
        policy: Policy,
        *,
        instance: str,
        per_project: bool,
        dashboard: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            instance: What marks the clusters as ours; see `manifest.is_ours`.
            dashboard: Where a cluster's is; see `ClusterSettings.cluster_dashboard`.
            clock: Seconds that only go forward.
        """
        self._api, self._template, self._queue, self._leader = api, template, queue, leader
        self._options, self._policy, self._instance, self._dashboard = options, policy, instance, dashboard
        self._per_project, self._clock = per_project, clock
        self._wake = asyncio.Event()
        self._known: dict[str, _Known] = {}
        self._watcher: Watcher | None = None

    async def run(self) -> None:
        """Keep them while this conductor is the one that acts. They go on without us."""
        try:
            await while_leading(self._leader, self._act)
        finally:
            self._api.close()

    async def _act(self) -> None:
        loop = asyncio.get_running_loop()

        def changed() -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(self._wake.set)

        self._watcher = watcher = Watcher(self._api, manifest.selector(self._instance), changed)
        watcher.start()
        try:
            async with self._queue.waking(self._wake):
                await self._rounds(watcher)
        finally:
            for known in self._known.values():
                known.task.cancel()
            if self._known:
                await asyncio.wait({known.task for known in self._known.values()})
            self._known.clear()
            self._watcher = None
            await asyncio.to_thread(watcher.stop)

    async def _rounds(self, watcher: Watcher) -> None:
        backoff = Backoff(FIRST_DELAY_S, LAST_DELAY_S)
        while True:
            self._wake.clear()
            pause = ROUND_S
            try:
                if watcher.clusters is not None:
                    pause = await self._round(watcher.clusters)
                backoff.reset()
            except StoreUnavailableError as error:
                pause = backoff.next()
                log.warning("round_postponed", reason=str(error), again_in_s=round(pause, 2))
            except Exception:  # a defect in one round must not be the end of all rounds
                pause = backoff.next()
                log.exception("round_failed", again_in_s=round(pause, 2))
            await wait(self._wake, pause)

    async def _round(self, clusters: Mapping[str, RayCluster]) -> float:
        """Look at every cluster that there is or should be; for how long nothing is to be done after that."""
        jobs, works = await self._queue.jobs(), await self._queue.works()
        if not self._per_project:
            jobs = {"": sum(jobs.values())}
        names = {manifest.cluster_name(self._instance, project): project for project, count in jobs.items() if count}
        for name, cluster in clusters.items():
            names.setdefault(name, cluster.annotations.get(manifest.PROJECT, ""))
        pauses = [ROUND_S]
        for name, project in names.items():
            known = self._known.get(name) or self._meet(name, project)
            if (early := known.not_before - self._clock()) > 0:
                pauses.append(early)
                continue
            try:
                asked = Demand(jobs.get(project, 0), works.get(name))
                due = await self._settle(name, known, clusters.get(name), asked)
            except KubeError as error:
                pauses.append(self._failed(name, known, error))
                continue
            known.backoff.reset()
            if due is not None:
                pauses.append(max(0.0, due - self._clock()))
        self._forget(set(names))
        return min(pauses)

    def _meet(self, name: str, project: str) -> _Known:
        placement = Placement(
            name,
            self._options(name, project),
            clock=self._clock,
            settle_s=self._policy.settle_s,
            changed=self._wake.set,
        )
        task = asyncio.create_task(placement.run(), name=f"placement-{name}")
        self._known[name] = known = _Known(project, placement, task)
        return known

    def _forget(self, names: set[str]) -> None:
        """Those that are gone, and are not to be made again."""
        for name in self._known.keys() - names:
            self._known.pop(name).task.cancel()

    def _failed(self, name: str, known: _Known, error: KubeError) -> float:
        """What could not be done for one cluster is tried again; how soon."""
        delay = known.backoff.next(error.retry_after_s)
        known.not_before, known.trouble = self._clock() + delay, str(error)
        log.warning(
            "cluster_change_failed", cluster=name, status=error.status, reason=str(error), again_in_s=round(delay, 2)
        )
        return delay

    async def _settle(self, name: str, known: _Known, cluster: RayCluster | None, asked: Demand) -> float | None:
        """One cluster: what is to be done now; when there may be something again, None: when something changes."""
        if cluster is None:
            known.placement.forget()
            if asked.jobs:
                await self._create(name, known, asked)
            return None
        if not manifest.is_ours(cluster.labels, self._instance) or cluster.deleting:
            return None
        known.trouble = cluster.reason
        if cluster.annotations.get(manifest.DIGEST) != self._template.digest:
            return await self._end(known, cluster, "the template has changed")
        decided = plan(self._clock(), asked, cluster.replicas, self._template.groups, self._policy, known.memory)
        if decided.delete:
            return await self._end(known, cluster, f"not used for {self._policy.keep_s:g} s")
        if await self._size(known, cluster, decided):
            known.memory = decided.memory  # before that the next round is to decide the same
        return decided.due

    async def _create(self, name: str, known: _Known, asked: Demand) -> None:
        groups = self._template.groups
        wanted = plan(self._clock(), asked, {}, groups, self._policy, Memory()).replicas
        body = self._template.body(
            name=name,
            namespace=self._api.namespace,
            instance=self._instance,
            project=known.project,
            replicas={group.name: wanted.get(group.name, group.least) for group in groups},
        )
        try:
            await asyncio.to_thread(self._api.create, body)
        except KubeError as error:
            if error.reason != "AlreadyExists":
                raise
            await self._look_at(name)
            return
        log.info("cluster_created", cluster=name, project=known.project, replicas=dict(wanted))

    async def _look_at(self, name: str) -> None:
        """There is one of the name already. Made by us, and the watch is yet to tell of it; or somebody else's."""
        found = await asyncio.to_thread(self._api.get, name)
        if found is None or manifest.is_ours(found.labels, self._instance):
            log.info("cluster_adopted", cluster=name)
            return
        raise KubeError(
            f"RayCluster {name!r} in {self._api.namespace!r} was not made by this installation, and is left alone; "
            "remove it, or choose another cluster_instance"
        )

    async def _size(self, known: _Known, cluster: RayCluster, decided: Plan) -> bool:
        """Set its size, and have a coordinator there when it has workers; whether it is as decided."""
        groups, wanted = self._template.groups, decided.replicas
        ready = _ready(self._template, cluster)
        if not capacity(groups, wanted):
            if not known.placement.withdraw(self._address(cluster)):
                return False  # it gives its jobs back first; when it has, there is another round
        elif ready and (address := self._address(cluster)):
            known.placement.want(Wanted(address, ready, capacity(groups, wanted)))
        if dict(wanted) != {group.name: cluster.replicas.get(group.name, 0) for group in groups}:
            await asyncio.to_thread(self._api.scale, cluster, wanted)
            log.info("cluster_scaled", cluster=cluster.name, before=dict(cluster.replicas), replicas=dict(wanted))
        return True

    async def _end(self, known: _Known, cluster: RayCluster, reason: str) -> float | None:
        """Remove it, once its coordinator has given its jobs back."""
        if not known.placement.withdraw(self._address(cluster)):
            return None
        await asyncio.to_thread(self._api.delete, cluster)
        log.info("cluster_deleted", cluster=cluster.name, uid=cluster.uid, reason=reason)
        return None

    def _address(self, cluster: RayCluster) -> str:
        """URL of its dashboard; empty while the operator has not said where it is."""
        if not cluster.service:
            return ""
        return self._dashboard.format(service=cluster.service, namespace=self._api.namespace, name=cluster.name)

    def status(self) -> Sequence[ClusterStatus]:
        """The clusters that there are, as last seen, and those that there should be and cannot."""
        found = (self._watcher.clusters if self._watcher is not None else None) or {}
        troubled = {name for name, known in self._known.items() if known.trouble}
        return tuple(self._status(name, found.get(name)) for name in sorted(found.keys() | troubled))

    def _status(self, name: str, cluster: RayCluster | None) -> ClusterStatus:
        known = self._known.get(name)
        about = ClusterStatus(
            name,
            project=known.project if known else "",
            coordinator=known.placement.state if known else "absent",
            trouble=(known.trouble or known.placement.trouble) if known else "",
        )
        if cluster is None:
            return about
        return replace(
            about,
            project=cluster.annotations.get(manifest.PROJECT, ""),
            address=self._address(cluster),
            state="deleting" if cluster.deleting else cluster.state or "pending",
            workers_wanted=sum(cluster.replicas.values()),
            workers_ready=cluster.ready,
            gpus=sum(group.gpus * cluster.replicas.get(group.name, 0) for group in self._template.groups),
        )


def _ready(template: Template, cluster: RayCluster) -> int:
    """Evaluators that there is room for on the workers that are ready.

    The operator counts ready workers of all groups together: when some are missing, and their groups have room for
    different numbers, it is the least that there can be.
    """
    asked = sum(cluster.replicas.values())
    if cluster.ready >= asked:
        return capacity(template.groups, cluster.replicas)
    used = [group.evaluators for group in template.groups if cluster.replicas.get(group.name, 0)]
    return cluster.ready * min(used, default=0)
