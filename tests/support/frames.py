"""Random Ethernet frames for fuzzing, and a plain reading of them that owes nothing to the C parser."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random
from typing import ClassVar

ETHER = bytes.fromhex("020000000001020000000002")
TCP, UDP, ICMP, IPIP = 6, 17, 1, 4
VLAN_TYPES = (0x8100, 0x88A8)
LEAST = 14
"""Bytes that a test run takes at least."""


def ones_sum(data: bytes) -> int:
    """Sum of 16-bit words in one's complement, an odd byte padded."""
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """The internet checksum of data, from scratch."""
    return ~ones_sum(data) & 0xFFFF


@dataclass(frozen=True, slots=True)
class Ip:
    """An IP packet in a frame; addresses and ports in host order.

    Attributes:
        at: offset of the IP header, 14 without tags.
        l4: offset of what follows IPv4's options, or IPv6's extension headers.
        l4_has: bytes there that are both in the frame and in the packet's length.
        protocol: that of what is at `l4`.
        total: length of the packet, as it says.
    """

    at: int
    l4: int
    l4_has: int
    source: int
    target: int
    protocol: int
    ttl: int
    total: int
    identification: int
    more: bool
    offset: int


@dataclass(frozen=True, slots=True)
class Unread:
    """A frame without a packet of the family to judge: `why` is a drop reason, "" for another protocol."""

    why: str


def read(frame: bytes) -> Ip | Unread:
    """Read a frame as RFC 791 and IEEE 802.1Q say."""
    kind, at = int.from_bytes(frame[12:14]), 14
    for _ in range(2):
        if kind not in VLAN_TYPES:
            break
        if len(frame) < at + 4:
            return Unread("truncated")
        kind, at = int.from_bytes(frame[at + 2 : at + 4]), at + 4
    if kind != 0x0800:
        return Unread("vlan_depth" if kind in VLAN_TYPES else "")
    if len(frame) < at + 20:
        return Unread("truncated")
    first, _, total, identification, fragment, ttl, protocol, _, source, target = struct.unpack_from(
        ">BBHHHBBHII", frame, at
    )
    header = (first & 15) * 4
    if first >> 4 != 4 or header < 20 or total < header:
        return Unread("malformed")
    l4 = at + header
    l4_has = max(0, min(len(frame) - l4, total - header))
    more, offset = bool(fragment & 0x2000), fragment & 0x1FFF
    return Ip(at, l4, l4_has, source, target, protocol, ttl, total, identification, more, offset)


