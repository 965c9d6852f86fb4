"""Real sockets through ServiceLB, at native XDP with tc behind it and at tc alone."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Dot1Q, Ether

from kubebee.bpf import attach
from kubebee.bpf.link import Link
from kubebee.bpf.neighbours import NeighbourKey, keep_resolved, stop_keeping
from kubebee.bpf.routes import lookup_routes
from kubebee.lb import stats
from kubebee.lb.model import Forwarding, LbConfig, Protocol, merge, parse_address
from lab import BACKENDS, CLIENT, NODE, VIP, Lab, http_get, tcp_connect, udp_ask
from lab.netns import inside
from lab.traffic import http_ask
from support.servicelb import HOOKS, XDP, Balancer, Hook, balancer, frontend

pytestmark = pytest.mark.root

ONE, TWO = BACKENDS["backend1"], BACKENDS["backend2"]
CONFIG = LbConfig(snat_address=parse_address(NODE))
INTERFACES = ("eth0", "eth1", "eth2")
BOTH = set(BACKENDS)
VLAN = 7
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_AUXDATA, _VLAN_VALID = 263, 8, 0x10
_AUXDATA = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def lb(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Balancer]:
    hook: Hook = request.param
    network = lab.node.network
    with balancer(hook, last_stage=True) as loaded, contextlib.ExitStack() as stack:
        for name in INTERFACES:
            with inside(network):
                for link in links(loaded, network.ifindex(name)):
                    stack.callback(link.close)
        loaded.takes_frames(*map(network.ifindex, INTERFACES))
        with inside(network):
            assert not keep_resolved(neighbours())
        wait_until(lambda: resolved(lab) >= {ONE, TWO})
        yield loaded


def links(lb: Balancer, ifindex: int) -> Iterator[Link]:
    """Attach all programs to an interface."""
    assert lb.ingress is not None
    assert lb.egress is not None
    if lb.hook is XDP:
        yield attach.attach_xdp(lb.program.fd, ifindex, "native")
    yield attach.attach_tcx(lb.ingress.fd, ifindex, ingress=True)
    yield attach.attach_tcx(lb.egress.fd, ifindex, ingress=False)


def neighbours() -> list[NeighbourKey]:
    routes = lookup_routes([parse_address(ONE), parse_address(TWO)])
    return [NeighbourKey(route.ifindex, route.neighbour) for route in routes if route]


def resolved(lab: Lab) -> set[str]:
    """Addresses whose MAC address the node knows."""
    lines = lab.node.network.ip("neigh", "show").splitlines()
    return {line.split()[0] for line in lines if "lladdr" in line}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def serve(lb: Balancer, forwarding: Forwarding, *backends: str) -> None:
    tcp = frontend(*(f"{b}:80" for b in backends), vip=VIP, forwarding=forwarding)
    udp = frontend(
        *(f"{b}:53" for b in backends), vip=VIP, port=53, protocol=Protocol.UDP, forwarding=forwarding
    )
    lb.state.apply(lb.maps, merge([tcp, udp]), CONFIG)


@pytest.mark.parametrize("forwarding", [each for each in Forwarding if each is not Forwarding.DSR_IP_OPTION])
def test_http_and_udp_reach_both_backends(lab: Lab, lb: Balancer, forwarding: Forwarding) -> None:
    serve(lb, forwarding, ONE, TWO)
    http = Counter(http_get(lab.client, VIP) for _ in range(30))
    udp = Counter(udp_ask(lab.client, VIP, 53) for _ in range(30))
    assert (set(http), set(udp)) == (BOTH, BOTH)
    assert lb.drops() == {}
    (_, tcp_stats) = stats.read(lb.maps, lb.state)
    assert tcp_stats.counts.connections == 30
    assert {b.counts.connections for b in tcp_stats.backends} == set(http.values())


def test_a_snat_connection_outlives_its_backends_removal(lab: Lab, lb: Balancer) -> None:
    serve(lb, Forwarding.SNAT, ONE)
    with tcp_connect(lab.client, VIP, 80) as connection:
        assert http_ask(connection) == "backend1"
        serve(lb, Forwarding.SNAT, TWO)
        lb.collect()
        assert http_ask(connection) == "backend1"
        assert http_get(lab.client, VIP) == "backend2"


@pytest.mark.parametrize("forwarding", list(Forwarding))
def test_without_backends_clients_are_refused_at_once_and_the_reason_is_counted(
    lab: Lab, lb: Balancer, forwarding: Forwarding
) -> None:
    serve(lb, forwarding)
    with pytest.raises(ConnectionRefusedError):
        tcp_connect(lab.client, VIP, 80)
    with pytest.raises(ConnectionRefusedError):
        udp_ask(lab.client, VIP, 53)
    assert set(lb.drops()) == {"lb_no_backend"}


def test_traffic_that_is_not_for_a_frontend_passes(lab: Lab, lb: Balancer) -> None:
    serve(lb, Forwarding.SNAT, ONE, TWO)
    assert http_get(lab.client, ONE) == "backend1"
    assert udp_ask(lab.client, TWO, 53) == "backend2"


def test_flows_end_with_their_connections(lab: Lab, lb: Balancer) -> None:
    serve(lb, Forwarding.SNAT, ONE, TWO)
    for _ in range(5):
        http_get(lab.client, VIP)
    assert lb.flows() == (5, 5)
    # The last FIN may still be on its way.
    wait_until(lambda: lb.collect(after_seconds=20).live == 0)
    assert lb.flows() == (0, 0)


def test_neighbours_are_kept_resolved_until_they_are_given_up(lab: Lab) -> None:
    with inside(lab.node.network):
        one, two = neighbours()
        assert keep_resolved([one, two]) == {}
        wait_until(lambda: resolved(lab) >= {ONE, TWO})
        stop_keeping([two])
    assert "managed" in lab.node.network.ip("neigh", "show", ONE)
    assert "managed" not in lab.node.network.ip("neigh", "show", TWO)


def test_a_route_to_the_node_itself_is_known_and_to_what_none_leads_to_there_is_none(lab: Lab) -> None:
    lab.node.network.ip("route", "add", "unreachable", "10.66.0.0/24")
    with inside(lab.node.network):
        own, nowhere = lookup_routes([parse_address(NODE), parse_address("10.66.0.1")])
    assert own is not None
    assert own.local
    assert nowhere is None


@pytest.fixture
def wire(lab: Lab) -> Iterator[socket.socket]:
    """The client's end of the link to the node: whole frames."""
    with inside(lab.client):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    with opened:
        opened.bind(("eth0", _ETH_P_ALL))
        opened.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        opened.settimeout(3)
        yield opened


