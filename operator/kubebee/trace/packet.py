"""Frames: built from a flow, and told in words. Addresses are bytes in network order, 4 or 16 long."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntFlag

from kubebee.trace import ip_option

IPIP, TCP, UDP, IPV6, ICMP, ICMPV6, SCTP = 4, 6, 17, 41, 1, 58, 132
_NAMES = {IPIP: "IPIP", TCP: "TCP", UDP: "UDP", IPV6: "IPv6", ICMP: "ICMP", ICMPV6: "ICMPv6", SCTP: "SCTP"}
_ETH_IPV4, _ETH_IPV6, _ETH_VLAN, _ETH_QINQ = 0x0800, 0x86DD, 0x8100, 0x88A8
_ETH = struct.Struct(">6s6sH")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_TCP = struct.Struct(">HHIIBBHHH")
_UDP = struct.Struct(">HHHH")
_SCTP = struct.Struct(">HHII")
_SCTP_INIT = struct.Struct(">BBHIIHHI")
_DF, _MF, _OFFSET = 0x4000, 0x2000, 0x1FFF
_ICMP_BYTES = 8
_PAYLOAD = b"kubebee"
TTL = 64
MACS = 12
"""Bytes of a frame before its type."""


class TcpFlag(IntFlag):
    """Flags of a TCP header."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10


@dataclass(frozen=True, slots=True)
class Flow:
    """A packet's two ends; both addresses are of one family."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    protocol: int


def frame(
    flow: Flow, macs: bytes, *, tcp_flags: TcpFlag = TcpFlag.SYN, ip_length: int = 0, ttl: int = TTL
) -> bytes:
    """A whole Ethernet frame with right checksums.

    Args:
        flow: what it belongs to.
        macs: destination, then source: 12 bytes.
        tcp_flags: of a TCP segment.
        ip_length: bytes of the IP packet, headers included; more payload is added until it has them.
        ttl: or hop limit.
    """
    overhead = _IPV4.size if len(flow.source) == 4 else _IPV6.size
    payload = _PAYLOAD if flow.protocol == UDP else b""
    payload += bytes(max(0, ip_length - overhead - _l4_size(flow.protocol) - len(payload)))
    segment = _segment(flow, tcp_flags, payload)
    if len(flow.source) == 4:
        head = _IPV4.pack(
            0x45, 0, overhead + len(segment), 0, _DF, ttl, flow.protocol, 0, flow.source, flow.destination
        )
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
        return macs + struct.pack(">H", _ETH_IPV4) + head + segment
    head = _IPV6.pack(6 << 28, len(segment), flow.protocol, ttl, flow.source, flow.destination)
    return macs + struct.pack(">H", _ETH_IPV6) + head + segment


def tunnelled(inside: bytes, source: bytes, target: bytes) -> bytes:
    """A frame's packet inside one between two hosts, of the same family, as a balancer sends it on."""
    packet = inside[_ETH.size :]
    if len(source) == 4:
        head = _IPV4.pack(0x45, 0, _IPV4.size + len(packet), 0, _DF, TTL, IPIP, 0, source, target)
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    else:
        head = _IPV6.pack(6 << 28, len(packet), IPV6, TTL, source, target)
    return inside[: _ETH.size] + head + packet


def marked(sent: bytes, address: bytes, port: int) -> bytes:
    """A frame's packet to a backend with the option that names its frontend, as a balancer sends it on."""
    at = _ETH.size + (_IPV4.size if len(address) == 4 else _IPV6.size)
    head, rest = bytearray(sent[_ETH.size : at]), sent[at:]
    option = ip_option.make(address, port, head[6])
    if len(address) == 4:
        head[0] += len(option) // 4
        head[2:4] = (int.from_bytes(head[2:4]) + len(option)).to_bytes(2)
        head[10:12] = bytes(2)
        head[10:12] = checksum(bytes(head) + option).to_bytes(2)
    else:
        head[4:6] = (int.from_bytes(head[4:6]) + len(option)).to_bytes(2)
        head[6] = ip_option.DESTINATION_OPTIONS
    return sent[: _ETH.size] + bytes(head) + option + rest


