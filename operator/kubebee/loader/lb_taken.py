"""Explicit frontends at the node's own addresses: none takes the port of a process that listens there.

It would cut off everybody who uses that process, be it the SSH server by which the mistake could be mended.
What the cluster gave out, as node ports, is another matter: nobody gets one without asking for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from operator import attrgetter

from kubebee.bpf.addresses import own_addresses
from kubebee.bpf.listeners import Listener, listeners
from kubebee.lb.model import Frontend, FrontendKey, Protocol
from kubebee.planner.plan import LbUnit, ResourceKey

_EXPLICIT = "ServiceLB/"
_address = attrgetter("address")
_PROTOCOLS = {int(protocol): protocol for protocol in Protocol}


def without_taken(lb: LbUnit) -> tuple[LbUnit, dict[FrontendKey, Frontend]]:
    """The load balancer without frontends whose ports processes of this node listen on, and these.

    Raises:
        BpfError: netlink refused.
    """
    own = frozenset(own_addresses())
    if own.isdisjoint(map(_address, lb.frontends)):
        return lb, {}
    if not any(key.address in own and _is_explicit(one) for key, one in lb.frontends.items()):
        return lb, {}
    found = taken(lb.frontends, own, listeners())
    if not found:
        return lb, found
    return replace(lb, frontends={k: one for k, one in lb.frontends.items() if k not in found}), found


def taken(
    frontends: Mapping[FrontendKey, Frontend], own: Collection[bytes], listening: Iterable[Listener]
) -> dict[FrontendKey, Frontend]:
    """Explicit frontends in the place of a process.

    One that leads to the same port of this very node is meant so: hosts that hold the VIP have such ones.

    Args:
        frontends: of this node.
        own: its addresses.
        listening: its processes' sockets.
    """
    found = {}
    for listener in listening:
        protocol = _PROTOCOLS.get(listener.protocol)
        for address in own:
            if protocol is None or not covers(listener.address, address):
                continue
            key = FrontendKey(address, listener.port, protocol)
            one = frontends.get(key)
            if one is not None and _is_explicit(one) and not _leads_here(one, own, key.port):
                found[key] = one
    return found


def covers(bound: bytes, address: bytes) -> bool:
    """Whether a socket that is bound to the first gets what is for the second."""
    return bound == address or (not any(bound) and len(bound) >= len(address))


def explicit_owner(frontend: Frontend) -> ResourceKey:
    """The ServiceLB that declares an explicit frontend ("ServiceLB/shop:web")."""
    return ResourceKey("ServiceLB", frontend.owner.removeprefix(_EXPLICIT).partition(":")[0])


def _is_explicit(frontend: Frontend) -> bool:
    return frontend.owner.startswith(_EXPLICIT)


def _leads_here(frontend: Frontend, own: Collection[bytes], port: int) -> bool:
    return any(backend.address in own and backend.port == port for backend in frontend.backends)
