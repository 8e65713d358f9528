"""The contract of a cluster provider, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """One cluster, as its provider sees it.

    Attributes:
        name: Also the name of its coordinator: what that tells of itself (`Store.list_coordinators`) is under it.
        project: Whose it is alone; empty: everybody's.
        address: Where its Jobs REST API is; empty while it is not known, and where there is none.
        state: What the cluster says of itself, e.g. ``ready``; ``absent`` where there is none.
        workers_wanted: Pods of workers that are asked for.
        workers_ready: Pods of workers that are ready.
        gpus: GPUs of the workers that are asked for.
        coordinator: ``absent``, ``starting``, ``running``, ``stopping``, ``unreachable``.
        trouble: What is wrong, for people; empty when nothing is.
    """

    name: str
    project: str = ""
    address: str = ""
    state: str = "absent"
    workers_wanted: int = 0
    workers_ready: int = 0
    gpus: int = 0
    coordinator: str = "absent"
    trouble: str = ""


class Provider(Protocol):
    """Keeps the clusters as the queue wants them."""

    async def run(self) -> None:
        """Do so until cancelled; what is to end with the conductor has ended when this returns."""
        ...

    def status(self) -> Sequence[ClusterStatus]:
        """The clusters that there are, by name; of a provider that another conductor acts for, none."""
        ...
