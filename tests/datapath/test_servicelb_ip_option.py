"""DSR by IP option: the exact packet that leaves a balancer, and what the backend's node makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPerror,
    IPOption,
    IPOption_NOP,
    IPOption_Router_Alert,
    fragment,
)
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
    fragment6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb import stats
from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, Frontend, LbConfig, Prefix, Protocol, parse_address
from support.servicelb import (
    CLIENT_MAC,
    CONTINUE,
    ETHER,
    HOOKS,
    HOP,
    NODE,
    SENT,
    XDP,
    Balancer,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

IN_POD = NextHop.local(77)
MTU = 1500
"""Of the way to HOP."""
CONFIG = LbConfig(snat_address=parse_address(NODE), snat_address6=parse_address("2001:db8::1"))


@dataclass(frozen=True)
class Family:
    """Addresses of one family, and how its packets are made."""

    six: bool
    client: str
    vip: str
    other_vip: str
    pod: str
    other_pod: str

    def ip(self, source: str, target: str, ttl: int = 61) -> Packet:
        if self.six:
            return IPv6(src=source, dst=target, hlim=ttl)
        return IP(src=source, dst=target, ttl=ttl, id=7)

    def asked(self, what: Packet, ttl: int = 61) -> Packet:
        """As a client sends it."""
        return ETHER / self.ip(self.client, self.vip, ttl) / what

    def plain(self, what: Packet, ttl: int = 60, to: str = "") -> Packet:
        """As it is for the backend."""
        return self.ip(self.client, to or self.pod, ttl) / what

    def marked(self, what: Packet, ttl: int = 60, to: str = "", vip: str = "", port: int = 0) -> Packet:
        """As a balancer sends it on: what was for `port`, by default the frontend of the protocol."""
        port = port or (80 if TCP in what else 53)
        address = parse_address(vip or self.vip)
        if self.six:
            data = address + port.to_bytes(2) + bytes(2)
            option = HBHOptUnknown(otype=0x1B, optlen=20, optdata=data)
            header = self.ip(self.client, to or self.pod, ttl)
            return header / IPv6ExtHdrDestOpt(len=2, autopad=0, options=[option]) / what
        # Cilium's order of bytes on little-endian machines.
        data = port.to_bytes(2)[::-1] + address[::-1]
        option = IPOption(copy_flag=1, optclass=0, option=26, length=8, value=data)
        return IP(src=self.client, dst=to or self.pod, ttl=ttl, id=7, options=[option]) / what

    def answer(self, source: str, what: Packet) -> Packet:
        return SENT / self.ip(source, self.client, 63) / what


IPV4 = Family(False, "198.51.100.7", "192.0.2.10", "192.0.2.11", "10.244.1.5", "10.244.1.6")
IPV6 = Family(True, "2001:db8:c::7", "2001:db8:f::10", "2001:db8:f::11", "2001:db8:244::5", "2001:db8:244::6")


class Loaded(NamedTuple):
    """Loaded programs of one family."""

    family: Family
    lb: Balancer


@pytest.fixture(
    params=[(hook, family) for hook in HOOKS for family in (IPV4, IPV6)],
    ids=lambda chosen: f"{chosen[0].name}-{'IPv6' if chosen[1].six else 'IPv4'}",
)
def loaded(request: pytest.FixtureRequest) -> Iterator[Loaded]:
    hook, family = request.param
    with balancer(hook, six=family.six) as made:
        yield Loaded(family, made)


@pytest.fixture
def family(loaded: Loaded) -> Family:
    return loaded.family


@pytest.fixture
def lb(loaded: Loaded) -> Balancer:
    """Of the balancer: the backend is on another host."""
    loaded.lb.serve(*frontends(loaded.family), config=CONFIG, hop=HOP)
    return loaded.lb


@pytest.fixture
def node(loaded: Loaded) -> Balancer:
    """Of the node that the backend is on."""
    twins = frontends(replace(loaded.family, vip=loaded.family.other_vip))
    loaded.lb.serve(*frontends(loaded.family), *twins, config=CONFIG, hop=IN_POD)
    return loaded.lb


only_ipv4 = pytest.mark.parametrize(
    "loaded", [(hook, IPV4) for hook in HOOKS], ids=lambda chosen: chosen[0].name, indirect=True
)


def frontends(family: Family) -> list[Frontend]:
    ways = ((80, 8080, Protocol.TCP), (53, 5353, Protocol.UDP))
    return [
        frontend(
            f"[{family.pod}]:{its}",
            vip=family.vip,
            port=port,
            protocol=protocol,
            forwarding=Forwarding.DSR_IP_OPTION,
        )
        for port, its, protocol in ways
    ]


def tcp(flags: str, port: int = 80, sport: int = 40000, size: int = 4) -> Packet:
    return TCP(sport=sport, dport=port, flags=flags, seq=7) / Raw(bytes(size))


def udp(port: int = 53, sport: int = 5000, size: int = 5) -> Packet:
    return UDP(sport=sport, dport=port) / Raw(bytes(size))


def untouched(lb: Balancer, packet: Packet | bytes) -> bool:
    run = lb.send(packet)
    return (run.retval, run.data) == (CONTINUE, bytes(packet))


# -- the balancer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", ["S", "SEC"])
def test_a_packet_that_opens_a_connection_names_its_frontend(
    lb: Balancer, family: Family, flags: str
) -> None:
    run = lb.send(family.asked(tcp(flags)))
    assert (run.retval, run.data) == (lb.hook.sent, bytes(SENT / family.marked(tcp(flags, 8080))))


def test_the_bytes_are_those_that_cilium_writes() -> None:
    option = bytes(IPV4.marked(tcp("S")))[20:28]
    assert option == bytes.fromhex("9a0850000a0200c0")  # port 80 and 192.0.2.10, last byte first
    header = bytes(IPV6.marked(tcp("S")))[40:64]
    assert header == bytes.fromhex("06021b14") + parse_address(IPV6.vip) + bytes.fromhex("00500000")


@pytest.mark.parametrize("flags", ["A", "PA", "FA", "R", "SA"])
def test_later_packets_of_a_connection_carry_no_option(lb: Balancer, family: Family, flags: str) -> None:
    run = lb.send(family.asked(tcp(flags)))
    assert (run.retval, run.data) == (lb.hook.sent, bytes(SENT / family.plain(tcp(flags, 8080))))


def test_each_datagram_names_its_frontend(lb: Balancer, family: Family) -> None:
    for sport in (5000, 5000, 5001):
        run = lb.send(family.asked(udp(sport=sport)))
        assert (run.retval, run.data) == (lb.hook.sent, bytes(SENT / family.marked(udp(5353, sport))))


def test_nothing_is_kept_of_a_connection_but_counts(lb: Balancer, family: Family) -> None:
    lb.send(family.asked(tcp("S")))
    lb.send(family.asked(tcp("A")))
    counted = next(each.counts for each in stats.read(lb.maps, lb.state) if each.key.port == 80)
    header = 40 if family.six else 20
    assert (counted.packets, counted.connections, counted.ip_bytes) == (2, 1, 2 * (header + 24))
    assert lb.flows() == (0, 0)


def test_options_and_extension_headers_of_the_client_follow_ours(lb: Balancer, family: Family) -> None:
    """Hop-by-hop options too, though they should come first: the backend's node puts that right."""
    if family.six:
        its = IPv6ExtHdrHopByHop(options=[RouterAlert()])
        packet = ETHER / IPv6(src=family.client, dst=family.vip, hlim=61) / its / tcp("S")
        bare = family.marked(tcp("S", 8080))
        expected = IPv6(src=family.client, dst=family.pod, hlim=60) / bare[IPv6ExtHdrDestOpt].copy()
        expected[IPv6ExtHdrDestOpt].remove_payload()
        expected = expected / its / tcp("S", 8080)
    else:
        its = IPOption_Router_Alert()
        packet = ETHER / IP(src=family.client, dst=family.vip, ttl=61, id=7, options=[its]) / tcp("S")
        expected = family.marked(tcp("S", 8080))
        expected.options.append(its)
    run = lb.send(packet)
    assert (run.retval, run.data) == (lb.hook.sent, bytes(SENT / expected))


