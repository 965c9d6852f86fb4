"""ICMP: errors about translated flows find their hosts, too long packets are answered, VIPs answer pings."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, IPOption_Router_Alert, TCPerror, UDPerror
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, Protocol
from lab.netns import Namespace
from support.servicelb import (
    CLIENT,
    CLIENT_MAC,
    CONTINUE,
    ETHER,
    HOOKS,
    HOP,
    NODE,
    NODE_MAC,
    VIP,
    XDP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

BACKEND, POD, ROUTER, BACKEND_MAC = "10.0.0.11", "10.244.1.5", "10.0.0.254", "02:00:00:00:00:0b"
TO_CLIENT = Ether(src=NODE_MAC, dst=CLIENT_MAC)


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def hook(request: pytest.FixtureRequest) -> Hook:
    chosen: Hook = request.param
    return chosen


class Site:
    """A balancer on a node with routes; test runs come in on loopback."""

    def __init__(self, lb: Balancer, node: Namespace) -> None:
        self.lb = lb
        self.node = node

    def send(self, packet: Packet) -> Ether:
        """What a packet became, which must have been sent on."""
        run = self.node.call(lambda: self.lb.send(packet))
        assert run.retval == self.lb.hook.redirected
        return Ether(run.data)

    def verdict(self, packet: Packet) -> int:
        """What becomes of a packet."""
        return self.node.call(lambda: self.lb.send(packet)).retval


@pytest.fixture
def site(hook: Hook) -> Iterator[Site]:
    with Namespace("node") as node, balancer(hook) as lb:
        node.sysctl("net.ipv4.ip_forward", 1)
        node.ip("link", "add", "up0", "address", NODE_MAC, "type", "veth", "peer", "name", "up1")
        node.ip("addr", "add", "198.51.100.1/24", "dev", "up0")
        node.ip("addr", "add", f"{NODE}/24", "dev", "up0")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        node.ip("neigh", "replace", CLIENT, "lladdr", CLIENT_MAC, "dev", "up0", "nud", "permanent")
        node.ip("neigh", "replace", BACKEND, "lladdr", BACKEND_MAC, "dev", "up0", "nud", "permanent")
        node.ip("route", "add", "default", "via", CLIENT)
        lb.takes_frames(node.ifindex("up0"))
        lb.serve(frontend(f"{BACKEND}:8080"), frontend(f"{BACKEND}:5353", port=53, protocol=Protocol.UDP))
        yield Site(lb, node)


def tcp_request(payload: bytes = b"") -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80, flags="A", seq=7) / Raw(payload)


def udp_request(checksum: int | None = None) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53, chksum=checksum) / Raw(b"query")


def icmp_error(about: Packet, quoted: int, source: str, target: str, code: int = 4) -> Packet:
    """Fragmentation needed, or another code of type 3, that quotes so many bytes of a packet."""
    head = ICMP(type=3, code=code, nexthopmtu=1400 if code == 4 else 0)
    return ETHER / IP(src=source, dst=target) / head / Raw(bytes(about[IP])[:quoted])


@pytest.mark.parametrize("quoted", [28, 40, 60], ids=["8 bytes quoted", "the header quoted", "all quoted"])
@pytest.mark.parametrize("request_of", [tcp_request, udp_request], ids=["TCP", "UDP"])
def test_an_error_about_a_request_goes_to_the_client_as_the_frontends(
    site: Site, request_of: object, quoted: int
) -> None:
    request = request_of()  # type: ignore[operator]
    translated = Ether(site.lb.send(request).data)
    error = icmp_error(translated, quoted, ROUTER, NODE)
    sent = site.send(error)
    inner = request.copy()
    inner[IP].ttl = translated[IP].ttl
    expected = TO_CLIENT / IP(src=VIP, dst=CLIENT, ttl=63) / ICMP(type=3, code=4, nexthopmtu=1400)
    expected /= Raw(bytes(inner[IP])[:quoted])
    assert bytes(sent) == bytes(expected)


def test_a_udp_packet_without_checksum_is_quoted_without_one(site: Site) -> None:
    request = udp_request(0)
    translated = Ether(site.lb.send(request).data)
    sent = site.send(icmp_error(translated, 28, BACKEND, NODE, code=3))
    assert sent[UDPerror].chksum == 0
    assert (sent[IP].src, sent[IPerror].dst, sent[UDPerror].dport) == (VIP, VIP, 53)
    assert bytes(sent) == rebuilt(sent)


def test_a_checksum_that_comes_to_0_is_quoted_as_it_was_sent(site: Site) -> None:
    rest = Ether(bytes(ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / Raw(bytes(2))))[
        UDP
    ].chksum
    request = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / Raw(rest.to_bytes(2))
    assert Ether(bytes(request))[UDP].chksum == 0xFFFF
    translated = Ether(site.lb.send(request).data)
    sent = site.send(icmp_error(translated, 28, BACKEND, NODE, code=3))
    assert sent[UDPerror].chksum == 0xFFFF
    assert bytes(sent) == rebuilt(sent)


def test_what_pads_a_frame_is_not_quoted(site: Site) -> None:
    translated = Ether(site.lb.send(tcp_request()).data)
    error = bytes(icmp_error(translated, 20, ROUTER, NODE)) + bytes(translated[IP])[20:40]
    run = site.node.call(lambda: site.lb.send(error))
    assert (run.retval, run.data) == (CONTINUE, error)


def test_ip_options_of_the_error_are_no_obstacle(site: Site) -> None:
    translated = Ether(site.lb.send(tcp_request()).data)
    error = ETHER / IP(src=ROUTER, dst=NODE, options=[IPOption_Router_Alert()])
    error /= ICMP(type=11, code=0) / Raw(bytes(translated[IP])[:40])
    sent = site.send(error)
    assert (sent[IP].src, sent[IP].dst, sent[TCPerror].sport, sent[TCPerror].dport) == (
        VIP,
        CLIENT,
        40000,
        80,
    )
    assert bytes(sent) == rebuilt(sent)


def rebuilt(sent: Packet) -> bytes:
    """The same with the outer and the ICMP checksums made anew."""
    copy = sent.copy()
    del copy[IP].chksum
    del copy[ICMP].chksum
    return bytes(copy)


def test_an_error_about_an_answer_goes_to_the_backend(site: Site) -> None:
    """As a router near the client sends it, to the VIP that the answer came from."""
    port = Ether(site.lb.send(tcp_request()).data)[TCP].sport
    answer = Ether() / IP(src=VIP, dst=CLIENT) / TCP(sport=80, dport=40000, flags="A") / Raw(b"pong")
    sent = site.send(icmp_error(answer, 40, "203.0.113.1", VIP))
    given = IP(src=BACKEND, dst=NODE) / TCP(sport=8080, dport=port, flags="A") / Raw(b"pong")
    expected = Ether(src=NODE_MAC, dst=BACKEND_MAC) / IP(src=NODE, dst=BACKEND, ttl=63)
    expected /= ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(given)[:40])
    assert bytes(sent) == bytes(expected)


def test_errors_about_a_flow_to_a_pod_of_this_node_go_both_ways(site: Site) -> None:
    site.lb.serve(frontend(f"{POD}:8080"), hop=NextHop.local(77))
    site.lb.send(tcp_request())
    answer = Ether() / IP(src=VIP, dst=CLIENT) / TCP(sport=80, dport=40000, flags="A")
    run = site.node.call(lambda: site.lb.send(icmp_error(answer, 40, "203.0.113.1", VIP)))
    given = IP(src=POD, dst=CLIENT) / TCP(sport=8080, dport=40000, flags="A")
    expected = ETHER / IP(src="203.0.113.1", dst=POD) / ICMP(type=3, code=4, nexthopmtu=1400)
    assert (run.retval, run.data) == (site.lb.hook.up, bytes(expected / Raw(bytes(given)[:40])))

    got = IP(src=CLIENT, dst=POD) / TCP(sport=40000, dport=8080, flags="A", seq=7)
    error = TO_CLIENT / IP(src=POD, dst=CLIENT) / ICMP(type=3, code=3) / Raw(bytes(got)[:40])
    run = site.node.call(lambda: site.lb.leave(error))
    sent = IP(src=CLIENT, dst=VIP) / TCP(sport=40000, dport=80, flags="A", seq=7)
    expected = TO_CLIENT / IP(src=VIP, dst=CLIENT) / ICMP(type=3, code=3) / Raw(bytes(sent)[:40])
    assert (run.retval, run.data) == (CONTINUE, bytes(expected))


@pytest.mark.parametrize(
    "packet",
    [
        ETHER
        / IP(src=ROUTER, dst=NODE)
        / ICMP(type=3, code=1)
        / Raw(bytes(IP(src=NODE, dst=BACKEND) / TCP())),
        ETHER / IP(src=ROUTER, dst=NODE) / ICMP(type=3, code=1) / Raw(bytes(8)),
        ETHER / IP(src=ROUTER, dst=NODE) / ICMP(type=3, code=1),
        ETHER / IP(src=ROUTER, dst=NODE) / ICMP(type=8),
        ETHER / IP(src=ROUTER, dst="192.0.2.77") / ICMP(type=8),
    ],
    ids=["another flow", "short", "empty", "ping of the node", "ping of another"],
)
def test_other_icmp_goes_on_untouched(site: Site, packet: Packet) -> None:
    site.lb.send(tcp_request())
    run = site.node.call(lambda: site.lb.send(packet))
    assert (run.retval, run.data) == (CONTINUE, bytes(packet))


def test_a_vip_answers_a_ping(site: Site) -> None:
    ping = ETHER / IP(src=CLIENT, dst=VIP, ttl=60) / ICMP(id=7, seq=3) / Raw(b"x" * 56)
    run = site.node.call(lambda: site.lb.send(ping))
    pong = TO_CLIENT / IP(src=VIP, dst=CLIENT, ttl=60) / ICMP(type=0, id=7, seq=3) / Raw(b"x" * 56)
    assert (run.retval, run.data) == (site.lb.hook.sent, bytes(pong))


def test_a_ping_of_an_address_that_the_node_has_is_for_the_kernel(site: Site) -> None:
    site.lb.serve(frontend(f"{BACKEND}:8080", vip=NODE))
    ping = ETHER / IP(src=CLIENT, dst=NODE) / ICMP()
    run = site.node.call(lambda: site.lb.send(ping))
    assert (run.retval, run.data) == (CONTINUE, bytes(ping))


@pytest.mark.parametrize(
    ("forwarding", "mtu"), [(Forwarding.SNAT, 1300), (Forwarding.DSR_IPIP, 1280)], ids=["SNAT", "DSR"]
)
def test_a_packet_too_long_for_the_way_is_answered_with_the_length_that_fits(
    site: Site, forwarding: Forwarding, mtu: int
) -> None:
    site.lb.serve(frontend(f"{BACKEND}:80", forwarding=forwarding), hop=NextHop(HOP.ifindex, HOP.macs, 1300))
    assert site.verdict(tcp_request(bytes(mtu - 40))) == site.lb.hook.sent
    packet = tcp_request(bytes(mtu - 39))
    run = site.node.call(lambda: site.lb.send(packet))
    if site.lb.hook is XDP:  # tc knows whether it is one packet or several in one
        assert (run.retval, run.data) == (CONTINUE, bytes(packet))
        return
    expected = TO_CLIENT / IP(src=VIP, dst=CLIENT, id=0, flags="DF") / ICMP(type=3, code=4, nexthopmtu=mtu)
    expected /= Raw(bytes(packet[IP])[:40])
    assert (run.retval, run.data) == (site.lb.hook.sent, bytes(expected))
    assert site.lb.drops() == {"lb_mtu": 1}


def test_an_answer_too_long_for_the_client_is_answered_to_the_backend(site: Site) -> None:
    port = Ether(site.lb.send(tcp_request()).data)[TCP].sport
    site.node.ip("route", "add", f"{CLIENT}/32", "dev", "up0", "mtu", "lock", "1400")
    answer = Ether(src=BACKEND_MAC, dst=NODE_MAC) / IP(src=BACKEND, dst=NODE)
    answer /= TCP(sport=8080, dport=port, flags="A") / Raw(bytes(1400))
    run = site.node.call(lambda: site.lb.send(answer))
    if site.lb.hook is XDP:
        assert (run.retval, run.data) == (CONTINUE, bytes(answer))
        return
    expected = Ether(src=NODE_MAC, dst=BACKEND_MAC) / IP(src=NODE, dst=BACKEND, id=0, flags="DF")
    expected /= ICMP(type=3, code=4, nexthopmtu=1400) / Raw(bytes(answer[IP])[:40])
    assert (run.retval, run.data) == (site.lb.hook.sent, bytes(expected))


def test_later_fragments_for_the_node_itself_are_left_to_the_kernel(site: Site) -> None:
    site.lb.serve(frontend("10.0.0.11:8080", vip=NODE, port=30080, protocol=Protocol.UDP))
    later = ETHER / IP(src=CLIENT, dst=NODE, proto="udp", frag=100) / Raw(bytes(64))
    assert site.verdict(later) == CONTINUE
    site.lb.serve(frontend("10.0.0.11:8080", port=30080, protocol=Protocol.UDP))
    assert (
        site.verdict(ETHER / IP(src=CLIENT, dst=VIP, proto="udp", frag=100) / Raw(bytes(64)))
        == site.lb.hook.dropped
    )
