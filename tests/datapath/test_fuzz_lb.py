"""ServiceLB against a model: random frames, equal verdicts and bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kubebee.lb.layout import NextHop
from kubebee.lb.model import Backend, Forwarding, Frontend, FrontendKey, LbConfig, Protocol, parse_address
from support.frames import ICMP, IPIP, TCP, UDP, Frames, Ipv4, Unread, checksum, ones_sum, read
from support.servicelb import (
    CONTINUE,
    HOOKS,
    LOOPBACK,
    NODE,
    TC,
    XDP,
    Balancer,
    Hook,
    balancer,
    frontend,
)

pytestmark = pytest.mark.root

CONFIGURATIONS, FRAMES = 50, 2000
LEAST_OF_TC = {b"\x08\x00": 34, b"\x86\xdd": 54}
"""Bytes that a test run of tc takes at least, by protocol."""
MACS = bytes(range(12))


def number(address: str) -> int:
    return int.from_bytes(parse_address(address))


HERE_VIP = "203.0.113.12"
"""Of a frontend with backends on this node; packets for it come in tunnels alone."""
PODS = frozenset(parse_address(f"10.244.1.{i}") for i in (5, 6))
HERE = {(number(HERE_VIP), 80, TCP), (number(HERE_VIP), 53, UDP)}
VIPS = tuple(number(f"192.0.2.{end}") for end in (10, 11, 12))
PORTS = ((80, TCP), (53, UDP), (443, TCP), (53, TCP), (8080, UDP))
Flow = tuple[int, int, int, int, int]
Place = tuple[int, int, int]


@dataclass(frozen=True)
class Served:
    """A random configuration: backends of frontends by the way of forwarding, and frontends without any."""

    snat: dict[Place, frozenset[tuple[bytes, int]]]
    dsr: dict[Place, frozenset[bytes]]
    empty: frozenset[Place]

    @classmethod
    def random(cls, random: Random) -> Served:
        snat, dsr, empty = {}, {}, set()
        for place in ((vip, *port) for vip in VIPS for port in PORTS):
            hosts = [bytes((10, random.randrange(4), 7, host)) for host in range(1, random.randint(2, 9))]
            kind = random.choices(("snat", "dsr", "empty", "none"), (4, 3, 1, 2))[0]
            if kind == "snat":
                snat[place] = frozenset((host, random.choice((80, 8080, 65535))) for host in hosts)
            elif kind == "dsr":
                dsr[place] = frozenset(hosts)
            elif kind == "empty" and place[2] == TCP:
                empty.add(place)
        return cls(snat, dsr, frozenset(empty))

    @property
    def addresses(self) -> frozenset[int]:
        """Those that any frontend has."""
        return frozenset(address for address, _, _ in {*self.snat, *self.dsr, *self.empty})

    def frontends(self) -> Iterator[Frontend]:
        """What is to be served."""
        for place in self.empty:
            yield _frontend(place, [], Forwarding.SNAT)
        for place, ends in self.snat.items():
            yield _frontend(place, sorted(ends), Forwarding.SNAT)
        for place, hosts in self.dsr.items():
            yield _frontend(place, [(host, place[1]) for host in sorted(hosts)], Forwarding.DSR_IPIP)


def _frontend(place: Place, ends: list[tuple[bytes, int]], forwarding: Forwarding) -> Frontend:
    vip, port, protocol = place
    key = FrontendKey(vip.to_bytes(4), port, Protocol(protocol))
    return Frontend(key, tuple(Backend(*end) for end in ends), forwarding=forwarding)


def is_one_host(address: int) -> bool:
    """Whether it may be answered: no group of hosts, and not "this host" (RFC 1122)."""
    return 1 << 24 <= address < 224 << 24


def replaced(check: int, before: bytes, after: bytes) -> int:
    """The checksum after bytes of what it covers changed."""
    total = (~check & 0xFFFF) + (~ones_sum(before) & 0xFFFF) + ones_sum(after)
    return ~ones_sum(total.to_bytes(4)) & 0xFFFF


def datagram_of(packet: Ipv4) -> tuple[object, ...]:
    """What fragments of one datagram have in common."""
    return packet.source, packet.target, packet.identification, packet.protocol


def readdressed(frame: bytes, source: bytes, target: bytes, macs: bytes = MACS, hops: int = 1) -> bytes:
    """The frame between other hosts and by the balancer's next hop, its transport header as it was."""
    made = bytearray(macs + frame[12:])
    made[22] -= hops
    made[26:34] = source + target
    before, after = frame[22:24] + frame[26:34], bytes(made[22:24] + made[26:34])
    made[24:26] = replaced(int.from_bytes(frame[24:26]), before, after).to_bytes(2)
    return bytes(made)


