"""ICMP errors about the outer packets of DSR: the client is told of what it sent itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb.model import Forwarding, Frontend, LbConfig, Protocol, parse_address
from lab.netns import Namespace
from support.servicelb import CLIENT_MAC, CONTINUE, ETHER, HOOKS, NODE_MAC, Balancer, Hook, balancer, frontend

pytestmark = pytest.mark.root

TO_CLIENT = Ether(src=NODE_MAC, dst=CLIENT_MAC)


@dataclass(frozen=True)
class Family:
    """Addresses of one family, and how its packets are made."""

    six: bool
    client: str
    vip: str
    node: str
    backends: tuple[str, str]
    router: str
    header: int
    unreachable: Packet
    """What a client is told of a host that can't be reached."""

    def ip(self, src: str, dst: str, **fields: object) -> Packet:
        if self.six:
            return IPv6(src=src, dst=dst, **fields)
        return IP(src=src, dst=dst, **fields)

    def read(self, packet: bytes) -> Packet:
        return IPv6(packet) if self.six else IP(packet)

    def request(self, payload: int = 1352, sport: int = 40000) -> Packet:
        """A client's packet, 1,392 or 1,412 bytes long unless said otherwise."""
        tcp = TCP(sport=sport, dport=80, flags="A", seq=7)
        return self.ip(self.client, self.vip) / tcp / Raw(b"x" * payload)

    def too_long(self, mtu: int) -> Packet:
        return ICMPv6PacketTooBig(mtu=mtu) if self.six else ICMP(type=3, code=4, nexthopmtu=mtu)

    def error(self, kind: Packet, about: bytes, target: str = "") -> Packet:
        """As a router on the way to the backend sends it."""
        return ETHER / self.ip(self.router, target or self.node) / kind.copy() / Raw(about)

    def told(self, kind: Packet, about: bytes) -> bytes:
        """What the client gets: from the frontend's address."""
        ip = IPv6(src=self.vip, dst=self.client, hlim=64) if self.six else None
        ip = ip or IP(src=self.vip, dst=self.client, id=0, flags="DF", ttl=64)
        return bytes(TO_CLIENT / ip / kind.copy() / Raw(about))


IPV4 = Family(
    six=False,
    client="198.51.100.7",
    vip="192.0.2.10",
    node="10.0.0.1",
    backends=("10.0.0.11", "10.0.0.12"),
    router="10.9.9.9",
    header=20,
    unreachable=ICMP(type=3, code=1),
)
IPV6 = Family(
    six=True,
    client="2001:db8:c::7",
    vip="2001:db8:f::10",
    node="2001:db8:1::1",
    backends=("2001:db8:1::11", "2001:db8:1::12"),
    router="2001:db8:9::9",
    header=40,
    unreachable=ICMPv6DestUnreach(code=3),
)


class Site:
    """A balancer on a node whose route to clients leads over `up0`; test runs come in on loopback."""

    def __init__(self, lb: Balancer, node: Namespace, family: Family) -> None:
        self.lb = lb
        self.node = node
        self.family = family

    def serve(self, *frontends: Frontend, **config: object) -> None:
        node = parse_address(self.family.node)
        names = {"snat_address6": node} if self.family.six else {"snat_address": node}
        self.lb.serve(*frontends, config=LbConfig(**names, **config))  # type: ignore[arg-type]

    def send(self, packet: Packet | bytes) -> tuple[int, bytes]:
        run = self.node.call(lambda: self.lb.send(packet))
        return run.retval, run.data

    def outer(self, request: Packet) -> bytes:
        """The IP packet that a client's becomes."""
        verdict, data = self.send(ETHER / request)
        assert verdict == self.lb.hook.sent
        return data[14:]

    def leaves_alone(self, packet: Packet | bytes) -> bool:
        return self.send(packet) == (CONTINUE, bytes(packet))


def web(
    family: Family, backends: tuple[str, ...] = (), forwarding: Forwarding = Forwarding.DSR_IPIP
) -> Frontend:
    ends = (f"[{backend}]:80" for backend in backends or family.backends)
    return frontend(*ends, vip=family.vip, forwarding=forwarding)


