"""Frontends' places that the node holds itself: what other balancers send for them is the stack's as it is.

The datapath would find that out by itself, by a look-up in the flow table and one of a route for each packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from kubebee.bpf.map import Map
from kubebee.lb import layout
from kubebee.lb.family import Family
from kubebee.lb.layout import OwnFlag
from kubebee.lb.model import FrontendKey


@dataclass(frozen=True, slots=True)
class Place:
    """A frontend, and a backend of it that is this very node and has the frontend's port.

    Attributes:
        number: of the backend.
        backend: its address.
    """

    number: int
    backend: bytes
    key: FrontendKey


class OwnPlaces:
    """What of a family's map is written. One writer.

    A place is known as one that takes no new flows first, and as one without flows from before only when a
    collection has found none.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self._written: dict[int, tuple[Place, OwnFlag]] = {}

    @property
    def unsettled(self) -> bool:
        """Whether places are written that may have flows from before."""
        return any(not flags & OwnFlag.ALONE for _, flags in self._written.values())

    def forget_earlier(self, maps: Mapping[str, Map]) -> None:
        """Empty the map: what an earlier loader wrote may be true no more."""
        if self._family.own in maps:
            table = maps[self._family.own]
            for index, value in table.items():
                if any(value):
                    table.update(index, bytes(len(value)))

    def want(self, maps: Mapping[str, Map], places: Iterable[Place]) -> None:
        """Write exactly these places, as far as there is room.

        Raises:
            BpfError: the map refused a write.
        """
        if self._family.own not in maps:
            return
        wanted: dict[int, Place] = {}
        for place in places:
            wanted.setdefault(layout.own_place(place.backend, place.key), place)
        had = {index: place for index, (place, _) in self._written.items()}
        self._withdraw(maps, [index for index, place in had.items() if wanted.get(index) != place])
        for index, place in wanted.items():
            if index not in self._written:
                self._write(maps, index, place, OwnFlag.OWN)

    def settle(self, maps: Mapping[str, Map], used: Set[int]) -> None:
        """After a collection: know which places have flows; `used` are the numbers of backends that have."""
        for index, (place, flags) in list(self._written.items()):
            now = OwnFlag.OWN if place.number in used else OwnFlag.OWN | OwnFlag.ALONE
            if now != flags:
                self._write(maps, index, place, now)

    def forget(self, maps: Mapping[str, Map], numbers: Iterable[int]) -> None:
        """Withdraw the places of backends that change or go; `want` may bring them back."""
        if self._written:
            gone = set(numbers)
            self._withdraw(maps, [i for i, (place, _) in self._written.items() if place.number in gone])

    def _write(self, maps: Mapping[str, Map], index: int, place: Place, flags: OwnFlag) -> None:
        maps[self._family.own].update(layout.u32(index), layout.pack_own(place.backend, place.key, flags))
        self._written[index] = place, flags

    def _withdraw(self, maps: Mapping[str, Map], indices: Iterable[int]) -> None:
        table = maps[self._family.own]
        for index in indices:
            place, _ = self._written[index]
            table.update(layout.u32(index), bytes(len(layout.pack_own(place.backend, place.key, 0))))
            del self._written[index]