def with_ports(frame: bytes, l4: int, ports: bytes, readdressed: bytes) -> bytes:
    """A frame that was given other addresses, with other ports and its checksum right again."""
    made = bytearray(readdressed)
    made[l4 : l4 + 4] = ports
    protocol = frame[23]
    at = l4 + (16 if protocol == TCP else 6)
    check = int.from_bytes(frame[at : at + 2])
    if protocol == TCP or check:
        check = replaced(check, frame[26:34] + frame[l4 : l4 + 4], made[26:34] + ports)
        made[at : at + 2] = (check or (0xFFFF if protocol == UDP else 0)).to_bytes(2)
    return bytes(made)


def marked(frame: bytes, outer: int) -> bytes:
    """The frame with what an outer header said of congestion; b"" if it had to be dropped (RFC 6040)."""
    inner = frame[15] & 3
    if outer == 3 and not inner:
        return b""
    ecn = 3 if outer == 3 else 1 if (outer, inner) == (1, 2) else inner
    made = bytearray(frame)
    made[15] = frame[15] & ~3 | ecn
    check = replaced(int.from_bytes(frame[24:26]), frame[14:16], bytes(made[14:16]))
    if made[15] != frame[15]:
        made[24:26] = check.to_bytes(2)
    return bytes(made)


def turned_round(frame: bytes, protocol: int, payload: bytes) -> bytes:
    """A packet back to who sent the frame, from where it was to go."""
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, protocol, 0)
    head += frame[30:34] + frame[26:30]
    head = head[:10] + checksum(head).to_bytes(2) + head[12:]
    return frame[6:12] + frame[0:6] + b"\x08\x00" + head + payload