@only_ipv4
def test_a_header_that_is_full_of_options_opens_no_connection(lb: Balancer) -> None:
    """IPv4 has room for 40 bytes of them."""
    for count, flags, verdict in (
        (32, "S", lb.hook.sent),
        (36, "S", lb.hook.dropped),
        (40, "A", lb.hook.sent),
    ):
        ip = IP(src=IPV4.client, dst=IPV4.vip, options=[IPOption_NOP()] * count)
        assert lb.send(ETHER / ip / tcp(flags)).retval == verdict
    assert lb.drops() == {"lb_headroom": 1}


@only_ipv4
def test_a_datagram_without_a_checksum_gets_none(lb: Balancer) -> None:
    query, expected = udp(), udp(5353)
    query.chksum = expected.chksum = 0
    assert lb.send(IPV4.asked(query)).data == bytes(SENT / IPV4.marked(expected))


def parts(family: Family) -> list[Packet]:
    """A client's datagram in fragments."""
    datagram = UDP(sport=5000, dport=53) / Raw(bytes(range(200)))
    if not family.six:
        return list(fragment(family.ip(family.client, family.vip) / datagram, 104))
    whole = IPv6(src=family.client, dst=family.vip, hlim=61) / IPv6ExtHdrFragment(id=77) / datagram
    return list(fragment6(whole, 160))


