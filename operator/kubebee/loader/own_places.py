"""Frontends that this node is a server of itself: it holds their address, and a process listens there."""

from __future__ import annotations

from collections.abc import Iterable

from kubebee.bpf.listeners import listeners
from kubebee.bpf.routes import own_among
from kubebee.lb.own import Place
from kubebee.loader.lb_taken import covers


def served_here(places: Iterable[Place]) -> list[Place]:
    """Those whose frontend's address and port a process of this network namespace serves.

    One that listens at the backend's address alone is none: it would never see what is for the other address.

    Raises:
        BpfError: netlink refused.
    """
    found = list(places)
    own = own_among({place.key.address for place in found}) if found else set()
    held = [place for place in found if place.key.address in own]
    if not held:
        return held
    listening = {(each.port, each.protocol, each.address) for each in listeners()}
    ports = {(place.key.port, int(place.key.protocol)) for place in held}
    bound = [each for each in listening if each[:2] in ports]
    return [
        place
        for place in held
        if any(
            (port, protocol) == (place.key.port, place.key.protocol) and covers(address, place.key.address)
            for port, protocol, address in bound
        )
    ]
