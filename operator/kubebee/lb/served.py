"""Frontends as the maps have them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from kubebee.lb.layout import BackendFlag, FrontendFlag, FrontendValue
from kubebee.lb.members import Members
from kubebee.lb.model import Backend, Forwarding, Frontend, FrontendKey, Prefix, Reserved

_RESERVED = {
    Reserved.NOTHING: 0,
    Reserved.PLACE: FrontendFlag.RESERVED,
    Reserved.PORT: FrontendFlag.PORT_RESERVED,
}


@dataclass(slots=True)
class Served:
    """A frontend as the maps have it.

    Attributes:
        desired: what it was written from; None if the maps disagree with themselves, so that it is redone.
        known: its backends, of both tables; `ids` are their numbers, in the same order.
    """

    value: FrontendValue
    desired: Frontend | None = None
    known: Members = field(default_factory=Members)
    ids: array[int] = field(default_factory=lambda: array("I"))

    @property
    def members(self) -> tuple[Backend, ...]:
        """Its backends, sorted."""
        return self.known.every


def flags_of(frontend: Frontend) -> int:
    """The flags of its value."""
    flags = 0
    if frontend.forwarding.is_dsr:
        flags |= FrontendFlag.DSR_IPIP
    if frontend.forwarding is Forwarding.DSR_L2:
        flags |= FrontendFlag.L2
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
        owner=owner,
    )


def _reserved(flags: int) -> Reserved:
    if flags & FrontendFlag.PORT_RESERVED:
        return Reserved.PORT
    return Reserved.PLACE if flags & FrontendFlag.RESERVED else Reserved.NOTHING