def test_of_fragments_the_first_names_the_frontend_and_the_others_follow_it(
    lb: Balancer, family: Family
) -> None:
    option, header = (24, 40) if family.six else (8, 20)
    for at, part in enumerate(parts(family)):
        run = lb.send(ETHER / part)
        more = 0 if at else option
        got, packet = Ether(run.data)[IPv6 if family.six else IP], bytes(part)
        assert (run.retval, got.src, got.dst) == (lb.hook.sent, family.client, family.pod)
        assert len(run.data) == 14 + len(packet) + more
        if not at:
            marked = bytes(family.marked(udp(5353)))[header : header + option]
            if family.six:
                marked = bytes((44,)) + marked[1:]
            assert run.data[14 + header : 14 + header + option] == marked
        assert run.data[-96:] == packet[-96:] or run.data[-8:] == packet[-8:]


def test_what_would_be_too_long_with_the_option_is_told(lb: Balancer, family: Family) -> None:
    header, option = (40, 24) if family.six else (20, 8)
    room = MTU - header - 8 - option
    fits = lb.send(family.asked(udp(size=room)))
    assert (fits.retval, fits.data) == (lb.hook.sent, bytes(SENT / family.marked(udp(5353, size=room))))
    long = family.asked(udp(size=room + 1))
    if lb.hook is XDP:  # leaves it to tc
        assert untouched(lb, long)
        return
    run = lb.send(long)
    assert (run.retval, Ether(run.data).dst, lb.drops()) == (lb.hook.sent, CLIENT_MAC, {"lb_mtu": 1})
    told = Ether(run.data)
    if family.six:
        assert (told[IPv6].dst, told[ICMPv6PacketTooBig].mtu) == (family.client, MTU - option)
    else:
        error = told[ICMP]
        assert (told[IP].dst, error.type, error.code) == (family.client, 3, 4)
        assert error.nexthopmtu == MTU - option


def test_a_packet_without_an_option_may_be_as_long_as_the_way_allows(lb: Balancer, family: Family) -> None:
    room = MTU - (40 if family.six else 20) - 20
    assert lb.send(family.asked(tcp("A", size=room))).retval == lb.hook.sent


def test_it_is_a_hop(lb: Balancer, family: Family) -> None:
    assert lb.send(family.asked(tcp("S"), ttl=1)).retval == lb.hook.dropped
    assert lb.drops() == {"lb_ttl": 1}


def test_bytes_that_pad_a_short_frame_stay_behind(lb: Balancer, family: Family) -> None:
    run = lb.send(bytes(family.asked(tcp("S", size=0))) + bytes(6))
    assert run.data == bytes(SENT / family.marked(tcp("S", 8080, size=0))) + bytes(6)


def test_a_backend_of_this_node_is_translated_to(lb: Balancer, family: Family) -> None:
    lb.serve(*frontends(family), config=CONFIG, hop=IN_POD)
    run = lb.send(family.asked(tcp("S")))
    assert (run.retval, run.data) == (lb.hook.up, bytes(ETHER / family.plain(tcp("S", 8080), 61)))


def test_the_maps_say_how_it_is_forwarded(lb: Balancer) -> None:
    state = type(lb.state).adopt(lb.maps)
    served = [each.desired for each in state.served.values()]
    assert {each.forwarding for each in served if each} == {Forwarding.DSR_IP_OPTION}


# -- the backend's node --------------------------------------------------------------------------------------


def opened(node: Balancer, family: Family, what: Packet | None = None, **marks: object) -> tuple[int, bytes]:
    """A packet that a balancer sent here."""
    run = node.send(ETHER / family.marked(tcp("S", 8080) if what is None else what, **marks))  # type: ignore[arg-type]
    return run.retval, run.data