@pytest.fixture(scope="module", params=[IPV4, IPV6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(scope="module", params=HOOKS, ids=lambda hook: hook.name)
def loaded(request: pytest.FixtureRequest, family: Family) -> Iterator[Site]:
    hook: Hook = request.param
    with Namespace("node") as node, balancer(hook, six=family.six) as lb:
        node.sysctl("net.ipv4.ip_forward", 1)
        node.sysctl("net.ipv6.conf.all.forwarding", 1)
        node.ip("link", "add", "up0", "address", NODE_MAC, "type", "veth", "peer", "name", "up1")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        for address in ("198.51.100.1/24", "2001:db8:c::1/64"):
            node.ip("addr", "add", address, "dev", "up0", *["nodad"] * (":" in address))
        node.ip("neigh", "replace", family.client, "lladdr", CLIENT_MAC, "dev", "up0", "nud", "permanent")
        lb.takes_frames(node.ifindex("up0"))
        yield Site(lb, node, family)


@pytest.fixture
def site(loaded: Site) -> Site:
    loaded.serve()
    loaded.serve(web(loaded.family))
    return loaded


def test_a_client_is_told_the_mtu_less_the_outer_header(site: Site) -> None:
    family = site.family
    request = family.request()
    error = family.error(family.too_long(1400), site.outer(request))
    expected = family.told(family.too_long(1400 - family.header), bytes(request))
    assert site.send(error) == (site.lb.hook.redirected, expected)


@pytest.mark.parametrize("quoted", [8, 20, 60, 528])
def test_as_much_is_quoted_as_came_back_if_the_ports_did(site: Site, quoted: int) -> None:
    family = site.family
    request, quoted = family.request(), family.header + quoted
    error = family.error(family.too_long(1400), site.outer(request)[: family.header + quoted])
    expected = family.told(family.too_long(1400 - family.header), bytes(request)[:quoted])
    assert site.send(error) == (site.lb.hook.redirected, expected)


def test_without_the_ports_nobody_is_told(site: Site) -> None:
    """The least that a router of IPv4 quotes is 8 bytes of the client's IP header."""
    family = site.family
    outer = site.outer(family.request())
    for quoted in (8, family.header, family.header + 7):
        assert site.leaves_alone(family.error(family.too_long(1400), outer[: family.header + quoted]))


def test_datagrams_are_told_of_too(site: Site) -> None:
    family = site.family
    dns = frontend(
        f"[{family.backends[0]}]:53",
        vip=family.vip,
        port=53,
        protocol=Protocol.UDP,
        forwarding=Forwarding.DSR_IPIP,
    )
    site.serve(dns)
    request = family.ip(family.client, family.vip) / UDP(sport=5000, dport=53) / Raw(b"x" * 1400)
    error = family.error(family.too_long(1400), site.outer(request)[: 2 * family.header + 8])
    expected = family.told(family.too_long(1400 - family.header), bytes(request)[: family.header + 8])
    assert site.send(error) == (site.lb.hook.redirected, expected)


def test_a_way_that_leads_nowhere_is_a_host_that_can_not_be_reached(site: Site) -> None:
    """RFC 2003, sections 4.1 and 4.4; RFC 2473, section 8: the client chose neither way nor tunnel."""
    family = site.family
    request = family.request(4)
    outer = site.outer(request)
    kinds: tuple[Packet, ...] = (
        ICMP(type=3, code=1),
        ICMP(type=3, code=2),
        ICMP(type=3, code=13),
        ICMP(type=11, code=0),
    )
    if family.six:
        kinds = (
            ICMPv6DestUnreach(code=0),
            ICMPv6DestUnreach(code=1),
            ICMPv6TimeExceeded(code=0),
            ICMPv6ParamProblem(code=1, ptr=6),
        )
    for kind in kinds:
        expected = family.told(family.unreachable, bytes(request))
        assert site.send(family.error(kind, outer)) == (site.lb.hook.redirected, expected)


def test_what_is_about_the_tunnel_alone_is_not_told(site: Site) -> None:
    family = site.family
    outer = site.outer(family.request(4))
    kinds: tuple[Packet, ...] = (
        ICMP(type=3, code=3),
        ICMP(type=3, code=5),
        ICMP(type=11, code=1),
        ICMP(type=12, code=0, ptr=8),
    )
    if family.six:
        kinds = (ICMPv6TimeExceeded(code=1), ICMPv6ParamProblem(code=0, ptr=4))
    for kind in kinds:
        assert site.leaves_alone(family.error(kind, outer))


def test_an_mtu_that_the_packet_fits_is_not_believed(site: Site) -> None:
    family = site.family
    request = family.request()
    outer = site.outer(request)
    assert site.leaves_alone(family.error(family.too_long(len(outer)), outer))
    least = 1280 if family.six else 88
    assert site.leaves_alone(family.error(family.too_long(least - 1), outer))
    told = family.too_long(1280 if family.six else 68)  # IPv6 hosts heed nothing below 1,280
    expected = family.told(told, bytes(request))
    assert site.send(family.error(family.too_long(least), outer)) == (site.lb.hook.redirected, expected)


def test_only_errors_about_what_was_sent_from_here_to_this_backend_are_believed(site: Site) -> None:
    family = site.family
    request = family.request()
    outer = family.read(site.outer(request))
    kind = family.too_long(1400)
    other = next(each for each in family.backends if each != outer.dst)
    stranger = "2001:db8:1::99" if family.six else "10.0.0.99"
    forged = {
        "another backend": family.ip(family.node, other, **fields_of(family)) / request,
        "no backend": family.ip(family.node, stranger, **fields_of(family)) / request,
        "from elsewhere": family.ip(stranger, outer.dst, **fields_of(family)) / request,
        "another frontend": outer_of(family, outer.dst, family.ip(family.client, stranger) / request[TCP]),
        "another port": outer_of(family, outer.dst, family.ip(family.client, family.vip) / TCP(dport=81)),
    }
    for why, about in forged.items():
        assert site.leaves_alone(family.error(kind, bytes(about))), why
    assert site.leaves_alone(family.error(kind, bytes(outer), target=stranger))
    site.serve(web(family, forwarding=Forwarding.DSR_L2))
    assert site.leaves_alone(family.error(kind, bytes(outer)))


def fields_of(family: Family) -> dict[str, object]:
    return {"nh": 41, "hlim": 63} if family.six else {"proto": 4, "id": 0, "flags": "DF", "ttl": 63}


def outer_of(family: Family, backend: str, packet: Packet) -> Packet:
    return family.ip(family.node, backend, **fields_of(family)) / packet / Raw(bytes(1400))


def test_connections_that_stay_with_their_backend_of_before_are_told_too(site: Site) -> None:
    family = site.family
    request = family.request()
    outer = site.outer(request)
    stays = family.read(outer).dst
    other = next(each for each in family.backends if each != stays)
    site.serve(web(family, (other,)))
    error = family.error(family.too_long(1400), outer)
    expected = family.told(family.too_long(1400 - family.header), bytes(request))
    assert site.send(error) == (site.lb.hook.redirected, expected)
    assert site.outer(request) == outer
    assert site.send(error) == (site.lb.hook.redirected, expected)


def test_options_of_the_error_are_no_obstacle(site: Site) -> None:
    family = site.family
    request = family.request()
    outer, kind = site.outer(request), family.too_long(1400)
    if family.six:  # behind extension headers nothing is looked for
        headed = ETHER / IPv6(src=family.router, dst=family.node) / IPv6ExtHdrDestOpt() / kind / Raw(outer)
        assert site.leaves_alone(headed)
        return
    options = [IPOption_NOP()] * 4
    error = ETHER / IP(src=family.router, dst=family.node, options=options) / kind / Raw(outer)
    assert site.send(error) == (site.lb.hook.redirected, family.told(family.too_long(1380), bytes(request)))


def test_a_wrong_checksum_does_not_become_right(site: Site) -> None:
    family = site.family
    request = family.request()
    error = bytearray(bytes(family.error(family.too_long(1400), site.outer(request))))
    right = family.told(family.too_long(1400 - family.header), bytes(request))
    at = 14 + family.header + 2
    error[at] ^= 0x10
    verdict, told = site.send(bytes(error))
    assert (verdict, told[:at], told[at + 2 :]) == (site.lb.hook.redirected, right[:at], right[at + 2 :])
    assert told[at : at + 2] != right[at : at + 2]


def test_outer_sources_of_their_own_are_known(site: Site) -> None:
    """Those of IPv4 may be spread by the flow."""
    family = site.family
    if family.six:
        site.serve(web(family), encap_source6=parse_address("2001:db8:77::1"))
    else:
        site.serve(web(family), encap_source=parse_address("172.16.0.0"), encap_prefix=16)
    request = family.request()
    outer = site.outer(request)
    source = family.read(outer).src
    assert source.startswith("2001:db8:77:" if family.six else "172.16.")
    error = family.error(family.too_long(1400), outer, target=source)
    expected = family.told(family.too_long(1400 - family.header), bytes(request))
    assert site.send(error) == (site.lb.hook.redirected, expected)
