"""The other end of DSR: a packet that another balancer sent to a backend on this node inside IP-in-IP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.lb import layout, stats
from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, Frontend, LbConfig, Prefix, Protocol, parse_address
from lab.netns import Namespace, inside
from support.own_places import holds
from support.servicelb import (
    CONTINUE,
    ETHER,
    HOOKS,
    NODE,
    SENT,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

POD_LINK = 77
IN_POD = NextHop.local(POD_LINK)
ON_HOST = NextHop.local()
CONFIG = LbConfig(snat_address=parse_address(NODE), snat_address6=parse_address("2001:db8::1"))


@dataclass(frozen=True)
class Family:
    """Addresses of one family, and how its packets are made."""

    six: bool
    client: str
    balancer: str
    vip: str
    pod: str
    other_pod: str
    own: str
    """Of this node itself, where the tests run."""

    def ip(self, source: str, target: str, **fields: object) -> Packet:
        """A header; `ttl` and `tos` by those names."""
        if not self.six:
            return IP(src=source, dst=target, id=7, **fields)
        names = {"ttl": "hlim", "tos": "tc"}
        return IPv6(src=source, dst=target, **{names[name]: value for name, value in fields.items()})

    def inside(self, flags: str = "S", *, sport: int = 40000, vip: str = "", **ip: object) -> Packet:
        """What a client sent."""
        tcp = TCP(sport=sport, dport=80, flags=flags, seq=7)
        return self.ip(self.client, vip or self.vip, **{"ttl": 61, **ip}) / tcp / Raw(b"ping")

    def tunnel(self, inside: Packet, to: str = "", tos: int = 0) -> Packet:
        """As a balancer sends it on."""
        return ETHER / self.ip(self.balancer, to or self.pod, tos=tos) / inside

    def delivered(self, flags: str = "S", *, to: str = "", port: int = 8080, **ip: object) -> bytes:
        """As a backend gets `inside`."""
        tcp = TCP(sport=40000, dport=port, flags=flags, seq=7)
        return bytes(ETHER / self.ip(self.client, to or self.pod, **{"ttl": 61, **ip}) / tcp / Raw(b"ping"))

    def answer(self, source: str, sport: int) -> Packet:
        tcp = TCP(sport=sport, dport=40000, flags="SA")
        return SENT / self.ip(source, self.client, ttl=63) / tcp / Raw(b"pong")


IPV4 = Family(False, "198.51.100.7", "10.9.9.9", "192.0.2.10", "10.244.1.5", "10.244.1.6", "127.0.0.1")
IPV6 = Family(
    True, "2001:db8:c::7", "2001:db8:9::9", "2001:db8:f::10", "2001:db8:244::5", "2001:db8:244::6", "::1"
)


@pytest.fixture(params=[IPV4, IPV6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> Family:
    chosen: Family = request.param
    return chosen


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def hook(request: pytest.FixtureRequest) -> Hook:
    chosen: Hook = request.param
    return chosen


@pytest.fixture
def router() -> Iterator[None]:
    """A host that forwards: of others the kernel does not say which addresses are theirs."""
    with Namespace("router") as made, inside(made):
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            made.sysctl(key, 1)
        yield


@pytest.fixture
def lb(hook: Hook, family: Family) -> Iterator[Balancer]:
    with balancer(hook, six=family.six) as loaded:
        loaded.serve(*frontends(family), config=CONFIG, hop=IN_POD)
        yield loaded


def frontends(family: Family, *pods: str) -> list[Frontend]:
    members = pods or (family.pod, family.other_pod)
    return [
        frontend(*(f"[{pod}]:8080" for pod in members), vip=family.vip),
        frontend(*(f"[{pod}]:5353" for pod in members), vip=family.vip, port=53, protocol=Protocol.UDP),
    ]


def untouched(lb: Balancer, packet: Packet | bytes) -> bool:
    run = lb.send(packet)
    return (run.retval, run.data) == (CONTINUE, bytes(packet))


def test_it_goes_to_the_backend_that_the_balancer_chose(lb: Balancer, family: Family) -> None:
    """Whatever this node's own table says: of many connections each goes where the outer header says."""
    for pod in (family.pod, family.other_pod):
        for sport in range(40000, 40008):
            run = lb.send(family.tunnel(family.inside(sport=sport), pod))
            tcp = TCP(sport=sport, dport=8080, flags="S", seq=7)
            expected = ETHER / family.ip(family.client, pod, ttl=61) / tcp / Raw(b"ping")
            assert (run.retval, run.data) == (lb.hook.up, bytes(expected))


