"""Slot tables: fair, weighted, the same everywhere, and steady when backends come and go."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubebee.lb import _maglev, tables
from kubebee.lb.layout import flow_hash
from kubebee.lb.model import Backend, Frontend, FrontendKey, Protocol
from kubebee.lb.sizes import Limits, fixed_sizes, map_sizes, needs_of
from kubebee.lb.tables import NumberPool, RowSpace, table_size

HEADROOM = 1.05  # _maglev.c: no backend takes more than this of its share


def backends(count: int, seed: int = 0) -> tuple[Backend, ...]:
    addresses = random.Random(seed).sample(range(1 << 24, 223 << 24), count)
    return tuple(sorted(Backend(address.to_bytes(4), 80) for address in addresses))


def table(members: tuple[Backend, ...], size: int) -> list[Backend]:
    slots = bytearray(tables.rows_of(size) * 64)
    ids = array("I", range(len(members)))
    tables.fill(slots, 0, size, tables.pack_members(members, ids))
    return [members[number] for number in array("I", bytes(slots[: size * 4]))]


@pytest.mark.parametrize(("count", "size"), [(1, 101), (2, 211), (10, 1009), (11, 2003), (4096, 65537)])
def test_a_table_has_at_least_100_slots_a_backend_up_to_a_bound(count: int, size: int) -> None:
    assert table_size(backends(count)) == size


def test_no_backend_or_only_weights_of_zero_need_no_table() -> None:
    assert table_size(()) == 0
    assert table_size((Backend(bytes(4), 80, 0), Backend(b"\0\0\0\1", 80, 0))) == 0


@pytest.mark.parametrize("count", [2, 5, 10, 50, 100])
def test_when_one_backend_goes_its_own_slots_move_and_at_most_1_percent_more(count: int) -> None:
    extra, trials = 0.0, 20
    for seed in range(trials):
        members = backends(count, seed)
        size = table_size(members)
        before, after = table(members, size), table(members[1:], size)
        moved = sum(old != new for old, new in zip(before, after, strict=True))
        share = HEADROOM * size / count + 1
        assert moved - share <= 0.02 * size
        extra += (moved - before.count(members[0])) / size / trials
    assert extra <= 0.01


@pytest.mark.parametrize("count", [2, 10, 100])
def test_no_backend_gets_more_than_5_percent_over_its_share(count: int) -> None:
    members = backends(count)
    size = table_size(members)
    counts = Counter(table(members, size))
    assert max(counts.values()) <= HEADROOM * size / count + 1
    assert min(counts.values()) >= 0.7 * size / count


def test_weights_divide_the_slots() -> None:
    one, two, none = backends(3)
    size = 1009
    counts = Counter(table((one, two._replace(weight=3), none._replace(weight=0)), size))
    assert counts[one] + counts[two._replace(weight=3)] == size
    assert abs(counts[one] - size / 4) <= 0.05 * size


def test_extreme_weights_end() -> None:
    few, many = backends(2)
    counts = Counter(table((few, many._replace(weight=1000)), 65537))
    assert sum(counts.values()) == 65537


def test_a_table_does_not_depend_on_the_numbers_that_backends_have_on_a_node() -> None:
    members = backends(10)
    size = table_size(members)
    numbers = array("I", random.Random(1).sample(range(100_000), 10))
    slots = bytearray(tables.rows_of(size) * 64)
    tables.fill(slots, 0, size, tables.pack_members(members, numbers))
    by_number = dict(zip(numbers, members, strict=True))
    assert [by_number[n] for n in array("I", bytes(slots[: size * 4]))] == table(members, size)


@pytest.mark.parametrize(
    ("offset", "size", "members"),
    [
        (0, 1009, b"\1" * 16),
        (-4, 101, b"\1" * 16),
        (2, 11, b"\1" * 16),
        (0, 11, b"\1" * 15),
        (0, 11, b""),
        (0, 1, b""),
    ],
)
def test_the_extension_refuses_what_would_leave_its_buffer(offset: int, size: int, members: bytes) -> None:
    slots = bytearray(404)
    with pytest.raises(ValueError, match=r"fit|range|weight"):
        _maglev.fill(slots, offset, size, members)
    assert slots == bytes(404)


def test_the_flow_hash_spreads_clients_ports_and_addresses() -> None:
    for vary in ("port", "address"):
        buckets: Counter[int] = Counter()
        for i in range(20_000):
            client, port = (0xC6336407, 1024 + i) if vary == "port" else (0x0A000000 + i, 40000)
            buckets[flow_hash(client.to_bytes(4), bytes((192, 0, 2, 10)), port, 80, 7) * 100 >> 32] += 1
        chi_squared = sum((buckets[b] - 200) ** 2 / 200 for b in range(100))
        assert chi_squared < 180, vary  # 99 degrees of freedom; random data exceed 160 once in 10,000


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=60))
def test_row_space_never_gives_a_row_twice_and_forgets_none(steps: list[tuple[bool, int]]) -> None:
    space = RowSpace(100)
    held: list[tuple[int, int]] = []
    for take, rows in steps:
        if take:
            start = space.take(rows)
            if start is not None:
                held.append((start, rows))
        elif held:
            space.release(*held.pop(rows % len(held)))
            space.reclaim()
        cells = [row for start, length in held for row in range(start, start + length)]
        assert len(cells) == len(set(cells)) == space.used
        assert all(0 <= row < 100 for row in cells)


def test_released_rows_rest_until_they_are_reclaimed() -> None:
    space = RowSpace(10)
    assert space.take(10) == 0
    space.release(0, 10)
    assert space.take(1) is None
    assert (space.used, space.held) == (10, 0)
    assert space.resting
    space.reclaim()
    assert space.take(10) == 0


def test_reserving_rows_that_are_taken_is_refused() -> None:
    space = RowSpace(10)
    assert space.reserve(4, 2)
    assert not space.reserve(5, 1)
    assert not space.reserve(9, 2)
    assert space.take(4) == 0
    assert space.take(4) == 6


def test_numbers_are_reused_oldest_first_after_all_fresh_ones() -> None:
    pool = NumberPool(4, frozenset({1}))
    assert pool.available == 3
    assert [pool.take(), pool.take(), pool.take()] == [2, 3, 0]
    assert pool.available == 0
    pool.give_back(3)
    pool.give_back(1)
    assert [pool.take(), pool.take()] == [3, 1]


def test_map_sizes_hold_twice_what_is_served() -> None:
    few = map_sizes(needs_of([]))
    assert all(size >= 4096 for size in few.values())
    many = [Frontend(FrontendKey(i.to_bytes(4), 80, Protocol.TCP), backends(10)) for i in range(2000)]
    sizes = map_sizes(needs_of(many))
    assert sizes["kb_lb_slots"] >= 2 * 2000 * tables.rows_of(1009)
    assert sizes["kb_lb_be"] == sizes["kb_lb_be_stat"] >= 2 * 20_000
    assert sizes["kb_lb_fe"] >= 2 * 2 * 2000
    assert all(size & (size - 1) == 0 for size in sizes.values())


def test_limits_decide_the_sizes_of_the_maps_that_they_are_about_and_no_other() -> None:
    needs = needs_of([Frontend(FrontendKey(bytes(4), 80, Protocol.TCP), backends(10))])
    assert fixed_sizes(needs, Limits()) == {}
    assert fixed_sizes(needs, Limits(slots=1000)) == {"kb_lb_slots": 63}
    assert fixed_sizes(needs, Limits(frontends=100, flows=2048)) == {
        "kb_lb_fe": 200,
        "kb_lb_fe_stat": 100,
        "kb_lb_names": 100,
        "kb_lb_flow": 2048,
        "kb_lb_rev": 2048,
        "kb_lb_dsr_flow": 2048,
    }
    six = needs_of([Frontend(FrontendKey(bytes(16), 80, Protocol.TCP), ())])
    both = {"kb_lb_flow", "kb_lb_rev", "kb_lb_dsr_flow", "kb_lb_flow6", "kb_lb_rev6", "kb_lb_dsr_flow6"}
    assert fixed_sizes(six, Limits(flows=2048)).keys() == both


def test_of_several_limits_the_largest_counts() -> None:
    assert Limits(10, 0, 5, 7).largest(Limits(3, 4, 0, 9)) == (10, 4, 5, 9)
