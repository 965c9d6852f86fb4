"""SNAT: exact packets in both directions, and the life of a flow's two entries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from kubebee.bpf.map import Map
from kubebee.lb import devices
from kubebee.lb.devices import Device
from kubebee.lb.layout import BackendFlag, FlowKey, Reverse
from kubebee.lb.model import LbConfig, Protocol, parse_address
from lab.netns import Namespace
from support.servicelb import (
    CLIENT,
    CLIENT_MAC,
    CONFIG,
    CONTINUE,
    ETHER,
    HOOKS,
    HOP,
    NODE,
    NODE_MAC,
    ROUTER_MAC,
    SENT,
    VIP,
    XDP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

BACKEND, OTHER = "10.0.0.11", "10.0.0.12"


@pytest.fixture(params=HOOKS, ids=lambda hook: hook.name)
def hook(request: pytest.FixtureRequest) -> Hook:
    chosen: Hook = request.param
    return chosen


@pytest.fixture
def lb(hook: Hook) -> Iterator[Balancer]:
    with balancer(hook) as loaded:
        loaded.serve(
            frontend(f"{BACKEND}:8080"),
            frontend(f"{BACKEND}:5353", port=53, protocol=Protocol.UDP),
        )
        yield loaded


def request(flags: str = "S", sport: int = 40000, **ip: object) -> Packet:
    return (
        ETHER / IP(src=CLIENT, dst=VIP, **ip) / TCP(sport=sport, dport=80, flags=flags, seq=7) / Raw(b"ping")
    )


def answer(to_port: int, flags: str = "SA", backend: str = BACKEND, **ip: object) -> Packet:
    return (
        ETHER / IP(src=backend, dst=NODE, **ip) / TCP(sport=8080, dport=to_port, flags=flags) / Raw(b"pong")
    )


def nat_port(data: bytes) -> int:
    return int(Ether(data).sport)


def reverse_entry(table: Map) -> tuple[FlowKey, Reverse]:
    ((key, value),) = table.items()
    return FlowKey.unpack(key), Reverse.unpack(value)


def test_a_request_leaves_from_an_address_and_port_of_the_node(lb: Balancer) -> None:
    run = lb.send(request(ttl=61))
    port = nat_port(run.data)
    expected = (
        SENT
        / IP(src=NODE, dst=BACKEND, ttl=60)
        / TCP(sport=port, dport=8080, flags="S", seq=7)
        / Raw(b"ping")
    )
    assert run.retval == lb.hook.sent
    assert run.data == bytes(expected)
    assert CONFIG.snat_port_first <= port <= CONFIG.snat_port_last


def test_a_flow_keeps_its_port(lb: Balancer) -> None:
    first = lb.send(request("S"))
    assert nat_port(lb.send(request("A")).data) == nat_port(first.data)
    assert lb.flows() == (1, 1)


def test_the_two_entries_of_a_flow_name_each_other(lb: Balancer) -> None:
    port = nat_port(lb.send(request()).data)
    key, value = reverse_entry(lb.maps["kb_lb_rev"])
    assert key == FlowKey(parse_address(BACKEND), parse_address(NODE), 8080, port, Protocol.TCP)
    assert value[2:6] == (parse_address(CLIENT), parse_address(VIP), 40000, 80)


def test_a_udp_checksum_is_kept_right_and_a_missing_one_stays_missing(lb: Balancer) -> None:
    for port, checksum in ((40000, None), (40001, 0)):
        query = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=port, dport=53, chksum=checksum) / Raw(b"query")
        run = lb.send(query)
        expected = (
            SENT
            / IP(src=NODE, dst=BACKEND, ttl=63)
            / UDP(sport=nat_port(run.data), dport=5353, chksum=checksum)
            / Raw(b"query")
        )
        assert run.retval == lb.hook.sent
        assert run.data == bytes(expected)


def test_any_udp_checksum_survives_both_ways_of_folding(lb: Balancer) -> None:
    for word in range(0, 0x10000, 211):
        payload = word.to_bytes(2, "big")
        query = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=53) / Raw(payload)
        sent = Ether(lb.send(query).data)
        expected = SENT / IP(src=NODE, dst=BACKEND, ttl=63) / UDP(sport=sent.sport, dport=5353) / Raw(payload)
        assert bytes(sent) == bytes(expected)


def test_an_answer_goes_to_the_client_as_the_frontends(routed: tuple[Balancer, Namespace]) -> None:
    lb, node = routed
    port = nat_port(lb.send(request()).data)
    run = node.call(lambda: lb.send(answer(port, ttl=64)))
    expected = (
        Ether(src=NODE_MAC, dst=CLIENT_MAC)
        / IP(src=VIP, dst=CLIENT, ttl=63)
        / TCP(sport=80, dport=40000, flags="SA")
        / Raw(b"pong")
    )
    assert run.retval == lb.hook.redirected
    assert run.data == bytes(expected)


@pytest.fixture
def routed(hook: Hook) -> Iterator[tuple[Balancer, Namespace]]:
    """A node with a route to the client and the client's MAC address known; test runs come in on loopback."""
    with Namespace("node") as node, balancer(hook) as lb:
        node.sysctl("net.ipv4.ip_forward", 1)
        node.ip("link", "add", "up0", "address", NODE_MAC, "type", "veth", "peer", "name", "up1")
        node.ip("addr", "add", "198.51.100.1/24", "dev", "up0")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        node.ip("neigh", "replace", CLIENT, "lladdr", CLIENT_MAC, "dev", "up0", "nud", "permanent")
        node.ip("route", "add", "10.0.0.0/24", "via", "198.51.100.9")
        lb.serve(frontend(f"{BACKEND}:8080"))
        lb.takes_frames(node.ifindex("up0"))
        yield lb, node


