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
from kubebee.lb.model import Forwarding, LbConfig, Protocol, parse_address
from support.frames import TCP, UDP, Frames, Unread, checksum, ones_sum, read
from support.servicelb import CONTINUE, DROP, LOOPBACK, NODE, TX, VIP, Balancer, balancer, frontend

pytestmark = pytest.mark.root

FRAMES = 1000
MACS = bytes(range(12))
DSR_VIP = "192.0.2.11"


def number(address: str) -> int:
    return int.from_bytes(parse_address(address))


BACKENDS = frozenset((parse_address(f"10.0.0.1{i}"), 8080) for i in range(3))
DSR_BACKENDS = frozenset(parse_address(f"10.0.1.1{i}") for i in range(3))
SNAT = {(number(VIP), 80, TCP), (number(VIP), 53, UDP)}
DSR = {(number(DSR_VIP), 80, TCP), (number(DSR_VIP), 53, UDP)}
EMPTY = (number(VIP), 443, TCP)
VIPS = {number(VIP), number(DSR_VIP)}
Flow = tuple[int, int, int, int, int]


def replaced(check: int, before: bytes, after: bytes) -> int:
    """The checksum after bytes of what it covers changed."""
    total = (~check & 0xFFFF) + (~ones_sum(before) & 0xFFFF) + ones_sum(after)
    return ~ones_sum(total.to_bytes(4)) & 0xFFFF


@dataclass
class Model:
    """What becomes of a frame; flows are learnt from the first packet of each."""

    mtu: int
    flows: dict[Flow, tuple[bytes, int]] = field(default_factory=dict)
    used: set[tuple[bytes, int, int]] = field(default_factory=set)

    def check(self, frame: bytes, verdict: int, out: bytes) -> bool:
        packet = read(frame)
        unchanged = verdict == CONTINUE and out == frame
        if isinstance(packet, Unread) or packet.at != 14 or packet.protocol not in (TCP, UDP):
            return unchanged
        if packet.offset:
            return verdict == DROP if packet.target in VIPS else unchanged
        if packet.l4_has < (20 if packet.protocol == TCP else 8):
            return unchanged
        sport, dport = struct.unpack_from(">HH", frame, packet.l4)
        key = packet.target, dport, packet.protocol
        if key not in SNAT | DSR | {EMPTY}:
            return unchanged
        if packet.more or key == EMPTY:
            return verdict == DROP
        if key in DSR:
            return self._dsr(frame, packet.total + 20, verdict, out)
        if packet.ttl <= 1:
            return verdict == DROP
        flow = packet.source, packet.target, sport, dport, packet.protocol
        if packet.total > self.mtu:
            return verdict == DROP
        return verdict == TX and self._snat(frame, packet.l4, flow, out)

    def _dsr(self, frame: bytes, total: int, verdict: int, out: bytes) -> bool:
        if total > self.mtu:
            return verdict == DROP
        if verdict != TX or out[30:34] not in DSR_BACKENDS:
            return False
        head = struct.pack(">BBHHHBBH4s", 0x45, frame[15], total, 0, 0x4000, 64, 4, 0, parse_address(NODE))
        head += out[30:34]
        head = head[:10] + checksum(head).to_bytes(2) + head[12:]
        return out == MACS + b"\x08\x00" + head + frame[14:]

    def _snat(self, frame: bytes, l4: int, flow: Flow, out: bytes) -> bool:
        protocol = flow[4]
        target, port = out[30:34], int.from_bytes(out[l4 : l4 + 2])
        syn = protocol == TCP and frame[l4 + 13] & 0x12 == 0x02
        if flow in self.flows and not syn:
            if self.flows[flow] != (target, port):
                return False
        elif self.flows.get(flow) != (target, port):
            if flow in self.flows:
                self.used.discard((*self.flows[flow], protocol))
            if (target, port, protocol) in self.used:
                return False
            self.flows[flow] = target, port
            self.used.add((target, port, protocol))
        if (target, 8080) not in BACKENDS or port < LbConfig().snat_port_first:
            return False

        source = parse_address(NODE)
        ports = struct.pack(">HH", port, 8080)
        made = bytearray(MACS + frame[12:])
        made[22] -= 1
        made[26:34] = source + target
        before, after = frame[22:24] + frame[26:34], bytes(made[22:24] + made[26:34])
        made[24:26] = replaced(int.from_bytes(frame[24:26]), before, after).to_bytes(2)
        made[l4 : l4 + 4] = ports
        at = l4 + (16 if protocol == TCP else 6)
        check = int.from_bytes(frame[at : at + 2])
        if protocol == TCP or check:
            check = replaced(check, frame[26:34] + frame[l4 : l4 + 4], source + target + ports)
            made[at : at + 2] = (check or (0xFFFF if protocol == UDP else 0)).to_bytes(2)
        return out == bytes(made)


@pytest.fixture(scope="module")
def lb() -> Iterator[Balancer]:
    with balancer() as loaded:
        yield loaded


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(mtu=st.integers(60, 120), seed=st.integers(0, 1 << 32))
def test_every_frame_leaves_as_the_model_says(lb: Balancer, mtu: int, seed: int) -> None:
    lb.collect(after_seconds=10_000)
    snat = [f"10.0.0.1{i}:8080" for i in range(3)]
    lb.serve(
        frontend(*snat, port=80),
        frontend(*snat, port=53, protocol=Protocol.UDP),
        frontend(port=443),
        *(
            frontend(
                *(f"10.0.1.1{i}:{port}" for i in range(3)),
                vip=DSR_VIP,
                port=port,
                protocol=protocol,
                forwarding=Forwarding.DSR_IPIP,
            )
            for port, protocol in ((80, Protocol.TCP), (53, Protocol.UDP))
        ),
        hop=NextHop(LOOPBACK, MACS, mtu),
    )
    model = Model(mtu)
    clients = tuple(number(f"198.51.100.{i}") for i in range(1, 9))
    targets = (*VIPS, *VIPS, number("192.0.2.99"))
    frames = Frames(Random(seed), clients, targets, (53, 80, 443, 8080, 40000))
    for _ in range(FRAMES):
        frame = frames.one()
        run = lb.send(frame)
        assert model.check(frame, run.retval, run.data), (frame.hex(), run.retval, run.data.hex())
