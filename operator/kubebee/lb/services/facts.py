"""What Services need to know of the node that serves them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from kubebee.lb.model import LbModelError, parse_address
from kubebee.lb.services.objects import ZONE, NodeObject

GOING = "ToBeDeletedByClusterAutoscaler"
"""Taint of a node that will be removed (KEP-3836)."""
_OURS = frozenset({"InternalIP", "ExternalIP"})


class NodeFacts(NamedTuple):
    """The node.

    Attributes:
        name: of the Node, as EndpointSlices call it.
        zone: label topology.kubernetes.io/zone; "" = in none.
        addresses: where node ports are served, of both families, in order and each once.
        eligible: it is not about to go, so that balancers in front of it may send it new connections.
    """

    name: str
    zone: str = ""
    addresses: tuple[bytes, ...] = ()
    eligible: bool = True

    @classmethod
    def of(cls, node: NodeObject) -> NodeFacts:
        """Facts of a Node as the API server has it; host names among its addresses are passed over."""
        status = node.status.addresses if node.status else None
        texts = [one.address for one in status or () if one.type in _OURS]
        zone = (node.metadata.labels or {}).get(ZONE, "")
        taints = (node.spec.taints if node.spec else None) or ()
        going = bool(node.metadata.deletion_timestamp) or any(one.key == GOING for one in taints)
        return cls(node.metadata.name, zone, addresses_of(texts), not going)


def addresses_of(texts: Iterable[str]) -> tuple[bytes, ...]:
    """Addresses by their texts, each once; what is none is left out."""
    found = dict.fromkeys(filter(None, map(address_of, texts)))
    return tuple(found)


def address_of(text: str | None) -> bytes:
    """An address by its text; b"" for what is none, is unspecified or is a multicast group."""
    try:
        address = parse_address(text or "")
    except LbModelError:
        return b""
    multicast = address[0] & 0xF0 == 0xE0 if len(address) == 4 else address[0] == 0xFF
    return b"" if multicast or not any(address) else address
