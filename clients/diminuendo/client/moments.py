"""Times to come, as people write them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from diminuendo.client.errors import InvalidArgumentError

_AWAY = re.compile(r"\+(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def moment(text: str, *, over: bool = False) -> datetime:
    """A time, from ISO 8601 (local where it has no zone) or from how far away it is, e.g. ``+90m``.

    Args:
        text: As it was written.
        over: Whether it may be over.

    Raises:
        InvalidArgumentError: It is no time, or over.
    """
    now = datetime.now().astimezone()
    away = _AWAY.fullmatch(text.strip())
    try:
        found = now + timedelta(seconds=float(away[1]) * _SECONDS[away[2]]) if away else datetime.fromisoformat(text)
        found = found.astimezone()
    except (ValueError, OverflowError):
        raise InvalidArgumentError.of(
            "deadline", f"{text!r} is no time; give one such as 2030-01-31T18:00, 2030-01-31T18:00Z, +90m or +2h"
        ) from None
    if found <= now and not over:
        raise InvalidArgumentError.of("deadline", f"{found.isoformat(' ', 'seconds')} is over; give a time to come")
    return found
