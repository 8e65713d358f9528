"""Knows the RayClusters as they are now: lists them once, and follows what changes from there on, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from diminuendo.services.common import logs
from diminuendo.services.conductor.clusters.backoff import Backoff
from diminuendo.services.conductor.clusters.kube import KubeApi, KubeError, RayCluster, Watch

log = logs.get(__name__)

FIRST_DELAY_S, LAST_DELAY_S = 0.2, 30.0


class Watcher(threading.Thread):
    """Holds a copy of the RayClusters with some labels.

    A watch that ends, as each does after some minutes, goes on where it ended. One whose past the server has forgotten
    (410) begins with a new list. Everything else is tried again, later each time.
    """

    def __init__(self, api: KubeApi, selector: str, changed: Callable[[], None]) -> None:
        """Prepare; `start` starts it.

        Args:
            changed: Called from this thread whenever the copy is another one.
        """
        super().__init__(name="rayclusters", daemon=True)
        self._api, self._selector, self._changed = api, selector, changed
        self._told = threading.Event()
        self._open: Watch | None = None
        self._known: Mapping[str, RayCluster] | None = None
        self._seen = ""
        self._backoff = Backoff(FIRST_DELAY_S, LAST_DELAY_S)
        self.trouble = ""

    @property
    def clusters(self) -> Mapping[str, RayCluster] | None:
        """By name; None until they have been listed."""
        return self._known

    def stop(self) -> None:
        """End the thread."""
        self._told.set()
        watch = self._open
        if watch is not None:
            watch.close()
        self.join()

    def run(self) -> None:
        """Follow until told to stop."""
        version = ""
        while not self._told.is_set():
            try:
                version = version or self._list()
                version = self._follow(version)
                self.trouble = ""
            except KubeError as error:
                if self._told.is_set():
                    return
                version = self._after(error, version)

    def _after(self, error: KubeError, version: str) -> str:
        """Wait as the error demands; the version to go on from, empty to list again."""
        delay = self._backoff.next(error.retry_after_s)
        self.trouble = str(error)
        if error.status == 403:
            log.error("rayclusters_forbidden", reason=str(error), remedy="grant get, list and watch", again_in_s=delay)
        else:
            log.warning("watch_failed", status=error.status, reason=str(error), again_in_s=round(delay, 2))
        self._told.wait(delay)
        return "" if error.expired or not version else self._seen

    def _list(self) -> str:
        listed = self._api.list(self._selector)
        self._known = {cluster.name: cluster for cluster in listed.clusters}
        self._changed()
        return listed.resource_version

    def _follow(self, version: str) -> str:
        """One watch, to its end; the version that the next one goes on from."""
        self._seen = version
        self._open = watch = self._api.watch(self._selector, version)
        try:
            if self._told.is_set():
                return version
            for change in watch:
                self._backoff.reset()
                self._seen = change.resource_version or self._seen
                if change.cluster is not None:
                    self._take(change.kind, change.cluster)
            return self._seen
        finally:
            self._open = None
            watch.close()

    def _take(self, kind: str, cluster: RayCluster) -> None:
        known = dict(self._known or {})
        if kind == "DELETED":
            known.pop(cluster.name, None)
        else:
            known[cluster.name] = cluster
        self._known = known  # replaced as a whole: who reads it has one moment of it
        self._changed()
