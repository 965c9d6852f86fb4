"""Random IPv6 packets for fuzzing, and a plain reading of them; see frames.py."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from support.frames import VLAN_TYPES, Frames, Ip, Unread

ICMP6, IP6IP6 = 58, 41
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
EXTENSIONS = (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION)
MOST_EXTENSIONS = 6
"""That are looked behind."""


def read6(frame: bytes) -> Ip | Unread:
    """Read a frame as RFC 8200 says; one with tags is another protocol's."""
    kind = int.from_bytes(frame[12:14])
    if kind != 0x86DD:
        return Unread("vlan" if kind in VLAN_TYPES else "")
    if len(frame) < 54:
        return Unread("truncated")
    payload, following, ttl = struct.unpack_from(">HBB", frame, 18)
    if frame[14] >> 4 != 6:
        return Unread("malformed")
    at, identification, more, offset, seen = 54, 0, False, 0, 0
    fragmented = False
    while following in EXTENSIONS and not offset:
        if seen == MOST_EXTENSIONS or (following == FRAGMENT and fragmented):
            return Unread("malformed")
        if len(frame) < at + 8:
            return Unread("truncated")
        seen, length = seen + 1, frame[at + 1]
        if following == FRAGMENT:
            fragmented, size = True, 8
            place, identification = struct.unpack_from(">HI", frame, at + 2)
            more, offset = bool(place & 1), place >> 3
        else:
            size = (length + 2) * 4 if following == AUTHENTICATION else (length + 1) * 8
        following, at = frame[at], at + size
    if payload + 54 < at:
        return Unread("malformed")
    has = max(0, min(len(frame) - at, payload + 54 - at))
    source, target = int.from_bytes(frame[22:38]), int.from_bytes(frame[38:54])
    return Ip(14, at, has, source, target, following, ttl, payload + 40, identification, more, offset)


@dataclass(frozen=True, slots=True)
class Frames6(Frames):
    """Makes IPv6 frames, most of them well formed: extension headers of all kinds, also too many."""

    ether_type: ClassVar[bytes] = b"\x86\xdd"
    tunnel: ClassVar[int] = IP6IP6
    icmp: ClassVar[int] = ICMP6
    icmp_types: ClassVar[tuple[int, ...]] = (128, 129, 1, 2, 135)
    sizes: ClassVar[tuple[int, ...]] = (0, 1, 2, 7, 26, 0, 1, 2, 7, 26, 0, 1, 2, 7, 26, 1300)
    """Some are longer than the least MTU, below which nobody is told of one."""

    def _wrapped(self, end: int, inside: bytes) -> bytes:
        random = self.random
        headers = random.choice(((), (), (), (HOP_BY_HOP,), (DESTINATION, AUTHENTICATION)))
        fragment = random.choices((None, (0, 0), (1, 0), (0, 1)), (16, 1, 1, 1))[0]
        following, chain = self._chain(headers, fragment, IP6IP6)
        ends = random.choice(self.sources), end
        return self._header6((random.randrange(4), 64, following), ends, chain + inside)

    def _fragment(self, source: int, target: int, protocol: int, identification: int, data: bytes) -> bytes:
        place, hops = self.random.choice((3 << 3 | 1, 185 << 3)), self.random.choice((64, 64, 64, 1))
        head = struct.pack(">BBHI", protocol, 0, place, identification)
        return self._header6((0, hops, FRAGMENT), (source, target), head + data)

    def _whole(self, source: int, target: int, protocol: int, payload: bytes) -> bytes:
        following, chain = self._chain(self.random.choice(((), (), (), (DESTINATION,))), None, protocol)
        fields = 0, self.random.choice((64, 64, 64, 1)), following
        return self._header6(fields, (source, target), chain + payload)

    def _packet(self, source: int, target: int, protocol: int, ports: tuple[int, int]) -> bytes:
        random = self.random
        count = random.choices((0, 1, 2, 3, 6, 7), (24, 4, 2, 2, 1, 1))[0]
        kinds = HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION
        headers = tuple(random.choice(kinds) for _ in range(count))
        fragment = random.choices((None, (0, 0), (1, 0), (1, 3), (0, 185)), (32, 2, 4, 4, 4))[0]
        whole = fragment in (None, (0, 0))
        payload = self._l4(protocol, ports, (source, target), intact=whole)
        following, chain = self._chain(headers, fragment, protocol)
        fields = random.choice((0, 0xB9)), random.choice((64, 64, 64, 255, 2, 1, 0)), following
        return self._header6(fields, (source, target), chain + payload)

    def _chain(
        self, headers: tuple[int, ...], fragment: tuple[int, int] | None, protocol: int
    ) -> tuple[int, bytes]:
        """Extension headers in front of a protocol, with the number of the first; rarely two of fragments."""
        random, following, chain = self.random, protocol, b""
        if fragment is not None:
            more, offset = fragment
            for _ in range(random.choices((1, 2), (30, 1))[0]):
                head = struct.pack(">BBHI", following, 0, offset << 3 | more, random.randrange(4))
                following, chain = FRAGMENT, head + chain
        for kind in headers:
            units = random.choice((0, 0, 1, 3))
            size = (units + 2) * 4 if kind == AUTHENTICATION else (units + 1) * 8
            if kind == AUTHENTICATION and not units:
                units, size = 4, 24
            following, chain = kind, bytes((following, units)) + bytes(size - 2) + chain
        return following, chain

    def _header6(self, fields: tuple[int, int, int], ends: tuple[int, int], payload: bytes) -> bytes:
        traffic_class, hops, following = fields
        flow = 6 << 28 | traffic_class << 20 | self.random.choice((0, 0x54321))
        head = struct.pack(">IHBB", flow, self._length(len(payload)), following, hops)
        return head + ends[0].to_bytes(16) + ends[1].to_bytes(16) + payload

    def _pseudo(self, ends: tuple[int, int], protocol: int, length: int) -> bytes:
        return ends[0].to_bytes(16) + ends[1].to_bytes(16) + struct.pack(">HH", protocol, length)

    def _error_kind(self) -> tuple[int, int, int]:
        random = self.random
        mtu = random.choice((0, 1279, 1280, 1400, 90))
        kind, code = random.choice(((2, 0), (2, 0), (1, random.randrange(8)), (3, 0), (3, 1), (4, 1), (4, 0)))
        return kind, code, mtu if kind == 2 else random.choice((0, 7))
