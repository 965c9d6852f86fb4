"""What becomes of bytes when packets are readdressed, quoted or wrapped, for either family: plainly."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from support.frames import ICMP, IPIP, TCP, UDP, Frames, Ip, Unread, checksum, ones_sum, read
from support.frames6 import ICMP6, IP6IP6, Frames6, read6


def replaced(check: int, before: bytes, after: bytes) -> int:
    """The checksum after bytes of what it covers changed."""
    total = (~check & 0xFFFF) + (~ones_sum(before) & 0xFFFF) + ones_sum(after)
    return ~ones_sum(total.to_bytes(4)) & 0xFFFF


class Quoted(NamedTuple):
    """A packet that an ICMP error quotes: addresses, ports, and where its parts are in the quote."""

    source: int
    target: int
    protocol: int
    sport: int
    dport: int
    l4: int


@dataclass(frozen=True)
class Wire:
    """A family's headers.

    Attributes:
        header: bytes of an IP header without options.
        addresses: where in a header the source begins; the target follows it.
        width: bytes of an address.
        echo: ICMP types of a ping and of its answer.
        too_long, no_host: ICMP types and codes.
        errors: ICMP types.
        least_mtu: what every link must carry.
    """

    six: bool
    ether_type: bytes
    header: int
    addresses: int
    width: int
    icmp: int
    tunnel: int
    echo: tuple[int, int]
    too_long: tuple[int, int]
    no_host: tuple[int, int]
    errors: tuple[int, ...]
    least_mtu: int
    read: Callable[[bytes], Ip | Unread]
    frames: type[Frames]

    def ends(self, frame: bytes, at: int = 14) -> tuple[bytes, bytes]:
        """Source and target of the packet at an offset."""
        first = at + self.addresses
        return frame[first : first + self.width], frame[first + self.width : first + 2 * self.width]

    def is_plain(self, packet: Ip) -> bool:
        """Whether nothing is between the header and the transport's."""
        return packet.l4 == packet.at + self.header

    def is_one_host(self, address: int) -> bool:
        """Whether it may be answered: no group of hosts, and not "this host" (RFC 1122, RFC 4291)."""
        first = address >> 8 * (self.width - 1)
        return 0 < first < (0xFF if self.six else 0xE0)

    def readdressed(self, frame: bytes, source: bytes, target: bytes, macs: bytes, hops: int = 1) -> bytes:
        """The frame between other hosts, with a hop less to go, its transport header as it was."""
        return macs + frame[12:14] + self._between(frame[14:], source, target, hops)

    def _between(self, packet: bytes, source: bytes, target: bytes, hops: int) -> bytes:
        made, at = bytearray(packet), self.addresses
        made[at : at + 2 * self.width] = source + target
        made[7 if self.six else 8] -= hops
        if not self.six:
            check = replaced(
                int.from_bytes(packet[10:12]), packet[8:10] + packet[12:20], made[8:10] + made[12:20]
            )
            made[10:12] = check.to_bytes(2)
        return bytes(made)

    def with_ports(self, frame: bytes, packet: Ip, ports: bytes, readdressed: bytes) -> bytes:
        """A frame that was given other addresses, with other ports and its checksum right again."""
        made, l4 = bytearray(readdressed), packet.l4
        made[l4 : l4 + 4] = ports
        at = l4 + (16 if packet.protocol == TCP else 6)
        check = int.from_bytes(frame[at : at + 2])
        if packet.protocol == TCP or check:
            before, after = (b"".join(self.ends(each)) for each in (frame, readdressed))
            check = replaced(check, before + frame[l4 : l4 + 4], after + ports)
            made[at : at + 2] = (check or (0xFFFF if packet.protocol == UDP else 0)).to_bytes(2)
        return bytes(made)

    def ecn(self, frame: bytes) -> int:
        """Congestion bits of the packet in a frame."""
        return frame[15] >> 4 & 3 if self.six else frame[15] & 3

    def marked(self, frame: bytes, outer: int) -> bytes:
        """The frame with what an outer header said of congestion; b"" if it had to be dropped (RFC 6040)."""
        inner, shift = self.ecn(frame), 4 * self.six
        if outer == 3 and not inner:
            return b""
        ecn = 3 if outer == 3 else 1 if (outer, inner) == (1, 2) else inner
        made = bytearray(frame)
        made[15] = frame[15] & ~(3 << shift) | ecn << shift
        if not self.six and ecn != inner:
            made[24:26] = replaced(int.from_bytes(frame[24:26]), frame[14:16], made[14:16]).to_bytes(2)
        return bytes(made)

    def wrapped(self, frame: bytes, source: bytes, target: bytes, macs: bytes) -> bytes:
        """The frame's packet in an outer header."""
        inner, tos = self.read(frame), frame[15]
        assert isinstance(inner, Ip)
        if self.six:
            flow = 6 << 28 | (int.from_bytes(frame[14:16]) >> 4 & 0xFF) << 20
            head = struct.pack(">IHBB", flow, inner.total, self.tunnel, 64) + source + target
        else:
            total = inner.total + 20
            head = struct.pack(">BBHHHBBH", 0x45, tos, total, 0, 0x4000, 64, self.tunnel, 0) + source + target
            head = head[:10] + checksum(head).to_bytes(2) + head[12:]
        return macs + self.ether_type + head + frame[14:]

    def summed(self, ends: tuple[bytes, bytes], protocol: int, payload: bytes) -> int:
        """The checksum of a packet between these ends."""
        covered = b"" if protocol == ICMP else b"".join(ends) + struct.pack(">HH", protocol, len(payload))
        return checksum(covered + payload)

    def made(
        self, ends: tuple[bytes, bytes], protocol: int, payload: bytes, macs: bytes, length: int | None = None
    ) -> bytes:
        """A frame that the balancer makes; `length` is that of the payload where more follows."""
        length = len(payload) if length is None else length
        if self.six:
            head = struct.pack(">IHBB", 6 << 28, length, protocol, 64) + b"".join(ends)
        else:
            head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, protocol, 0)
            head += b"".join(ends)
            head = head[:10] + checksum(head).to_bytes(2) + head[12:]
        return macs + self.ether_type + head + payload

    def quoted(self, quote: bytes) -> Quoted | None:
        """Read what an error quotes, as far as its ports; None: it is not there, or no first fragment."""
        if len(quote) < self.header or quote[0] >> 4 != (6 if self.six else 4):
            return None
        l4 = 40 if self.six else (quote[0] & 15) * 4
        if not self.six and (l4 < 20 or int.from_bytes(quote[6:8]) & 0x1FFF):
            return None
        protocol = quote[6] if self.six else quote[9]
        source, target = (int.from_bytes(end) for end in self.ends(quote, 0))
        if protocol == self.tunnel:
            return Quoted(source, target, protocol, 0, 0, l4)
        if protocol not in (TCP, UDP) or len(quote) < l4 + 4:
            return None
        return Quoted(source, target, protocol, *struct.unpack_from(">HH", quote, l4), l4)

    def requoted(
        self, quote: bytes, inner: Quoted, ends: tuple[bytes, bytes], ports: tuple[int, int]
    ) -> bytes:
        """A quote of the packet as it was between other ends; its own checksum is right if it was."""
        made = bytearray(self._between(quote, *ends, 0))
        new = struct.pack(">HH", *ports)
        made[inner.l4 : inner.l4 + 4] = new
        at = inner.l4 + (16 if inner.protocol == TCP else 6)
        check = int.from_bytes(quote[at : at + 2])
        if len(quote) >= at + 2 and (inner.protocol == TCP or check):
            before = b"".join(self.ends(quote, 0)) + quote[inner.l4 : inner.l4 + 4]
            check = replaced(check, before, b"".join(ends) + new)
            made[at : at + 2] = (check or (0xFFFF if inner.protocol == UDP else 0)).to_bytes(2)
        return bytes(made)


IPV4 = Wire(
    six=False,
    ether_type=b"\x08\x00",
    header=20,
    addresses=12,
    width=4,
    icmp=ICMP,
    tunnel=IPIP,
    echo=(8, 0),
    too_long=(3, 4),
    no_host=(3, 1),
    errors=(3, 11, 12),
    least_mtu=68,
    read=read,
    frames=Frames,
)
IPV6 = Wire(
    six=True,
    ether_type=b"\x86\xdd",
    header=40,
    addresses=8,
    width=16,
    icmp=ICMP6,
    tunnel=IP6IP6,
    echo=(128, 129),
    too_long=(2, 0),
    no_host=(1, 3),
    errors=(1, 2, 3, 4),
    least_mtu=1280,
    read=read6,
    frames=Frames6,
)