def test_the_answer_leaves_as_the_frontends(lb: Balancer, family: Family) -> None:
    lb.send(family.tunnel(family.inside()))
    run = lb.leave(family.answer(family.pod, 8080))
    assert (run.retval, run.data) == (CONTINUE, bytes(family.answer(family.vip, 80)))


def test_udp_both_ways(lb: Balancer, family: Family) -> None:
    query = family.ip(family.client, family.vip) / UDP(sport=5000, dport=53) / Raw(b"query")
    run = lb.send(family.tunnel(query))
    expected = ETHER / family.ip(family.client, family.pod) / UDP(sport=5000, dport=5353) / Raw(b"query")
    assert (run.retval, run.data) == (lb.hook.up, bytes(expected))
    reply = SENT / family.ip(family.pod, family.client) / UDP(sport=5353, dport=5000) / Raw(b"reply")
    expected = SENT / family.ip(family.vip, family.client) / UDP(sport=53, dport=5000) / Raw(b"reply")
    assert lb.leave(reply).data == bytes(expected)


def test_later_packets_of_a_connection_too(lb: Balancer, family: Family) -> None:
    lb.send(family.tunnel(family.inside()))
    run = lb.send(family.tunnel(family.inside("A")))
    assert (run.retval, run.data) == (lb.hook.up, family.delivered("A"))
    assert lb.flows() == (1, 1)
    counted = next(each.counts for each in stats.read(lb.maps, lb.state) if each.key.port == 80)
    assert (counted.packets, counted.connections) == (2, 1)


def test_a_connection_that_moves_to_another_backend_goes_there(lb: Balancer, family: Family) -> None:
    """Its balancer decides; nothing is left of the flow to the first one."""
    lb.send(family.tunnel(family.inside()))
    run = lb.send(family.tunnel(family.inside("A"), family.other_pod))
    assert (run.retval, run.data) == (lb.hook.up, family.delivered("A", to=family.other_pod))
    assert lb.flows() == (1, 1)


def test_a_removed_backend_serves_its_connections_until_they_end(lb: Balancer, family: Family) -> None:
    lb.send(family.tunnel(family.inside()))
    lb.serve(*frontends(family, family.other_pod), config=CONFIG, hop=IN_POD)
    lb.collect()
    run = lb.send(family.tunnel(family.inside("A")))
    assert (run.retval, run.data) == (lb.hook.up, family.delivered("A"))
    lb.collect(after_seconds=10_000)
    assert untouched(lb, family.tunnel(family.inside("A")))


def test_a_backend_that_balancers_know_longer_than_this_node_still_gets_new_connections(
    lb: Balancer, family: Family
) -> None:
    lb.serve(*frontends(family, family.other_pod), config=CONFIG, hop=IN_POD)
    run = lb.send(family.tunnel(family.inside()))
    assert (run.retval, run.data) == (lb.hook.up, family.delivered())


def test_options_and_extension_headers_of_the_outer_packet_go_with_it(lb: Balancer, family: Family) -> None:
    if family.six:  # as Linux' own tunnels have it: the tunnel encapsulation limit
        outer: Packet = IPv6(src=family.balancer, dst=family.pod) / IPv6ExtHdrDestOpt(options=[])
    else:
        outer = IP(src=family.balancer, dst=family.pod, options=[IPOption_NOP()] * 4)
    run = lb.send(ETHER / outer / family.inside())
    assert (run.retval, run.data) == (lb.hook.up, family.delivered())


def test_bytes_that_pad_a_short_frame_stay_behind(lb: Balancer, family: Family) -> None:
    run = lb.send(bytes(family.tunnel(family.inside())) + bytes(6))
    assert (run.retval, run.data) == (lb.hook.up, family.delivered() + bytes(6))


@pytest.mark.parametrize(
    ("outer", "inner", "result"),
    [(0, 0, 0), (2, 2, 2), (3, 2, 3), (3, 1, 3), (1, 2, 1), (2, 1, 1), (0, 3, 3), (1, 0, 0)],
)
def test_marks_of_congestion_are_carried_on(
    lb: Balancer, family: Family, outer: int, inner: int, result: int
) -> None:
    """RFC 6040, figure 4; the rest of the traffic class is the inner one's."""
    run = lb.send(family.tunnel(family.inside(tos=0xB8 | inner), tos=0x20 | outer))
    assert (run.retval, run.data) == (lb.hook.up, family.delivered(tos=0xB8 | result))


