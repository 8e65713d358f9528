"""The provider of an existing Ray cluster: has it run a coordinator, and another when that one ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from diminuendo.services.conductor.clusters.base import ClusterStatus
from diminuendo.services.conductor.clusters.leader import Leader, while_leading
from diminuendo.services.conductor.clusters.placing import Placement, Wanted


class RayProvider:
    """Keeps a coordinator in one Ray cluster. It is left there when the conductor stops: its works go on."""

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        address: str,
        leader: Leader,
        *,
        settle_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            name: The coordinator's.
            options: Its flags.
            address: URL of the cluster's dashboard.
        """
        self._address, self._leader = address, leader
        self._placement = Placement(name, options, clock=clock, settle_s=settle_s, changed=lambda: None)
        self._acting = False

    async def run(self) -> None:
        """Keep it placed while this conductor is the one that acts."""
        await while_leading(self._leader, self._act)

    async def _act(self) -> None:
        self._acting = True
        self._placement.want(Wanted(self._address))
        try:
            await self._placement.run()
        finally:
            self._acting = False

    def status(self) -> Sequence[ClusterStatus]:
        """The one cluster."""
        if not self._acting:
            return ()
        placed = self._placement
        state = "unreachable" if placed.state == "unreachable" else "ready"
        return (
            ClusterStatus(
                placed.name, address=self._address, state=state, coordinator=placed.state, trouble=placed.trouble
            ),
        )
