"""One page of metrics, in the format that its reader asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True)
class Page:
    """What a registry counts, and families that were made for this page."""

    registry: CollectorRegistry
    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self.registry.collect()
        yield from self.families

    def encoded(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type.

        Args:
            accept: The reader's Accept header. Who takes OpenMetrics gets it, and with it exemplars.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type