def test_without_a_known_neighbour_xdp_leaves_the_packet_to_tc(
    routed: tuple[Balancer, Namespace],
) -> None:
    lb, node = routed
    lb.serve(frontend(f"{BACKEND}:8080"), hop=None)
    run = node.call(lambda: lb.send(request(ttl=61)))
    if lb.hook is XDP:
        assert (run.retval, run.data) == (CONTINUE, bytes(request(ttl=61)))
        return
    tcp = TCP(sport=nat_port(run.data), dport=8080, flags="S", seq=7)
    assert run.retval == lb.hook.redirected  # to the neighbour, so that the kernel writes the MAC addresses
    assert run.data == bytes(ETHER / IP(src=NODE, dst=BACKEND, ttl=60) / tcp / Raw(b"ping"))


def test_what_leaves_by_an_interface_that_takes_no_frames_is_left_to_tc(
    routed: tuple[Balancer, Namespace],
) -> None:
    lb, node = routed
    port = nat_port(lb.send(request()).data)
    lb.takes_frames()
    run = node.call(lambda: lb.send(answer(port, ttl=64)))
    if lb.hook is XDP:
        assert (run.retval, run.data) == (CONTINUE, bytes(answer(port, ttl=64)))
    else:
        assert (run.retval, Ether(run.data)[IP].dst) == (lb.hook.redirected, CLIENT)


def test_a_next_hop_that_takes_no_frames_is_left_to_tc(lb: Balancer) -> None:
    lb.serve(frontend(f"{BACKEND}:8080"), hop=HOP._replace(way=HOP.way | BackendFlag.NO_FRAMES))
    run = lb.send(request(ttl=61))
    if lb.hook is XDP:
        assert (run.retval, run.data) == (CONTINUE, bytes(request(ttl=61)))
    else:
        assert (run.retval, Ether(run.data).dst, Ether(run.data)[IP].dst) == (
            lb.hook.sent,
            ROUTER_MAC,
            BACKEND,
        )


def test_the_source_is_the_address_of_the_interface_that_leads_to_the_backend(lb: Balancer) -> None:
    devices.write(lb.maps[devices.MAP], {HOP.ifindex: Device(snat_source=parse_address("10.7.7.7"))})
    assert Ether(lb.send(request()).data)[IP].src == "10.7.7.7"
    devices.write(lb.maps[devices.MAP], {HOP.ifindex: Device(), HOP.ifindex + 1: Device(0, bytes(range(4)))})
    assert Ether(lb.send(request(sport=40001)).data)[IP].src == NODE


