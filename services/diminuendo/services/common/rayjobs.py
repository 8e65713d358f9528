"""A coordinator as a job of Ray's Jobs REST API: what those who submit one, and find it again, agree on."""

from __future__ import annotations

LABEL = "diminuendo-coordinator"
"""Key of a Ray job's metadata under which the coordinator's name is."""

DRAIN_S = 20
"""How long the cluster lets the coordinator end by itself after a stop."""
