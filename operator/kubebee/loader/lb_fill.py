"""What a node's status says of how full the load balancer's tables are: seldom, as writes cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping

from kubebee.bpf.map import Map
from kubebee.lb.fill import Fill, fills, is_news
from kubebee.lb.sync import LbState

LOOK_SECONDS = 30.0


class LbFill:
    """Looks now and then, and shows what is news.

    Attributes:
        shown: what statuses say; empty before the first look.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown: tuple[Fill, ...] = ()
        self._clock = clock
        self._version: Hashable = None
        self._looked_at = self._shown_at = float("-inf")

    def look(
        self, maps: Mapping[str, Map], state: LbState, flows: Mapping[str, int], version: Hashable
    ) -> bool:
        """Look at the tables, unless that was done just now; returns whether something else is shown.

        Args:
            maps: the load balancer's.
            state: what they have.
            flows: entries by name of the maps of flows.
            version: of what users want. A new one is told of in any case, and this with it.
        """
        now, changed = self._clock(), version != self._version
        if self.shown and not changed and now - self._looked_at < LOOK_SECONDS:
            return False
        self._looked_at, self._version = now, version
        sizes = {name: maps[name].info.max_entries for name in flows if name in maps}
        rooms = {family: part.rooms for family, part in state.families.items()}
        found = fills(rooms, flows, sizes)
        if found == self.shown or not (changed or is_news(self.shown, found, now - self._shown_at)):
            return False
        self.shown, self._shown_at = found, now
        return True

    def rest(self) -> None:
        """There is no load balancer."""
        self.shown, self._version = (), None
