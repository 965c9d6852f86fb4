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
    Prefix,
    Protocol,
    merge,
    parse_address,
)

KEY = FrontendKey(parse_address("192.0.2.10"), 80, Protocol.TCP)
ONE = Backend(parse_address("10.0.0.1"), 80)


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
            Frontend(KEY, (ONE._replace(port=8080),), forwarding=Forwarding.DSR_IPIP),
            "DSR cannot translate port 80 to 8080",
        ),
        (Frontend(KEY, (ONE,), forwarding=Forwarding.DSR_L2, random=True), "Random can't be had with DSR-L2"),
        (
            Frontend(KEY, (ONE, ONE._replace(port=8080)), forwarding=Forwarding.DSR_IP_OPTION),
            "one backend at 10.0.0.1",
        ),
        (Frontend(KEY, (Backend(parse_address("2001:db8::1"), 80),)), "of another family"),
        (Frontend(KEY, (), inside=(Backend(parse_address("::1"), 80),)), "of another family"),
        (Frontend(KEY, (ONE,), inside=(ONE._replace(weight=2),)), "one weight for packets and another"),
        (Frontend(KEY, (), source_ranges=(Prefix(bytes(16), 0),)), "of another family"),
        (Frontend(KEY, (), source_ranges=(Prefix(bytes(4), 33),)), "is no prefix"),
        (Frontend(KEY, (), affinity_seconds=86401), "0-86400"),
        (Frontend(KEY, tuple(Backend(i.to_bytes(4), 80) for i in range(5000))), "at most 4096"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_place(frontend: Frontend, says: str) -> None:
    with pytest.raises(LbModelError, match=says) as refused:
        merge([frontend])
    assert refused.value.where


@pytest.mark.parametrize("text", ["10.0.0", "10.0.0.256", "::g", "1::2::3", "backend", "", "10.0.0.01"])
def test_a_backend_that_is_no_ip_address_is_refused(text: str) -> None:
    with pytest.raises(LbModelError, match="not an IP address"):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "text"),
    [("192.0.2.10", "192.0.2.10:80/TCP"), ("2001:db8:0::10", "[2001:db8::10]:80/TCP")],
)
def test_a_frontend_is_named_as_people_write_addresses(address: str, text: str) -> None:
    assert str(FrontendKey(parse_address(address), 80, Protocol.TCP)) == text


@pytest.mark.parametrize(
    ("prefix", "address", "covered"),
    [
        (("10.0.0.0", 8), "10.255.0.1", True),
        (("10.0.0.0", 8), "11.0.0.1", False),
        (("10.128.0.0", 9), "10.128.0.1", True),
        (("10.128.0.0", 9), "10.127.255.255", False),
        (("192.0.2.7", 32), "192.0.2.7", True),
        (("::", 0), "2001:db8::1", True),
        (("::", 0), "192.0.2.7", False),
        (("2001:db8::", 33), "2001:db8:7fff::1", True),
        (("2001:db8::", 33), "2001:db8:8000::1", False),
        (("a00::", 8), "10.0.0.1", False),
    ],
)
def test_a_prefix_covers_the_addresses_of_its_family_that_begin_so(
    prefix: tuple[str, int], address: str, covered: bool
) -> None:
    assert Prefix(parse_address(prefix[0]), prefix[1]).covers(parse_address(address)) is covered


@pytest.mark.parametrize("ports", [(0, 10), (10, 9), (1, 65536)])
def test_an_empty_or_impossible_snat_range_is_refused(ports: tuple[int, int]) -> None:
    with pytest.raises(LbModelError, match="SNAT port range"):
        LbConfig(snat_port_first=ports[0], snat_port_last=ports[1])