def test_a_mark_that_the_sender_could_not_read_is_told_by_loss(lb: Balancer, family: Family) -> None:
    assert lb.send(family.tunnel(family.inside(), tos=3)).retval == lb.hook.dropped
    assert lb.drops() == {"lb_congestion": 1}


def test_a_client_outside_the_source_ranges_is_dropped(lb: Balancer, family: Family) -> None:
    only = Prefix(parse_address(family.pod), 8 * len(parse_address(family.pod)))
    closed = (replace(each, source_ranges=(only,)) for each in frontends(family))
    lb.serve(*closed, config=CONFIG, hop=IN_POD)
    assert lb.send(family.tunnel(family.inside())).retval == lb.hook.dropped
    assert lb.drops() == {"lb_source": 1}


def parts(family: Family) -> list[Packet]:
    """A client's datagram in fragments."""
    datagram = UDP(sport=5000, dport=53) / Raw(bytes(range(200)))
    if not family.six:
        return list(fragment(family.ip(family.client, family.vip) / datagram, 104))
    whole = IPv6(src=family.client, dst=family.vip) / IPv6ExtHdrFragment(id=77) / datagram
    return list(fragment6(whole, 160))


def test_fragments_inside_follow_their_first_one(lb: Balancer, family: Family) -> None:
    for part in parts(family):
        run = lb.send(family.tunnel(part))
        got = Ether(run.data)[IPv6 if family.six else IP]
        assert (run.retval, got.src, got.dst) == (lb.hook.up, family.client, family.pod)
        assert bytes(got)[-32:] == bytes(part)[-32:]


def test_a_fragment_inside_whose_first_one_went_elsewhere_is_left_alone(lb: Balancer, family: Family) -> None:
    first, later, *_ = parts(family)
    lb.send(family.tunnel(first))
    assert untouched(lb, family.tunnel(later, family.other_pod))


@pytest.mark.usefixtures("router")
def test_a_frontends_address_that_is_the_nodes_own_is_not_translated(hook: Hook, family: Family) -> None:
    """As with servers that hold the VIP on loopback and listen there."""
    with balancer(hook, six=family.six) as lb:
        vip = family.own
        lb.serve(frontend(f"[{vip}]:80", vip=vip, forwarding=Forwarding.DSR_IPIP), config=CONFIG, hop=ON_HOST)
        sent = family.inside(vip=vip)
        run = lb.send(family.tunnel(sent, vip))
        assert (run.retval, run.data) == (hook.up, bytes(ETHER / sent))
        assert lb.flows() == (0, 0)


@pytest.mark.usefixtures("router")
def test_nor_where_the_tunnel_ends_at_another_address_of_the_node(hook: Hook, family: Family) -> None:
    """A balancer elsewhere may know more backends than this node; ICMP for the VIP comes so, too."""
    with balancer(hook, six=family.six) as lb:
        lb.serve(frontend(f"[{family.pod}]:80", vip=family.own, port=81), config=CONFIG, hop=IN_POD)
        ping = family.ip(family.client, family.own) / ICMP() / Raw(b"ping")
        for sent in (family.inside(vip=family.own), ping)[: 1 if family.six else 2]:
            run = lb.send(family.tunnel(sent, family.own))
            assert (run.retval, run.data) == (hook.up, bytes(ETHER / sent))


def test_a_server_of_the_node_that_does_not_hold_the_vip_is_translated_to(hook: Hook, family: Family) -> None:
    with balancer(hook, six=family.six) as lb:
        lb.serve(frontend(f"[{family.own}]:80", vip=family.vip), config=CONFIG, hop=ON_HOST)
        run = lb.send(family.tunnel(family.inside(), family.own))
        assert (run.retval, run.data) == (hook.up, family.delivered(to=family.own, port=80))


@pytest.fixture
def server(hook: Hook, family: Family) -> Iterator[Balancer]:
    """A node that is a frontend's own server, as far as user space says: no route of the kernel does."""
    with balancer(hook, six=family.six) as loaded:
        serve_itself(loaded, family)
        yield loaded


def serve_itself(lb: Balancer, family: Family, *ports: int, **fields: Any) -> None:
    lb.serve(
        *(replace(one, **fields) for one in itself(family, *ports)),
        config=CONFIG,
        hop=ON_HOST,
    )


def itself(family: Family, *ports: int) -> Iterator[Frontend]:
    for port in ports or (80,):
        yield frontend(f"[{family.pod}]:{port}", vip=family.vip, port=port, forwarding=Forwarding.DSR_IPIP)


