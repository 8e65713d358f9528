"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Longer each time, up to a bound, with jitter, so that many who failed together do not come back in step."""

    def __init__(
        self, first_s: float, last_s: float, *, random_part: Callable[[float, float], float] = random.uniform
    ) -> None:
        """Begin with the first delay.

        Args:
            random_part: Gives a number between the two that it is given.
        """
        self._first_s, self._last_s, self._random = first_s, last_s, random_part
        self._delay_s = first_s

    def next(self, at_least_s: float = 0.0) -> float:
        """The delay now, in seconds: of the half to the whole of what it has grown to, and no less than asked for."""
        delay, self._delay_s = self._delay_s, min(2 * self._delay_s, self._last_s)
        return max(at_least_s, self._random(delay / 2, delay))

    def reset(self) -> None:
        """It went well."""
        self._delay_s = self._first_s
