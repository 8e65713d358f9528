"""The conductor's metrics: what it counts, and what it reads from the database and the machine for each page."""

from diminuendo.services.conductor.metrics.counted import Metrics
from diminuendo.services.conductor.metrics.host import Host

__all__ = ["Host", "Metrics"]