def test_the_backend_gets_it_without_the_option(node: Balancer, family: Family) -> None:
    expected = bytes(ETHER / family.plain(tcp("S", 8080)))
    assert opened(node, family) == (node.hook.up, expected)
    assert node.flows() == (1, 1)


def test_the_answer_leaves_as_the_frontends(node: Balancer, family: Family) -> None:
    opened(node, family)
    for flags in ("SA", "A"):
        run = node.leave(family.answer(family.pod, TCP(sport=8080, dport=40000, flags=flags)))
        expected = family.answer(family.vip, TCP(sport=80, dport=40000, flags=flags))
        assert (run.retval, run.data) == (CONTINUE, bytes(expected))


def test_a_server_of_the_node_itself_is_a_backend_too(node: Balancer, family: Family) -> None:
    node.serve(*frontends(family), config=CONFIG, hop=NextHop.local())
    assert opened(node, family) == (node.hook.up, bytes(ETHER / family.plain(tcp("S", 8080))))
    run = node.leave(family.answer(family.pod, TCP(sport=8080, dport=40000, flags="SA")))
    assert run.data == bytes(family.answer(family.vip, TCP(sport=80, dport=40000, flags="SA")))


def test_udp_both_ways(node: Balancer, family: Family) -> None:
    for _ in range(2):
        got = opened(node, family, udp(5353))
        assert got == (node.hook.up, bytes(ETHER / family.plain(udp(5353))))
    reply = node.leave(family.answer(family.pod, UDP(sport=5353, dport=5000) / Raw(b"reply")))
    expected = family.answer(family.vip, UDP(sport=53, dport=5000) / Raw(b"reply"))
    assert reply.data == bytes(expected)


def test_what_a_balancer_sends_is_what_the_node_understands(lb: Balancer, family: Family) -> None:
    for what, expected in ((tcp("S"), tcp("S", 8080)), (udp(), udp(5353))):
        lb.serve(*frontends(family), config=CONFIG, hop=HOP)
        sent = lb.send(family.asked(what)).data
        lb.serve(*frontends(family), config=CONFIG, hop=IN_POD)
        run = lb.send(sent)
        assert (run.retval, run.data) == (lb.hook.up, bytes(SENT / family.plain(expected)))


def test_later_packets_of_a_connection_go_on_as_they_are(node: Balancer, family: Family) -> None:
    opened(node, family)
    for flags in ("A", "PA", "FA", "R"):
        assert untouched(node, ETHER / family.plain(tcp(flags, 8080)))


def test_a_connection_that_both_sides_closed_is_forgotten(node: Balancer, family: Family) -> None:
    opened(node, family)
    node.leave(family.answer(family.pod, TCP(sport=8080, dport=40000, flags="FA")))
    node.collect(after_seconds=12)
    assert node.flows() == (1, 1)
    node.send(ETHER / family.plain(tcp("FA", 8080)))
    node.collect(after_seconds=12)
    assert node.flows() == (0, 0)


def test_a_connection_that_the_client_reset_is_forgotten_unless_it_goes_on(
    node: Balancer, family: Family
) -> None:
    """Anybody can send an RST with the client's address; only the backend knows whether it counts."""
    opened(node, family)
    for flags in ("SA", "A"):
        node.send(ETHER / family.plain(tcp("R", 8080)))
        node.leave(family.answer(family.pod, TCP(sport=8080, dport=40000, flags=flags, ack=8)))
    node.collect(after_seconds=12)
    assert node.flows() == (1, 1)
    node.send(ETHER / family.plain(TCP(sport=40000, dport=8080, flags="R", seq=8)))
    node.collect(after_seconds=12)
    assert node.flows() == (0, 0)


@pytest.mark.parametrize("seq", [7, 8 + (1 << 20) + 1, 1 << 31])
def test_who_does_not_know_a_connections_sequence_numbers_does_not_end_it(
    node: Balancer, family: Family, seq: int
) -> None:
    """The backend has answered up to 8: an RST, or FINs of both sides, would be in its window."""
    opened(node, family)
    node.leave(family.answer(family.pod, TCP(sport=8080, dport=40000, flags="FA", ack=8)))
    for flags in ("R", "FA"):
        node.send(ETHER / family.plain(TCP(sport=40000, dport=8080, flags=flags, seq=seq)))
    node.collect(after_seconds=12)
    assert node.flows() == (1, 1)


def test_a_new_connection_from_the_same_port_takes_the_place_of_one_that_is_over(
    node: Balancer, family: Family
) -> None:
    opened(node, family)
    node.send(ETHER / family.plain(tcp("FA", 8080)))
    assert opened(node, family)[0] == node.hook.up
    assert node.flows() == (1, 1)


