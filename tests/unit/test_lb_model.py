"""What a frontend may look like, and the words that refuse it."""

from __future__ import annotations

import pytest

from kubebee.lb.model import (
    Backend,
    DuplicateFrontendError,
    Forwarding,
    Frontend,
    FrontendKey,
    LbConfig,
    LbModelError,
    Protocol,
    merge,
    parse_ipv4,
)

KEY = FrontendKey(parse_ipv4("192.0.2.10"), 80, Protocol.TCP)
ONE = Backend(parse_ipv4("10.0.0.1"), 80)


def test_two_frontends_with_one_address_port_and_protocol_are_refused_naming_both_owners() -> None:
    with pytest.raises(DuplicateFrontendError) as refused:
        merge([Frontend(KEY, (ONE,), owner="ServiceLB/a"), Frontend(KEY, (), owner="ServiceLB/b")])
    text = str(refused.value)
    assert "ServiceLB/a" in text
    assert "ServiceLB/b" in text
    assert "192.0.2.10:80/TCP" in text


def test_tcp_and_udp_may_share_an_address_and_port() -> None:
    udp = KEY._replace(protocol=Protocol.UDP)
    assert set(merge([Frontend(KEY, (ONE,)), Frontend(udp, (ONE,))])) == {KEY, udp}


def test_frontends_that_differ_only_in_owner_are_equal_so_that_a_rename_writes_nothing() -> None:
    assert Frontend(KEY, (ONE,), owner="ServiceLB/a") == Frontend(KEY, (ONE,), owner="ServiceLB/b")


@pytest.mark.parametrize(
    ("frontend", "says"),
    [
        (Frontend(KEY._replace(port=0), (ONE,)), "1-65535"),
        (Frontend(KEY, (ONE._replace(port=0),)), "1-65535"),
        (Frontend(KEY, (ONE._replace(weight=-1),)), "weight"),
        (Frontend(KEY, (ONE._replace(weight=1001),)), "weight"),
        (Frontend(KEY, (ONE, ONE._replace(weight=2))), "listed twice"),
        (
            Frontend(KEY, (ONE._replace(port=8080),), Forwarding.DSR_IPIP),
            "DSR cannot translate port 80 to 8080",
        ),
        (Frontend(KEY, tuple(Backend(i, 80) for i in range(5000))), "at most 4096"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_place(frontend: Frontend, says: str) -> None:
    with pytest.raises(LbModelError, match=says) as refused:
        merge([frontend])
    assert refused.value.where


@pytest.mark.parametrize("text", ["10.0.0", "10.0.0.256", "::1", "backend", "", "10.0.0.01"])
def test_a_backend_that_is_no_ipv4_address_is_refused(text: str) -> None:
    with pytest.raises(LbModelError, match="not an IPv4 address"):
        parse_ipv4(text)


@pytest.mark.parametrize("ports", [(0, 10), (10, 9), (1, 65536)])
def test_an_empty_or_impossible_snat_range_is_refused(ports: tuple[int, int]) -> None:
    with pytest.raises(LbModelError, match="SNAT port range"):
        LbConfig(snat_port_first=ports[0], snat_port_last=ports[1])
