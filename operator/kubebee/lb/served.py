"""Frontends as the maps have them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from kubebee.lb.layout import ROW_SLOTS, BackendFlag, FrontendFlag, FrontendValue
from kubebee.lb.members import Members
from kubebee.lb.model import Backend, Forwarding, Frontend, FrontendKey, Prefix, Protocol, Reserved
from kubebee.lb.moving import Table
from kubebee.lb.tables import rows_of

_RESERVED = {
    Reserved.NOTHING: 0,
    Reserved.PLACE: FrontendFlag.RESERVED,
    Reserved.PORT: FrontendFlag.PORT_RESERVED,
}
_NOBODY = Members()
# Plain numbers: arithmetic of enums takes ten times as long.
_DSR, _SOCKETS_ONLY = int(FrontendFlag.DSR_IPIP), int(FrontendFlag.SOCKETS_ONLY)


@dataclass(frozen=True, slots=True)
class Moving:
    """What a frontend's table is like some of whose slots have flags (see moving.py); the maps have the rest.

    Attributes:
        behind: rows that lie behind its own.
        since: when slots moved that have not settled, in seconds of CLOCK_MONOTONIC.
        named: numbers of backends that connections may go to by the table before.
        has_settled: connections are looked up in slots that have settled.
    """

    behind: int
    since: frozenset[int]
    named: frozenset[int]
    has_settled: bool

    @classmethod
    def of(cls, table: Table, behind: int) -> Moving:
        """In short."""
        since = frozenset(table.before.since) - {0} if table.before else frozenset[int]()
        return cls(behind, since, table.named_before(), table.has_settled)


class Served:
    """A frontend as the maps have it.

    Attributes:
        desired: what it was written from; None if the maps disagree with themselves, so that it is redone.
        known: its backends, of both tables; `ids` are their numbers, in the same order.
        moving: of the table for packets, where slots of it have flags.
    """

    __slots__ = ("_packed", "desired", "ids", "known", "moving")

    def __init__(
        self,
        value: FrontendValue,
        desired: Frontend | None = None,
        known: Members = _NOBODY,
        ids: array[int] | None = None,
        moving: Moving | None = None,
    ) -> None:
        self.value = value
        self.desired = desired
        self.known = known
        self.ids = array("I") if ids is None else ids
        self.moving = moving

    @property
    def value(self) -> FrontendValue:
        """As the map of frontends has it. Kept as the bytes that it is there: a third of the memory."""
        return FrontendValue.unpack(self._packed)

    @value.setter
    def value(self, value: FrontendValue) -> None:
        self._packed = value.pack()

    @property
    def members(self) -> tuple[Backend, ...]:
        """Its backends, sorted."""
        return self.known.every

    @property
    def runs(self) -> list[tuple[int, int]]:
        """First row and number of rows of its tables, with what lies behind them."""
        value = self.value
        behind = self.moving.behind if self.moving else 0
        found = [(value.base // ROW_SLOTS, rows_of(value.size) + behind)] if value.size else []
        if value.inside_size and (value.base, value.size) != (value.inside_base, value.inside_size):
            found.append((value.inside_base // ROW_SLOTS, rows_of(value.inside_size)))
        return found


def keeps_connections(key: FrontendKey, flags: int) -> bool:
    """Whether connections have no state here and yet are to stay where they are.

    Those of TCP under DSR. Nothing tells an old datagram from a new one: under DSR they follow the table.
    """
    return key.protocol is Protocol.TCP and flags & (_DSR | _SOCKETS_ONLY) == _DSR


def flags_of(frontend: Frontend) -> int:
    """The flags of its value."""
    flags = 0
    if frontend.forwarding.is_dsr:
        flags |= FrontendFlag.DSR_IPIP
    if frontend.forwarding is Forwarding.DSR_L2:
        flags |= FrontendFlag.L2
    if frontend.forwarding is Forwarding.DSR_IP_OPTION:
        flags |= FrontendFlag.IP_OPTION
    if frontend.random:
        flags |= FrontendFlag.RANDOM
    if frontend.source_ranges:
        flags |= FrontendFlag.SOURCES
    if frontend.sockets_only:
        flags |= FrontendFlag.SOCKETS_ONLY
    if frontend.drop_outside:
        flags |= FrontendFlag.DROP_OUTSIDE
    return flags | _RESERVED[frontend.reserved]


def forwarding_of(flags: int) -> Forwarding:
    """The way that the flags of a frontend's value say."""
    if flags & FrontendFlag.L2:
        return Forwarding.DSR_L2
    if flags & FrontendFlag.IP_OPTION:
        return Forwarding.DSR_IP_OPTION
    return Forwarding.DSR_IPIP if flags & FrontendFlag.DSR_IPIP else Forwarding.SNAT


def as_desired(
    key: FrontendKey, members: Members, value: FrontendValue, ranges: tuple[Prefix, ...], owner: str
) -> Frontend:
    """The frontend that the maps show."""
    flags = value.flags
    return Frontend(
        key,
        members.without(BackendFlag.NOT_OUTSIDE),
        members.without(BackendFlag.NOT_INSIDE) if members.sides else None,
        forwarding_of(flags),
        affinity_seconds=value.affinity,
        source_ranges=ranges,
        sockets_only=bool(flags & FrontendFlag.SOCKETS_ONLY),
        drop_outside=bool(flags & FrontendFlag.DROP_OUTSIDE),
        reserved=_reserved(flags),
        random=bool(flags & FrontendFlag.RANDOM),
        owner=owner,
    )


def _reserved(flags: int) -> Reserved:
    if flags & FrontendFlag.PORT_RESERVED:
        return Reserved.PORT
    return Reserved.PLACE if flags & FrontendFlag.RESERVED else Reserved.NOTHING
