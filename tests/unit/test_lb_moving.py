"""Which slots of a table moved: no connection moves while its backend is there, and all settles."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubebee.lb import moving, table_rows
from kubebee.lb.moving import (
    BEFORE,
    EPOCH_SECONDS,
    EPOCHS,
    FLOWS,
    NOBODY,
    NONE,
    NUMBER,
    Table,
    change,
    end,
    settle,
    unpack,
)

LONG = 8000
"""Seconds after which slots settle."""


def slots_of(table: Table) -> list[int]:
    return [word & NUMBER for word in unpack(table.size, table.slots)]


def flags_of(table: Table) -> list[int]:
    return [word & ~NUMBER for word in unpack(table.size, table.slots)]


def made(*numbers: int) -> tuple[int, int]:
    """Size and slots of a table."""
    return len(numbers), moving.pack(array("I", numbers))


def plain(*numbers: int) -> Table:
    return change(NONE, *made(*numbers), 1)


def test_a_first_table_has_no_flags() -> None:
    assert not plain(1, 2, 3).flagged
    assert plain(1, 2, 3).before is None


def test_only_slots_that_got_another_backend_have_flags() -> None:
    table = change(plain(1, 2, 3), *made(1, 9, 3), 5)
    assert flags_of(table) == [0, FLOWS | BEFORE, 0]
    assert table.named_before() == {2}


def test_the_first_backend_of_before_is_kept_over_several_changes() -> None:
    table = change(change(plain(1, 2, 3), *made(1, 9, 3), 5), *made(1, 8, 3), 6)
    assert slots_of(table) == [1, 8, 3]
    assert table.named_before() == {2}


def test_a_slot_that_goes_back_still_has_entries_of_in_between() -> None:
    table = change(change(plain(1, 2, 3), *made(1, 9, 3), 5), *made(1, 2, 3), 6)
    assert flags_of(table) == [0, FLOWS, 0]
    assert table.named_before() == set()


def test_slots_settle_when_they_moved_long_enough_ago() -> None:
    table = change(change(plain(1, 2, 3), *made(1, 9, 3), 500), *made(7, 9, 3), 700)
    assert settle(table, 599) is table
    table = settle(table, 600)
    assert flags_of(table) == [FLOWS | BEFORE, FLOWS, 0]
    assert settle(table, 1200).named_before() == set()


def test_with_another_size_all_slots_move_and_settle_together() -> None:
    table = change(plain(1, 2, 3), *made(1, 1, 2, 2, 3), 500)
    assert set(flags_of(table)) == {FLOWS | BEFORE}
    table = change(table, *made(4, 4, 4, 4, 4), 5000)
    assert table.named_before() == {1, 2, 3}
    assert set(flags_of(settle(table, 600))) == {FLOWS}


def test_without_a_backend_there_still_is_a_table_of_before() -> None:
    table = change(plain(1, 2, 3), 0, 0, 5)
    assert slots_of(table) == [NOBODY] * 3
    assert table.is_nobodys
    assert table.named_before() == {1, 2, 3}
    assert change(NONE, 0, 0, 5) == NONE


def test_a_backend_that_has_drained_is_led_to_no_more() -> None:
    table = change(plain(1, 2, 2), *made(7, 8, 9), 5)
    assert end(table, {9}) is table
    assert end(table, {2}).named_before() == {1}


def test_slots_that_settled_are_looked_up_as_long_as_an_entry_needs_it() -> None:
    table = settle(change(plain(1, 2), *made(7, 8), 5), EPOCH_SECONDS)
    first, second = 0, 1 << 31
    assert moving.needed(table, [(first, 7), (second, 2)]) == [False, True]
    assert flags_of(moving.forget(table, [second])) == [0, FLOWS]
    assert not moving.forget(table, []).flagged


def test_a_slot_that_has_not_settled_is_not_forgotten() -> None:
    table = change(plain(1, 2), *made(7, 2), 5)
    assert moving.forget(table, []) == table
    assert moving.needed(table, [(0, 7)]) == [True]


def test_when_affinity_ends_every_slot_may_have_entries() -> None:
    table = change(plain(1, 2), *made(1, 2), 5, all_flows=True)
    assert flags_of(table) == [FLOWS, FLOWS]


def test_however_often_a_table_changes_each_slot_settles_in_time() -> None:
    table = plain(*[0] * 500)
    for moved, now in enumerate(range(1, 20_000, 50), 1):
        table = settle(change(table, *made(*[1] * moved, *[0] * (500 - moved)), now), now - LONG)
        waiting = sum(1 for flags in flags_of(table) if flags & BEFORE)
        assert min(moved, LONG // 50) <= waiting <= (LONG + EPOCH_SECONDS) // 50 + 1


def test_changes_while_nothing_settles_only_make_the_last_ones_wait() -> None:
    table = plain(*[0] * 40)
    for i in range(40):
        table = change(table, *made(*[1] * (i + 1), *[0] * (39 - i)), EPOCH_SECONDS * (i + 1))
    settled = settle(table, 10 * EPOCH_SECONDS)
    assert [not flags & BEFORE for flags in flags_of(settled)] == [True] * 10 + [False] * 30
    assert settle(table, 39 * EPOCH_SECONDS).has_before
    assert not settle(table, 40 * EPOCH_SECONDS).has_before


@pytest.mark.parametrize("to", [(7, 2, 3), (1, 2, 3, 4, 5), ()])
def test_rows_say_what_was_written(to: tuple[int, ...]) -> None:
    table = change(plain(1, 2, 3), *made(*to), 5)
    rows = table_rows.pack(table)
    assert len(rows) == 64 * (1 + table_rows.rows_behind(table))
    assert unpack(table.size, table.slots).tobytes() == rows[: 4 * table.size]
    assert array("I", rows[64:128])[0] == 3
    assert [each & NUMBER for each in array("I", rows[128:140])][1:] == [2, 3]


def test_only_rows_that_differ_are_written_again() -> None:
    old = change(plain(*range(100)), *made(*range(50), *range(150, 200)), 5)
    rows = table_rows.changed_rows(1600, old, settle(old, EPOCH_SECONDS))
    first = 1600 // 16
    assert list(rows) == [*range(first + 3, first + 7), first + 7], "rows of the table, then the one behind"


@dataclass
class Model:
    """Connections by hash, each one's backend and entry, as lb_stay.h decides; time as a number."""

    table: Table
    now: int = 1000
    entries: dict[int, int] = field(default_factory=dict)
    live: dict[int, int] = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)

    def slot(self, at: int) -> int:
        return unpack(self.table.size, self.table.slots)[at * self.table.size >> 32]

    def before(self, at: int) -> int:
        before = self.table.before
        assert before is not None
        return unpack(before.size, before.slots)[at * before.size >> 32] & NUMBER

    def opens(self, at: int) -> None:
        word = self.slot(at)
        if word & NUMBER == NOBODY:
            return
        if word & BEFORE:
            self.entries[at] = word & NUMBER
        self.live[at] = word & NUMBER
        self.seen[at] = self.now

    def goes_to(self, at: int) -> int:
        """Where a packet of a connection goes; makes its entry."""
        word = self.slot(at)
        self.seen[at] = self.now
        if word & FLOWS and at in self.entries:
            return self.entries[at]
        if word & BEFORE:
            self.entries[at] = self.before(at)
            return self.entries[at]
        return word & NUMBER

    def tidy(self) -> None:
        """As settle.py does."""
        pairs = list(self.entries.items())
        needed = moving.needed(self.table, pairs)
        self.entries = dict(pair for pair, need in zip(pairs, needed, strict=True) if need)
        self.table = settle(moving.forget(self.table, self.entries), self.now - LONG)


