"""Compiled rule sets decide as a plain loop over the rules does."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubebee.policy import layout
from kubebee.policy.compile import FAILSAFE, CompiledPolicy, compile_policies
from kubebee.policy.model import (
    ICMP,
    TCP,
    UDP,
    Action,
    Failsafe,
    L4Match,
    Policy,
    PolicyError,
    PolicyRule,
    PortRange,
    RuleKey,
    Source,
)

NO_FAILSAFE = Failsafe(protocols=())
Packet = tuple[int, int, int]  # source, protocol, port or type << 8 | code


def node(table: bytes, index: int) -> int:
    return int(struct.unpack_from("=H", table, 2 * index)[0])


def src_class(compiled: CompiledPolicy, source: int) -> int:
    found = node(compiled.tables["root"], source >> 16)
    for index in (source >> 8 & 255, source & 255):
        if found & layout.NODE_CHUNK:
            chunk = found & ~layout.NODE_CHUNK
            found = node(compiled.tables["chunks"], chunk * layout.CHUNK_NODES + index)
    return found


def bits(table: bytes, number: int) -> int:
    _, *words = layout.RULE_BITS.unpack_from(table, number * layout.RULE_BITS.size)
    return sum(word << 64 * i for i, word in enumerate(words))


def l4_key(protocol: int, key: int) -> int:
    bases = {TCP: layout.L4_TCP, UDP: layout.L4_UDP, ICMP: layout.L4_ICMP}
    return bases[protocol] + key if protocol in bases else layout.L4_OTHER + protocol


def first_in_tables(compiled: CompiledPolicy, source: int, key: int) -> str | None:
    """What the datapath does: both classes, AND, lowest bit."""
    l4 = node(compiled.tables["l4"], key)
    both = bits(compiled.tables["src_bits"], src_class(compiled, source)) & bits(
        compiled.tables["l4_bits"], l4
    )
    return compiled.rules[(both & -both).bit_length() - 1].key.rule if both else None


def matches(rule: PolicyRule, packet: Packet) -> bool:
    """What a rule means, said plainly."""
    source, protocol, key = packet
    address = IPv4Address(source)

    def l4(match: L4Match) -> bool:
        if match.protocol != protocol:
            return False
        if match.ports:
            return any(ports.first <= key <= ports.last for ports in match.ports)
        return match.icmp_type in (None, key >> 8) and match.icmp_code in (None, key & 255)

    sender = not rule.sources or any(
        address in one.network and not any(address in part for part in one.excepts) for one in rule.sources
    )
    return sender and (not rule.protocols or any(l4(match) for match in rule.protocols))


networks = st.builds(
    lambda address, length: IPv4Network((address >> (32 - length) << (32 - length), length)),
    st.sampled_from([0x0A000000, 0x0A000001, 0x0A0001FF, 0x0A00FFFF, 0xC0A80101, 0xFFFFFFFF]),
    st.integers(0, 32),
)


@st.composite
def sources(draw: st.DrawFn) -> Source:
    network = draw(networks)
    longer = draw(st.lists(st.integers(network.prefixlen, 32), max_size=2))
    parts = [
        IPv4Network((int(network.broadcast_address) >> (32 - length) << (32 - length), length))
        for length in longer
    ]
    return Source(network, tuple(parts))


ports = st.integers(0, 65535)
ranges = st.builds(lambda a, b: PortRange(min(a, b), max(a, b)), ports, ports)
l4_matches = st.one_of(
    st.builds(L4Match, st.sampled_from([TCP, UDP]), st.lists(ranges, max_size=3).map(tuple)),
    st.builds(
        L4Match, st.just(ICMP), icmp_type=st.integers(0, 255), icmp_code=st.none() | st.integers(0, 255)
    ),
    st.builds(L4Match, st.integers(0, 255)),
)


@st.composite
def rule_lists(draw: st.DrawFn) -> tuple[PolicyRule, ...]:
    count = draw(st.integers(1, 12))
    return tuple(
        PolicyRule(
            f"r{i}",
            draw(st.sampled_from(Action)),
            draw(st.lists(sources(), max_size=3).map(tuple)),
            draw(st.lists(l4_matches, max_size=3).map(tuple)),
        )
        for i in range(count)
    )


def edges(rules: tuple[PolicyRule, ...]) -> st.SearchStrategy[Packet]:
    """Packets at and beside the edges of what the rules name."""
    addresses, keys, protocols = {0, 0xFFFFFFFF}, {0, 65535}, {TCP, UDP, ICMP, 47}
    for rule in rules:
        for source in rule.sources:
            for network in (source.network, *source.excepts):
                first, last = int(network[0]), int(network[-1])
                addresses |= {first, last, max(first - 1, 0), min(last + 1, 0xFFFFFFFF)}
        for match in rule.protocols:
            protocols.add(match.protocol)
            keys |= {(match.icmp_type or 0) << 8 | (match.icmp_code or 0)}
            for one in match.ports:
                keys |= {one.first, one.last, max(one.first - 1, 0), min(one.last + 1, 65535)}
    picks = (sorted(addresses), sorted(protocols), sorted(keys))
    return st.tuples(*(st.sampled_from(values) for values in picks))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_tables_pick_the_rule_that_a_loop_picks(data: st.DataObject) -> None:
    rules = data.draw(rule_lists())
    compiled = compile_policies([Policy("p", 1, rules)], failsafe=NO_FAILSAFE)
    for packet in data.draw(st.lists(edges(rules), min_size=20, max_size=40)):
        source, protocol, key = packet
        expected = next((rule.name for rule in rules if matches(rule, packet)), None)
        if expected is None and protocol == ICMP and key >> 8 == 0:
            expected = "icmp-echo-reply"
        assert first_in_tables(compiled, source, l4_key(protocol, key)) == expected


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_later_fragment_is_never_let_through_by_a_rule_about_ports(data: st.DataObject) -> None:
    rules = data.draw(rule_lists())
    compiled = compile_policies([Policy("p", 1, rules)], failsafe=NO_FAILSAFE)
    source, protocol, _ = data.draw(edges(rules))
    picked = first_in_tables(compiled, source, layout.L4_FRAGMENT + protocol)
    for rule in rules:
        possible = [match for match in rule.protocols if match.protocol == protocol]
        sure = not rule.protocols or any(match.whole_protocol for match in possible)
        # any key, for the sources only
        sender = matches(PolicyRule("", rule.action, rule.sources), (source, protocol, 0))
        if sender and (sure or (possible and rule.action is Action.DENY)):
            assert picked == rule.name
            return
    assert picked is None


def one_port(name: str, port: int, action: Action = Action.ALLOW) -> PolicyRule:
    return PolicyRule(name, action, protocols=(L4Match(TCP, (PortRange(port, port),)),))


def test_lower_order_comes_first_then_the_name() -> None:
    compiled = compile_policies(
        [
            Policy("b", 5, (one_port("x", 80),)),
            Policy("c", 1, (one_port("x", 80),)),
            Policy("a", 5, (one_port("x", 80),)),
        ],
        failsafe=NO_FAILSAFE,
    )
    assert [rule.key.policy for rule in compiled.rules[:3]] == ["c", "a", "b"]


def test_a_rule_keeps_its_counter_when_others_come_go_and_move() -> None:
    rules = tuple(one_port(f"r{i}", i) for i in range(10))
    before = compile_policies([Policy("p", 1, rules)]).slots
    changed = (one_port("new", 99), *reversed(rules[2:]))
    after = compile_policies([Policy("p", 1, changed)], before).slots
    for rule in rules[2:]:
        identity = RuleKey("p", rule.name).identity
        assert after[identity] == before[identity]
    assert after[RuleKey("p", "new").identity] not in before.values()
    assert RuleKey("p", "r0").identity not in after


def test_every_rule_replaced_by_another_gets_a_counter_nobody_had() -> None:
    first = compile_policies([Policy("p", 1, tuple(one_port(f"a{i}", i) for i in range(1000)))]).slots
    second = compile_policies([Policy("p", 1, tuple(one_port(f"b{i}", i) for i in range(1000)))], first).slots
    fresh = {slot for identity, slot in second.items() if identity not in first}
    assert len(fresh) == 1000
    assert not fresh & set(first.values())


def test_too_many_rules_are_refused_with_the_limit() -> None:
    rules = tuple(one_port(f"r{i}", i) for i in range(1023))
    compile_policies([Policy("p", 1, rules[:1022])])
    with pytest.raises(PolicyError, match="1023 rules on one node, at most 1022") as caught:
        compile_policies([Policy("p", 1, rules)])
    assert caught.value.reason == "PolicyTooLarge"


def test_more_networks_than_the_tree_has_room_for_are_refused() -> None:
    hosts = tuple(Source(IPv4Network((i << 16, 32))) for i in range(2049))
    rule = PolicyRule("wide", Action.DENY, hosts)
    with pytest.raises(PolicyError, match="4096 networks"):
        compile_policies([Policy("p", 1, (rule,))])


def test_the_failsafe_comes_before_every_rule_unless_it_is_empty() -> None:
    deny = Policy("p", 1, (PolicyRule("all", Action.DENY),))
    assert first_in_tables(compile_policies([deny]), 0, layout.L4_TCP + 22) == FAILSAFE.rule
    assert first_in_tables(compile_policies([deny], failsafe=NO_FAILSAFE), 0, layout.L4_TCP + 22) == "all"