@dataclass(frozen=True, slots=True)
class Frames:
    """Makes frames, most of them well formed; addresses as integers.

    Attributes:
        ends: where tunnels lead, if there are any; `inside` are the targets of what is in them.
        places: targets with their ports and protocols, that most packets are for.
        inner_places: the same of packets in tunnels.
        tagged: how many of 100 frames have tags.
    """

    random: Random
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    ports: tuple[int, ...]
    ends: tuple[int, ...] = ()
    inside: tuple[int, ...] = ()
    places: tuple[tuple[int, int, int], ...] = ()
    inner_places: tuple[tuple[int, int, int], ...] = ()
    tagged: int = 24

    ether_type: ClassVar[bytes] = b"\x08\x00"
    tunnel: ClassVar[int] = IPIP
    icmp: ClassVar[int] = ICMP
    icmp_types: ClassVar[tuple[int, ...]] = (0, 3, 8)
    sizes: ClassVar[tuple[int, ...]] = (0, 1, 2, 7, 26)

    def one(self) -> bytes:
        """Make a frame: tags, options, fragments; one in five cut off, one in ten with a byte changed."""
        tunnelled = bool(self.ends) and self.random.random() < 0.4
        packet = self._tunnel() if tunnelled else self._ip(self.targets, self.places)
        return self._damaged(self._tags() + packet)

    def answer(self, source: int, target: int, protocol: int, ports: tuple[int, int]) -> bytes:
        """Make a frame with a packet between these ends."""
        return self._damaged(self.ether_type + self._packet(source, target, protocol, ports))

    def later(self, source: int, target: int, protocol: int, identification: int, end: int | None) -> bytes:
        """Make a frame with a later fragment; `end` is that of a tunnel that it is in."""
        data = self.random.randbytes(self.random.choice((8, 16, 21)))
        packet = self._fragment(source, target, protocol, identification, data)
        return self._damaged(self.ether_type + (packet if end is None else self._wrapped(end, packet)))

    def error(self, target: int, about: bytes) -> bytes:
        """Make a frame with an ICMP error of some host about a packet, of which it quotes the start."""
        random, source = self.random, self.random.choice(self.sources)
        quote = about[: random.choice((0, 8, 28, 48, 60, 68, 88, 108, len(about), len(about)))]
        kind, code, rest = self._error_kind()
        body = struct.pack(">BBHI", kind, code, 0, rest) + quote
        check = checksum(self._pseudo((source, target), self.icmp, len(body)) + body)
        body = body[:2] + check.to_bytes(2) + body[4:]
        return self._damaged(self.ether_type + self._whole(source, target, self.icmp, body))

    def _damaged(self, frame: bytes) -> bytes:
        made = bytearray(ETHER + frame)
        if self.random.random() < 0.2:
            del made[self.random.randrange(LEAST, len(made) + 1) :]
        if self.random.random() < 0.1:
            made[self.random.randrange(12, min(len(made), 150))] = self.random.randrange(256)
        return bytes(made)

    def _tags(self) -> bytes:
        some = self.random.random() * 100 < self.tagged
        count = self.random.choices((1, 2, 3), (2, 2, 1))[0] if some else 0
        tags = b"".join(struct.pack(">HH", self.random.choice(VLAN_TYPES), 7) for _ in range(count))
        others = [kind for kind in (b"\x08\x00", b"\x86\xdd", b"\x08\x06") if kind != self.ether_type]
        return tags + self.random.choices((self.ether_type, *others), (40, 1, 1))[0]

    def _ip(self, targets: tuple[int, ...], places: tuple[tuple[int, int, int], ...]) -> bytes:
        random = self.random
        if places and random.random() < 0.75:
            target, port, protocol = random.choice(places)
            ports = random.choice(self.ports), port
            return self._packet(random.choice(self.sources), target, protocol, ports)
        protocol = random.choices((TCP, UDP, self.icmp, 2, 47, 132), (12, 12, 4, 1, 1, 1))[0]
        ports = random.choice(self.ports), random.choice(self.ports)
        return self._packet(random.choice(self.sources), random.choice(targets), protocol, ports)

    def _tunnel(self) -> bytes:
        inside = self._ip(self.inside, self.inner_places) if self.random.random() < 0.95 else self._tunnel()
        return self._wrapped(self.random.choice(self.ends), inside)

    def _length(self, length: int) -> int:
        """What a header says of it: now and then something else."""
        if self.random.random() < 0.03:
            return self.random.choice((0, 1, max(0, length - 1), length + 1, 0xFFD8, 0xFFFF))
        return length

    def _wrapped(self, end: int, inside: bytes) -> bytes:
        random, options = self.random, b"\1" * self.random.choice((0, 0, 0, 4, 40))
        ends = random.choice(self.sources), end
        fragment = random.choices((0x4000, 0, 0x2000, 0x0001), (8, 8, 1, 1))[0]
        return self._header((random.randrange(4), 0, fragment, 64, IPIP), ends, options, inside)

    def _fragment(self, source: int, target: int, protocol: int, identification: int, data: bytes) -> bytes:
        random = self.random
        fields = (
            0,
            identification,
            random.choice((1 << 13 | 3, 185)),
            random.choice((64, 64, 64, 1)),
            protocol,
        )
        return self._header(fields, (source, target), b"", data)

    def _whole(self, source: int, target: int, protocol: int, payload: bytes) -> bytes:
        random = self.random
        options = b"\1" * random.choice((0, 0, 0, 0, 4))
        return self._header(
            (0, 0, 0, random.choice((64, 64, 64, 1)), protocol), (source, target), options, payload
        )

    def _packet(self, source: int, target: int, protocol: int, ports: tuple[int, int]) -> bytes:
        random = self.random
        more, offset = random.choices(((0, 0), (1, 0), (1, 3), (0, 185)), (16, 2, 2, 2))[0]
        payload = self._l4(protocol, ports, (source, target), intact=not (more or offset))
        options = b"\1" * random.choice((0, 0, 0, 4, 8, 40))
        ttl, identification = random.choice((64, 64, 64, 255, 2, 1, 0)), random.randrange(4)
        fields = random.choice((0, 0xB9)), identification, more << 13 | offset, ttl, protocol
        return self._header(fields, (source, target), options, payload)

    def _header(
        self, fields: tuple[int, int, int, int, int], ends: tuple[int, int], options: bytes, payload: bytes
    ) -> bytes:
        tos, identification, fragment, ttl, protocol = fields
        total = self._length(20 + len(options) + len(payload))
        first = 0x45 + len(options) // 4
        head = struct.pack(
            ">BBHHHBBHII", first, tos, total, identification, fragment, ttl, protocol, 0, *ends
        )
        head += options
        return head[:10] + checksum(head).to_bytes(2) + head[12:] + payload

    def _pseudo(self, ends: tuple[int, int], protocol: int, length: int) -> bytes:
        """What a checksum covers besides."""
        return b"" if protocol == ICMP else struct.pack(">IIHH", *ends, protocol, length)

    def _error_kind(self) -> tuple[int, int, int]:
        random = self.random
        mtu = random.choice((0, 60, 68, 87, 88, 100, 120, 1400))
        kind, code = random.choice(((3, 4), (3, 4), (3, random.randrange(16)), (11, 0), (11, 1), (12, 0)))
        return kind, code, mtu if (kind, code) == (3, 4) else random.choice((0, 7 << 24))

    def _l4(self, protocol: int, l4_ports: tuple[int, int], ends: tuple[int, int], *, intact: bool) -> bytes:
        random = self.random
        data = random.randbytes(random.choice(self.sizes))
        ports = struct.pack(">HH", *l4_ports)
        if protocol == TCP:
            flags = random.choice((0x02, 0x10, 0x12, 0x18, 0x11, 0x04, 0x14))
            body, at = ports + struct.pack(">IIBBHHH", 7, 9, 0x50, flags, 512, 0, 0) + data, 16
        elif protocol == UDP:
            body, at = ports + struct.pack(">HH", 8 + len(data), 0) + data, 6
        elif protocol == self.icmp:
            kind, code = random.choice(self.icmp_types), random.choice((0, 1, 4))
            return struct.pack(">BBHI", kind, code, 0, 0) + data
        else:
            return data
        if protocol == UDP and random.random() < 0.2:
            return body
        check = checksum(self._pseudo(ends, protocol, len(body)) + body) if intact else 0x1234
        if protocol == UDP and not check:
            check = 0xFFFF
        return body[:at] + check.to_bytes(2) + body[at + 2 :]