STEP = st.one_of(
    st.tuples(st.just("change"), st.integers(0, 1 << 30)),
    st.tuples(st.just("resize"), st.integers(0, 1 << 30)),
    st.tuples(st.just("empty"), st.just(0)),
    st.tuples(st.just("open"), st.integers(0, (1 << 32) - 1)),
    st.tuples(st.just("wait"), st.integers(1, LONG - 1)),
    st.tuples(st.just("tidy"), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_no_connection_that_speaks_often_enough_ever_moves(steps: list[tuple[str, int]]) -> None:
    model = Model(change(NONE, *made(0, 1, 2, 3, 4, 5, 6), 1))
    for what, number in steps:
        chance = random.Random(number)
        if what == "open" and number not in model.live:
            model.opens(number)
        elif what == "change":  # some slots get another backend
            words = [
                w if chance.random() < 0.7 or w == NOBODY else chance.randrange(9)
                for w in slots_of(model.table)
            ]
            words = [chance.randrange(9) if w == NOBODY else w for w in words]
            model.table = change(model.table, *made(*words), model.now)
        elif what == "resize":
            words = [chance.randrange(9) for _ in range(chance.choice((3, 7, 11)))]
            model.table = change(model.table, *made(*words), model.now)
        elif what == "empty":
            model.table = change(model.table, 0, 0, model.now)
        elif what == "wait":
            model.now += number
        elif what == "tidy":
            model.tidy()
        for at, backend in model.live.items():
            assert model.goes_to(at) == backend
    for _ in range(3):
        model.entries.clear()
        model.now += LONG + EPOCH_SECONDS
        model.tidy()
    assert not model.table.flagged, "all settles once nobody has an entry"


def test_a_table_before_tells_as_many_moments_as_fit_beside_a_number() -> None:
    assert EPOCHS == (NUMBER ^ 0xFFFFFFFF) >> 28
