"""Frames that trace builds and tells, compared with scapy's."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import HBHOptUnknown, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from kubebee.lb.model import parse_address
from kubebee.trace import packet
from kubebee.trace.packet import Flow, TcpFlag, decode, frame

MACS = bytes.fromhex("020000000002020000000001")
V4 = (parse_address("192.0.2.7"), parse_address("10.96.0.10"))
V6 = (parse_address("2001:db8::7"), parse_address("fd00::10"))
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
PING = 8


def flow(ends: tuple[bytes, bytes], protocol: int) -> Flow:
    return Flow(ends[0], 40000, ends[1], 53, protocol)


def recomputed(raw: bytes) -> bytes:
    """The frame as scapy builds it, with checksums of its own."""
    again = Ether(raw)
    for layer in (IP, TCP, UDP, SCTP):
        if layer in again:
            del again[layer].chksum
    return bytes(Ether(bytes(again)))


@pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("protocol", [packet.TCP, packet.UDP, packet.SCTP], ids=["TCP", "UDP", "SCTP"])
@pytest.mark.parametrize("length", [0, 777], ids=["short", "long"])
def test_a_frame_has_right_checksums_and_the_length_asked_for(
    ends: tuple[bytes, bytes], protocol: int, length: int
) -> None:
    raw = frame(flow(ends, protocol), MACS, ip_length=length)
    assert recomputed(raw) == raw
    parsed = Ether(raw)
    assert (parsed.src, parsed.dst) == (ETHER.src, ETHER.dst)
    assert parsed.sport, parsed.dport == (40000, 53)
    (layer,) = decode(raw).layers
    assert layer.length == len(raw) - len(ETHER) >= length
    assert not length or layer.length == length
    assert layer.flow == flow(ends, protocol)


def test_flags_and_ttl_are_those_asked_for() -> None:
    raw = frame(flow(V4, packet.TCP), MACS, tcp_flags=TcpFlag.RST | TcpFlag.ACK, ttl=1)
    assert (Ether(raw)[TCP].flags, Ether(raw)[IP].ttl) == ("RA", 1)
    assert "[RST,ACK]" in decode(raw).layers[0].text


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (
            IP(src="192.0.2.7", dst="10.96.0.10") / TCP(sport=40000, dport=80, flags="S"),
            ["192.0.2.7:40000 > 10.96.0.10:80 TCP [SYN] ttl 64 length 40"],
        ),
        (
            IP(src="192.0.2.7", dst="10.2.1.2", options=[IPOption(bytes.fromhex("9a0850000a00600a"))])
            / TCP(sport=40000, dport=8080, flags="S"),
            ["192.0.2.7:40000 > 10.2.1.2:8080 TCP [SYN] ttl 64 length 48 options 8 bytes for 10.96.0.10:80"],
        ),
        (
            IPv6(src="2001:db8::7", dst="fd00:2::2")
            / IPv6ExtHdrDestOpt(
                len=2,
                autopad=0,
                options=[HBHOptUnknown(otype=0x1B, optlen=20, optdata=V6[1] + b"\0\x50\0\0")],
            )
            / TCP(sport=40000, dport=8080, flags="S"),
            [
                "[2001:db8::7]:40000 > [fd00:2::2]:8080 TCP [SYN] ttl 64 length 84"
                " options 24 bytes for [fd00::10]:80"
            ],
        ),
        (
            IP(src="10.0.0.1", dst="10.0.0.2", ttl=9, flags="DF")
            / IP(src="192.0.2.7", dst="10.96.0.10")
            / UDP(sport=1, dport=2),
            [
                "10.0.0.1 > 10.0.0.2 IPIP ttl 9 length 48 DF",
                "192.0.2.7:1 > 10.96.0.10:2 UDP ttl 64 length 28",
            ],
        ),
        (
            IP(src="10.0.0.1", dst="192.0.2.7")
            / ICMP(type=3, code=4, nexthopmtu=1400)
            / IP(src="192.0.2.7", dst="10.96.0.10")
            / UDP(sport=1, dport=2),
            [
                "10.0.0.1 > 192.0.2.7 ICMP fragmentation needed, mtu 1400, about "
                "(192.0.2.7:1 > 10.96.0.10:2 UDP ttl 64 length 28) ttl 64 length 56"
            ],
        ),
        (
            IP(src="192.0.2.7", dst="10.96.0.10", frag=185, proto=17) / (b"x" * 8),
            ["192.0.2.7 > 10.96.0.10 UDP ttl 64 length 28 fragment 0x1 at 1480"],
        ),
        (
            IPv6(src="fd00::1", dst="2001:db8::7") / ICMPv6PacketTooBig(mtu=1400) / IPv6() / UDP(),
            [
                "fd00::1 > 2001:db8::7 ICMPv6 packet too big, mtu 1400, about "
                "([::1]:53 > [::1]:53 UDP ttl 64 length 48) ttl 64 length 96"
            ],
        ),
        (
            IPv6(src="2001:db8::7", dst="fd00::10") / TCP(sport=40000, dport=443, flags="FA"),
            ["[2001:db8::7]:40000 > [fd00::10]:443 TCP [FIN,ACK] ttl 64 length 60"],
        ),
        (
            IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=PING),
            ["10.0.0.1 > 10.0.0.2 ICMP type 8 code 0 ttl 64 length 28"],
        ),
    ],
)
def test_a_packet_is_told_in_words(sent: Packet, told: list[str]) -> None:
    assert [layer.text for layer in decode(bytes(ETHER / sent)).layers] == told


def test_wrong_checksums_are_said() -> None:
    sent = ETHER / IP(src="192.0.2.7", dst="10.96.0.10", chksum=1) / UDP(sport=1, dport=2, chksum=1)
    text = decode(bytes(sent)).layers[0].text
    assert "bad IP checksum" in text
    assert "bad UDP checksum" in text


def test_tags_are_taken_off() -> None:
    found = decode(bytes(ETHER / Dot1Q(vlan=7) / Dot1Q(vlan=8) / IP() / UDP()))
    assert (found.tags, len(found.layers)) == ((7, 8), 1)


@pytest.mark.parametrize("raw", [b"", bytes(13), bytes(14), bytes(ETHER / IP())[:20], bytes(ETHER / b"x")])
def test_what_is_cut_off_has_no_layers(raw: bytes) -> None:
    assert decode(raw).layers == ()


def test_no_cut_makes_it_fall() -> None:
    whole = bytes(ETHER / IP() / IP() / TCP())
    assert all(len(decode(whole[:end]).layers) <= 2 for end in range(len(whole)))
