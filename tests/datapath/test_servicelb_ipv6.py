"""IPv6 at both hooks: the exact packets of each way that there is for IPv4."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb.layout import BackendFlag, NextHop, flow_hash
from kubebee.lb.model import Forwarding, Frontend, LbConfig, Prefix, Protocol, parse_address
from lab.netns import Namespace
from support.servicelb import (
    CLIENT_MAC,
    CONTINUE,
    ETHER,
    HOOKS,
    HOP,
    NODE_MAC,
    ROUTER_MAC,
    SENT,
    XDP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

CLIENT, VIP, NODE = "2001:db8:c::7", "2001:db8:f::10", "2001:db8:1::1"
BACKEND, OTHER, POD, ROUTER = "2001:db8:1::11", "2001:db8:1::12", "2001:db8:2::5", "2001:db8:1::fe"
BACKEND_MAC = "02:00:00:00:00:0b"
CONFIG = LbConfig(snat_address6=parse_address(NODE), snat_address=b"\x0a\0\0\1")
TO_CLIENT = Ether(src=NODE_MAC, dst=CLIENT_MAC)


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def hook(request: pytest.FixtureRequest) -> Hook:
    chosen: Hook = request.param
    return chosen


@pytest.fixture
def lb(hook: Hook) -> Iterator[Balancer]:
    with balancer(hook, six=True) as loaded:
        yield loaded


def web(*backends: str, port: int = 80, protocol: Protocol = Protocol.TCP, **fields: object) -> Frontend:
    return dataclasses.replace(frontend(*backends, vip=VIP, port=port, protocol=protocol), **fields)  # type: ignore[arg-type]


def serve(lb: Balancer, *frontends: Frontend, hop: NextHop | None = HOP) -> None:
    lb.serve(*frontends, config=CONFIG, hop=hop)


def request(flags: str = "S", sport: int = 40000, client: str = CLIENT, **ip: object) -> Packet:
    tcp = TCP(sport=sport, dport=80, flags=flags, seq=7)
    return ETHER / IPv6(src=client, dst=VIP, **ip) / tcp / Raw(b"ping")


@pytest.fixture
def routed(hook: Hook) -> Iterator[tuple[Balancer, Namespace]]:
    """A node with a route to the client; test runs come in on loopback."""
    with Namespace("node") as node, balancer(hook, six=True) as lb:
        node.sysctl("net.ipv6.conf.default.accept_dad", 0)
        node.sysctl("net.ipv6.conf.all.forwarding", 1)
        node.ip("link", "add", "up0", "address", NODE_MAC, "type", "veth", "peer", "name", "up1")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        node.ip("addr", "add", "2001:db8:c::1/64", "dev", "up0", "nodad")
        node.ip("addr", "add", f"{NODE}/64", "dev", "up0", "nodad")
        for address, mac in ((CLIENT, CLIENT_MAC), (BACKEND, BACKEND_MAC)):
            node.ip("neigh", "replace", address, "lladdr", mac, "dev", "up0", "nud", "permanent")
        node.ip("-6", "route", "add", "default", "via", CLIENT, "dev", "up0")
        lb.takes_frames(node.ifindex("up0"))
        serve(lb, web(f"[{BACKEND}]:8080"), web(f"[{BACKEND}]:5353", port=53, protocol=Protocol.UDP))
        yield lb, node


def test_a_request_leaves_from_an_address_and_port_of_the_node(lb: Balancer) -> None:
    serve(lb, web(f"[{BACKEND}]:8080"))
    run = lb.send(request(hlim=61, tc=0xB9, fl=77))
    port = Ether(run.data)[TCP].sport
    tcp = TCP(sport=port, dport=8080, flags="S", seq=7)
    expected = SENT / IPv6(src=NODE, dst=BACKEND, hlim=60, tc=0xB9, fl=77) / tcp / Raw(b"ping")
    assert (run.retval, run.data) == (lb.hook.sent, bytes(expected))
    assert Ether(lb.send(request("A")).data)[TCP].sport == port
    assert lb.flows() == (1, 1)


def test_an_answer_goes_to_the_client_as_the_frontends(routed: tuple[Balancer, Namespace]) -> None:
    lb, node = routed
    port = Ether(lb.send(request()).data)[TCP].sport
    answer = ETHER / IPv6(src=BACKEND, dst=NODE) / TCP(sport=8080, dport=port, flags="SA") / Raw(b"pong")
    run = node.call(lambda: lb.send(answer))
    tcp = TCP(sport=80, dport=40000, flags="SA")
    expected = TO_CLIENT / IPv6(src=VIP, dst=CLIENT, hlim=63) / tcp / Raw(b"pong")
    assert (run.retval, run.data) == (lb.hook.redirected, bytes(expected))


def test_any_udp_checksum_survives_both_ways_of_folding(lb: Balancer) -> None:
    serve(lb, web(f"[{BACKEND}]:5353", port=53, protocol=Protocol.UDP))
    for word in range(0, 0x10000, 419):
        payload = Raw(word.to_bytes(2, "big"))
        query = ETHER / IPv6(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / payload
        sent = Ether(lb.send(query).data)
        ports = UDP(sport=sent.sport, dport=5353)
        assert bytes(sent) == bytes(SENT / IPv6(src=NODE, dst=BACKEND, hlim=63) / ports / payload)


def test_a_pod_of_the_node_sees_the_client_and_its_answers_leave_as_the_frontends(lb: Balancer) -> None:
    serve(lb, web(f"[{POD}]:8080"), hop=NextHop.local(77))
    run = lb.send(request(hlim=1))
    tcp = TCP(sport=40000, dport=8080, flags="S", seq=7)
    expected = ETHER / IPv6(src=CLIENT, dst=POD, hlim=1) / tcp / Raw(b"ping")
    assert (run.retval, run.data) == (lb.hook.up, bytes(expected))
    answer = SENT / IPv6(src=POD, dst=CLIENT) / TCP(sport=8080, dport=40000, flags="SA") / Raw(b"pong")
    run = lb.leave(answer)
    expected = SENT / IPv6(src=VIP, dst=CLIENT) / TCP(sport=80, dport=40000, flags="SA") / Raw(b"pong")
    assert (run.retval, run.data) == (CONTINUE, bytes(expected))


def test_dsr_puts_an_outer_header_in_front(lb: Balancer) -> None:
    serve(lb, web(f"[{BACKEND}]:80", forwarding=Forwarding.DSR_IPIP))
    packet = request("A", hlim=9, tc=0xB9)
    run = lb.send(packet)
    outer = SENT / IPv6(src=NODE, dst=BACKEND, tc=0xB9, hlim=64, nh=41)
    assert (run.retval, run.data) == (lb.hook.sent, bytes(outer / packet[IPv6]))


def test_a_connection_is_reset_at_once_where_nobody_serves(lb: Balancer) -> None:
    serve(lb, web())
    run = lb.send(request())
    tcp = TCP(sport=80, dport=40000, flags="RA", seq=0, ack=12, window=0)
    assert (run.retval, run.data) == (
        lb.hook.sent,
        bytes(TO_CLIENT / IPv6(src=VIP, dst=CLIENT, hlim=64) / tcp),
    )
    assert lb.drops() == {"lb_no_backend": 1}


@pytest.mark.parametrize("payload", [b"", b"x", b"query" * 20])
def test_a_datagram_is_answered_by_port_unreachable(lb: Balancer, payload: bytes) -> None:
    serve(lb, web(port=53, protocol=Protocol.UDP))
    query = ETHER / IPv6(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / Raw(payload)
    run = lb.send(query)
    quoted = Raw(bytes(query[IPv6])[:48])
    expected = TO_CLIENT / IPv6(src=VIP, dst=CLIENT, hlim=64) / ICMPv6DestUnreach(code=4) / quoted
    assert (run.retval, run.data) == (lb.hook.sent, bytes(expected))


@pytest.mark.parametrize(
    ("forwarding", "mtu"), [(Forwarding.SNAT, 1400), (Forwarding.DSR_IPIP, 1360)], ids=["SNAT", "DSR"]
)
def test_a_packet_too_long_for_the_way_is_answered_with_the_length_that_fits(
    lb: Balancer, forwarding: Forwarding, mtu: int
) -> None:
    hop = NextHop(HOP.ifindex, HOP.macs, 1400)
    serve(lb, web(f"[{BACKEND}]:80", forwarding=forwarding), hop=hop)
    fits = ETHER / IPv6(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80, flags="A") / Raw(bytes(mtu - 60))
    assert lb.send(fits).retval == lb.hook.sent
    packet = ETHER / IPv6(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80) / Raw(bytes(mtu - 59))
    run = lb.send(packet)
    if lb.hook is XDP:
        assert (run.retval, run.data) == (CONTINUE, bytes(packet))
        return
    quoted = Raw(bytes(packet[IPv6])[:60])
    expected = TO_CLIENT / IPv6(src=VIP, dst=CLIENT, hlim=64) / ICMPv6PacketTooBig(mtu=mtu) / quoted
    assert (run.retval, run.data) == (lb.hook.sent, bytes(expected))


@pytest.mark.parametrize("quoted", [48, 60, 64])
def test_an_error_about_a_request_goes_to_the_client_as_the_frontends(
    routed: tuple[Balancer, Namespace], quoted: int
) -> None:
    lb, node = routed
    translated = Ether(lb.send(request("A")).data)
    inner = Raw(bytes(translated[IPv6])[:quoted])
    error = ETHER / IPv6(src=ROUTER, dst=NODE) / ICMPv6PacketTooBig(mtu=1300) / inner
    run = node.call(lambda: lb.send(error))
    original = request("A", hlim=63)
    expected = TO_CLIENT / IPv6(src=VIP, dst=CLIENT, hlim=63) / ICMPv6PacketTooBig(mtu=1300)
    expected /= Raw(bytes(original[IPv6])[:quoted])
    assert (run.retval, run.data) == (lb.hook.redirected, bytes(expected))


def test_an_error_about_an_answer_goes_to_the_backend(routed: tuple[Balancer, Namespace]) -> None:
    lb, node = routed
    port = Ether(lb.send(request("A")).data)[TCP].sport
    answer = IPv6(src=VIP, dst=CLIENT) / TCP(sport=80, dport=40000, flags="A") / Raw(b"pong")
    error = ETHER / IPv6(src="2001:db8:9::1", dst=VIP) / ICMPv6TimeExceeded() / Raw(bytes(answer))
    run = node.call(lambda: lb.send(error))
    given = IPv6(src=BACKEND, dst=NODE) / TCP(sport=8080, dport=port, flags="A") / Raw(b"pong")
    expected = Ether(src=NODE_MAC, dst=BACKEND_MAC) / IPv6(src=NODE, dst=BACKEND, hlim=63)
    expected /= ICMPv6TimeExceeded() / Raw(bytes(given))
    assert (run.retval, run.data) == (lb.hook.redirected, bytes(expected))


def test_an_error_of_a_pod_of_the_node_leaves_as_the_frontends(lb: Balancer) -> None:
    serve(lb, web(f"[{POD}]:8080"), hop=NextHop.local(77))
    lb.send(request("A"))
    got = IPv6(src=CLIENT, dst=POD) / TCP(sport=40000, dport=8080, flags="A", seq=7) / Raw(b"ping")
    error = TO_CLIENT / IPv6(src=POD, dst=CLIENT) / ICMPv6DestUnreach(code=4) / Raw(bytes(got))
    run = lb.leave(error)
    expected = TO_CLIENT / IPv6(src=VIP, dst=CLIENT) / ICMPv6DestUnreach(code=4)
    expected /= Raw(bytes(request("A")[IPv6]))
    assert (run.retval, run.data) == (CONTINUE, bytes(expected))


def test_a_vip_answers_a_ping_and_the_nodes_own_address_is_for_the_kernel(
    routed: tuple[Balancer, Namespace],
) -> None:
    lb, node = routed
    ping = ETHER / IPv6(src=CLIENT, dst=VIP, hlim=60) / ICMPv6EchoRequest(id=7, seq=3, data=b"x" * 40)
    run = node.call(lambda: lb.send(ping))
    pong = TO_CLIENT / IPv6(src=VIP, dst=CLIENT, hlim=60) / ICMPv6EchoReply(id=7, seq=3, data=b"x" * 40)
    assert (run.retval, run.data) == (lb.hook.sent, bytes(pong))
    serve(lb, dataclasses.replace(web(), key=web().key._replace(address=parse_address(NODE))))
    ping = ETHER / IPv6(src=CLIENT, dst=NODE) / ICMPv6EchoRequest()
    run = node.call(lambda: lb.send(ping))
    assert (run.retval, run.data) == (CONTINUE, bytes(ping))


EXTENSIONS = (
    IPv6ExtHdrHopByHop(),
    IPv6ExtHdrDestOpt(),
    IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(segleft=0),
    IPv6ExtHdrFragment(offset=0, m=0, id=9),
)


@pytest.mark.parametrize(
    "extensions", EXTENSIONS, ids=["hop-by-hop", "destination", "three", "atomic fragment"]
)
def test_extension_headers_go_along(lb: Balancer, extensions: Packet) -> None:
    serve(lb, web(f"[{BACKEND}]:8080"))
    tcp = TCP(sport=40000, dport=80, flags="A")
    packet = ETHER / IPv6(src=CLIENT, dst=VIP) / extensions.copy() / tcp / Raw(b"ping")
    run = lb.send(packet)
    port = Ether(run.data)[TCP].sport
    tcp = TCP(sport=port, dport=8080, flags="A")
    expected = SENT / IPv6(src=NODE, dst=BACKEND, hlim=63) / extensions.copy() / tcp / Raw(b"ping")
    assert (run.retval, run.data) == (lb.hook.sent, bytes(expected))


@pytest.mark.parametrize(
    "packet",
    [
        ETHER / IPv6(src=CLIENT, dst=VIP) / TCP(dport=8080),
        ETHER / IPv6(src=CLIENT, dst=OTHER) / TCP(dport=80),
        ETHER / IPv6(src=CLIENT, dst=VIP) / UDP(dport=80),
        ETHER / IPv6(src=CLIENT, dst=VIP, nh=59),
        ETHER / IPv6(src=CLIENT, dst=VIP, nh=50) / Raw(bytes(20)),
        ETHER / IPv6(src=CLIENT, dst=VIP, nh=0) / Raw(bytes([6, 250]) + bytes(30)),
        ETHER / IPv6(src=CLIENT, dst=VIP, plen=3) / TCP(dport=80),
    ],
    ids=["other port", "other address", "other protocol", "nothing", "ESP", "extension too long", "short"],
)
def test_what_is_not_for_a_frontend_goes_on_untouched(lb: Balancer, packet: Packet) -> None:
    serve(lb, web(f"[{BACKEND}]:8080"))
    run = lb.send(packet)
    assert (run.retval, run.data) == (CONTINUE, bytes(packet))


def test_a_next_hop_that_takes_no_frames_is_left_to_tc(lb: Balancer) -> None:
    serve(lb, web(f"[{BACKEND}]:8080"), hop=HOP._replace(way=HOP.way | BackendFlag.NO_FRAMES))
    run = lb.send(request())
    if lb.hook is XDP:
        assert (run.retval, run.data) == (CONTINUE, bytes(request()))
    else:
        assert (run.retval, Ether(run.data).dst) == (lb.hook.sent, ROUTER_MAC)


def test_a_client_with_affinity_comes_back_and_one_outside_the_ranges_does_not_come_in(lb: Balancer) -> None:
    ten = tuple(f"[2001:db8:1::{number}]:80" for number in range(1, 11))
    prefix = Prefix(parse_address("2001:db8:c::"), 48)
    serve(lb, web(*ten, affinity_seconds=100, source_ranges=(prefix,)))
    assert len({Ether(lb.send(request(sport=port)).data)[IPv6].dst for port in range(1000, 1030)}) == 1
    assert lb.send(request(client="2001:db8:d::1")).retval == lb.hook.dropped
    assert lb.drops() == {"lb_source": 1}


def test_flows_go_where_user_space_says_that_their_hash_leads(lb: Balancer) -> None:
    ten = tuple(f"[2001:db8:1::{number}]:80" for number in range(1, 11))
    serve(lb, web(*ten))
    (served,) = lb.state.served.values()
    for port in range(2000, 2040):
        hash_ = flow_hash(parse_address(CLIENT), parse_address(VIP), port, 80, CONFIG.hash_seed)
        slot = served.value.base + (hash_ * served.value.size >> 32)
        row = lb.maps["kb_lb_slots6"].lookup((slot // 16).to_bytes(4, "little")) or b""
        number = int.from_bytes(row[slot % 16 * 4 :][:4], "little")
        wanted = served.members[list(served.ids).index(number)].address
        assert parse_address(Ether(lb.send(request(sport=port)).data)[IPv6].dst) == wanted
