"""A trace of one packet: from what is asked and what is live to all decisions."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kubebee.bpf.map import Map
from kubebee.bpf.netlink import Interface, dump_interfaces
from kubebee.errors import KubebeeError
from kubebee.lb import layout
from kubebee.lb.family import family_of
from kubebee.lb.model import Forwarding, FrontendKey, Protocol
from kubebee.lb.reading import Shown, Tables, read_tables, slot_words
from kubebee.loader.pins import PinRoot
from kubebee.trace.decisions import Table, Trace, decide
from kubebee.trace.live import At, LiveChain, live_on
from kubebee.trace.packet import MACS, TTL, Flow, TcpFlag, frame, marked, tunnelled
from kubebee.trace.rehearsal import Seed, rehearse

_NEIGHBOUR = bytes.fromhex("020000000001")
"""Who hands the packet over: the datapath does not look at it."""
_CONFIG_MAP = "kb_lb_cfg"


class NoInterfaceError(KubebeeError):
    """No interface of this name is in this network namespace."""

    reason = "InterfaceNotFound"


@dataclass(frozen=True, slots=True)
class Asked:
    """A packet that comes in.

    Attributes:
        ip_length: bytes of the IP packet; 0 = as few as it needs.
        at: where it is seen; None: where the load balancer sees packets first.
        tunnel: the backend that another balancer sends it to: with an option where the frontend is forwarded
            so, else inside IP-in-IP; b"": it comes as it is.
    """

    flow: Flow
    interface: str
    tcp_flags: TcpFlag = TcpFlag.SYN
    ip_length: int = 0
    ttl: int = TTL
    tunnel: bytes = b""
    at: At | None = None


def trace(pins: PinRoot, asked: Asked) -> Trace:
    """What would happen to a packet.

    Raises:
        NoInterfaceError: there is no such interface.
        NoChainError: nothing runs there.
        BpfError: the kernel refuses something.
    """
    interfaces = dump_interfaces()
    interface = _interface(interfaces, asked.interface)
    live = live_on(pins, interface.name, interface.index, family_of(asked.flow.source), asked.at)
    sent = frame(
        asked.flow,
        (interface.address or bytes(6)) + _NEIGHBOUR,
        tcp_flags=asked.tcp_flags,
        ip_length=asked.ip_length,
        ttl=asked.ttl,
    )
    with _maps_of_stage(live) as maps:
        frontend, table = _looked_up(maps, asked.flow)
    if asked.tunnel:
        sent = sent_on(asked, sent, frontend)
    run = rehearse(live, asked.flow, sent, affinity_of(frontend, asked.flow))
    return decide(run, asked.flow, frontend, table, interfaces, time.monotonic_ns(), way_to)


def sent_on(asked: Asked, sent: bytes, frontend: Shown | None) -> bytes:
    """A client's frame as another balancer sends it on."""
    flow = asked.flow
    if frontend is None or frontend.forwarding is not Forwarding.DSR_IP_OPTION:
        return tunnelled(sent, flow.source, asked.tunnel)
    ports = (each.backend.port for each in frontend.members if each.backend.address == asked.tunnel)
    to = replace(flow, destination=asked.tunnel, destination_port=next(ports, flow.destination_port))
    plain = frame(
        to, sent[:MACS], tcp_flags=asked.tcp_flags, ip_length=asked.ip_length, ttl=max(1, asked.ttl - 1)
    )
    opens = asked.tcp_flags & (TcpFlag.SYN | TcpFlag.ACK) == TcpFlag.SYN
    if flow.protocol == Protocol.TCP and not opens:
        return plain
    return marked(plain, flow.destination, flow.destination_port)


def affinity_of(frontend: Shown | None, flow: Flow) -> list[Seed]:
    """Where the client's last visit is remembered, if the frontend cares."""
    if frontend is None or not frontend.value.affinity:
        return []
    return [(family_of(flow.source).affinity, layout.pack_client(frontend.value.id, flow.source))]


def _interface(interfaces: list[Interface], name: str) -> Interface:
    for interface in interfaces:
        if interface.name == name:
            return interface
    names = ", ".join(interface.name for interface in interfaces)
    raise NoInterfaceError(
        f"no interface is called {name!r} here",
        hint=f"there are {names}; run it in the node's network namespace",
    )


@contextlib.contextmanager
def _maps_of_stage(live: LiveChain) -> Iterator[Mapping[str, Map]]:
    """The maps that the load balancer's stage of a chain uses; none if it has no such stage."""
    stage = live.balancer
    with contextlib.ExitStack() as stack:
        yield {
            each.name: stack.enter_context(Map.from_id(each.id))
            for each in live.made_from.maps
            if each.stage == stage
        }


def _looked_up(maps: Mapping[str, Map], flow: Flow) -> tuple[Shown | None, Table | None]:
    """The frontend that a packet is for, and its table."""
    found = find(read_tables(maps), flow) if maps else None
    if found is None:
        return None, None
    tables, shown = found
    config = maps[_CONFIG_MAP].lookup(layout.u32(0)) or b""
    every = slot_words(maps, tables.family, shown.value.base, shown.value.size)
    return shown, Table(every, layout.hash_seed(config))


def find(every: list[Tables], flow: Flow) -> tuple[Tables, Shown] | None:
    """The frontend that a flow is for."""
    if flow.protocol not in set(Protocol):
        return None
    key = FrontendKey(flow.destination, flow.destination_port, Protocol(flow.protocol))
    return next(((tables, tables.shown(key)) for tables in every if key in tables.frontends), None)


def way_to(address: bytes) -> str | None:
    """The interface that leads to an address: as a rule, packets from there come in by it."""
    from kubebee.bpf.routes import lookup_routes

    (route,) = lookup_routes([address])
    try:
        return socket.if_indextoname(route.ifindex) if route else None
    except OSError:
        return None
