"""What trace tells of a packet is what the live program then does with it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kubebee.bpf.netlink import dump_interfaces
from kubebee.cli.lb import trace_view
from kubebee.lb import layout
from kubebee.lb.layout import Flow as FlowValue
from kubebee.lb.layout import FlowKey, NextHop
from kubebee.lb.model import Forwarding, Protocol, parse_address
from kubebee.lb.reading import read_tables, slot_words
from kubebee.trace import packet
from kubebee.trace.decisions import Ending, Table, Trace, decide
from kubebee.trace.gather import Asked, affinity_of, find, sent_on
from kubebee.trace.packet import Flow, TcpFlag, frame, tunnelled
from kubebee.trace.private import PrivateChain
from kubebee.trace.rehearsal import rehearse_in
from support.live_chain import LB, USER, Live, live_chain
from support.servicelb import CLIENT, CONFIG, HOP, NODE, NODE_MAC, ROUTER_MAC, VIP, frontend

pytestmark = pytest.mark.root

MACS = bytes.fromhex((NODE_MAC + ROUTER_MAC).replace(":", ""))
SYN, ACK, FIN = TcpFlag.SYN, TcpFlag.ACK, TcpFlag.FIN
VERDICTS = ("ABORTED", "DROP", "PASS", "TX", "REDIRECT")


@pytest.fixture
def live() -> Iterator[Live]:
    with live_chain() as made:
        yield made


def client(port: int = 40000, to: int = 80, protocol: int = packet.TCP) -> Flow:
    return Flow(parse_address(CLIENT), port, parse_address(VIP), to, protocol)


def trace(live: Live, flow: Flow, flags: TcpFlag = SYN, *, length: int = 0, ttl: int = 64) -> Trace:
    """As `kubebee lb trace` makes it; checks that nothing live changes."""
    before = live.contents()
    with PrivateChain(live.chain) as private:
        made = trace_in(private, live, flow, frame(flow, MACS, tcp_flags=flags, ip_length=length, ttl=ttl))
    assert live.contents() == before
    return made


def trace_in(private: PrivateChain, live: Live, flow: Flow, sent: bytes) -> Trace:
    maps = live.balancer.maps
    found = find(read_tables(maps), flow)
    shown, table = None, None
    if found is not None:
        tables, shown = found
        every = slot_words(maps, tables.family, shown.value.base, shown.value.size)
        table = Table(every, layout.hash_seed(maps["kb_lb_cfg"].lookup(bytes(4)) or b""))
    run = rehearse_in(private, flow, sent, affinity_of(shown, flow))
    return decide(run, flow, shown, table, dump_interfaces(), time.monotonic_ns())


def really(live: Live, flow: Flow, flags: TcpFlag = SYN) -> tuple[str, bytes]:
    """What the live program does: verdict and frame."""
    ran = live.program.test_run(frame(flow, MACS, tcp_flags=flags))
    return VERDICTS[ran.retval], ran.data


def agrees(traced: Trace, real: tuple[str, bytes]) -> bool:
    return (traced.run.verdict, traced.run.after) == real and not traced.disagrees


def backend(traced: Trace) -> str:
    assert traced.backend is not None
    return str(traced.backend.backend)


def test_a_new_connection_goes_to_its_slots_backend(live: Live) -> None:
    traced = trace(live, client())
    assert traced.pick is not None
    assert traced.backend is not None
    assert traced.backend.number == traced.pick.number
    assert (traced.ending, traced.connection) == (Ending.FORWARDED, None)
    assert traced.source is not None
    assert traced.source[0] == parse_address(NODE)
    assert traced.exit is not None
    assert (traced.exit.interface, traced.exit.kept) == ("lo", True)
    assert agrees(traced, really(live, client()))


def test_a_connection_that_is_kept_stays_with_its_backend(live: Live) -> None:
    really(live, client())
    before = backend(trace(live, client(), ACK))
    live.balancer.serve(frontend("10.0.0.9:8080"))
    traced = trace(live, client(), ACK)
    assert (backend(traced), traced.connection is not None) == (before, True)
    assert (traced.position, traced.backend and traced.backend.state) == (0, "Draining")
    assert agrees(traced, really(live, client(), ACK))


def test_a_datagram_whose_backend_left_starts_anew(live: Live) -> None:
    live.balancer.serve(frontend("10.0.0.2:53", port=53, protocol=Protocol.UDP))
    dns = client(to=53, protocol=packet.UDP)
    really(live, dns)
    live.balancer.serve(frontend("10.0.0.9:53", port=53, protocol=Protocol.UDP))
    traced = trace(live, dns)
    assert (backend(traced), traced.connection is not None) == ("10.0.0.9:53", True)
    assert agrees(traced, really(live, dns))


def test_an_answer_goes_back_to_its_client(live: Live) -> None:
    really(live, client())
    key = FlowKey(parse_address(CLIENT), parse_address(VIP), 40000, 80, packet.TCP)
    kept = FlowValue.unpack(live.balancer.maps["kb_lb_flow"].lookup(key.pack()) or b"")
    of = live.balancer.maps["kb_lb_be"].lookup(layout.u32(kept.backend)) or b""
    served = layout.BackendValue.unpack(of)
    answer = Flow(served.address, served.port, kept.nat_address, kept.nat_port, packet.TCP)
    traced = trace(live, answer, SYN | ACK)
    assert traced.connection is not None
    assert (traced.connection.answer, str(traced.connection.frontend)) == (True, f"{VIP}:80/TCP")
    assert traced.connection.client == (parse_address(CLIENT), 40000)
    assert agrees(traced, really(live, answer, SYN | ACK))


def test_ports_that_live_connections_have_are_not_given_again(live: Live) -> None:
    few = replace(CONFIG, snat_port_first=61000, snat_port_last=61003)
    live.balancer.serve(frontend("10.0.0.2:8080"), config=few)
    sources = set()
    for port in range(1, 5):
        traced = trace(live, client(port))
        assert agrees(traced, really(live, client(port)))
        sources.add(traced.source)
    assert sources == {(parse_address(NODE), port) for port in range(61000, 61004)}
    traced = trace(live, client(9))
    assert (traced.ending, traced.run.stages[LB].dropped) == (Ending.DROPPED, ("lb_ports",))
    assert agrees(traced, really(live, client(9)))


def test_when_the_flow_table_is_full_it_says_so() -> None:
    with live_chain(kb_lb_flow=2, kb_lb_rev=2) as live:
        for port in (1, 2):
            really(live, client(port))
        traced = trace(live, client(3))
        assert (traced.ending, traced.run.stages[LB].dropped) == (Ending.DROPPED, ("lb_flows",))
        assert any("full" in note for note in traced.run.notes)
        assert agrees(traced, really(live, client(3)))
        assert backend(trace(live, client(1), ACK)), "those that are kept go on"


def test_a_backend_that_is_drawn_is_told_as_one_of_several_until_the_connection_has_it(live: Live) -> None:
    drawing = replace(frontend("10.0.0.2:8080", "10.0.0.3:8080"), random=True)
    live.balancer.serve(drawing)
    seen = [trace(live, client()) for _ in range(32)]
    assert {backend(each) for each in seen} == {"10.0.0.2:8080", "10.0.0.3:8080"}
    assert not any(each.disagrees or not each.drawn or each.pick for each in seen)
    assert "may get another backend" in trace_view.summary(seen[0])
    assert "slots at random, in this run 10.0.0." in trace_view.text(seen[0])
    really(live, client())
    known = trace(live, client(), ACK)
    assert not known.drawn
    assert "another" not in trace_view.summary(known)
    assert agrees(known, really(live, client(), ACK))


def test_dsr_is_seen_through(live: Live) -> None:
    live.balancer.serve(frontend("10.0.0.2:80", "10.0.0.3:80", forwarding=Forwarding.DSR_IPIP))
    traced = trace(live, client())
    assert traced.pick is not None
    assert traced.backend is not None
    assert (traced.backend.number, traced.source) == (traced.pick.number, None)
    assert [layer.flow for layer in traced.after.layers][1:] == [client()]
    assert agrees(traced, really(live, client()))


def test_a_connection_that_is_older_than_a_change_of_its_slot_is_told_from_a_new_one(live: Live) -> None:
    one, both = "10.0.0.2:80", ("10.0.0.2:80", "10.0.0.3:80")
    live.balancer.serve(frontend(one, forwarding=Forwarding.DSR_IPIP))
    live.balancer.serve(frontend(*both, forwarding=Forwarding.DSR_IPIP))
    port = next(port for port in range(1, 99) if backend(trace(live, client(port))) == both[1])
    for flags, to, by_table_before in ((ACK, both[0], True), (SYN, both[1], False)):
        traced = trace(live, client(port), flags)
        assert (backend(traced), traced.connection) == (to, None)
        assert traced.by_table_before is by_table_before
        assert traced.pick is not None
        assert traced.pick.changed
    assert agrees(trace(live, client(port), ACK), really(live, client(port), ACK))
    known = trace(live, client(port), ACK)
    assert (backend(known), known.by_table_before) == (both[0], False)
    assert known.connection is not None
    assert (known.connection.direct, known.connection.state) == (True, "Established")
    assert agrees(known, really(live, client(port), ACK))


@pytest.mark.parametrize(
    ("to", "ttl", "reason", "ending"),
    [
        (25, 64, "policy_rule", Ending.DROPPED),
        (80, 1, "lb_ttl", Ending.DROPPED),
        (99, 64, "lb_no_backend", Ending.ANSWERED),
    ],
)
def test_a_drop_has_its_reason(live: Live, to: int, ttl: int, reason: str, ending: Ending) -> None:
    live.balancer.serve(frontend("10.0.0.2:8080"), frontend(port=99))
    traced = trace(live, client(to=to), ttl=ttl)
    assert traced.ending is ending
    assert traced.decided_by is not None
    assert traced.decided_by.dropped == (reason,)


def test_a_packet_that_is_too_long_is_left_to_tc(live: Live) -> None:
    live.balancer.serve(frontend("10.0.0.2:8080"), hop=NextHop(HOP.ifindex, HOP.macs, 1400))
    traced = trace(live, client(), length=1500)
    assert (traced.ending, traced.decided_by) == (Ending.PASSED, None)


def test_the_rule_that_denies_is_named(live: Live) -> None:
    traced = trace(live, client(to=25))
    assert traced.decided_by is not None
    assert traced.decided_by.rules == ("edge/no-mail",)
    assert [stage.verdict for stage in traced.run.stages] == ["DROP", "", ""]


def test_what_is_for_no_frontend_goes_on_to_the_next_stages(live: Live) -> None:
    traced = trace(live, client(to=81))
    assert (traced.ending, traced.frontend) == (Ending.PASSED, None)
    assert [stage.verdict for stage in traced.run.stages] == ["NEXT", "NEXT", "NEXT"]
    for _ in range(2):
        really(live, client(to=81))
    dropped = trace(live, client(to=81))
    assert dropped.decided_by == dropped.run.stages[USER]


def test_a_packet_from_another_balancer_ends_at_the_backend_that_its_outer_header_names(live: Live) -> None:
    pods = [parse_address(f"10.244.1.{i}") for i in (5, 6)]
    live.balancer.serve(frontend("10.244.1.5:8080", "10.244.1.6:8080"))
    live.balancer.state.set_next_hops(live.balancer.maps, dict.fromkeys(pods, NextHop.local(77)))
    for pod in pods:
        for port in range(40000, 40004):
            sent = tunnelled(frame(client(port), MACS), parse_address(CLIENT), pod)
            before = live.contents()
            with PrivateChain(live.chain) as private:
                traced = trace_in(private, live, client(port), sent)
            assert live.contents() == before
            assert traced.is_tunnels_end
            assert (traced.tunnel, traced.ending) == (pod, Ending.LEFT_TO_KERNEL)
            assert backend(traced) == f"{packet.end(pod, 0)}:8080"
            ran = live.program.test_run(sent)
            assert agrees(traced, (VERDICTS[ran.retval], ran.data))
            assert "ends here, at the backend that another balancer chose" in trace_view.text(traced)
            assert "out of another balancer's tunnel, on this node" in trace_view.summary(traced)


def test_a_tunnel_that_does_not_end_here_is_told_as_such(live: Live) -> None:
    sent = tunnelled(frame(client(), MACS), parse_address(CLIENT), parse_address("10.0.0.2"))
    with PrivateChain(live.chain) as private:
        traced = trace_in(private, live, client(), sent)
    assert (traced.ending, traced.is_tunnels_end) == (Ending.PASSED, False)
    assert trace_view.summary(traced).endswith("as it is: the tunnel does not end here")


@pytest.fixture
def by_option() -> Iterator[Live]:
    """Frontends are forwarded by IP option, to another port."""
    with live_chain() as made:
        made.balancer.serve(frontend("10.0.0.2:8080", forwarding=Forwarding.DSR_IP_OPTION))
        yield made


def test_an_option_that_names_the_frontend_is_told(by_option: Live) -> None:
    traced = trace(by_option, client())
    assert backend(traced) == "10.0.0.2:8080"
    assert f"options 8 bytes for {VIP}:80" in traced.after.layers[0].text
    assert "by DSR-IPOption, out of lo" in trace_view.summary(traced)
    assert agrees(traced, really(by_option, client()))
    assert "options" not in trace(by_option, client(), ACK).after.layers[0].text


@pytest.mark.parametrize(
    ("flags", "protocol", "marked"),
    [(SYN, packet.TCP, True), (ACK, packet.TCP, False), (SYN, packet.UDP, True)],
)
def test_a_packet_is_made_as_another_balancer_sends_it_on(
    by_option: Live, flags: TcpFlag, protocol: int, marked: bool
) -> None:
    kind = Protocol(protocol)
    by_option.balancer.serve(frontend("10.0.0.2:8080", protocol=kind, forwarding=Forwarding.DSR_IP_OPTION))
    asked = client(protocol=protocol)
    sent = sent_on_by_another(by_option, asked, flags)
    ran = by_option.program.test_run(frame(asked, MACS, tcp_flags=flags))
    really_sent = MACS + ran.data[12:]
    assert (sent, packet.decode(sent).layers[0].has_option) == (really_sent, marked)


def test_a_packet_with_an_option_ends_at_a_backend_of_this_node(by_option: Live) -> None:
    pod = parse_address("10.0.0.2")
    sent = sent_on_by_another(by_option, client())
    with PrivateChain(by_option.chain) as private:
        passes = trace_in(private, by_option, client(), sent)
    assert (passes.ending, passes.tunnel, passes.is_tunnels_end) == (Ending.PASSED, pod, False)
    assert "left on: 10.0.0.2 is no backend on this node" in trace_view.text(passes)
    assert trace_view.summary(passes).endswith("as it is: its option is not for this node")

    by_option.balancer.state.set_next_hops(by_option.balancer.maps, {pod: NextHop.local(77)})
    with PrivateChain(by_option.chain) as private:
        traced = trace_in(private, by_option, client(), sent)
    assert (traced.ending, traced.is_tunnels_end) == (Ending.LEFT_TO_KERNEL, True)
    assert backend(traced) == "10.0.0.2:8080"
    assert "as another balancer chose, on this node" in trace_view.summary(traced)
    ran = by_option.program.test_run(sent)
    assert agrees(traced, (VERDICTS[ran.retval], ran.data))


def sent_on_by_another(live: Live, flow: Flow, flags: TcpFlag = SYN) -> bytes:
    """A client's frame as another balancer sends it on to 10.0.0.2."""
    found = find(read_tables(live.balancer.maps), flow)
    assert found is not None
    asked = Asked(flow, "lo", flags, tunnel=parse_address("10.0.0.2"))
    return sent_on(asked, frame(flow, MACS, tcp_flags=flags), found[1])


def test_hundreds_of_packets_are_foretold(live: Live) -> None:
    chance = random.Random(7)
    live.balancer.serve(
        frontend("10.0.0.2:8080", "10.0.0.3:8080*3", "10.0.0.4:8080*0"),
        frontend("10.0.0.5:53", "10.0.0.6:53", port=53, protocol=Protocol.UDP),
        frontend("10.0.0.2:443", "10.0.0.3:443", port=443, forwarding=Forwarding.DSR_IPIP),
    )
    ends = [(80, packet.TCP), (443, packet.TCP), (53, packet.UDP), (25, packet.TCP)]
    with PrivateChain(live.chain) as private:
        for _ in range(300):
            to, protocol = chance.choice(ends)
            flow, flags = client(chance.randrange(1, 30), to, protocol), chance.choice([SYN, ACK, FIN | ACK])
            sent = frame(flow, MACS, tcp_flags=flags)
            assert agrees(trace_in(private, live, flow, sent), really(live, flow, flags)), (flow, flags)