def ask(lab: Lab, wire: socket.socket, port: int) -> tuple[str, int | None]:
    """Flags of the TCP answer to a tagged SYN, and the tag that it has."""
    (link,) = json.loads(lab.node.network.ip("-json", "link", "show", "dev", "eth0"))
    syn = IP(src=CLIENT, dst=VIP) / TCP(sport=45000, dport=port, flags="S", seq=7)
    wire.send(bytes(Ether(src=wire.getsockname()[4], dst=link["address"]) / Dot1Q(vlan=VLAN) / syn))
    while True:
        frame, ancillary, _, sender = wire.recvmsg(2000, 100)
        packet = Ether(frame)
        if sender[2] == socket.PACKET_OUTGOING or TCP not in packet or packet[IP].src != VIP:
            continue
        status, *_, tci, _ = _AUXDATA.unpack_from(ancillary[0][2])
        return str(packet[TCP].flags), tci & 0xFFF if status & _VLAN_VALID else None


def test_a_tagged_request_reaches_a_backend_and_the_answer_takes_the_route(
    lab: Lab, lb: Balancer, wire: socket.socket
) -> None:
    """That the client's route is no VLAN is the lab's doing."""
    serve(lb, Forwarding.SNAT, ONE, TWO)
    assert ask(lab, wire, 80) == ("SA", None)
    assert lb.drops() == {}


def test_direct_server_return_too(lab: Lab, lb: Balancer, wire: socket.socket) -> None:
    serve(lb, Forwarding.DSR_L2, ONE, TWO)
    assert ask(lab, wire, 80) == ("SA", None)


def test_a_refusal_goes_back_with_the_tag(lab: Lab, lb: Balancer, wire: socket.socket) -> None:
    serve(lb, Forwarding.SNAT)
    assert ask(lab, wire, 80) == ("RA", VLAN)


def test_what_is_for_nobody_is_the_kernels(lab: Lab, lb: Balancer, wire: socket.socket) -> None:
    """It has no device for that VLAN, and so no answer."""
    serve(lb, Forwarding.SNAT, ONE, TWO)
    wire.settimeout(0.3)
    with pytest.raises(TimeoutError):
        ask(lab, wire, 81)
    assert lb.drops() == {}
