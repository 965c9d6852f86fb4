"""IPv4 and IPv6 have maps of their own, the same ones with longer addresses. kb_lb_cfg alone is shared."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Family:
    """One of the two.

    Attributes:
        address_bytes: length of its addresses, by which they are told apart.
        suffix: of its maps' names.
    """

    name: str
    address_bytes: int
    suffix: str

    def __str__(self) -> str:
        return self.name

    @property
    def number(self) -> int:
        """What sockets and netlink call it: AF_INET, AF_INET6."""
        return socket.AF_INET if self.address_bytes == 4 else socket.AF_INET6

    @property
    def frontends(self) -> str:
        """Name of the map of frontends."""
        return "kb_lb_fe" + self.suffix

    @property
    def slots(self) -> str:
        """Name of the map of tables."""
        return "kb_lb_slots" + self.suffix

    @property
    def backends(self) -> str:
        """Name of the map of backends."""
        return "kb_lb_be" + self.suffix

    @property
    def backend_counts(self) -> str:
        """Name of the map of counters by backend."""
        return "kb_lb_be_stat" + self.suffix

    @property
    def frontend_counts(self) -> str:
        """Name of the map of what backends that left had counted, by frontend."""
        return "kb_lb_fe_stat" + self.suffix

    @property
    def sources(self) -> str:
        """Name of the map of source ranges."""
        return "kb_lb_sources" + self.suffix

    @property
    def names(self) -> str:
        """Name of the map of what frontends are called, by id."""
        return "kb_lb_names" + self.suffix

    @property
    def flows(self) -> str:
        """Name of the map of SNAT flows; exists only where SNAT is rendered."""
        return "kb_lb_flow" + self.suffix

    @property
    def reverse(self) -> str:
        """Name of the map of their other halves; exists only where SNAT is rendered."""
        return "kb_lb_rev" + self.suffix

    @property
    def here(self) -> str:
        """Name of the map of backends on this node; exists only where DSR is rendered."""
        return "kb_lb_here" + self.suffix

    @property
    def own(self) -> str:
        """Name of the map of frontends' places that are the node's own; exists only where DSR is rendered."""
        return "kb_lb_own" + self.suffix

    @property
    def dsr_flows(self) -> str:
        """Name of the map of connections that slots no longer lead; exists only where DSR is rendered."""
        return "kb_lb_dsr_flow" + self.suffix

    @property
    def affinity(self) -> str:
        """Name of the map of the backends that clients had; exists only where affinity is rendered."""
        return "kb_lb_affinity" + self.suffix

    @property
    def socket_affinity(self) -> str:
        """Name of that of the node's network namespaces; exists only where affinity is rendered."""
        return "kb_lb_aff_sock" + self.suffix

    @property
    def map_names(self) -> tuple[str, ...]:
        """The maps without which there is no load balancing."""
        return (
            self.frontends,
            self.slots,
            self.backends,
            self.backend_counts,
            self.frontend_counts,
            self.sources,
            self.names,
        )

    def present(self, maps: Mapping[str, object]) -> bool:
        """Whether its maps exist: IPv6 ones only where they are rendered."""
        return self.frontends in maps

    def of(self, values: Mapping[bytes, Value]) -> dict[bytes, Value]:
        """What is about addresses of this family."""
        return {address: value for address, value in values.items() if len(address) == self.address_bytes}


IPV4 = Family("IPv4", 4, "")
IPV6 = Family("IPv6", 16, "6")
FAMILIES = (IPV4, IPV6)


def family_of(address: bytes) -> Family:
    """The family that an address is of."""
    return IPV4 if len(address) == IPV4.address_bytes else IPV6
