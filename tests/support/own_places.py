"""Tells a balancer which frontends' addresses are the node's own, as its upkeep does."""

from __future__ import annotations

from kubebee.lb.model import parse_address
from support.servicelb import Balancer


def holds(lb: Balancer, *addresses: str) -> None:
    """Let it know that these of the frontends' addresses, and no others, are the node's own."""
    own = set(map(parse_address, addresses))
    for part in lb.state.families.values():
        part.own.want(lb.maps, [place for place in part.places_here() if place.key.address in own])
