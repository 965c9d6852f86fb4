"""ServiceLB as a plain model: what becomes of a frame, by its bytes and by what was seen before it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from kubebee.lb.model import Backend, Forwarding, Frontend, FrontendKey, LbConfig, Protocol
from support.frames import TCP, UDP, Ip, Unread
from support.servicelb import CONTINUE, XDP, Hook
from support.wire import Quoted, Wire, replaced

PORTS = ((80, TCP), (53, UDP), (443, TCP), (53, TCP), (8080, UDP))
MAC = bytes.fromhex("0600000000aa")
"""The balancer's own, towards backends."""
FIN_OR_RST = 0x05
SIDE_MTU = 1500
"""Of the way to clients."""

Place = tuple[int, int, int]
"""Address, port, protocol."""
Flow = tuple[int, int, int, int, int]
"""Client, frontend's address, their ports, protocol."""
Datagram = tuple[int, int, int, int]
"""What its fragments have in common: source, target, protocol, identification."""


def mac_of(backend: bytes) -> bytes:
    """Of a backend's next hop: each has its own, so that a frame tells where it goes."""
    return b"\x06\x07" + backend[-4:]


class Seen(NamedTuple):
    """What a test run said."""

    verdict: int
    out: bytes


@dataclass(frozen=True)
class Served:
    """A random configuration: backends of frontends by the way of forwarding, and frontends without any.

    Attributes:
        here: frontends with backends on this node, `pods`, on port 8080; packets for them come in tunnels.
    """

    snat: dict[Place, frozenset[tuple[bytes, int]]]
    dsr: dict[Place, frozenset[bytes]]
    l2: dict[Place, frozenset[bytes]]
    empty: frozenset[Place]
    here: frozenset[Place]
    pods: frozenset[bytes]

    @classmethod
    def random(
        cls,
        random: Random,
        vips: tuple[int, ...],
        hosts: bytes,
        here: frozenset[Place],
        pods: frozenset[bytes],
    ) -> Served:
        """Make one; `hosts` is what addresses of backends begin with, before their last four bytes."""
        snat, dsr, l2, empty = {}, {}, {}, set()
        for place in ((vip, *port) for vip in vips for port in PORTS):
            ends = [
                hosts + bytes((10, random.randrange(4), 7, host)) for host in range(1, random.randint(2, 9))
            ]
            kind = random.choices(("snat", "dsr", "l2", "empty", "none"), (8, 6, 3, 2, 3))[0]
            if kind == "snat":
                snat[place] = frozenset((host, random.choice((80, 8080, 65535))) for host in ends)
            elif kind == "dsr":
                dsr[place] = frozenset(ends)
            elif kind == "l2":
                l2[place] = frozenset(ends)
            elif kind == "empty" and place[2] == TCP:
                empty.add(place)
        return cls(snat, dsr, l2, frozenset(empty), here, pods)

    @property
    def places(self) -> frozenset[Place]:
        """What packets without a tunnel may be for."""
        return frozenset({*self.snat, *self.dsr, *self.l2, *self.empty})

    @property
    def addresses(self) -> frozenset[int]:
        """Those that any frontend has."""
        return frozenset(address for address, _, _ in self.places | self.here)

    @property
    def backends(self) -> frozenset[bytes]:
        """Those on other hosts."""
        ends = {host for pairs in self.snat.values() for host, _ in pairs}
        return frozenset(ends.union(*self.dsr.values(), *self.l2.values()))

    def frontends(self, width: int) -> Iterator[Frontend]:
        """What is to be served; `width` is that of addresses."""
        for place in self.empty:
            yield _frontend(place, width, [], Forwarding.SNAT)
        for place, ends in self.snat.items():
            yield _frontend(place, width, sorted(ends), Forwarding.SNAT)
        for places, forwarding in ((self.dsr, Forwarding.DSR_IPIP), (self.l2, Forwarding.DSR_L2)):
            for place, hosts in places.items():
                yield _frontend(place, width, [(host, place[1]) for host in sorted(hosts)], forwarding)
        for place in self.here:
            yield _frontend(place, width, [(pod, 8080) for pod in sorted(self.pods)], Forwarding.SNAT)