def test_of_two_frontends_a_port_of_a_client_has_one_connection_to_a_backend(
    node: Balancer, family: Family
) -> None:
    """Its packets look the same: the second one can't be told from the first, which goes on."""
    opened(node, family)
    assert opened(node, family, vip=family.other_vip)[0] == node.hook.dropped
    assert (node.drops(), node.flows()) == ({"lb_ports": 1}, (1, 1))
    run = node.leave(family.answer(family.pod, TCP(sport=8080, dport=40000, flags="SA")))
    assert run.data == bytes(family.answer(family.vip, TCP(sport=80, dport=40000, flags="SA")))


def with_two_pods(node: Balancer, family: Family) -> None:
    served = [
        replace(
            each,
            backends=(*each.backends, each.backends[0]._replace(address=parse_address(family.other_pod))),
        )
        for each in frontends(family)
    ]
    node.serve(*served, config=CONFIG, hop=IN_POD)


def test_a_connection_that_is_answered_does_not_move_to_another_backend(
    node: Balancer, family: Family
) -> None:
    """Whoever sends the SYN: no later packet of the client would bring the first one back."""
    with_two_pods(node, family)
    opened(node, family)
    answer = family.answer(family.pod, TCP(sport=8080, dport=40000, flags="SA"))
    as_frontends = bytes(family.answer(family.vip, TCP(sport=80, dport=40000, flags="SA")))
    assert node.leave(answer).data == as_frontends
    assert opened(node, family, to=family.other_pod)[0] == node.hook.dropped
    assert (node.drops(), node.leave(answer).data) == ({"lb_ports": 1}, as_frontends)


def test_nor_is_it_ended_by_what_comes_for_the_frontend(node: Balancer, family: Family) -> None:
    """This node may be a balancer, too: it notes RST and FIN of whoever sends them there."""
    with_two_pods(node, family)
    for sport in range(40000, 40006):
        syn = tcp("S", 8080, sport)
        opened(node, family, syn)
        answer = family.answer(family.pod, TCP(sport=8080, dport=sport, flags="SA", ack=8))
        as_frontends = bytes(family.answer(family.vip, TCP(sport=80, dport=sport, flags="SA", ack=8)))
        assert node.leave(answer).data == as_frontends
        for flags in ("FA", "R", "S"):
            node.send(family.asked(tcp(flags, sport=sport)))
        opened(node, family, syn)
        assert opened(node, family, syn, to=family.other_pod)[0] == node.hook.dropped
        node.send(family.asked(tcp("R", sport=sport)))
        node.collect(after_seconds=12)
        assert node.leave(answer).data == as_frontends


def test_one_that_is_not_answered_does_and_so_does_a_datagram(node: Balancer, family: Family) -> None:
    with_two_pods(node, family)
    for what in (tcp("S", 8080), udp(5353)):
        opened(node, family, what)
        expected = bytes(ETHER / family.plain(what, to=family.other_pod))
        assert opened(node, family, what, to=family.other_pod) == (node.hook.up, expected)
    assert node.flows() == (2, 2)


def test_datagrams_of_one_port_for_two_frontends_are_kept_apart(node: Balancer, family: Family) -> None:
    opened(node, family, udp(5353))
    _, data = opened(node, family, udp(5353), vip=family.other_vip)
    port = Ether(data)[UDP].sport
    assert port != 5000
    run = node.leave(family.answer(family.pod, UDP(sport=5353, dport=port) / Raw(b"reply")))
    assert run.data == bytes(family.answer(family.other_vip, UDP(sport=53, dport=5000) / Raw(b"reply")))


def test_a_client_outside_the_source_ranges_is_dropped(node: Balancer, family: Family) -> None:
    only = Prefix(parse_address(family.pod), 8 * len(parse_address(family.pod)))
    closed = (replace(each, source_ranges=(only,)) for each in frontends(family))
    node.serve(*closed, config=CONFIG, hop=IN_POD)
    assert opened(node, family)[0] == node.hook.dropped
    assert node.drops() == {"lb_source": 1}


def test_a_backend_that_was_just_removed_gets_it_too(node: Balancer, family: Family) -> None:
    """Balancers may know it for longer."""
    away = [replace(each, backends=()) for each in frontends(family)]
    opened(node, family)
    node.serve(*away, config=CONFIG, hop=IN_POD)
    assert opened(node, family, tcp("S", 8080, sport=40001))[0] == node.hook.up


