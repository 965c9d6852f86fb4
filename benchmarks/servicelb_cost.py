"""Nanoseconds that ServiceLB takes for a packet, by BPF_PROG_TEST_RUN. Prints JSON. Needs root and clang.

The stage is a subprogram of a wrapper that undoes its rewrite after each run, so that every run sees the same
packet, or that of another connection where a case has many. Calibration: an empty program, and the wrapper
around a stage that does nothing. Figures include the wrapper, as those of peers do. How it is measured, and
what `quiet` means: bench/packets.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from scapy.layers.inet import IP, TCP, UDP, IPOption
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from bench.packets import TURNS, Case, measure
from bench.report import Report
from bench.undoing import Traffic, empty_stage, wrapped
from kubebee.bpf.program import Program, TestRun
from kubebee.lb.features import Features
from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, Frontend, Protocol, parse_address
from kubebee.render.environment import render_builtin
from lab.netns import Namespace
from support.own_places import holds
from support.servicelb import (
    CLIENT,
    CLIENT_MAC,
    CONFIG,
    CONTINUE,
    DROP,
    ETHER,
    LOOPBACK,
    NODE,
    PASS,
    REDIRECT,
    TX,
    VIP,
    Balancer,
    frontend,
)

CLIENT6, VIP6, NODE6 = "2001:db8:7::7", "2001:db8::10", "fd00::1"
BACKENDS = [f"10.0.0.{i}" for i in range(1, 101)]
BACKENDS6 = [f"[fd00::{i:x}]" for i in range(0x11, 0x1B)]
FEW = 10
"""Backends of a frontend, but for the one with many translated connections, whose ports they share."""
CLIENTS = 1 << 16
"""Far more than a backend has ports."""
HOST, OWN_VIP = "198.51.100.1", "192.0.2.20"
FAR_VIP = "192.0.2.21"
POD, POD_LINK = "10.244.1.5", 77
ROUTED, GATEWAY = "10.0.1.1", "198.51.100.9"


def tcp(flags: str, port: int = 80, vip: str = VIP) -> Packet:
    return ETHER / IP(src=CLIENT, dst=vip) / TCP(sport=40000, dport=port, flags=flags) / Raw(bytes(10))


def tunnel(backend: str, inside: Packet) -> Packet:
    """As another balancer sends it on."""
    return ETHER / IP(src="10.9.9.9", dst=backend) / inside[IP]


def optioned(backend: str, port: int) -> Packet:
    """A SYN as another balancer sends it on by IP option, from port 86 of VIP."""
    option = bytes((0x9A, 8, 86, 0)) + parse_address(VIP)[::-1]
    ip = IP(src=CLIENT, dst=backend, options=[IPOption(option)])
    return ETHER / ip / TCP(sport=40000, dport=port, flags="S") / Raw(bytes(10))


def udp(port: int) -> Packet:
    return ETHER / IP(src=CLIENT, dst=VIP) / UDP(sport=40000, dport=port) / Raw(bytes(22))


def tcp6(flags: str, port: int = 80) -> Packet:
    return ETHER / IPv6(src=CLIENT6, dst=VIP6) / TCP(sport=40000, dport=port, flags=flags) / Raw(bytes(10))


CALIBRATION = (
    Traffic("wrapper", tcp("A"), TX),
    Traffic("wrapper_all_headers", tcp("A"), TX, restore=54),
    Traffic("wrapper_64k_flows", tcp("A"), TX, restore=38, flow_bits=16),
    Traffic("wrapper_outer_header", tunnel(HOST, tcp("A", vip=OWN_VIP)), PASS, restore=34),
    Traffic("wrapper_outer_and_inner", tunnel(POD, tcp("A", 85)), PASS, restore=74),
)
ANSWER = Traffic("snat_tcp_answer", tcp("A"), REDIRECT, restore=54)
"""From a backend to the client, by the routing table; its packet depends on the port that the request got."""
FULL = Traffic("snat_ports_full", tcp("S", 84), DROP)
SERVED = (
    Traffic("dsr_ipip_tcp_established", tcp("A"), TX, grown=20),
    Traffic("dsr_ipip_tcp_syn", tcp("S"), TX, grown=20),
    Traffic("dsr_ipip_udp", udp(53), TX, grown=20),
    Traffic("dsr_ipip_64k_flows", tcp("A"), TX, grown=20, restore=38, flow_bits=16),
    Traffic("dsr_ipip_1m_flows", tcp("A"), TX, grown=20, restore=38, flow_bits=20),
    Traffic("snat_tcp_established", tcp("A", 81), TX, restore=54),
    Traffic("snat_tcp_8k_flows", tcp("A", 82), TX, restore=54, flow_bits=13),
    Traffic("snat_tcp_64k_flows", tcp("A", 82), TX, restore=54, flow_bits=16),
    Traffic("snat_tcp_routed", tcp("A", 83), REDIRECT, restore=54),
    ANSWER,
    FULL,
    Traffic("decapsulated_for_the_host", tunnel(HOST, tcp("A", vip=OWN_VIP)), PASS, grown=-20, restore=34),
    Traffic("decapsulated_for_a_pod", tunnel(POD, tcp("A", 85)), PASS, grown=-20, restore=74),
    Traffic("miss", tcp("A", 8080), CONTINUE),
)
BY_OPTION = (
    Traffic("dsr_option_tcp_established", tcp("A", 86, FAR_VIP), TX, restore=54),
    Traffic("dsr_option_tcp_syn", tcp("S", 86, FAR_VIP), TX, grown=8, restore=54),
    Traffic("option_taken_off", optioned(POD, 8086), PASS, grown=-8, restore=62),
    Traffic("miss_beside_options", tcp("A", 8080), CONTINUE),
)
"""In a program that has the code for options; that of the others has none."""
SERVED6 = (
    Traffic("ipv6_dsr_tcp_established", tcp6("A"), TX, grown=40),
    Traffic("ipv6_snat_tcp_established", tcp6("A", 81), TX, restore=74),
    Traffic("ipv6_miss", tcp6("A", 8080), CONTINUE),
)
AIM = (
    "DSR 40, SYN 50, 64K flows 100, 1M 200; SNAT 100, by a route 150, full 200; "
    "over the wrapper: miss 15, decapsulation 20"
)
AIMS = {
    "dsr_ipip_tcp_established": 40,
    "dsr_ipip_tcp_syn": 50,
    "dsr_ipip_64k_flows": 100,
    "dsr_ipip_1m_flows": 200,
    "snat_tcp_established": 100,
    "snat_tcp_routed": 150,
    "snat_tcp_answer": 150,
    "snat_ports_full": 200,
}
"""ns, where the empty program takes 5 and the wrapper 9."""
OVER_WRAPPER = {
    "decapsulated_for_the_host": ("wrapper_outer_header", 20),
    "decapsulated_for_a_pod": ("wrapper_outer_and_inner", 20),
    "miss": ("wrapper", 15),
}
"""The wrapper that restores as many bytes around a stage that does nothing, and ns over that. It calls
`bpf_xdp_adjust_head` once, as all do: what a stage takes off or puts in front costs it no more to undo."""


def frontends() -> Iterator[Frontend]:
    """What is served: port 83 without next hops, port 84 by one backend alone."""
    dsr, snat, few = Forwarding.DSR_IPIP, Forwarding.SNAT, BACKENDS[:FEW]
    yield frontend(*(f"{each}:80" for each in few), forwarding=dsr)
    yield frontend(*(f"{each}:53" for each in few), port=53, protocol=Protocol.UDP, forwarding=dsr)
    yield frontend(*(f"{each}:8080" for each in few), port=81, forwarding=snat)
    yield frontend(*(f"{each}:8082" for each in BACKENDS), port=82, forwarding=snat)
    yield frontend(f"{ROUTED}:8080", port=83, forwarding=snat)
    yield frontend(f"{BACKENDS[0]}:8084", port=84, forwarding=snat)
    yield frontend(f"{POD}:85", port=85, forwarding=dsr)
    option = Forwarding.DSR_IP_OPTION
    yield frontend(f"{POD}:8086", port=86, forwarding=option)
    yield frontend(*(f"{each}:8086" for each in few), vip=FAR_VIP, port=86, forwarding=option)
    yield frontend(f"{HOST}:80", vip=OWN_VIP, forwarding=dsr)
    yield frontend(*(f"{each}:80" for each in BACKENDS6), vip=VIP6, forwarding=dsr)
    yield frontend(*(f"{each}:8080" for each in BACKENDS6), vip=VIP6, port=81, forwarding=snat)


@contextmanager
def served(source: str, traffic: Traffic, six: bool, out: int) -> Iterator[tuple[Balancer, Program]]:
    """The balancer and the wrapper around it; `out` is the interface that routes lead to."""
    with ExitStack() as stack:
        loaded = stack.enter_context(wrapped(source, traffic))
        maps = {name: stack.enter_context(item.duplicate()) for name, item in loaded.maps.items()}
        programs = (loaded.programs[name].duplicate() for name in ("once", "wrapper"))
        once, wrapper = (stack.enter_context(each) for each in programs)
        balancer = Balancer(once, maps)
        config = replace(CONFIG, snat_address6=parse_address(NODE6), encap_source6=parse_address(NODE6))
        balancer.serve(*(each for each in frontends() if six or len(each.key.address) == 4), config=config)
        local = {parse_address(POD): NextHop.local(POD_LINK), parse_address(HOST): NextHop.local()}
        hops = {parse_address(ROUTED): None, **local}
        balancer.state.set_next_hops(maps, hops)
        balancer.takes_frames(out)
        holds(balancer, OWN_VIP)
        balancer.collect()
        yield balancer, wrapper


@contextmanager
def node_with_routes() -> Iterator[Namespace]:
    """A node with a way to the client and to the backend that has no next hop."""
    with Namespace("node") as node:
        node.sysctl("net.ipv4.ip_forward", 1)
        node.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
        node.ip("addr", "add", f"{HOST}/24", "dev", "up0")
        node.ip("addr", "add", f"{OWN_VIP}/32", "dev", "lo")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        for address in (CLIENT, GATEWAY):
            node.ip("neigh", "replace", address, "lladdr", CLIENT_MAC, "dev", "up0", "nud", "permanent")
        node.ip("route", "add", f"{ROUTED}/32", "via", GATEWAY)
        yield node


def stage(six: bool, ip_option: bool = False) -> str:
    """The C source of the stage for the wrapper."""
    features = Features(dsr=True, ip_option=ip_option, ipv6=six)
    source = render_builtin("servicelb", features.context() | {"tc": False, "six": six})
    changed = source.replace('SEC("xdp")\nint LB_V(kb_servicelb)(', "static __noinline int stage(")
    assert changed != source
    return changed


def as_answer(run: TestRun) -> Packet:
    """What the backend answers to a request that went out to it."""
    sent = Ether(run.data)
    ports = TCP(sport=sent[TCP].dport, dport=sent[TCP].sport, flags="A")
    answer: Packet = ETHER / IP(src=sent[IP].dst, dst=NODE) / ports / Raw(bytes(10))
    return answer


def main() -> None:
    report = Report("servicelb_cost", AIM, TURNS)
    cases: dict[str, Case] = {}
    with ExitStack() as stack:
        node = stack.enter_context(node_with_routes())
        for traffic in CALIBRATION:
            loaded = stack.enter_context(wrapped(empty_stage(traffic.verdict), traffic))
            program = stack.enter_context(loaded.programs["wrapper"].duplicate())
            cases[traffic.name] = Case(program, bytes(traffic.packet), traffic.verdict)
        opening = tcp("S", 81)
        for each in (*SERVED, *BY_OPTION, *SERVED6):
            six, traffic = each in SERVED6, each
            source = stage(six, ip_option=each in BY_OPTION)
            if each is ANSWER:  # ports are given out by a hash: those of any balancer with these frontends
                with served(source, each, six, LOOPBACK) as (other, _):
                    traffic = replace(each, packet=as_answer(other.send(opening)))
            balancer, program = stack.enter_context(served(source, traffic, six, node.ifindex("up0")))
            if each is ANSWER:
                balancer.send(opening)
            if each is FULL:
                take_all_ports(balancer, bytes(each.packet))
            case = Case(program, bytes(traffic.packet), traffic.verdict)
            node.call(lambda case=case, traffic=traffic: warm_up(case, traffic))
            cases[traffic.name] = case
        samples = node.call(lambda: measure(cases))
    samples.describe_machine(report)
    for name in cases:
        report.figures |= samples.figures(name, AIMS.get(name))
    for name, (wrapper, aim) in OVER_WRAPPER.items():
        report.figures[f"{name}_over_wrapper"] = samples.over(name, wrapper, aim)
    report.print()


def warm_up(case: Case, traffic: Traffic) -> None:
    """Open the connections."""
    case.program.test_run(case.frame, repeat=2 << traffic.flow_bits)


def take_all_ports(balancer: Balancer, frame: bytes) -> None:
    """Open connections of other clients to the backend until it has no port left."""
    for number in range(1, CLIENTS):
        balancer.send(frame[:26] + number.to_bytes(4, "big") + frame[30:])
    assert balancer.drops().get("lb_ports", 0) > CLIENTS // 2, balancer.drops()


if __name__ == "__main__":
    main()