@dataclass
class Model:
    """What becomes of a frame; flows are learnt from the first packet of each.

    A reply that the balancer makes itself may also be a drop: there is a limit to them.
    """

    hook: Hook
    mtu: int
    served: Served
    flows: dict[Flow, tuple[bytes, int]] = field(default_factory=dict)
    used: set[tuple[bytes, int, int]] = field(default_factory=set)
    parts: dict[tuple[object, ...], tuple[bool, bytes]] = field(default_factory=dict)
    """Of datagrams in fragments: whether by DSR, and to which backend; b"" until one was seen to go there."""

    def check(self, frame: bytes, verdict: int, out: bytes) -> bool:
        packet = read(frame)
        unchanged = verdict == CONTINUE and out == frame
        if isinstance(packet, Ipv4) and packet.at == 14 and packet.protocol == IPIP:
            expected = None if packet.more or packet.offset else self._decapsulated(frame, packet)
            if expected is None:
                return unchanged
            return (
                verdict == self.hook.dropped if not expected else (verdict, out) == (self.hook.up, expected)
            )
        if isinstance(packet, Unread) or packet.at != 14 or packet.protocol not in (TCP, UDP, ICMP):
            return unchanged
        if packet.protocol == ICMP:
            echo = not (packet.more or packet.offset) and packet.l4_has >= 8 and frame[packet.l4] == 8
            echo = echo and packet.target in self.served.addresses and is_one_host(packet.source)
            return self._echo(frame, packet, verdict, out) if echo else unchanged
        if packet.offset:
            known = self.parts.get(datagram_of(packet))
            if known is None:
                ours = packet.target in self.served.addresses
                return verdict == self.hook.dropped if ours else unchanged
            return self._later(frame, packet, known, verdict, out)
        if packet.l4_has < (20 if packet.protocol == TCP else 8):
            return unchanged
        key = packet.target, int.from_bytes(frame[packet.l4 + 2 : packet.l4 + 4]), packet.protocol
        if not any(key in places for places in (self.served.snat, self.served.dsr, self.served.empty)):
            return unchanged
        return self._balanced(key, frame, packet, verdict, out)

    def _decapsulated(self, frame: bytes, outer: Ipv4) -> bytes | None:
        """What a tunnel's packet becomes; None: it goes on as it is; b"": it is dropped."""
        inside = frame[:14] + frame[outer.l4 :]
        packet, end = read(inside), struct.pack(">I", outer.target)
        if isinstance(packet, Unread) or packet.total > outer.total - (outer.l4 - 14):
            return None
        inside_marked = marked(inside, frame[15] & 3)
        if packet.offset:
            if self.parts.get(datagram_of(packet)) != (False, end):
                return None
            return inside_marked and readdressed(inside_marked, inside[26:30], end, frame[:12], hops=0)
        if packet.protocol not in (TCP, UDP) or packet.l4_has < (20 if packet.protocol == TCP else 8):
            return None
        sport, dport = inside[packet.l4 : packet.l4 + 2], int.from_bytes(inside[packet.l4 + 2 :][:2])
        if (packet.target, dport, packet.protocol) not in HERE or end not in PODS:
            return None
        if not inside_marked:
            return b""
        if packet.more:
            self.parts[datagram_of(packet)] = False, end
        moved = readdressed(inside_marked, inside[26:30], end, frame[:12], hops=0)
        return with_ports(inside_marked, packet.l4, sport + struct.pack(">H", 8080), moved)

    def _balanced(
        self, key: tuple[int, int, int], frame: bytes, packet: Ipv4, verdict: int, out: bytes
    ) -> bool:
        sport, dport = struct.unpack_from(">HH", frame, packet.l4)
        if key in self.served.empty:
            return self._reset(frame, packet, verdict, out)
        dsr = key in self.served.dsr
        if packet.more and (dsr or packet.ttl > 1):
            fits = packet.total + 20 * dsr <= self.mtu
            self.parts[datagram_of(packet)] = dsr, out[30:34] if fits else b""
        if dsr:
            if packet.total + 20 > self.mtu:
                return self._too_long(frame, packet, self.mtu - 20, verdict, out)
            return out[30:34] in self.served.dsr[key] and self._dsr(frame, packet, verdict, out)
        if packet.ttl <= 1:
            return verdict == self.hook.dropped
        flow = packet.source, packet.target, sport, dport, packet.protocol
        if packet.total > self.mtu:
            return self._too_long(frame, packet, self.mtu, verdict, out)
        return verdict == self.hook.sent and self._snat(frame, packet.l4, flow, out)

    def _later(self, frame: bytes, packet: Ipv4, known: tuple[bool, bytes], verdict: int, out: bytes) -> bool:
        dsr, backend = known
        if not dsr and packet.ttl <= 1:
            return verdict == self.hook.dropped
        if packet.total + 20 * dsr > self.mtu:
            left = verdict == CONTINUE and out == frame
            return left if self.hook is XDP else verdict == self.hook.dropped
        if backend not in (b"", out[30:34]):
            return False
        if dsr:
            return self._dsr(frame, packet, verdict, out)
        return verdict == self.hook.sent and out == readdressed(frame, parse_address(NODE), out[30:34])

    def _replied(self, verdict: int, out: bytes, reply: bytes) -> bool:
        return verdict == self.hook.dropped or (verdict == self.hook.sent and out == reply)

    def _echo(self, frame: bytes, packet: Ipv4, verdict: int, out: bytes) -> bool:
        reply = bytearray(frame)
        reply[0:12] = frame[6:12] + frame[0:6]
        reply[26:34] = frame[30:34] + frame[26:30]
        check = int.from_bytes(frame[packet.l4 + 2 : packet.l4 + 4])
        reply[packet.l4] = 0
        reply[packet.l4 + 2 : packet.l4 + 4] = replaced(check, b"\x08\x00", b"\x00\x00").to_bytes(2)
        return self._replied(verdict, out, bytes(reply))

    def _too_long(self, frame: bytes, packet: Ipv4, mtu: int, verdict: int, out: bytes) -> bool:
        if self.hook is XDP:
            return verdict == CONTINUE and out == frame
        quoted = frame[14 : packet.l4 + (20 if packet.protocol == TCP else 8)]
        error = struct.pack(">BBHHH", 3, 4, 0, 0, mtu)
        # The quoted header is taken to sum up to nothing, as it does where its checksum is right.
        sums = error + quoted[packet.l4 - 14 :]
        error = error[:2] + checksum(sums).to_bytes(2) + error[4:]
        return self._replied(verdict, out, turned_round(frame, 1, error + quoted))

    def _reset(self, frame: bytes, packet: Ipv4, verdict: int, out: bytes) -> bool:
        sport, dport, seq, ack, data, flags = struct.unpack_from(">HHIIBB", frame, packet.l4)
        if flags & 0x04 or packet.l4 != 34:
            return verdict == self.hook.dropped
        if flags & 0x10:
            numbers, answer = (ack, 0), 0x04
        else:
            held = packet.total - 20 - (data >> 4) * 4 + (flags >> 1 & 1) + (flags & 1)
            numbers, answer = (0, (seq + held) & 0xFFFFFFFF), 0x14
        head = struct.pack(">HHIIBBHHH", dport, sport, *numbers, 0x50, answer, 0, 0, 0)
        pseudo = frame[30:34] + frame[26:30] + struct.pack(">HH", 6, 20)
        head = head[:16] + checksum(pseudo + head).to_bytes(2) + head[18:]
        return self._replied(verdict, out, turned_round(frame, 6, head))

    def _dsr(self, frame: bytes, packet: Ipv4, verdict: int, out: bytes) -> bool:
        total = packet.total + 20
        if verdict != self.hook.sent:
            return False
        head = struct.pack(">BBHHHBBH4s", 0x45, frame[15], total, 0, 0x4000, 64, 4, 0, parse_address(NODE))
        head += out[30:34]
        head = head[:10] + checksum(head).to_bytes(2) + head[12:]
        return out == MACS + b"\x08\x00" + head + frame[14:]

    def _snat(self, frame: bytes, l4: int, flow: Flow, out: bytes) -> bool:
        protocol = flow[4]
        target, port = out[30:34], int.from_bytes(out[l4 : l4 + 2])
        to = int.from_bytes(out[l4 + 2 : l4 + 4])
        syn = protocol == TCP and frame[l4 + 13] & 0x12 == 0x02
        if flow in self.flows and not syn:
            if self.flows[flow] != (target, port):
                return False
        elif self.flows.get(flow) != (target, port):
            if flow in self.flows:
                self.used.discard((*self.flows[flow], to, protocol))
            if (target, port, to, protocol) in self.used:
                return False
            self.flows[flow] = target, port
            self.used.add((target, port, to, protocol))
        ends = self.served.snat[flow[1], flow[3], protocol]
        if (target, to) not in ends or port < LbConfig().snat_port_first:
            return False

        moved = readdressed(frame, parse_address(NODE), target)
        return out == with_ports(frame, l4, struct.pack(">HH", port, to), moved)