def _frontend(place: Place, width: int, ends: list[tuple[bytes, int]], forwarding: Forwarding) -> Frontend:
    vip, port, protocol = place
    key = FrontendKey(vip.to_bytes(width), port, Protocol(protocol))
    return Frontend(key, tuple(Backend(*end) for end in ends), forwarding=forwarding)


class Followed(NamedTuple):
    """Where the first fragment of a datagram went: `backend` is b"" until one was seen to go there."""

    way: str
    backend: bytes
    ends: tuple[bytes, bytes] = (b"", b"")


@dataclass
class Model:
    """What becomes of a frame; flows are learnt from the first packet of each.

    A reply that the balancer makes itself may also be a drop: there is a limit to them.

    Attributes:
        node: the balancer's address.
        mtu: of the way to backends.
        side: MAC addresses on the way to clients.
        clients: those that a route leads to.
        sent: packets that left, for errors to be about.
        over: flows whose client has ended or reset them: a SYN begins another one.
        doubtful: of these some may be gone: they end by a SYN also where that goes nowhere.
    """

    hook: Hook
    wire: Wire
    node: bytes
    mtu: int
    side: bytes
    clients: frozenset[int]
    served: Served
    flows: dict[Flow, tuple[bytes, int, int]] = field(default_factory=dict)
    reverse: dict[tuple[bytes, int, int, int], Flow] = field(default_factory=dict)
    chosen: dict[Flow, bytes] = field(default_factory=dict)
    parts: dict[Datagram, Followed] = field(default_factory=dict)
    sent: list[bytes] = field(default_factory=list)
    over: set[Flow] = field(default_factory=set)
    doubtful: set[Flow] = field(default_factory=set)

    def check(self, frame: bytes, seen: Seen) -> bool:
        """Whether what became of the next frame is right."""
        packet = self.wire.read(frame)
        if isinstance(packet, Unread) or packet.at != 14:
            return self._unchanged(frame, seen)
        if packet.protocol == self.wire.tunnel:
            return self._tunnel(frame, packet, seen)
        if packet.protocol == self.wire.icmp:
            return self._icmp(frame, packet, seen)
        if packet.protocol not in (TCP, UDP):
            return self._unchanged(frame, seen)
        if packet.offset:
            return self._later(frame, packet, seen)
        if packet.l4_has < (20 if packet.protocol == TCP else 8):
            return self._unchanged(frame, seen)
        return self._whole(frame, packet, seen)

    def _whole(self, frame: bytes, packet: Ip, seen: Seen) -> bool:
        """A packet with its ports."""
        key = packet.target, int.from_bytes(frame[packet.l4 + 2 : packet.l4 + 4]), packet.protocol
        if key in self.served.empty:
            return self._reset(frame, packet, seen)
        if key in self.served.snat:
            return self._translated(key, frame, packet, seen)
        if key in self.served.places:
            return self._direct(key, frame, packet, seen)
        return self._answer(frame, packet, seen)

    def _unchanged(self, frame: bytes, seen: Seen) -> bool:
        return seen == (CONTINUE, frame)

    def _dropped(self, seen: Seen) -> bool:
        return seen.verdict == self.hook.dropped

    def _replied(self, seen: Seen, reply: bytes) -> bool:
        return self._dropped(seen) or seen == (self.hook.sent, reply)

    def _to_client(self, client: int, seen: Seen, expected: bytes) -> bool:
        """By a route; there may be none to who has an odd address."""
        if client not in self.clients and (self._dropped(seen) or seen.verdict == CONTINUE):
            return True
        return self._left(seen, expected, self.hook.redirected)

    def _left(self, seen: Seen, expected: bytes, verdict: int) -> bool:
        if seen != (verdict, expected):
            return False
        self.sent.append(seen.out[14:])
        return True

    def _datagram(self, packet: Ip) -> Datagram:
        return packet.source, packet.target, packet.protocol, packet.identification

    def _flow(self, frame: bytes, packet: Ip) -> Flow:
        return (packet.source, packet.target, *struct.unpack_from(">HH", frame, packet.l4), packet.protocol)

    def _tunnel(self, frame: bytes, packet: Ip, seen: Seen) -> bool:
        expected = None if packet.more or packet.offset else self._decapsulated(frame, packet)
        if expected is None:
            return self._unchanged(frame, seen)
        return self._dropped(seen) if not expected else seen == (self.hook.up, expected)

    def _decapsulated(self, frame: bytes, outer: Ip) -> bytes | None:
        """What a tunnel's packet becomes; None: it goes on as it is; b"": it is dropped."""
        inside, end = frame[:14] + frame[outer.l4 :], self.wire.ends(frame)[1]
        packet = self.wire.read(inside)
        if isinstance(packet, Unread) or packet.total > outer.total - (outer.l4 - 14):
            return None
        marked, macs = self.wire.marked(inside, self.wire.ecn(frame)), frame[:12]
        source = self.wire.ends(inside)[0]
        if packet.offset:
            if self.parts.get(self._datagram(packet)) != Followed("up", end):
                return None
            return marked and self.wire.readdressed(marked, source, end, macs, hops=0)
        if packet.protocol not in (TCP, UDP) or packet.l4_has < (20 if packet.protocol == TCP else 8):
            return None
        sport, dport = inside[packet.l4 : packet.l4 + 2], int.from_bytes(inside[packet.l4 + 2 :][:2])
        if (packet.target, dport, packet.protocol) not in self.served.here or end not in self.served.pods:
            return None
        if not marked:
            return b""
        if packet.more:
            self.parts[self._datagram(packet)] = Followed("up", end)
        moved = self.wire.readdressed(marked, source, end, macs, hops=0)
        return self.wire.with_ports(marked, packet, sport + struct.pack(">H", 8080), moved)

    def _direct(self, key: Place, frame: bytes, packet: Ip, seen: Seen) -> bool:
        """By DSR: unchanged, inside an outer header or by the backend's MAC address."""
        way = "dsr" if key in self.served.dsr else "l2"
        added = self.wire.header if way == "dsr" else 0
        long = packet.total + added > 0xFFFF or packet.total + added > self.mtu
        bounced = way == "l2" and seen.verdict == self.hook.dropped
        backend = b"" if long or bounced else self._backend_of(way, seen.out)
        if packet.more:
            self.parts[self._datagram(packet)] = Followed(way, backend)
        if added and packet.total + added > 0xFFFF:
            return self._dropped(seen)
        if long:
            return self._too_long(frame, packet, self.mtu - added, seen)
        ends = (self.served.dsr if added else self.served.l2)[key]
        if bounced:
            return frame[6:12] in map(mac_of, ends)
        flow = self._flow(frame, packet)
        if backend not in ends or self.chosen.setdefault(flow, backend) != backend:
            return False
        return self._sent_directly(way, frame, backend, seen)

    def _backend_of(self, way: str, out: bytes) -> bytes:
        if way != "l2":
            return self.wire.ends(out)[1]
        return next((each for each in self.served.backends if mac_of(each) == out[:6]), b"-")

    def _sent_directly(self, way: str, frame: bytes, backend: bytes, seen: Seen) -> bool:
        macs = mac_of(backend) + MAC
        if way == "dsr":
            return self._left(seen, self.wire.wrapped(frame, self.node, backend, macs), self.hook.sent)
        if frame[6:12] == macs[:6]:
            return self._dropped(seen)
        return seen == (self.hook.sent, macs + frame[12:])

    def _translated(self, key: Place, frame: bytes, packet: Ip, seen: Seen) -> bool:
        """By SNAT: from the node's address and a port of its own, which stay for the flow."""
        if packet.ttl <= 1:
            self._doubt(frame, packet)
            return self._dropped(seen)
        long, target = packet.total > self.mtu, self.wire.ends(seen.out)[1]
        if packet.more:
            self.parts[self._datagram(packet)] = Followed("snat", b"" if long else target)
        if long:
            self._doubt(frame, packet)
            return self._too_long(frame, packet, self.mtu, seen)
        port, to = struct.unpack_from(">HH", seen.out, packet.l4)
        if (target, to) not in self.served.snat[key] or port < LbConfig().snat_port_first:
            return False
        if not self._learn(frame, packet, (target, port, to)):
            return False
        moved = self.wire.readdressed(frame, self.node, target, mac_of(target) + MAC)
        expected = self.wire.with_ports(frame, packet, struct.pack(">HH", port, to), moved)
        return self._left(seen, expected, self.hook.sent)

    def _doubt(self, frame: bytes, packet: Ip) -> None:
        flow = self._flow(frame, packet)
        if flow in self.over and _is_syn(frame, packet):
            self.doubtful.add(flow)

    def _learn(self, frame: bytes, packet: Ip, to: tuple[bytes, int, int]) -> bool:
        """Whether a flow may have this backend and ports; of one that is over a SYN begins a new one."""
        flow, protocol = self._flow(frame, packet), packet.protocol
        had, anew = self.flows.get(flow), flow in self.over and _is_syn(frame, packet)
        anew |= flow in self.doubtful
        self.doubtful.discard(flow)
        if anew:
            self.over.discard(flow)
        if protocol == TCP and frame[packet.l4 + 13] & FIN_OR_RST:
            self.over.add(flow)
        if had == to:
            return True
        if had and not anew:
            return False
        if had:
            self.reverse.pop((had[0], had[2], had[1], protocol))
        key = to[0], to[2], to[1], protocol
        if key in self.reverse:
            return False
        self.flows[flow], self.reverse[key] = to, flow
        return True

    def _answer(self, frame: bytes, packet: Ip, seen: Seen) -> bool:
        """Of a backend, to its client as the frontend's."""
        source, target = self.wire.ends(frame)
        sport, dport = struct.unpack_from(">HH", frame, packet.l4)
        flow = self.reverse.get((source, sport, dport, packet.protocol)) if target == self.node else None
        if not flow or (flow in self.doubtful and self._unchanged(frame, seen)):
            return self._unchanged(frame, seen)
        if packet.ttl <= 1:
            return self._dropped(seen)
        client, vip = (end.to_bytes(self.wire.width) for end in flow[:2])
        if packet.more:
            self.parts[self._datagram(packet)] = Followed("answer", b"", (vip, client))
        if packet.total > SIDE_MTU:
            nowhere = flow[0] not in self.clients and self._dropped(seen)
            return nowhere or self._too_long(frame, packet, SIDE_MTU, seen)
        moved = self.wire.readdressed(frame, vip, client, self.side)
        expected = self.wire.with_ports(frame, packet, struct.pack(">HH", flow[3], flow[2]), moved)
        return self._to_client(flow[0], seen, expected)

    def _later(self, frame: bytes, packet: Ip, seen: Seen) -> bool:
        """A later fragment: where its first one went."""
        known = self.parts.get(self._datagram(packet))
        if known is None:
            ours = packet.target in self.served.addresses
            return self._dropped(seen) if ours else self._unchanged(frame, seen)
        if known.way in ("snat", "answer") and packet.ttl <= 1:
            return self._dropped(seen)
        added = self.wire.header if known.way == "dsr" else 0
        if added and packet.total + added > 0xFFFF:
            return self._dropped(seen)
        if packet.total + added > (SIDE_MTU if known.way == "answer" else self.mtu):
            return self._unchanged(frame, seen) if self.hook is XDP else self._dropped(seen)
        if known.way == "answer":
            expected = self.wire.readdressed(frame, *known.ends, self.side)
            return self._to_client(int.from_bytes(known.ends[1]), seen, expected)
        if known.way == "l2" and self._dropped(seen):
            return frame[6:12] in map(mac_of, self.served.backends)
        backend = self._backend_of(known.way, seen.out)
        if known.backend not in (b"", backend):
            return False
        if known.way != "snat":
            return self._sent_directly(known.way, frame, backend, seen)
        macs = mac_of(backend) + MAC
        return seen == (self.hook.sent, self.wire.readdressed(frame, self.node, backend, macs))

    def _too_long(self, frame: bytes, packet: Ip, mtu: int, seen: Seen) -> bool:
        if self.hook is XDP:
            return self._unchanged(frame, seen)
        if not self.wire.is_one_host(packet.source) or (self.wire.six and not self.wire.is_plain(packet)):
            return self._dropped(seen)
        target, source = self.wire.ends(frame)
        quoted = frame[14 : packet.l4 + (20 if packet.protocol == TCP else 8)]
        error = struct.pack(">BBHI", *self.wire.too_long, 0, mtu)
        # IPv4's quoted header is taken to sum up to nothing, as it does where its checksum is right.
        summed = error + quoted if self.wire.six else error + quoted[packet.l4 - 14 :]
        check = self.wire.summed((source, target), self.wire.icmp, summed)
        error = error[:2] + check.to_bytes(2) + error[4:] + quoted
        return self._replied(seen, self._back(frame, self.wire.icmp, error))

    def _back(self, frame: bytes, protocol: int, payload: bytes) -> bytes:
        target, source = self.wire.ends(frame)
        return self.wire.made((source, target), protocol, payload, frame[6:12] + frame[0:6])

    def _reset(self, frame: bytes, packet: Ip, seen: Seen) -> bool:
        sport, dport, seq, ack, data, flags = struct.unpack_from(">HHIIBB", frame, packet.l4)
        if flags & 0x04 or not self.wire.is_plain(packet) or not self.wire.is_one_host(packet.source):
            return self._dropped(seen)
        if flags & 0x10:
            numbers, answer = (ack, 0), 0x04
        else:
            held = packet.total - self.wire.header - (data >> 4) * 4 + (flags >> 1 & 1) + (flags & 1)
            numbers, answer = (0, (seq + held) & 0xFFFFFFFF), 0x14
        head = struct.pack(">HHIIBBHHH", dport, sport, *numbers, 0x50, answer, 0, 0, 0)
        target, source = self.wire.ends(frame)
        head = head[:16] + self.wire.summed((source, target), TCP, head).to_bytes(2) + head[18:]
        return self._replied(seen, self._back(frame, TCP, head))

    def _icmp(self, frame: bytes, packet: Ip, seen: Seen) -> bool:
        beside = self.wire.six and not self.wire.is_plain(packet)
        if packet.more or packet.offset or packet.l4_has < 8 or beside:
            return self._unchanged(frame, seen)
        kind = frame[packet.l4]
        if kind in self.wire.errors:
            return self._error(frame, packet, seen)
        if kind != self.wire.echo[0] or packet.target not in self.served.addresses:
            return self._unchanged(frame, seen)
        if not self.wire.is_one_host(packet.source):
            return self._unchanged(frame, seen)
        source, target = self.wire.ends(frame)
        reply = bytearray(self.wire.readdressed(frame, target, source, frame[6:12] + frame[0:6], hops=0))
        check = int.from_bytes(frame[packet.l4 + 2 : packet.l4 + 4])
        before, after = (bytes((kind, 0)) for kind in self.wire.echo)
        reply[packet.l4] = self.wire.echo[1]
        reply[packet.l4 + 2 : packet.l4 + 4] = replaced(check, before, after).to_bytes(2)
        return self._replied(seen, bytes(reply))

    def _error(self, frame: bytes, packet: Ip, seen: Seen) -> bool:
        """An ICMP error that comes in: about a request, an answer, or an outer packet."""
        quote = frame[packet.l4 + 8 : 14 + packet.total]
        inner = self.wire.quoted(quote)
        if inner is None or packet.target != inner.source:
            return self._unchanged(frame, seen)
        if inner.protocol == self.wire.tunnel:
            return self._outer_error(frame, packet, quote, inner, seen)
        source, target = self.wire.ends(quote, 0)
        width = self.wire.width
        about = self.reverse.get((target, inner.dport, inner.sport, inner.protocol))
        if about in self.doubtful and self._unchanged(frame, seen):
            return True
        if about and source == self.node:
            client, vip = (end.to_bytes(width) for end in about[:2])
            ports, ends, to = (about[2], about[3]), (client, vip), (vip, client)
        else:
            flow = inner.target, inner.source, inner.dport, inner.sport, inner.protocol
            if flow not in self.flows or (flow in self.doubtful and self._unchanged(frame, seen)):
                return self._unchanged(frame, seen)
            backend, port, server = self.flows[flow]
            ports, ends, to = (server, port), (backend, self.node), (self.node, backend)
        if packet.ttl <= 1:
            return self._dropped(seen)
        requoted = self.wire.requoted(quote, inner, ends, ports)
        moved = bytearray(self.wire.readdressed(frame, *to, self.side))
        before, after = quote, requoted
        if self.wire.six:
            before, after = before + b"\0" * (len(quote) % 2), after + b"\0" * (len(quote) % 2)
            before, after = before + b"".join(self.wire.ends(frame)), after + b"".join(to)
        check = replaced(int.from_bytes(frame[packet.l4 + 2 : packet.l4 + 4]), before, after)
        moved[packet.l4 + 2 : packet.l4 + 4] = check.to_bytes(2)
        moved[packet.l4 + 8 : packet.l4 + 8 + len(quote)] = requoted
        client = int.from_bytes(to[1])
        if client not in self.clients and not about:
            return self._left(seen, bytes(moved), self.hook.redirected)
        return self._to_client(client, seen, bytes(moved))

    def _outer_error(self, frame: bytes, packet: Ip, quote: bytes, outer: Quoted, seen: Seen) -> bool:
        """About a packet that went by DSR inside an outer header: told to the client."""
        size = self.wire.header
        ours = self.wire.six or (quote[0], quote[4:8]) == (0x45, b"\0\0\x40\0")
        inside = quote[outer.l4 :]
        inner = self.wire.quoted(inside)
        at = slice(4, 6) if self.wire.six else slice(2, 4)
        told = self._told(frame, packet, int.from_bytes(quote[at]) + size * self.wire.six)
        right = ours and inner is not None and told is not None and inner.protocol in (TCP, UDP)
        if not right or inner is None or told is None or len(inside) < inner.l4 + 8:
            return self._unchanged(frame, seen)
        same = int.from_bytes(inside[at]) + size == int.from_bytes(quote[at])
        place = inner.target, inner.dport, inner.protocol
        if not same or place not in self.served.dsr or self.wire.ends(quote, 0)[0] != self.node:
            return self._unchanged(frame, seen)
        flow = inner.source, inner.target, inner.sport, inner.dport, inner.protocol
        backend = self.wire.ends(quote, 0)[1]
        if self.chosen.get(flow, backend) != backend or not self.wire.is_one_host(inner.source):
            return self._unchanged(frame, seen)
        if flow not in self.chosen and seen == (CONTINUE, frame):
            return True
        return self._dropped(seen) or self._to_client(
            inner.source, seen, self._told_frame(frame, packet, told, (quote, inside))
        )

    def _told_frame(
        self, frame: bytes, packet: Ip, told: tuple[int, int, int], quotes: tuple[bytes, bytes]
    ) -> bytes:
        client, vip = self.wire.ends(quotes[1], 0)
        head, l4, size = struct.pack(">BBHI", *told[:2], 0, told[2]), packet.l4, self.wire.header
        length = packet.total - (l4 - 14) - size
        before = frame[l4 : l4 + 2] + frame[l4 + 4 : l4 + 8] + quotes[0][:size]
        after = head[:2] + head[4:]
        if self.wire.six:
            before += b"".join(self.wire.ends(frame)) + (length + size).to_bytes(2)
            after += vip + client + length.to_bytes(2)
        check = replaced(int.from_bytes(frame[l4 + 2 : l4 + 4]), before, after)
        payload = head[:2] + check.to_bytes(2) + head[4:] + frame[l4 + 8 + size :]
        return self.wire.made((vip, client), self.wire.icmp, payload, self.side, length)

    def _told(self, frame: bytes, packet: Ip, length: int) -> tuple[int, int, int] | None:
        """Type, code and MTU of what a client is told (RFC 2003, RFC 2473); None: nothing."""
        kind, code, rest = struct.unpack_from(">BBxxI", frame, packet.l4)
        wire = self.wire
        if (kind, code) == wire.too_long or (wire.six and kind == wire.too_long[0]):
            mtu = rest if wire.six else rest & 0xFFFF
            least = 1280 if wire.six else 68 + 20
            if not wire.six and not mtu:
                return (*wire.too_long, 0)
            if mtu < least or mtu >= length:
                return None
            return (*wire.too_long, max(mtu - wire.header, wire.least_mtu))
        if wire.six:
            told = kind == 1 or (kind, code) in ((3, 0), (4, 1))
            return (*wire.no_host, 0) if told else None
        if (kind, code) == (3, 0):
            return 3, 0, 0
        told = (kind == 3 and code not in (3, 5)) or (kind, code) == (11, 0)
        return (*wire.no_host, 0) if told else None


def _is_syn(frame: bytes, packet: Ip) -> bool:
    return packet.protocol == TCP and frame[packet.l4 + 13] & 0x12 == 0x02
