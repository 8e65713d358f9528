"""Fleets: many networks that are compressed together, each by a job of its own."""