def _l4_size(protocol: int) -> int:
    return {TCP: _TCP.size, UDP: _UDP.size, SCTP: _SCTP.size + _SCTP_INIT.size}[protocol]


def _segment(flow: Flow, tcp_flags: TcpFlag, payload: bytes) -> bytes:
    ports = (flow.source_port, flow.destination_port)
    if flow.protocol == TCP:
        acknowledged = 1 if tcp_flags & TcpFlag.ACK else 0
        head, at = _TCP.pack(*ports, 1, acknowledged, _TCP.size // 4 << 4, tcp_flags, 64240, 0, 0), 16
    elif flow.protocol == UDP:
        head, at = _UDP.pack(*ports, _UDP.size + len(payload), 0), 6
    else:
        init = _SCTP_INIT.pack(1, 0, _SCTP_INIT.size + len(payload), 1, 65535, 1, 1, 1)
        packet = _SCTP.pack(*ports, 0, 0) + init + payload
        return packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]
    whole = head + payload
    pseudo = flow.source + flow.destination + struct.pack(">II", len(whole), flow.protocol)
    found = checksum(pseudo + whole) or 0xFFFF  # of UDP 0 would mean: none was made (RFC 768)
    return whole[:at] + struct.pack(">H", found) + whole[at + 2 :]


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    """The checksum of SCTP (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Layer:
    """An IP packet within a frame, the outermost first.

    Attributes:
        flow: its ends; ports are 0 where it has none.
        text: all of it in words.
        has_option: one names the frontend that it was for.
    """

    flow: Flow
    ttl: int
    length: int
    text: str
    has_option: bool = False


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame.

    Attributes:
        layers: empty if it is no IP packet, or cut off.
    """

    destination_mac: bytes
    source_mac: bytes
    tags: tuple[int, ...]
    layers: tuple[Layer, ...]

    @property
    def innermost(self) -> Layer | None:
        """The packet that ends talk by, whatever it travels in."""
        return self.layers[-1] if self.layers else None


def decode(data: bytes) -> Decoded:
    """Take a frame apart, as far as it goes."""
    destination, source, kind = _ETH.unpack_from(data.ljust(_ETH.size, b"\0"))
    at, tags = _ETH.size, []
    while kind in (_ETH_VLAN, _ETH_QINQ) and len(data) >= at + 4:
        tag, kind = struct.unpack_from(">HH", data, at)
        tags.append(tag & 0xFFF)
        at += 4
    protocol = {_ETH_IPV4: IPIP, _ETH_IPV6: IPV6}.get(kind, -1)
    return Decoded(destination, source, tuple(tags), tuple(_layers(data[at:], protocol)))


def _layers(data: bytes, protocol: int) -> Iterator[Layer]:
    while protocol in (IPIP, IPV6):
        parsed = _ipv4(data) if protocol == IPIP else _ipv6(data)
        if parsed is None:
            return
        layer, protocol, data = parsed
        yield layer


def _ipv4(data: bytes) -> tuple[Layer, int, bytes] | None:
    if len(data) < _IPV4.size:
        return None
    first, tos, length, number, fragment, ttl, protocol, _, source, destination = _IPV4.unpack_from(data)
    rest = data[(first & 0xF) * 4 : length]
    marks = [f"tos {tos:#x}"] if tos else []
    marks += ["DF"] if fragment & _DF else []
    if fragment & (_MF | _OFFSET):
        marks.append(f"fragment {number:#x} at {(fragment & _OFFSET) * 8}")
    marks += [f"options {(first & 0xF) * 4 - _IPV4.size} bytes"] if first & 0xF > 5 else []
    named = ip_option.find_ipv4(data[_IPV4.size : (first & 0xF) * 4])
    if named:
        marks.append(f"for {end(named.address, named.port)}")
    marks += [] if checksum(data[: (first & 0xF) * 4]) == 0 else ["bad IP checksum"]
    whole = len(data) >= length and not fragment & (_MF | _OFFSET)
    visible = b"" if fragment & _OFFSET else rest
    layer = _layer(source, destination, protocol, ttl, length, visible, marks, whole)
    return replace(layer, has_option=named is not None), protocol, visible


