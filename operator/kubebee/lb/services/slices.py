"""An EndpointSlice packed: 100,000 endpoints are kept, and as objects of Python they would take 100 MB."""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

from kubebee.lb.model import Protocol
from kubebee.lb.services.facts import address_of
from kubebee.lb.services.objects import Endpoint, EndpointPort, Hints, SliceObject

_LENGTHS = {"IPv4": 4, "IPv6": 16}  # FQDN: names are for clients to resolve, no proxy reads them
PROTOCOLS = {protocol.name: protocol for protocol in Protocol}


class Condition(IntFlag):
    """What is known of an endpoint; one byte each."""

    READY = 1
    SERVING = 2
    TERMINATING = 4
    LOCAL = 8
    """It is on this node."""
    NODE_HINTS = 16
    """Its hints name nodes."""
    THIS_NODE = 32
    """They name this one."""


# Plain integers: operators of IntFlag take 20 times as long, and there are 100,000 endpoints.
_READY, _SERVING, _TERMINATING = map(int, (Condition.READY, Condition.SERVING, Condition.TERMINATING))
_LOCAL, _NODE_HINTS, _THIS_NODE = map(int, (Condition.LOCAL, Condition.NODE_HINTS, Condition.THIS_NODE))


class SlicePort(NamedTuple):
    """A port of every endpoint of a slice, by the name of the Service's port."""

    name: str
    protocol: Protocol
    port: int


class Slice(NamedTuple):
    """Endpoints of one family with the same ports.

    Attributes:
        length: of an address in bytes, 4 or 16.
        addresses: one after the other.
        conditions: one byte of Condition each.
        zones: of each endpoint the zones that its hints name; () if no hint does.
    """

    length: int
    ports: tuple[SlicePort, ...]
    addresses: bytes
    conditions: bytes
    zones: tuple[tuple[str, ...], ...] = ()


class Packer:
    """Packs slices for one node; equal parts of them are kept once.

    Args:
        node: name of the node.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._ports: dict[tuple[SlicePort, ...], tuple[SlicePort, ...]] = {}
        self._zones: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._conditions: dict[bytes, bytes] = {}

    def pack(self, found: SliceObject) -> Slice | None:
        """A slice in brief; None if nothing of it can be served.

        Endpoints without an address of the slice's family and ports without a number are left out. Of several
        addresses of an endpoint the first counts, as its own description in the API says.
        """
        length = _LENGTHS.get(found.address_type or "")
        if length is None:
            return None
        ports = self._packed_ports(found.ports or [])
        addresses, conditions, zones = bytearray(), bytearray(), []
        for endpoint in found.endpoints or ():
            address = address_of(endpoint.addresses[0]) if endpoint.addresses else b""
            if len(address) != length:
                continue
            addresses += address
            conditions.append(self._condition(endpoint))
            zones.append(self._zones_of(endpoint.hints) if endpoint.hints else ())
        if not ports or not addresses:
            return None
        packed = bytes(conditions)
        return Slice(
            length,
            ports,
            bytes(addresses),
            self._conditions.setdefault(packed, packed),
            tuple(zones) if any(zones) else (),
        )

    def _packed_ports(self, ports: list[EndpointPort]) -> tuple[SlicePort, ...]:
        packed = tuple(
            SlicePort(port.name or "", PROTOCOLS[port.protocol or "TCP"], port.port)
            for port in ports
            if port.port and 0 < port.port <= 0xFFFF and (port.protocol or "TCP") in PROTOCOLS
        )
        return self._ports.setdefault(packed, packed)

    def _condition(self, endpoint: Endpoint) -> int:
        """Absent conditions count as the API says: ready, serving, not terminating."""
        conditions, node = endpoint.conditions, self._node
        flags = 0
        if conditions is None or conditions.ready is not False:
            flags |= _READY
        if conditions is None or conditions.serving is not False:
            flags |= _SERVING
        if conditions is not None and conditions.terminating:
            flags |= _TERMINATING
        if node and endpoint.node_name == node:
            flags |= _LOCAL
        nodes = endpoint.hints.for_nodes if endpoint.hints else None
        if nodes:
            flags |= _NODE_HINTS
            if any(hint.name == node for hint in nodes):
                flags |= _THIS_NODE
        return flags

    def _zones_of(self, hints: Hints) -> tuple[str, ...]:
        zones = tuple(hint.name for hint in hints.for_zones or ())
        return self._zones.setdefault(zones, zones)