def test_no_route_is_dropped_and_counted(routed: tuple[Balancer, Namespace]) -> None:
    lb, node = routed
    lb.serve(frontend("10.99.0.1:8080"), hop=None)
    assert node.call(lambda: lb.send(request())).retval == lb.hook.dropped
    assert lb.drops() == {"lb_no_route": 1}


def test_a_node_that_may_not_forward_says_so(routed: tuple[Balancer, Namespace]) -> None:
    lb, node = routed
    node.sysctl("net.ipv4.ip_forward", 0)
    lb.serve(frontend(f"{BACKEND}:8080"), hop=None)
    assert node.call(lambda: lb.send(request())).retval == lb.hook.dropped
    assert lb.drops() == {"lb_forwarding_off": 1}


def test_a_packet_to_a_snat_port_that_no_flow_uses_goes_on(lb: Balancer) -> None:
    lb.send(request())
    packet = answer(CONFIG.snat_port_first, backend=OTHER)
    run = lb.send(packet)
    assert run.retval == CONTINUE
    assert run.data == bytes(packet)


def test_a_packet_at_the_end_of_its_ttl_is_dropped(lb: Balancer) -> None:
    assert lb.send(request(ttl=1)).retval == lb.hook.dropped
    assert lb.drops() == {"lb_ttl": 1}
    assert lb.flows() == (0, 0)


def test_flows_to_one_backend_have_different_ports(lb: Balancer) -> None:
    ports = {nat_port(lb.send(request(sport=sport)).data) for sport in range(30000, 30200)}
    assert len(ports) == 200


def test_ports_that_run_out_fail_fast_and_take_no_live_flow(hook: Hook) -> None:
    config = LbConfig(snat_address=parse_address(NODE), snat_port_first=61000, snat_port_last=61003)
    with balancer(hook) as lb:
        lb.serve(frontend(f"{BACKEND}:8080"), config=config)
        verdicts = [lb.send(request(sport=sport)).retval for sport in range(30000, 30010)]
        assert verdicts.count(lb.hook.sent) == 4
        assert lb.flows() == (4, 4)
        assert lb.drops() == {"lb_ports": 6}
        again = [lb.send(request("A", sport=sport)).retval for sport in range(30000, 30010)]
        assert [v for v, first in zip(again, verdicts, strict=True) if first == lb.hook.sent] == [
            lb.hook.sent
        ] * 4


def test_several_source_addresses_have_all_ports_each_and_answers_to_all_are_known(hook: Hook) -> None:
    sources = (NODE, "10.0.0.2", "10.0.0.3")
    config = LbConfig(snat_port_first=61000, snat_port_last=61001).with_sources(
        list(map(parse_address, sources)), []
    )
    with balancer(hook) as lb:
        lb.serve(frontend(f"{BACKEND}:8080"), config=config)
        runs = [lb.send(request(sport=sport)) for sport in range(30000, 30200)]
        sent = [run for run in runs if run.retval == lb.hook.sent]
        places = {(Ether(run.data)[IP].src, nat_port(run.data)) for run in sent}
        assert places == {(source, port) for source in sources for port in (61000, 61001)}
        assert len(sent) == len(places)
        answers = {FlowKey.unpack(key)[1:4] for key in lb.maps["kb_lb_rev"].keys()}  # noqa: SIM118
        assert answers == {(parse_address(source), 8080, port) for source, port in places}


@pytest.mark.parametrize("full", ["kb_lb_flow", "kb_lb_rev"])
def test_a_full_table_leaves_no_half_of_a_flow(hook: Hook, full: str) -> None:
    with balancer(hook, **{full: 4}) as lb:
        lb.serve(frontend(f"{BACKEND}:8080"))
        verdicts = [lb.send(request(sport=sport)).retval for sport in range(30000, 30010)]
        forward, reverse = lb.flows()
        assert forward == reverse == verdicts.count(lb.hook.sent)
        assert lb.drops() == {"lb_flows": 10 - forward}


