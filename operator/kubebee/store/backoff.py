"""How long to wait before a request is tried again: longer each time, and not all nodes at once."""

from __future__ import annotations

from random import SystemRandom

FIRST_SECONDS = 0.5
MOST_SECONDS = 10.0
MOST_ASKED_FOR = 60.0
_random = SystemRandom()


class Backoff:
    """Waits of 0.5 s, doubled up to 10 s, each cut short by up to a half at random."""

    def __init__(self) -> None:
        self._next = FIRST_SECONDS

    def reset(self) -> None:
        """After a success: start over."""
        self._next = FIRST_SECONDS

    def next(self, at_least: float = 0.0) -> float:
        """Seconds to wait now; `at_least` is what the server asked for, believed up to a minute."""
        wait = self._next * _random.uniform(0.5, 1.0)
        self._next = min(self._next * 2, MOST_SECONDS)
        return max(wait, min(at_least, MOST_ASKED_FOR))