def _ipv6(data: bytes) -> tuple[Layer, int, bytes] | None:
    if len(data) < _IPV6.size:
        return None
    _, payload, protocol, ttl, source, destination = _IPV6.unpack_from(data)
    length = _IPV6.size + payload
    rest, marks = data[_IPV6.size : length], []
    named = ip_option.find_ipv6(rest) if protocol == ip_option.DESTINATION_OPTIONS else None
    if named:
        protocol, rest = named.next, rest[named.length :]
        marks = [f"options {named.length} bytes", f"for {end(named.address, named.port)}"]
    layer = _layer(source, destination, protocol, ttl, length, rest, marks, len(data) >= length)
    return replace(layer, has_option=named is not None), protocol, rest


def _layer(
    source: bytes,
    destination: bytes,
    protocol: int,
    ttl: int,
    length: int,
    rest: bytes,
    marks: list[str],
    whole: bool,
) -> Layer:
    """The words for one IP packet; only of a whole one checksums can be checked."""
    has_ports = protocol in (TCP, UDP, SCTP) and len(rest) >= 4
    ports = struct.unpack_from(">HH", rest) if has_ports else (0, 0)
    flow = Flow(source, ports[0], destination, ports[1], protocol)
    words = [
        f"{end(source, ports[0])} > {end(destination, ports[1])}",
        _NAMES.get(protocol, f"proto {protocol}"),
    ]
    if protocol == TCP and len(rest) >= _TCP.size:
        words.append(f"[{','.join(flag.name or '' for flag in TcpFlag if rest[13] & flag) or 'none'}]")
    if protocol in (ICMP, ICMPV6) and len(rest) >= _ICMP_BYTES:
        words.append(_icmp(protocol, rest))
    words += [f"ttl {ttl}", f"length {length}", *marks]
    if whole and protocol in (TCP, UDP) and not _sum_is_right(flow, rest):
        words.append(f"bad {_NAMES[protocol]} checksum")
    return Layer(flow, ttl, length, " ".join(words))


def _icmp(protocol: int, rest: bytes) -> str:
    """Type and code; of errors, too, the packet that they quote."""
    kind, code = rest[:2]
    names = {(3, 4): "fragmentation needed", (3, 3): "port unreachable", (11, 0): "time exceeded"}
    if protocol == ICMPV6:
        names = {(2, 0): "packet too big", (1, 4): "port unreachable", (3, 0): "time exceeded"}
    text = names.get((kind, code), f"type {kind} code {code}")
    is_error = kind in (3, 11, 12) if protocol == ICMP else kind < 128
    quoted = (_ipv4 if protocol == ICMP else _ipv6)(rest[_ICMP_BYTES:]) if is_error else None
    if (kind, code) in ((3, 4), (2, 0)):
        text += f", mtu {int.from_bytes(rest[4:8]) & (0xFFFF if protocol == ICMP else 0xFFFFFFFF)}"
    return f"{text}, about ({quoted[0].text})" if quoted else text


def _sum_is_right(flow: Flow, rest: bytes) -> bool:
    if flow.protocol == UDP and rest[6:8] == b"\0\0":
        return True  # none was made
    pseudo = flow.source + flow.destination + struct.pack(">II", len(rest), flow.protocol)
    return checksum(pseudo + rest) == 0


def end(address: bytes, port: int) -> str:
    """An address with its port, if it has one."""
    text = socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
    if not port:
        return text
    return f"{text}:{port}" if len(address) == 4 else f"[{text}]:{port}"


def mac(address: bytes) -> str:
    """A MAC address as people write it."""
    return address.hex(":")
