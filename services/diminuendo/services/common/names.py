"""What resources may be called."""

from __future__ import annotations

import re

COMPONENT = re.compile(r"[a-z0-9-]{1,63}")
"""A project's or a job's own part of a name."""
