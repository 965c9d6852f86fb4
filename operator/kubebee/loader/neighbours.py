"""How backends are reached: routes, neighbours kept resolved, and the next hops that follow from both.

XDP can't ask for a MAC address. Left to the kernel, a packet with our SNAT address as its source would be
refused as a martian, so that unresolved backends get nothing at all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping, Set
from itertools import islice
from typing import Protocol, TypeVar

from kubebee.bpf.neighbours import (
    Neighbour,
    NeighbourKey,
    keep_resolved,
    lookup_neighbours,
    our_neighbours,
    stop_keeping,
)
from kubebee.bpf.net_events import NetChanges, NetEvents
from kubebee.bpf.netlink import Interface, LinkChange, dump_interfaces
from kubebee.bpf.routes import Route, lookup_routes
from kubebee.lb.layout import BackendFlag, NextHop
from kubebee.lb.model import Prefix
from kubebee.loader.behind import Behind, neighbour_of
from kubebee.loader.ways import Ways

log = logging.getLogger("kubebee")
SLICE = 2048
"""Routes looked up in one go; 50 ms."""
_MAC_BYTES = 6
_MAX_MTU = 0xFFFF

_FRAMES = int(BackendFlag.NEXT_HOP)
_LOCAL = int(BackendFlag.LOCAL)
_GATEWAY = int(BackendFlag.GATEWAY)
_NO_FRAMES = int(BackendFlag.NEXT_HOP | BackendFlag.NO_FRAMES)
_MANY_PREFIXES = 16
_Value = TypeVar("_Value", Route, NextHop)


class HopTable(Protocol):
    """Where next hops are written, by backend address."""

    def next_hop(self, address: bytes) -> NextHop | None:
        """What is written for an address."""

    def set_next_hops(self, hops: Mapping[bytes, NextHop | None]) -> None:
        """Write hops; None: the datapath looks the route up for each packet."""

    def forget_next_hops(self, addresses: Iterable[bytes]) -> None:
        """Drop what is known of addresses that no backend has any more."""


class Neighbours:
    """Next hops of the wanted addresses in the network namespace of the calling thread.

    A hop that was known stays until a better one is: a neighbour that does not answer for a while gets its
    packets at the address it had. It is withdrawn when its interface goes down or away.

    Args:
        table: takes the hops.
        ipv6: whether there are IPv6 addresses among those that will be wanted.
        ways: what is known of the interfaces.
    """

    def __init__(self, table: HopTable, *, ipv6: bool = False, ways: Ways | None = None) -> None:
        self._table = table
        self._ways = ways or Ways()
        self.events = NetEvents(ipv6=ipv6)  # before anything is listed, so that nothing is missed
        self._links: dict[int, Interface] = {link.index: link for link in dump_interfaces()}
        self._routes: dict[bytes, Route | None] = {}
        self._alike: dict[Route | NextHop, Route | NextHop] = {}
        self._behind = Behind()
        self._local: set[NeighbourKey] = set()  # which the stack delivers to by itself
        self._macs: dict[NeighbourKey, bytes] = {}
        self._kept: set[NeighbourKey] = set(our_neighbours())  # of an earlier run; given up if not wanted
        self._unkept: set[NeighbourKey] = set()
        self._stale: dict[bytes, None] = {}  # an ordered set
        self._undecided: set[bytes] = set()
        self._doubt = False

    @property
    def stale(self) -> int:
        """Addresses whose route is still to be looked up."""
        return len(self._stale)

    @property
    def unkept(self) -> bool:
        """Whether neighbours wait to be asked for again; `work` does."""
        return bool(self._unkept)

    @property
    def undecided(self) -> bool:
        """Whether something is to be tried again shortly: a route and its interface disagree.

        An interface's news come before the kernel withdraws the routes over it.
        """
        return bool(self._undecided)

    def use(self, ways: Ways) -> None:
        """Know the interfaces anew; `work` looks all routes up again if that changes anything."""
        if ways != self._ways:
            self._ways = ways
            self._stale.update(dict.fromkeys(self._routes))

    def want(self, addresses: Set[bytes]) -> None:
        """Follow exactly these addresses; `work` looks new ones up.

        Raises:
            BpfError: netlink failed.
        """
        left = self._routes.keys() - addresses
        for address in left:
            self._forget_route(address)
        self._table.forget_next_hops(left)
        self._undecided &= addresses
        for address in self._stale.keys() - addresses:
            del self._stale[address]
        self._stale.update(dict.fromkeys(addresses - self._routes.keys()))
        if not self._stale:
            self._give_up_unwanted()

    def want_also(self, addresses: set[bytes]) -> None:
        """Follow these addresses beside those that are followed; `work` looks new ones up."""
        self._stale.update(dict.fromkeys(addresses.difference(self._routes)))

    def work(self) -> None:
        """Look up a slice of stale routes, ask for neighbours that are not kept yet, publish what is known.

        Raises:
            BpfError: netlink failed, or a map refused a write.
        """
        part = list(islice(self._stale, SLICE))
        for address, route in zip(part, lookup_routes(part), strict=True):
            if self._routes.get(address) != route:
                self._forget_route(address)
                if route is not None:
                    self._behind.add(neighbour_of(route), address)
            self._routes[address] = route and self._once(route)
            if route is not None:
                self._judge(address, route)
            del self._stale[address]
        if not self._stale:
            self._stale = {}  # a dict never gets smaller by itself: 5 MB for 100,000 addresses
        self._keep({neighbour_of(r) for r in map(self._routes.get, part) if r} | self._unkept)
        self._publish_hops(part)
        if not self._stale:
            self._give_up_unwanted()

    def _judge(self, address: bytes, route: Route) -> None:
        """Whether the stack delivers to the neighbour that a route leads to."""
        key = neighbour_of(route)
        if self._ways.is_local(address, route, self._links):
            self._local.add(key)
        else:
            self._local.discard(key)

    def take_news(self) -> bool:
        """Follow what netlink told since the last call. Returns whether routes may have changed.

        Raises:
            BpfError: netlink failed, or a map refused a write.
        """
        changes = self.events.read()
        if changes.everything or self._doubt:
            self._doubt = False
            self._relist()
            return True
        self._stale.update(dict.fromkeys(self._undecided))
        self._undecided.clear()
        for link in changes.links:
            self._take_link(link)
        routed_anew = bool(changes.prefixes)
        if len(changes.prefixes) > _MANY_PREFIXES:
            self._stale.update(dict.fromkeys(self._routes))
            changes.prefixes.clear()
        for address, length in changes.prefixes:
            self._stale.update(dict.fromkeys(filter(Prefix(address, length).covers, self._routes)))
        self._take_neighbours(changes)
        return routed_anew

    def doubt(self) -> None:
        """After an error: let the next `take_news` look at everything anew."""
        self._doubt = True

    def close(self) -> None:
        """Stop listening; written hops and kept neighbours stay for the datapath, which goes on running."""
        self.events.close()

    def _relist(self) -> None:
        links = {link.index: link for link in dump_interfaces()}
        for index in [index for index in self._links if index not in links]:
            self._take_link(LinkChange(self._links[index], gone=True))
        for link in links.values():
            self._take_link(LinkChange(link, gone=False))
        self._unkept.update(self._behind)
        self._stale.update(dict.fromkeys(self._routes))

    def _take_link(self, change: LinkChange) -> None:
        link, before = change.interface, self._links.get(change.interface.index)
        usable = link.up and not change.gone
        if change.gone:
            self._links.pop(link.index, None)
        else:
            self._links[link.index] = link
        if before is not None and (before.up, before.mtu, before.address) == (usable, link.mtu, link.address):
            return
        over = [key for key in self._behind if key.ifindex == link.index]
        addresses = self._behind.addresses(over, self._routes)
        if not usable:  # routes go without an event of their own when their interface does
            self._table.set_next_hops(dict.fromkeys(addresses))
            for key in over:
                self._macs.pop(key, None)
                self._kept.discard(key)
            self._stale.update(dict.fromkeys(addresses))
        elif before is not None and not before.up:  # and routes over several gateways come back so
            self._stale.update(dict.fromkeys(self._routes))
        else:
            self._publish_hops(addresses)

    def _take_neighbours(self, changes: NetChanges) -> None:
        news: dict[NeighbourKey, None] = {}
        for neighbour, gone in changes.neighbours:
            key = neighbour.key
            if key not in self._behind:
                continue
            if gone or not (neighbour.mac or neighbour.managed):
                self._kept.discard(key)
                self._unkept.add(key)  # flushed, or given up by a kernel that does not manage it
            elif neighbour.mac and self._macs.get(key) != neighbour.mac:
                self._macs[key] = neighbour.mac
                news[key] = None
        self._publish_hops(self._behind.addresses(news, self._routes))

    def _keep(self, keys: Collection[NeighbourKey]) -> None:
        """Have neighbours resolved, except those that somebody else takes care of."""
        wanted = [
            key
            for key in keys
            if key in self._behind and self._has_macs(key) and not (key in self._kept and key in self._macs)
            if key not in self._local
        ]
        ask_for = []
        for key, neighbour in zip(wanted, lookup_neighbours(wanted), strict=True):
            if neighbour is not None and neighbour.mac:
                self._macs[key] = neighbour.mac
            if key not in self._kept and (neighbour is None or not _is_foreign(neighbour)):
                ask_for.append(key)
        refused = keep_resolved(ask_for)
        self._kept |= set(ask_for) - refused.keys()
        for key in refused.keys() - self._unkept:
            log.warning("neighbour %s can't be resolved: %s", key.address, os.strerror(refused[key]))
        self._unkept = set(refused)

    def _give_up_unwanted(self) -> None:
        gone = {key for key in self._kept if key not in self._behind or key in self._local}
        stop_keeping(gone)
        self._kept -= gone

    def _has_macs(self, key: NeighbourKey) -> bool:
        link = self._links.get(key.ifindex)
        return link is not None and not link.loopback and len(link.address) == _MAC_BYTES

    def _forget_route(self, address: bytes) -> None:
        route = self._routes.pop(address, None)
        if route is None:
            return
        key = neighbour_of(route)
        self._behind.remove(key, address)
        if key not in self._behind:
            self._local.discard(key)
            self._macs.pop(key, None)
            self._unkept.discard(key)

    def _once(self, value: _Value) -> _Value:
        """An equal value that is kept already: behind one gateway 100,000 backends need one each."""
        if len(self._alike) > SLICE:  # neighbours on the link have one each, and those come and go
            self._alike.clear()
        return self._alike.setdefault(value, value)  # type: ignore[return-value]

    def _publish_hops(self, addresses: Iterable[bytes]) -> None:
        hops: dict[bytes, NextHop | None] = {}
        for address in addresses:
            route = self._routes.get(address)
            link = self._links.get(route.ifindex) if route else None
            if route is not None and (link is None or not link.up):
                self._undecided.add(address)
            elif route is not None and neighbour_of(route) in self._local:
                hops[address] = NextHop.local(0 if route.local else route.ifindex)
                continue
            if route is None or link is None or not link.up or not self._has_macs(neighbour_of(route)):
                hops[address] = None
                continue
            mac = self._macs.get(neighbour_of(route), b"")
            known = self._table.next_hop(address)
            if known is not None and (known.ifindex != route.ifindex or known.way & _LOCAL):
                hops[address] = None
            if len(mac) == _MAC_BYTES:
                mtu = min(route.mtu or link.mtu, link.mtu, _MAX_MTU)
                way = _FRAMES if route.ifindex in self._ways.takers else _NO_FRAMES
                way |= _GATEWAY if route.neighbour != address else 0
                hops[address] = self._once(NextHop(route.ifindex, mac + link.address, mtu, way))
        if hops:
            self._table.set_next_hops(hops)


def _is_foreign(neighbour: Neighbour) -> bool:
    return neighbour.fixed or (neighbour.managed and not neighbour.ours)
