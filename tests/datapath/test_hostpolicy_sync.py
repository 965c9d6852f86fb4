"""Rule sets replace each other whole, and counters stay with their rules."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from kubebee import names
from kubebee.policy import layout
from kubebee.policy.model import Action, L4Match, Policy, PolicyRule, PortRange
from kubebee.policy.sync import PolicyState
from support.hostpolicy import CONTINUE, DROP, Firewall, firewall

pytestmark = pytest.mark.root

HOST = "192.0.2.1"
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")  # else scapy asks the network by ARP


def deny(port: int) -> PolicyRule:
    return PolicyRule(f"deny-{port}", Action.DENY, protocols=(L4Match(6, (PortRange(port, port),)),))


def to(port: int, host: str = HOST) -> bytes:
    return bytes(ETH / IP(src="198.51.100.9", dst=host) / TCP(dport=port))


@pytest.fixture
def host() -> Iterator[Firewall]:
    with firewall(HOST) as loaded:
        yield loaded


def test_the_same_rules_again_write_nothing(host: Firewall) -> None:
    assert host.enforce(Policy("p", 1, (deny(80),))).switched
    again = host.enforce(Policy("p", 1, (deny(80),)))
    assert (again.switched, again.bytes_written, again.slots_reset) == (False, 0, 0)


def test_each_change_is_in_force_at_once_and_loads_nothing(host: Firewall) -> None:
    program = host.program.info.id
    for port in (80, 81, 82, 83):
        host.enforce(Policy("p", 1, (deny(port),)))
        assert [host.verdict(to(tried)) for tried in (80, 81, 82, 83)] == [
            DROP if tried == port else CONTINUE for tried in (80, 81, 82, 83)
        ]
    assert host.program.info.id == program


def test_packets_during_changes_see_the_old_rules_or_the_new_never_a_mix(host: Firewall) -> None:
    few = Policy("p", 1, (deny(80),))
    many = Policy("p", 1, (*(deny(port) for port in range(1000, 2000)), deny(80)))
    host.enforce(few)
    runs = 0
    with ThreadPoolExecutor(1) as pool:
        for policy in [many, few] * 8:
            load = pool.submit(host.program.test_run, to(80), repeat=500_000)
            host.enforce(policy)
            load.result()
            runs += 500_000
    assert host.drops() == {"policy_rule": runs}


def test_a_counter_follows_its_rule_when_rules_move(host: Firewall) -> None:
    host.enforce(Policy("p", 1, (deny(80), deny(81))))
    host.verdict(to(81))
    host.enforce(Policy("p", 1, (deny(99), deny(81), deny(80))))
    host.verdict(to(81))
    assert host.hits() == {"p/deny-81": (2, 0)}


def test_a_rule_that_comes_back_starts_at_zero(host: Firewall) -> None:
    host.enforce(Policy("p", 1, (deny(80),)))
    host.verdict(to(80))
    host.enforce(Policy("p", 1, (deny(81),)))
    host.enforce(Policy("p", 1, (deny(80),)))
    assert host.hits() == {}


def test_a_restart_finds_the_counters_and_changes_nothing(host: Firewall) -> None:
    host.enforce(Policy("p", 1, (deny(80), deny(81)), Action.DENY))
    host.verdict(to(81))
    before = host.state.slots
    host.state = PolicyState.adopt(host.maps)
    assert host.state.slots == before
    assert not host.enforce(Policy("p", 1, (deny(80), deny(81)), Action.DENY)).switched
    assert host.hits() == {"p/deny-81": (1, 0)}


def test_the_maps_say_what_their_rules_are_called(host: Firewall) -> None:
    host.enforce(Policy("p", 1, (deny(80), deny(81))))
    host.enforce(Policy("p", 1, (deny(81), deny(99))))
    host.state = PolicyState.adopt(host.maps)
    written = names.read(host.maps[layout.NAMES_MAP])
    assert written == host.state.names.written
    assert {written[rule.slot] for rule in host.compiled.rules} == set(written.values())
    assert {"p/deny-81", "p/deny-99", "(builtin)/failsafe"} <= set(written.values())
    assert "p/deny-80" not in written.values()