@pytest.fixture(scope="module", params=HOOKS, ids=lambda hook: hook.name)
def lb(request: pytest.FixtureRequest) -> Iterator[Balancer]:
    hook: Hook = request.param
    with balancer(hook) as loaded:
        yield loaded


@settings(max_examples=CONFIGURATIONS, deadline=None, derandomize=True, phases=[Phase.generate])
@given(mtu=st.integers(60, 120), seed=st.integers(0, 1 << 32))
def test_every_frame_leaves_as_the_model_says(lb: Balancer, mtu: int, seed: int) -> None:
    random = Random(seed)
    served = Served.random(random)
    forget_all(lb)
    here = (
        frontend(*(f"10.244.1.{i}:8080" for i in (5, 6)), vip=HERE_VIP, port=port, protocol=protocol)
        for port, protocol in ((80, Protocol.TCP), (53, Protocol.UDP))
    )
    lb.serve(*served.frontends(), *here, hop=NextHop(LOOPBACK, MACS, mtu))
    lb.state.set_next_hops(lb.maps, dict.fromkeys(PODS, NextHop.local(77)))
    model = Model(lb.hook, mtu, served)
    clients = tuple(number(f"198.51.100.{i}") for i in range(1, 9))
    targets = (*VIPS, *VIPS, number("192.0.2.99"))
    ends = (*map(int.from_bytes, [*PODS, *PODS, *PODS]), number("10.0.0.10"), number("192.0.2.99"))
    inside = (*[number(HERE_VIP)] * 6, VIPS[0], number("192.0.2.99"))
    frames = Frames(random, clients, targets, (53, 80, 443, 8080, 40000), ends, inside)
    for _ in range(FRAMES):
        frame = frames.one()
        if lb.hook is TC and len(frame) < LEAST_OF_TC.get(frame[12:14], 0):
            continue
        run = lb.send(frame)
        assert model.check(frame, run.retval, run.data), (frame.hex(), run.retval, run.data.hex())


def forget_all(lb: Balancer) -> None:
    """As a node that has served nothing yet: flows of an earlier configuration would stay where they were."""
    lb.serve()
    lb.collect(after_seconds=100_000)
    lb.collect(after_seconds=200_000)
    for datagram in list(lb.maps["kb_lb_frags"].keys()):
        lb.maps["kb_lb_frags"].delete(datagram)
    assert lb.flows() == (0, 0)