def test_a_backend_that_reaches_itself_would_not_know_its_own_answer(node: Balancer, family: Family) -> None:
    itself = replace(family, client=family.pod)
    assert node.send(ETHER / itself.marked(tcp("S", 8080))).retval == node.hook.dropped
    assert (node.drops(), node.flows()) == ({"lb_ports": 1}, (0, 0))


def test_an_error_of_the_backend_is_about_what_the_client_sent(node: Balancer, family: Family) -> None:
    _, query = opened(node, family, udp(5353))
    about = Ether(query)[IPv6 if family.six else IP]
    error = ICMPv6DestUnreach(code=4) if family.six else ICMP(type=3, code=3)
    run = node.leave(SENT / family.ip(family.pod, family.client) / error / about)
    told = Ether(run.data)
    quoted = told[IPerror6 if family.six else IPerror]
    assert (run.retval, told[IPv6 if family.six else IP].dst) == (CONTINUE, family.client)
    assert (quoted.src, quoted.dst, quoted.sport, quoted.dport) == (family.client, family.vip, 5000, 53)


def unbelieved(family: Family) -> dict[str, Packet]:
    """Options that anybody may send."""
    syn = tcp("S", 8080)
    return {
        "of no frontend": family.marked(syn, vip=family.client),
        "of no port of it": family.marked(syn, port=81),
        "of another protocol": family.marked(udp(8080), port=80),
        "to none of its backends": family.marked(syn, to=family.other_pod),
        "to another port": family.marked(tcp("S", 8081)),
    }


@pytest.mark.parametrize("name", unbelieved(IPV4))
def test_an_option_that_names_what_this_node_does_not_know_goes_on_untouched(
    node: Balancer, family: Family, name: str
) -> None:
    assert untouched(node, ETHER / unbelieved(family)[name])
    assert node.flows() == (0, 0)


def test_a_backend_on_another_host_is_not_delivered_to(lb: Balancer, family: Family) -> None:
    """This node may be a router between the two."""
    assert untouched(lb, ETHER / family.marked(tcp("S", 8080)))


def test_an_option_like_ours_but_for_a_byte_goes_on_untouched(node: Balancer, family: Family) -> None:
    packet = bytes(ETHER / family.marked(tcp("S", 8080)))
    for at in (55, 56, 57) if family.six else (34,):
        other = bytearray(packet)
        other[at] ^= 1
        run = node.send(bytes(other))
        assert (run.retval, run.data) == (CONTINUE, bytes(other))


def test_what_is_cut_off_goes_on_untouched(node: Balancer, family: Family) -> None:
    packet = bytes(ETHER / family.marked(tcp("S", 8080, size=0)))
    header = 14 + (40 if family.six else 20)
    for left in range(header, len(packet), 3):
        assert untouched(node, packet[:left])


def test_options_and_extension_headers_of_the_client_stay(node: Balancer, family: Family) -> None:
    if family.six:
        its = IPv6ExtHdrHopByHop(options=[RouterAlert()])
        packet = family.marked(tcp("S", 8080))
        ours = packet[IPv6ExtHdrDestOpt].copy()
        ours.remove_payload()
        packet = family.ip(family.client, family.pod, 60) / ours / its / tcp("S", 8080)
        expected = family.ip(family.client, family.pod, 60) / its / tcp("S", 8080)
    else:
        its = IPOption_Router_Alert()
        packet = family.marked(tcp("S", 8080))
        packet.options.append(its)
        expected = IP(src=family.client, dst=family.pod, ttl=60, id=7, options=[its]) / tcp("S", 8080)
    run = node.send(ETHER / packet)
    assert (run.retval, run.data) == (node.hook.up, bytes(ETHER / expected))


def test_fragments_are_put_together_by_the_kernel_as_the_client_sent_them(
    lb: Balancer, family: Family
) -> None:
    sent = [lb.send(ETHER / part).data for part in parts(family)]
    lb.serve(*frontends(family), config=CONFIG, hop=IN_POD)
    kind = IPv6 if family.six else IP
    for packet, part in zip(sent, parts(family), strict=True):
        run = lb.send(packet)
        got = Ether(run.data)[kind]
        assert (run.retval, got.src, got.dst, len(run.data)) == (
            lb.hook.up,
            family.client,
            family.pod,
            14 + len(part),
        )
        assert bytes(got)[-32:] == bytes(part)[-32:]
