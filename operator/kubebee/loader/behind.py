"""Which addresses are reached by each neighbour.

Most of a large cluster's backends are behind one or two gateways. Of those only the number is kept: a set of
100,000 addresses takes 8 MB, and is asked for when a gateway's link or MAC address changes. Pods have a
neighbour each, and come and go all the time: theirs are found at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kubebee.bpf.neighbours import NeighbourKey
from kubebee.bpf.routes import Route

MANY = 256


class Behind:
    """Addresses by neighbour; iterates over neighbours that have some."""

    def __init__(self) -> None:
        self._few: dict[NeighbourKey, set[bytes]] = {}
        self._many: dict[NeighbourKey, int] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._few or key in self._many

    def __iter__(self) -> Iterator[NeighbourKey]:
        yield from self._few
        yield from self._many

    def add(self, key: NeighbourKey, address: bytes) -> None:
        """An address that no neighbour had is reached by this one."""
        if key in self._many:
            self._many[key] += 1
            return
        few = self._few.setdefault(key, set())
        few.add(address)
        if len(few) > MANY:
            self._many[key] = len(self._few.pop(key))

    def remove(self, key: NeighbourKey, address: bytes) -> None:
        """It is no longer; a neighbour without any address is forgotten."""
        if key in self._many:
            self._many[key] -= 1
            if not self._many[key]:
                del self._many[key]
            return
        self._few[key].discard(address)
        if not self._few[key]:
            del self._few[key]

    def addresses(self, keys: Iterable[NeighbourKey], routes: Mapping[bytes, Route | None]) -> list[bytes]:
        """All addresses that are reached by some neighbours.

        Args:
            keys: the neighbours.
            routes: of every address; searched only where one of them has many.
        """
        wanted = set(keys)
        found = [address for key in wanted for address in self._few.get(key, ())]
        many = wanted & self._many.keys()
        if many:
            found += [
                address
                for address, route in routes.items()
                if route is not None and neighbour_of(route) in many
            ]
        return found


def neighbour_of(route: Route) -> NeighbourKey:
    """The neighbour that a route leads to."""
    return NeighbourKey(route.ifindex, route.neighbour)