def as_it_was_sent(lb: Balancer, family: Family, flags: str = "S") -> bool:
    """Whether the stack gets what is inside as the client sent it."""
    run = lb.send(family.tunnel(family.inside(flags)))
    return (run.retval, run.data) == (lb.hook.up, bytes(ETHER / family.inside(flags)))


def is_translated(lb: Balancer, family: Family, flags: str = "S") -> bool:
    run = lb.send(family.tunnel(family.inside(flags)))
    return (run.retval, run.data) == (lb.hook.up, family.delivered(flags, port=80))


def test_what_a_server_holds_itself_is_as_it_was_sent_while_it_holds_it(
    server: Balancer, family: Family
) -> None:
    assert is_translated(server, family)
    server.collect(after_seconds=10_000)
    holds(server, family.vip)
    assert as_it_was_sent(server, family)
    server.collect()
    assert as_it_was_sent(server, family)
    assert as_it_was_sent(server, family, "A")
    assert server.flows() == (0, 0)
    holds(server)
    assert is_translated(server, family)


def test_each_port_has_a_place_of_its_own(hook: Hook, family: Family) -> None:
    """Also where two would have the same: one of them is then told by the kernel's routes, or translated."""
    with balancer(hook, six=family.six) as lb:
        ports = range(80, 140)
        serve_itself(lb, family, *ports)
        holds(lb, family.vip)
        keys = [one.key for one in itself(family, *ports)]
        places = {layout.own_place(parse_address(family.pod), key) for key in keys}
        assert len(own(lb, family)) == len(places)
        for port in ports:
            sent = family.ip(family.client, family.vip) / TCP(sport=5000, dport=port, flags="S")
            run = lb.send(family.tunnel(sent))
            assert run.retval == hook.up
            if port == keys[0].port:
                assert run.data == bytes(ETHER / sent)
        assert len(ports) - len(places) == lb.flows()[0]


def own(lb: Balancer, family: Family) -> list[bytes]:
    """What is written of places that are the node's own."""
    return [value for _, value in lb.maps["kb_lb_own6" if family.six else "kb_lb_own"].items() if any(value)]


def test_a_server_that_holds_the_vip_gets_what_comes_without_a_tunnel_as_it_was_sent(
    server: Balancer, family: Family
) -> None:
    """The node is the balancer, too, and chose itself: the server must not see two addresses for one."""
    holds(server, family.vip)
    sent = ETHER / family.inside()
    run = server.send(sent)
    assert (run.retval, run.data) == (server.hook.up, bytes(sent))
    assert server.flows() == (0, 0)
    counted = next(each.counts for each in stats.read(server.maps, server.state))
    assert (counted.packets, counted.connections) == (1, 1)


def test_connections_from_before_the_node_held_the_vip_stay_as_they_are(
    server: Balancer, family: Family
) -> None:
    assert is_translated(server, family)
    holds(server, family.vip)
    server.collect()
    assert is_translated(server, family, "A")
    server.collect(after_seconds=10_000)
    assert as_it_was_sent(server, family, "A")


def test_other_packets_for_a_place_of_the_nodes_are_as_ever(server: Balancer, family: Family) -> None:
    holds(server, family.vip)
    server.collect()
    for changed in (
        family.tunnel(family.inside(), family.other_pod),
        family.tunnel(family.ip(family.client, family.vip) / TCP(sport=40000, dport=81)),
        family.tunnel(family.ip(family.client, family.vip) / UDP(sport=40000, dport=80)),
    ):
        assert untouched(server, changed)
    run = server.send(family.tunnel(family.inside(tos=2), tos=3))
    assert (run.retval, run.data) == (server.hook.up, bytes(ETHER / family.inside(tos=3)))


@pytest.mark.parametrize("way", ["removed", "for some only", "elsewhere", "another loader"])
def test_a_place_is_the_nodes_own_no_longer_than_all_is_as_it_was(
    server: Balancer, family: Family, way: str
) -> None:
    holds(server, family.vip)
    server.collect()
    assert len(own(server, family)) == 1
    if way == "removed":
        server.state.apply(server.maps, {}, CONFIG)
    elif way == "for some only":
        only = Prefix(parse_address(family.pod), 8 * len(parse_address(family.pod)))
        serve_itself(server, family, source_ranges=(only,))
        holds(server, family.vip)
    elif way == "elsewhere":
        server.state.set_next_hops(server.maps, {parse_address(family.pod): IN_POD})
        holds(server, family.vip)
    else:
        server.state = type(server.state).adopt(server.maps)
    assert own(server, family) == []


