"""When each server is tried next: spread over time, so that thousands make no bursts."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from kubebee.lb.health.check import Target

JITTER = 0.1
"""An interval is longer or shorter by up to this part, so that servers and nodes don't fall into step."""
FIRST_RATE = 200.0
"""New targets are tried at so many a second, but each within its interval."""


class Agenda:
    """Hands out what is due; times are seconds on any clock that only goes on.

    Args:
        random: numbers from 0 to 1.
    """

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._due: dict[Target, float] = {}  # infinite while it is tried
        self._heap: list[tuple[float, int, Target]] = []
        self._pushed = 0

    def __len__(self) -> int:
        return len(self._due)

    def want(self, targets: Iterable[Target], now: float) -> None:
        """Try exactly these from now on; those known already keep their turn."""
        wanted = dict.fromkeys(targets)
        for gone in self._due.keys() - wanted.keys():
            del self._due[gone]
        new = [target for target in wanted if target not in self._due]
        spread = len(new) / FIRST_RATE
        for target in new:
            self._push(target, now + self._random() * min(spread, target.check.interval))

    def take(self, now: float) -> Target | None:
        """The target that has been due for longest, which `done` puts back; None: none is due."""
        while self._heap and self._heap[0][0] <= now:
            due, _, target = heapq.heappop(self._heap)
            if self._due.get(target) == due:
                self._due[target] = float("inf")
                return target
        return None

    def done(self, target: Target, began: float, now: float) -> None:
        """The target was tried; if it is still wanted it comes again an interval after it began."""
        if target in self._due:
            interval = target.check.interval * (1 + JITTER * (2 * self._random() - 1))
            self._push(target, max(now, began + interval))

    def next_due(self) -> float | None:
        """When `take` has something again; None: nothing is waiting."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _push(self, target: Target, due: float) -> None:
        self._due[target] = due
        self._pushed += 1
        heapq.heappush(self._heap, (due, self._pushed, target))
