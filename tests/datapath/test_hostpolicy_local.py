"""Which packets are for this host: few addresses, many, and more than a line of the table holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from kubebee.policy import layout
from kubebee.policy.local import LocalReport, apply_local, line_of
from kubebee.policy.model import Action, Policy
from support.hostpolicy import CONTINUE, DROP, Firewall, firewall

pytestmark = pytest.mark.root

CLIENT = bytes([198, 51, 100, 9])
ETHER = bytes.fromhex("020000000002 020000000001 0800")
ONE, TWO, THREE = (bytes((192, 0, 2, number)) for number in (1, 2, 3))


def addresses_between(first: int, end: int) -> Iterator[bytes]:
    return (number.to_bytes(4) for number in range(first, end))


IN_ONE_LINE = tuple(islice((a for a in addresses_between(0x0A000000, 0x0B000000) if line_of(a) == 7), 12))


def to(address: bytes) -> bytes:
    header = bytes.fromhex("4500 0028 0000 0000 40 fd 0000") + CLIENT + address
    return ETHER + header + bytes(20)


@pytest.fixture
def host() -> Iterator[Firewall]:
    with firewall() as loaded:
        loaded.enforce(Policy("closed", 1, (), Action.DENY))
        yield loaded


def judged(host: Firewall, addresses: tuple[bytes, ...]) -> set[bytes]:
    verdicts = {address: host.verdict(to(address)) for address in addresses}
    assert set(verdicts.values()) <= {DROP, CONTINUE}
    return {address for address, verdict in verdicts.items() if verdict == DROP}


def crowded(host: Firewall) -> int:
    return len(list(host.maps[layout.CROWDED_MAP].items()))


def test_only_differing_addresses_are_written(host: Firewall) -> None:
    assert apply_local(host.maps, [ONE]) == LocalReport(added=1)
    assert apply_local(host.maps, [TWO, THREE]) == LocalReport(added=2, removed=1)
    assert apply_local(host.maps, [THREE, TWO]) == LocalReport()
    assert judged(host, (ONE, TWO, THREE)) == {TWO, THREE}


def test_the_address_0_is_no_change(host: Firewall) -> None:
    assert apply_local(host.maps, [bytes(4)]) == LocalReport()


def test_addresses_without_room_in_their_line_mean_this_host_too(host: Firewall) -> None:
    apply_local(host.maps, IN_ONE_LINE)
    assert crowded(host) == len(IN_ONE_LINE) - layout.LOCAL_SLOTS
    assert judged(host, IN_ONE_LINE) == {*IN_ONE_LINE}
    assert not judged(
        host, tuple(islice((a for a in addresses_between(1 << 24, 1 << 25) if line_of(a) == 7), 20))
    )


@pytest.mark.parametrize("seed", range(20))
def test_addresses_of_one_line_come_and_go_in_any_order(host: Firewall, seed: int) -> None:
    random = Random(seed)
    present: set[bytes] = set()
    for _ in range(25):
        wanted = {*random.sample(IN_ONE_LINE, random.randint(0, len(IN_ONE_LINE)))}
        report = apply_local(host.maps, wanted)
        assert report == LocalReport(len(wanted - present), len(present - wanted))
        assert judged(host, IN_ONE_LINE) == wanted
        present = wanted


def test_an_address_that_got_a_slot_leaves_the_hash_by_the_next_call(host: Firewall) -> None:
    apply_local(host.maps, IN_ONE_LINE)
    in_hash = {key for key, _ in host.maps[layout.CROWDED_MAP].items()}
    gone = next(address for address in IN_ONE_LINE if address not in in_hash)
    rest = tuple(address for address in IN_ONE_LINE if address != gone)
    apply_local(host.maps, rest)
    assert crowded(host) == len(in_hash)
    assert apply_local(host.maps, rest) == LocalReport()
    assert crowded(host) == len(rest) - layout.LOCAL_SLOTS
    assert judged(host, IN_ONE_LINE) == {*rest}


def test_ten_thousand_addresses_fit_nearly_all_into_their_lines(host: Firewall) -> None:
    addresses = tuple(addresses_between(0x0A600000, 0x0A600000 + 10_000))
    assert apply_local(host.maps, addresses).added == len(addresses)
    assert judged(host, addresses[::37]) == {*addresses[::37]}
    assert crowded(host) < 100
    assert apply_local(host.maps, ()).removed == len(addresses)
    assert not judged(host, addresses[::37])
