"""What trace tells of a packet at tc is what the live program there then does with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from kubebee.bpf.netlink import dump_interfaces
from kubebee.cli.lb import trace_view
from kubebee.lb import layout
from kubebee.lb.layout import NextHop
from kubebee.lb.model import Forwarding, LbConfig, parse_address
from kubebee.lb.reading import read_tables, slot_words
from kubebee.loader import filter_object
from kubebee.planner.plan import LbUnit
from kubebee.trace import packet
from kubebee.trace.decisions import Ending, Table, Trace, decide
from kubebee.trace.gather import affinity_of, find
from kubebee.trace.live import At, LiveChain
from kubebee.trace.packet import Flow, TcpFlag, frame
from kubebee.trace.rehearsal import rehearse
from lab.netns import Namespace
from support.servicelb import (
    CLIENT,
    LOOPBACK,
    NODE,
    NODE_MAC,
    ROUTER_MAC,
    TC,
    VIP,
    Balancer,
    balancer,
    frontend,
    tc_elf,
)

pytestmark = pytest.mark.root

MACS = bytes.fromhex((NODE_MAC + ROUTER_MAC).replace(":", ""))
SYN, ACK = TcpFlag.SYN, TcpFlag.ACK
TWO = ("10.0.0.2:8080", "10.0.0.3:8080")
CLIENT6, VIP6, NODE6 = "2001:db8:c::7", "2001:db8:f::10", "2001:db8:1::1"
TWO6 = ("[2001:db8:1::2]:8080", "[2001:db8:1::3]:8080")
SETTINGS = LbConfig(snat_address=parse_address(NODE), snat_address6=parse_address(NODE6))
WENT_ON, REDIRECTED = 0xFFFFFFFF, 7


@dataclass
class Live:
    """A load balancer at tc on loopback."""

    chain: LiveChain
    balancer: Balancer

    def contents(self) -> dict[str, object]:
        """Every byte of every map."""
        return {name: sorted(each.items()) for name, each in self.balancer.maps.items()}


def live_on(loaded: Balancer, six: bool) -> Live:
    function = "kb_lb_ingress6" if six else "kb_lb_ingress"
    maps = {name: each for name, each in loaded.maps.items() if not name.startswith(".")}
    kept = filter_object.made_from(LbUnit.key, function, tc_elf(six), maps)
    info = loaded.program.info
    return Live(LiveChain("lo", LOOPBACK, info.id, info.tag, kept, At.TC), loaded)


@pytest.fixture(params=(False, True), ids=("ipv4", "ipv6"))
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    six: bool = request.param
    with balancer(TC, six=six) as loaded:
        made = live_on(loaded, six)
        serve(made)
        yield made


def is_six(live: Live) -> bool:
    return live.chain.made_from.entry.endswith("6")


def serve(live: Live, hop: NextHop | None = None, **fields: Forwarding) -> None:
    vip, backends = (VIP6, TWO6) if is_six(live) else (VIP, TWO)
    made = frontend(*backends, vip=vip, port=8080, **fields)  # type: ignore[arg-type]
    live.balancer.serve(made, config=SETTINGS, **({"hop": hop} if hop else {}))


def client(live: Live, port: int = 40000, to: int = 8080) -> Flow:
    source, vip = (CLIENT6, VIP6) if is_six(live) else (CLIENT, VIP)
    return Flow(parse_address(source), port, parse_address(vip), to, packet.TCP)


def trace(live: Live, flow: Flow, flags: TcpFlag = SYN, ttl: int = 64) -> Trace:
    """As `kubebee lb trace` makes it; checks that nothing live changes."""
    before, maps = live.contents(), live.balancer.maps
    found = find(read_tables(maps), flow)
    shown, table = None, None
    if found is not None:
        tables, shown = found
        every = slot_words(maps, tables.family, shown.value.base, shown.value.size)
        table = Table(every, layout.hash_seed(maps["kb_lb_cfg"].lookup(bytes(4)) or b""))
    run = rehearse(live.chain, flow, frame(flow, MACS, tcp_flags=flags, ttl=ttl), affinity_of(shown, flow))
    made = decide(run, flow, shown, table, dump_interfaces(), time.monotonic_ns(), lambda _: "eth9")
    assert live.contents() == before
    return made


def really(live: Live, flow: Flow, flags: TcpFlag = SYN) -> tuple[int, bytes]:
    """What the live program does: verdict and frame."""
    ran = live.balancer.send(frame(flow, MACS, tcp_flags=flags))
    return ran.retval, ran.data


def test_a_new_connection_goes_to_its_slots_backend(live: Live) -> None:
    traced = trace(live, client(live))
    assert traced.pick is not None
    assert traced.backend is not None
    assert traced.backend.number == traced.pick.number
    assert (traced.ending, traced.run.verdict, traced.disagrees) == (Ending.FORWARDED, "REDIRECT", False)
    assert traced.exit is not None
    assert (traced.exit.interface, traced.exit.kept) == ("lo", True)
    assert (REDIRECTED, traced.run.after) == really(live, client(live))


def test_a_connection_that_is_kept_stays_with_its_backend(live: Live) -> None:
    really(live, client(live))
    traced = trace(live, client(live), ACK)
    assert traced.connection is not None
    assert (REDIRECTED, traced.run.after) == really(live, client(live), ACK)


def test_dsr_is_seen_through(live: Live) -> None:
    serve(live, forwarding=Forwarding.DSR_IPIP)
    traced = trace(live, client(live))
    assert [layer.flow for layer in traced.after.layers][1:] == [client(live)]
    assert (REDIRECTED, traced.run.after) == really(live, client(live))


def test_what_is_for_a_backend_of_this_node_goes_to_the_stack_translated(live: Live) -> None:
    serve(live, NextHop.local(77))
    traced = trace(live, client(live))
    assert (traced.ending, traced.run.verdict) == (Ending.LEFT_TO_KERNEL, "PASS")
    assert (WENT_ON, traced.run.after) == really(live, client(live))
    assert "on this node: the kernel delivers it" in trace_view.text(traced)


def test_a_drop_has_its_reason(live: Live) -> None:
    traced = trace(live, client(live), ttl=1)
    assert (traced.ending, traced.run.stages[0].dropped) == (Ending.DROPPED, ("lb_ttl",))


def test_what_is_for_no_frontend_goes_on_as_it_is(live: Live) -> None:
    traced = trace(live, client(live, to=81))
    assert (traced.ending, [stage.verdict for stage in traced.run.stages]) == (Ending.PASSED, ["NEXT"])


def test_all_decisions_are_told(live: Live) -> None:
    lines = trace_view.text(trace(live, client(live))).splitlines()
    assert [line.split()[0] for line in lines if line][:-1] == [
        *("packet", "comes", "ServiceLB", "frontend", "connection", "choice", "backend", "source", "next"),
        *("goes", "verdict"),
    ]
    assert "by lo at tc; program" in lines[1]
    assert lines[-1].endswith("out of lo")


def test_a_neighbour_that_is_not_known_is_left_to_the_kernel_to_find() -> None:
    with Namespace("node") as node, balancer(TC) as loaded:
        node.sysctl("net.ipv4.ip_forward", 1)
        node.ip("link", "add", "up0", "address", NODE_MAC, "type", "veth", "peer", "name", "up1")
        node.ip("link", "set", "up0", "up")
        node.ip("link", "set", "up1", "up")
        node.ip("addr", "add", f"{NODE}/24", "dev", "up0")
        live = live_on(loaded, six=False)
        loaded.serve(frontend(*TWO, port=8080), hop=None)
        traced = node.call(lambda: trace(live, client(live)))
    assert traced.exit is not None
    assert (traced.ending, traced.exit.interface, traced.exit.macs) == (Ending.FORWARDED, "eth9", b"")
    assert "the kernel finds its neighbour's MAC address" in trace_view.text(traced)
    assert trace_view.document(traced)["exit"] == {"interface": "eth9", "mac": None, "nextHopKept": False}