def test_a_flow_stays_with_a_backend_that_leaves_until_it_ends(lb: Balancer) -> None:
    lb.send(request("S"))
    lb.serve(frontend(f"{OTHER}:8080"))
    assert lb.backend_of(request("A")) == BACKEND
    assert lb.backend_of(request("S", sport=40001)) == OTHER
    assert lb.collect().backends_freed == 1  # the UDP frontend's, which is gone and had no flow
    assert lb.backend_of(request("A")) == BACKEND
    lb.send(request("R"))
    assert lb.collect(after_seconds=30).expired == 1
    assert lb.backend_of(request("A")) == OTHER


def test_a_syn_on_a_flow_that_is_over_chooses_anew(lb: Balancer) -> None:
    lb.send(request("S"))
    lb.send(request("FA"))
    lb.serve(frontend(f"{OTHER}:8080"))
    assert lb.backend_of(request("S")) == OTHER
    assert lb.flows() == (1, 1)


def test_collection_follows_tcp(lb: Balancer) -> None:
    opening, established, closed, halfclosed = (request("S", sport=sport) for sport in range(1, 5))
    ports = [nat_port(lb.send(p).data) for p in (opening, established, closed, halfclosed)]
    for port in ports[1:]:
        lb.send(answer(port))
    lb.send(request("FA", sport=3))
    lb.send(answer(ports[2], "FA"))
    lb.send(request("FA", sport=4))
    assert lb.collect(5).expired == 0
    assert lb.collect(20).expired == 1  # both sides have sent FIN
    assert lb.collect(90).expired == 1  # nobody answered the SYN
    assert lb.collect(7000).expired == 0  # one side open is open
    assert lb.collect(9000).expired == 2
    assert lb.flows() == (0, 0)


def test_collection_of_udp_waits_longer_for_a_flow_that_was_answered(lb: Balancer) -> None:
    def query(port: int) -> Packet:
        return ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=port, dport=53)

    port = nat_port(lb.send(query(1)).data)
    lb.send(query(2))
    lb.send(ETHER / IP(src=BACKEND, dst=NODE) / UDP(sport=5353, dport=port))
    assert lb.collect(60).expired == 1
    assert lb.collect(100).expired == 0
    assert lb.collect(300).expired == 1


def test_half_a_flow_that_a_crash_left_is_collected(lb: Balancer) -> None:
    lb.send(request())
    ((key, _),) = lb.maps["kb_lb_flow"].items()
    lb.maps["kb_lb_flow"].delete(key)
    assert lb.collect(1).orphans == 0  # it might be in the making
    assert lb.collect(60).orphans == 1
    assert lb.flows() == (0, 0)


def test_a_port_that_a_backend_refused_once_serves_a_new_connection_without_haste(lb: Balancer) -> None:
    port = nat_port(lb.send(request("S")).data)
    lb.send(answer(port, "RA"))
    lb.send(request("S"))
    lb.send(answer(port, "SA"))
    lb.send(request("A"))
    assert lb.collect(20).expired == 0


def test_a_connection_that_goes_on_after_a_forged_reset_is_alive(lb: Balancer) -> None:
    port = nat_port(lb.send(request("S")).data)
    lb.send(answer(port, "SA"))
    lb.send(request("R"))
    lb.send(request("A"))
    assert lb.collect(20).expired == 0


def test_no_flow_takes_a_port_that_a_frontend_has_on_the_snat_address(hook: Hook) -> None:
    config = LbConfig(snat_address=parse_address(NODE), snat_port_first=61000, snat_port_last=61001)
    with balancer(hook) as lb:
        taken = frontend(f"{OTHER}:8080", vip=NODE, port=61000)
        lb.serve(frontend(f"{BACKEND}:8080"), taken, config=config)
        runs = [lb.send(request(sport=sport)) for sport in range(30000, 30008)]
        assert {nat_port(run.data) for run in runs if run.retval == lb.hook.sent} == {61001}


def test_udp_leaves_a_removed_backend_at_once(lb: Balancer) -> None:
    query = ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=1, dport=53)
    assert lb.backend_of(query) == BACKEND
    lb.serve(frontend(f"{OTHER}:5353", port=53, protocol=Protocol.UDP))
    assert lb.backend_of(query) == OTHER
    assert lb.flows() == (1, 1)
