"""Random Ethernet frames for fuzzing, and a plain reading of them that owes nothing to the C parser."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random

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
class Ipv4:
    """An IPv4 packet in a frame; addresses and ports in host order.

    Attributes:
        at: offset of the IP header, 14 without tags.
        l4: offset of what follows the options.
        l4_has: bytes there that are both in the frame and in the IP total length.
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
    """A frame without an IPv4 packet to judge: `why` is a drop reason, "" for another protocol."""

    why: str


def read(frame: bytes) -> Ipv4 | Unread:
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
    return Ipv4(at, l4, l4_has, source, target, protocol, ttl, total, identification, more, offset)


@dataclass(frozen=True, slots=True)
class Frames:
    """Makes frames, most of them well formed; addresses as integers.

    Attributes:
        ends: where tunnels lead, if there are any; `inside` are the targets of what is in them.
    """

    random: Random
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    ports: tuple[int, ...]
    ends: tuple[int, ...] = ()
    inside: tuple[int, ...] = ()

    def one(self) -> bytes:
        """Make a frame: tags, options, fragments; one in five cut off, one in ten with a byte changed."""
        tunnelled = bool(self.ends) and self.random.random() < 0.4
        frame = bytearray(ETHER + self._tags() + (self._tunnel() if tunnelled else self._ip(self.targets)))
        if self.random.random() < 0.2:
            del frame[self.random.randrange(LEAST, len(frame) + 1) :]
        if self.random.random() < 0.1:
            frame[self.random.randrange(12, min(len(frame), 60))] = self.random.randrange(256)
        return bytes(frame)

    def _tags(self) -> bytes:
        count = self.random.choices((0, 1, 2, 3), (16, 2, 2, 1))[0]
        tags = b"".join(struct.pack(">HH", self.random.choice(VLAN_TYPES), 7) for _ in range(count))
        return tags + self.random.choices((b"\x08\x00", b"\x86\xdd", b"\x08\x06"), (40, 1, 1))[0]

    def _tunnel(self) -> bytes:
        random = self.random
        inside = self._ip(self.inside) if random.random() < 0.95 else self._tunnel()
        options = b"\1" * random.choice((0, 0, 0, 4, 40))
        head = struct.pack(
            ">BBHHHBBHII",
            0x45 + len(options) // 4,
            random.randrange(4),
            20 + len(options) + len(inside),
            0,
            random.choices((0x4000, 0, 0x2000, 0x0001), (8, 8, 1, 1))[0],
            64,
            IPIP,
            0,
            random.choice(self.sources),
            random.choice(self.ends),
        )
        head += options
        return head[:10] + checksum(head).to_bytes(2) + head[12:] + inside

    def _ip(self, targets: tuple[int, ...]) -> bytes:
        random = self.random
        protocol = random.choices((TCP, UDP, ICMP, 2, 47, 132), (12, 12, 4, 1, 1, 1))[0]
        more, offset = random.choices(((0, 0), (1, 0), (1, 3), (0, 185)), (16, 2, 2, 2))[0]
        source, target = random.choice(self.sources), random.choice(targets)
        payload = self._l4(protocol, source, target, intact=not (more or offset))
        options = b"\1" * random.choice((0, 0, 0, 4, 8, 40))
        ttl = random.choice((64, 64, 64, 255, 2, 1, 0))
        head = struct.pack(
            ">BBHHHBBHII",
            0x45 + len(options) // 4,
            random.choice((0, 0xB9)),
            20 + len(options) + len(payload),
            random.randrange(4),
            more << 13 | offset,
            ttl,
            protocol,
            0,
            source,
            target,
        )
        head += options
        return head[:10] + checksum(head).to_bytes(2) + head[12:] + payload

    def _l4(self, protocol: int, source: int, target: int, *, intact: bool) -> bytes:
        random = self.random
        data = random.randbytes(random.choice((0, 1, 2, 7, 26)))
        ports = struct.pack(">HH", random.choice(self.ports), random.choice(self.ports))
        if protocol == TCP:
            flags = random.choice((0x02, 0x10, 0x12, 0x18, 0x11, 0x04, 0x14))
            body, at = ports + struct.pack(">IIBBHHH", 7, 9, 0x50, flags, 512, 0, 0) + data, 16
        elif protocol == UDP:
            body, at = ports + struct.pack(">HH", 8 + len(data), 0) + data, 6
        elif protocol == ICMP:
            return struct.pack(">BBHI", random.choice((0, 3, 8)), random.choice((0, 1, 4)), 0, 0) + data
        else:
            return data
        if protocol == UDP and random.random() < 0.2:
            return body
        pseudo = struct.pack(">IIHH", source, target, protocol, len(body))
        check = checksum(pseudo + body) if intact else 0x1234
        if protocol == UDP and not check:
            check = 0xFFFF
        return body[:at] + check.to_bytes(2) + body[at + 2 :]
