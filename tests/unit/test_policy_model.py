"""What a policy may say, and what is refused."""

from __future__ import annotations

import pytest

from kubebee.policy.model import (
    ICMP,
    TCP,
    Action,
    L4Match,
    Policy,
    PolicyError,
    PolicyRule,
    PortRange,
    RuleKey,
    Source,
    overlaps,
)


@pytest.mark.parametrize(
    ("text", "first", "last"), [("80", 80, 80), ("8000-8010", 8000, 8010), ("0-65535", 0, 65535)]
)
def test_a_port_range_includes_both_ends(text: str, first: int, last: int) -> None:
    assert PortRange.parse(text) == PortRange(first, last)


@pytest.mark.parametrize("text", ["", "http", "80-", "-80", "90-80", "65536", "1-2-3", "+1", "٣"])
def test_what_is_no_port_range_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        PortRange.parse(text)


@pytest.mark.parametrize("cidr", ["10.0.0.1/24", "10.0.0.0/33", "host", "2001:db8::/32"])
def test_what_is_no_ipv4_prefix_is_refused(cidr: str) -> None:
    with pytest.raises(PolicyError, match="no IPv4 prefix"):
        Source.parse(cidr)


def test_an_exception_must_lie_inside_its_prefix() -> None:
    with pytest.raises(PolicyError, match="not inside"):
        Source.parse("10.0.0.0/8", ["11.0.0.0/24"])


def test_ports_of_a_protocol_without_ports_are_refused() -> None:
    with pytest.raises(PolicyError):
        L4Match(ICMP, (PortRange(80, 80),))


def test_an_icmp_type_of_another_protocol_is_refused() -> None:
    with pytest.raises(PolicyError):
        L4Match(TCP, icmp_type=8)


def test_two_rules_of_one_name_are_refused_by_name() -> None:
    rule = PolicyRule("web", Action.ALLOW)
    with pytest.raises(PolicyError, match="p/web"):
        Policy("p", 1, (rule, rule))


def test_contradicting_rules_of_equal_order_are_reported_with_the_one_that_wins_first() -> None:
    allow = PolicyRule("open", Action.ALLOW, (Source.parse("10.0.0.0/8"),))
    deny = PolicyRule("shut", Action.DENY, (Source.parse("10.0.0.0/8"),))
    found = overlaps([Policy("b", 1, (deny,)), Policy("a", 1, (allow,)), Policy("c", 2, (deny,))])
    assert found == [(RuleKey("a", "open"), RuleKey("b", "shut"))]
    assert str(found[0]) == "a/open hides b/shut, which says the opposite"


def test_identities_tell_policy_and_rule_apart() -> None:
    assert RuleKey("a", "bc").identity != RuleKey("ab", "c").identity
