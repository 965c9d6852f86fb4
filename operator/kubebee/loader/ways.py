"""Which backends are this node's own, and where XDP can send: pure, from interfaces and routes.

A backend on the node sees its client's own address, for its answers pass this node whatever happens; any
other sees an address of the node, so that they do.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from kubebee.bpf.addresses import interface_addresses
from kubebee.bpf.iface import default_route_interfaces
from kubebee.bpf.netdev import xdp_features
from kubebee.bpf.netlink import Interface, dump_interfaces
from kubebee.bpf.routes import Route
from kubebee.lb.devices import Device
from kubebee.lb.family import IPV4, IPV6, Family
from kubebee.lb.layout import DevFlag
from kubebee.loader.frames import frame_takers

_POD_LINKS = frozenset({"veth", "netkit", "bridge", "openvswitch"})
"""Kinds of interfaces that containers and virtual machines of a node are behind."""
_POD_PORTS = frozenset({"veth", "netkit", "tun"})
"""Ports of a bridge that leads nowhere else."""


@dataclass(frozen=True, slots=True)
class Ways:
    """What is known of the node's interfaces; all by ifindex.

    Attributes:
        served: those where packets that come in are balanced, so that answers to the node are seen.
        uplinks: those that a default route leads to: what is behind them is not on this node.
        takers: those that take frames from XDP.
        outward: those that may lead to other hosts: all but pods' links.
    """

    served: frozenset[int] = field(default_factory=frozenset)
    uplinks: frozenset[int] = field(default_factory=frozenset)
    takers: frozenset[int] = field(default_factory=frozenset)
    outward: frozenset[int] = field(default_factory=frozenset)

    @classmethod
    def now(cls, served: frozenset[int]) -> Ways:
        """As the calling thread's network namespace is.

        Raises:
            BpfError: netlink refused.
        """
        links = dump_interfaces()
        defaults = default_route_interfaces()
        return cls(
            served,
            frozenset(link.index for link in links if link.name in defaults),
            frame_takers(links, xdp_features()),
            frozenset(link.index for link in links if link.kind not in _POD_LINKS and not link.loopback),
        )

    def is_local(self, address: bytes, route: Route, links: Mapping[int, Interface]) -> bool:
        """Whether a backend is this node itself, or is on it behind a link of its own.

        That is: an address of the node, or one reached without a gateway over a virtual link that no default
        route uses and that XDP does not balance: pods' links take no frames.
        """
        if route.local:
            return True
        link = links.get(route.ifindex)
        if link is None or route.neighbour != address or link.kind not in _POD_LINKS:
            return False
        if link.index in self.uplinks or leads_on(link, links.values()):
            return False
        return link.index not in self.served or link.index not in self.takers


def known_devices(ways: Ways, given: Collection[Family] = ()) -> dict[int, Device]:
    """What the datapath is told of interfaces; none of pods' links, of which there may be many.

    Args:
        ways: what they can do.
        given: families whose SNAT address somebody chose.

    Raises:
        BpfError: netlink refused.
    """
    none: dict[int, bytes] = {}
    ipv4 = none if IPV4 in given else interface_addresses(socket.AF_INET)
    ipv6 = none if IPV6 in given else interface_addresses(socket.AF_INET6)
    outward = ways.outward | ways.uplinks | ways.served
    known = ways.takers | (outward & (ipv4.keys() | ipv6.keys()))
    return {
        index: Device(DevFlag.FRAMES * (index in ways.takers), ipv4.get(index, b""), ipv6.get(index, b""))
        for index in known
    }


def leads_on(bridge: Interface, links: Iterable[Interface]) -> bool:
    """Whether a bridge has a port to somewhere else, such as a card."""
    return any(link.master == bridge.index and link.kind not in _POD_PORTS for link in links)