def foreign(family: Family) -> dict[str, Packet]:
    """Tunnels that are none of ours."""
    elsewhere = family.ip(family.client, family.balancer) / TCP(sport=1, dport=80)
    other = IPV6 if family is IPV4 else IPV4
    outer = family.ip(family.balancer, family.pod)
    return {
        "to no backend": family.tunnel(family.inside(), family.balancer),
        "for no frontend": family.tunnel(elsewhere),
        "another port": family.tunnel(family.ip(family.client, family.vip) / TCP(sport=1, dport=81)),
        "another protocol": family.tunnel(family.ip(family.client, family.vip) / UDP(sport=1, dport=80)),
        "ICMP inside": family.tunnel(family.ip(family.client, family.vip) / ICMP()),
        "a tunnel inside": family.tunnel(family.ip(family.client, family.vip) / family.inside()),
        "the other family inside": ETHER / outer / other.inside(),
    }


@pytest.mark.parametrize("name", foreign(IPV4))
def test_other_tunnels_go_on_untouched(lb: Balancer, family: Family, name: str) -> None:
    assert untouched(lb, foreign(family)[name])
    assert lb.flows() == (0, 0)


def test_a_backend_on_another_host_is_no_end_of_a_tunnel(lb: Balancer, family: Family) -> None:
    """This node may be a router between the two."""
    lb.serve(*frontends(family), config=CONFIG)
    assert untouched(lb, family.tunnel(family.inside()))


def test_a_tunnels_packet_in_fragments_is_the_kernels_to_put_together(lb: Balancer, family: Family) -> None:
    if family.six:
        outer: Packet = IPv6(src=family.balancer, dst=family.pod) / IPv6ExtHdrFragment(m=1)
    else:
        outer = IP(src=family.balancer, dst=family.pod, flags="MF")
    assert untouched(lb, ETHER / outer / family.inside())


def test_what_is_cut_off_inside_goes_on_untouched(lb: Balancer, family: Family) -> None:
    whole = bytes(family.tunnel(family.inside()))
    header = 40 if family.six else 20
    for left in (0, 1, header - 1, header, header + 3, header + 19):
        assert untouched(lb, whole[: 14 + header + left])


def test_lengths_that_contradict_each_other_go_on_untouched(lb: Balancer, family: Family) -> None:
    """The packet inside claims to be longer than the outer one has room for."""
    packet = family.tunnel(family.inside())
    if family.six:
        packet[IPv6:2].plen = 400
    else:
        packet[IP:2].len = 400
        packet[IP:2].chksum = None
    assert untouched(lb, bytes(packet) + bytes(400))


def here(lb: Balancer, family: Family) -> set[tuple[int, bytes]]:
    found = lb.maps["kb_lb_here6" if family.six else "kb_lb_here"].keys()
    return {(int.from_bytes(key[:4], "little"), key[4:]) for key in found}


def test_backends_are_found_here_only_while_they_are_on_this_node(lb: Balancer, family: Family) -> None:
    pods = {parse_address(family.pod), parse_address(family.other_pod)}
    assert {address for _, address in here(lb, family)} == pods
    lb.state.set_next_hops(lb.maps, {parse_address(family.pod): None})
    assert {address for _, address in here(lb, family)} == {parse_address(family.other_pod)}
    lb.state.set_next_hops(lb.maps, {parse_address(family.pod): IN_POD})
    assert len(here(lb, family)) == 4
    lb.state.apply(lb.maps, {}, CONFIG)
    lb.collect()
    assert here(lb, family) == set()


def test_a_writer_that_was_killed_leaves_nothing_wrong_behind(lb: Balancer, family: Family) -> None:
    table = lb.maps["kb_lb_here6" if family.six else "kb_lb_here"]
    right = dict(table.items())
    stale, wrong, *_ = right
    table.delete(stale)
    table.update(wrong, layout.u32(999))
    table.update(layout.pack_here(77, parse_address(family.pod)), layout.u32(0))
    lb.state = type(lb.state).adopt(lb.maps)
    assert dict(table.items()) == right


def test_what_this_node_answers_itself_is_about_the_packet_inside(lb: Balancer, family: Family) -> None:
    """A pod that reaches itself by another balancer sees the node as its client, which is one more hop."""
    itself = family.ip(family.pod, family.vip, ttl=1) / TCP(sport=40000, dport=80, flags="S")
    assert lb.send(family.tunnel(itself)).retval == lb.hook.dropped
    assert lb.drops() == {"lb_ttl": 1}
