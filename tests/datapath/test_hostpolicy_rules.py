"""HostPolicy, packet by packet: rules, counters, audit mode, and what must not get around a Deny."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, LLC, Dot1AD, Dot1Q, Dot3, Ether
from scapy.packet import Packet, Raw

from kubebee.policy.model import Action, Failsafe, L4Match, Policy, PolicyRule, PortRange, Source
from support.hostpolicy import CONTINUE, DROP, Firewall, firewall

pytestmark = pytest.mark.root

HOST, OTHER, CLIENT = "192.0.2.1", "192.0.2.77", "198.51.100.9"
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def ip(**fields: object) -> IP:
    return IP(**{"src": CLIENT, "dst": HOST, **fields})


def tcp(port: int, **fields: object) -> TCP:
    return TCP(sport=40000, dport=port, **fields)


def rule(
    name: str, action: Action, *ports: str, protocol: int = 6, cidrs: tuple[str, ...] = ()
) -> PolicyRule:
    match = L4Match(protocol, tuple(PortRange.parse(text) for text in ports))
    return PolicyRule(name, action, tuple(Source.parse(cidr) for cidr in cidrs), (match,))


DENY_8080 = Policy("p", 1, (rule("deny-8080", Action.DENY, "8080"),))
ONLY_80 = Policy("p", 1, (rule("web", Action.ALLOW, "80"),), default=Action.DENY)


@pytest.fixture
def host() -> Iterator[Firewall]:
    with firewall(HOST) as loaded:
        yield loaded


def test_without_policies_everything_passes(host: Firewall) -> None:
    assert host.verdict(ETH / ip() / tcp(8080)) == CONTINUE
    assert host.verdict(bytes(ETH / ip() / tcp(8080))[:40]) == CONTINUE


def test_the_first_matching_rule_decides_and_is_counted_with_frame_bytes(host: Firewall) -> None:
    allow, deny = rule("a", Action.ALLOW, "80"), rule("b", Action.DENY, "1-1000")
    host.enforce(Policy("p", 1, (allow, deny)))
    assert host.verdict(ETH / ip() / tcp(80)) == CONTINUE
    assert host.verdict(ETH / ip() / tcp(81)) == DROP
    assert host.hits() == {"p/a": (1, 0), "p/b": (1, 0)}
    assert host.drops() == {"policy_rule": 1}


@pytest.mark.parametrize(
    ("port", "verdict"), [(65534, CONTINUE), (65535, DROP), (65000, CONTINUE), (0, CONTINUE)]
)
def test_port_65535_belongs_to_a_range_that_ends_there(host: Firewall, port: int, verdict: int) -> None:
    host.enforce(Policy("p", 1, (rule("top", Action.DENY, "65535-65535"),)))
    assert host.verdict(ETH / ip() / tcp(port)) == verdict


@pytest.mark.parametrize(
    ("source", "verdict"),
    [
        ("10.0.0.0", DROP),
        ("10.255.255.255", DROP),
        ("11.0.0.0", CONTINUE),
        ("10.1.2.3", CONTINUE),
        ("10.1.2.4", DROP),
        ("10.2.0.7", CONTINUE),
    ],
)
def test_a_prefix_counts_without_its_exceptions(host: Firewall, source: str, verdict: int) -> None:
    block = Source.parse("10.0.0.0/8", ["10.1.2.3/32", "10.2.0.0/24"])
    host.enforce(Policy("p", 1, (PolicyRule("block", Action.DENY, (block,)),)))
    assert host.verdict(ETH / ip(src=source) / tcp(8080)) == verdict


def test_rules_match_icmp_by_type_and_code(host: Firewall) -> None:
    match = L4Match(1, icmp_type=3, icmp_code=4)
    host.enforce(Policy("p", 1, (PolicyRule("frag-needed", Action.ALLOW, protocols=(match,)),), Action.DENY))
    assert host.verdict(ETH / ip() / ICMP(type=3, code=4)) == CONTINUE
    assert host.verdict(ETH / ip() / ICMP(type=3, code=1)) == DROP
    assert host.verdict(ETH / ip() / ICMP(type=8)) == DROP


def test_answers_to_the_hosts_pings_pass_a_default_deny(host: Firewall) -> None:
    host.enforce(ONLY_80)
    assert host.verdict(ETH / ip() / ICMP(type=0)) == CONTINUE


@pytest.mark.parametrize("position", [0, 63, 64, 499, 1000])
def test_a_rule_matches_wherever_it_stands(host: Firewall, position: int) -> None:
    rules = tuple(
        rule(f"r{i}", Action.DENY, str(1024 + i), cidrs=(f"10.{i >> 8}.{i & 255}.0/24",)) for i in range(1001)
    )
    host.enforce(Policy("p", 1, rules), failsafe=Failsafe(protocols=()))
    source = f"10.{position >> 8}.{position & 255}.9"
    assert host.verdict(ETH / ip(src=source) / tcp(1024 + position)) == DROP
    assert host.verdict(ETH / ip(src=source) / tcp(1025 + position)) == CONTINUE
    assert host.hits()[f"p/r{position}"] == (1, 0)


@pytest.mark.parametrize(
    "payload",
    [tcp(22), tcp(179), tcp(2379), tcp(2380), tcp(6443), tcp(10250), UDP(sport=67, dport=68)],
    ids=lambda payload: str(payload.dport),
)
def test_failsafe_ports_stay_open(host: Firewall, payload: Packet) -> None:
    host.enforce(Policy("p", 1, (PolicyRule("all", Action.DENY),), Action.DENY))
    assert host.verdict(ETH / ip() / payload) == CONTINUE


def test_an_own_failsafe_list_replaces_the_default(host: Firewall) -> None:
    own = Failsafe(protocols=(L4Match(6, (PortRange(2222, 2222),)),))
    host.enforce(Policy("p", 1, default=Action.DENY), failsafe=own)
    assert host.verdict(ETH / ip() / tcp(2222)) == CONTINUE
    assert host.verdict(ETH / ip() / tcp(22)) == DROP


@pytest.mark.parametrize(
    "packet",
    [
        ETH / ARP(),
        ETH / IPv6() / tcp(8080),
        Dot3(src=ETH.src, dst=ETH.dst) / LLC() / Raw(b"x" * 40),
        ETH / Dot1Q(vlan=5) / ARP(),
        ETH / ip(dst=OTHER) / tcp(8080),
        ETH / ip(dst="224.0.0.18", proto=112) / Raw(b"x" * 20),
    ],
    ids=["ARP", "IPv6", "LLC", "ARP in a VLAN", "forwarded", "VRRP"],
)
def test_what_a_host_policy_does_not_judge_passes(host: Firewall, packet: Packet) -> None:
    host.enforce(Policy("p", 1, (PolicyRule("all", Action.DENY),), Action.DENY))
    assert host.verdict(packet) == CONTINUE


@pytest.mark.parametrize("destination", ["255.255.255.255", "239.1.2.3"])
def test_broadcast_and_multicast_are_for_the_host(host: Firewall, destination: str) -> None:
    host.enforce(ONLY_80)
    assert host.verdict(ETH / ip(dst=destination) / UDP(sport=1, dport=5353)) == DROP


@pytest.mark.parametrize(
    "packet",
    [
        ETH / ip(options=[IPOption_NOP()] * 4) / tcp(8080),
        ETH / ip(options=[IPOption_NOP()] * 40) / tcp(8080),
        ETH / Dot1Q(vlan=5) / ip() / tcp(8080),
        ETH / Dot1AD(vlan=5) / Dot1Q(vlan=6) / ip() / tcp(8080),
        ETH / Dot1Q(vlan=5) / ip(options=[IPOption_NOP()] * 8) / tcp(8080),
        ETH / ip(flags="MF") / tcp(8080),
        ETH / ip(ttl=1, tos=0xFF) / tcp(8080, flags="FPU"),
    ],
    ids=["4 options", "40 options", "802.1Q", "802.1ad", "VLAN and options", "first fragment", "odd flags"],
)
def test_no_wrapping_gets_around_a_deny(host: Firewall, packet: Packet) -> None:
    host.enforce(DENY_8080)
    assert host.verdict(packet) == DROP
    assert host.drops() == {"policy_rule": 1}


def test_more_tags_than_can_be_read_are_dropped(host: Firewall) -> None:
    host.enforce(DENY_8080)
    assert host.verdict(ETH / Dot1Q() / Dot1Q() / Dot1Q() / ip() / tcp(80)) == DROP
    assert host.drops() == {"vlan_depth": 1}


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (bytes(ETH / ip() / tcp(80))[:33], "truncated"),
        (bytes(ETH / ip() / tcp(80))[:53], "truncated"),
        (bytes(ETH / ip(len=24) / tcp(80)), "truncated"),
        (bytes(ETH / ip(flags="MF", proto=6) / Raw(b"\0" * 8)), "truncated"),
        (bytes(ETH / ip(proto=17) / Raw(b"\0" * 7)), "truncated"),
        (bytes(ETH / ip(ihl=4) / tcp(80)), "malformed"),
        (bytes(ETH / ip(version=5) / tcp(80)), "malformed"),
        (bytes(ETH / ip(len=19) / tcp(80)), "malformed"),
    ],
    ids=["IP", "TCP", "IP length", "tiny first fragment", "UDP", "ihl", "version", "length below header"],
)
def test_headers_that_cannot_be_judged_are_dropped(host: Firewall, frame: bytes, reason: str) -> None:
    host.enforce(DENY_8080)
    assert host.verdict(frame) == DROP
    assert host.drops() == {reason: 1}


def later(packet_id: int, **fields: object) -> Packet:
    return ETH / ip(id=packet_id, frag=3, **{"proto": 6, **fields}) / Raw(b"x" * 24)


def test_later_fragments_follow_an_allowed_first_one(host: Firewall) -> None:
    host.enforce(ONLY_80)
    assert host.verdict(later(7)) == DROP
    assert host.verdict(ETH / ip(id=7, flags="MF") / tcp(80)) == CONTINUE
    assert host.verdict(later(7)) == CONTINUE
    assert host.verdict(later(7, flags="MF")) == CONTINUE
    assert host.hits()["p/web"] == (3, 0)
    assert host.drops() == {"fragment": 1}


@pytest.mark.parametrize("other", [{"id": 8}, {"src": "198.51.100.10"}, {"proto": 17}], ids=str)
def test_later_fragments_of_another_datagram_do_not(host: Firewall, other: dict[str, object]) -> None:
    host.enforce(ONLY_80)
    host.verdict(ETH / ip(id=7, flags="MF") / tcp(80))
    fields = {"id": 7, "proto": 6, **other}
    assert host.verdict(ETH / ip(frag=3, **fields) / Raw(b"x" * 24)) == DROP


def test_a_later_fragment_whose_ports_nobody_knows_does_not_get_around_a_deny(host: Firewall) -> None:
    host.enforce(DENY_8080)
    assert host.verdict(later(7)) == DROP
    assert host.verdict(later(7, proto=17)) == CONTINUE


def test_a_later_fragment_passes_a_rule_that_needs_no_ports(host: Firewall) -> None:
    host.enforce(
        Policy("p", 1, (PolicyRule("all", Action.ALLOW, (Source.parse("198.51.100.0/24"),)),), Action.DENY)
    )
    assert host.verdict(later(7)) == CONTINUE


def test_a_tunnel_is_judged_by_its_outer_header(host: Firewall) -> None:
    host.enforce(ONLY_80)
    assert host.verdict(ETH / ip(proto=4) / IP(src="10.0.0.1", dst=HOST) / tcp(80)) == DROP


def test_audit_mode_counts_apart_and_lets_pass(host: Firewall) -> None:
    host.enforce(Policy("try", 1, DENY_8080.rules, Action.DENY, audit=True))
    assert host.verdict(ETH / ip() / tcp(8080)) == CONTINUE
    assert host.verdict(ETH / ip() / tcp(9)) == CONTINUE
    hits = host.hits()
    assert (hits["try/deny-8080"], hits["try/(default)"]) == ((0, 1), (0, 1))
    assert host.drops() == {}


def test_an_audited_policy_does_not_shield_packets_from_an_enforced_one(host: Firewall) -> None:
    audited = Policy("try", 1, (rule("open", Action.ALLOW, "8080"),), audit=True)
    host.enforce(audited, Policy("real", 2, DENY_8080.rules))
    assert host.verdict(ETH / ip() / tcp(8080)) == DROP
    assert host.hits() == {"try/open": (0, 1), "real/deny-8080": (1, 0)}


def test_one_policy_with_default_deny_is_enough(host: Firewall) -> None:
    host.enforce(Policy("a", 1), Policy("b", 2, default=Action.DENY))
    assert host.verdict(ETH / ip() / tcp(9)) == DROP
    assert host.hits() == {"b/(default)": (1, 0)}
    assert host.drops() == {"policy_default": 1}


@pytest.mark.parametrize(("source", "target"), [("0.0.0.0", "0.0.0.0"), (CLIENT, "127.0.0.1")])  # noqa: S104
def test_addresses_that_the_kernel_takes_without_being_told_are_judged(
    host: Firewall, source: str, target: str
) -> None:
    host.enforce(DENY_8080)
    assert host.verdict(ETH / ip(src=source, dst=target) / tcp(8080)) == DROP


def test_audit_mode_does_not_count_fragments_of_what_it_would_have_allowed(host: Firewall) -> None:
    host.enforce(Policy("p", 1, ONLY_80.rules, Action.DENY, audit=True))
    first = ETH / ip(id=9, flags="MF") / tcp(80) / Raw(bytes(12))
    later = ETH / ip(id=9, frag=4, proto=6) / Raw(bytes(16))
    assert [host.verdict(first), host.verdict(later)] == [CONTINUE, CONTINUE]
    assert "p/(default)" not in host.hits()
