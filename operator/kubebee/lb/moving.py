"""Which slots of a table moved, and where connections that are older than that go: pure.

Under DSR a connection has no state here, so when its slot gets another backend it must be told from new ones.
A slot that changed has flags (templates/include/lb_stay.h); behind the table lies what its slots were before.
A change makes both anew, of the table in force and what lies behind that. Three rules hold for every slot:

- Without BEFORE, a connection that has no entry in the flow table goes where the slot says; with BEFORE, as
  the table before says. No change alters that for a connection that is there.
- With BEFORE every new connection gets an entry, and so does every older one that sends a packet. The first
  backend of before is kept until who has no entry by then was silent for too long to matter; then the slot
  settles: it loses BEFORE.
- A slot has FLOWS as long as a connection may have an entry that names another backend.

A table before of another size can't be kept slot by slot: then all slots have BEFORE, and settle together.

Tables are handled as one large number each, a slot in every 32 bits of it: a change of 65,537 slots takes a
millisecond.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

NUMBER, FLOWS, BEFORE = 0x0FFFFFFF, 1 << 31, 1 << 30
"""As lb_types.h has them, by slot."""
NOBODY = NUMBER
EPOCHS = 15
EPOCH_SECONDS = 600
"""Slots that move within so long count as moved at its end: so 15 times are enough for 8,400 s."""
_EPOCH_SHIFT = 28
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Before:
    """What the slots of a table were before.

    Attributes:
        size: in slots; not always that of the table.
        slots: backends' numbers, with the epoch of each slot that moved, from 1, in the upper 4 bits.
        since: when the last slot of each epoch moved, in seconds of CLOCK_MONOTONIC; 0 = no slot has it.
    """

    size: int
    slots: int
    since: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table as the maps have it.

    Attributes:
        slots: backends' numbers with flags.
        before: None where no slot has BEFORE.
    """

    size: int
    slots: int
    before: Before | None = None

    @property
    def flagged(self) -> bool:
        """Whether connections of some slots are looked up."""
        return bool(self.slots & _all(self.size, FLOWS))

    @property
    def has_before(self) -> bool:
        """Whether there is a slot that has BEFORE."""
        return bool(self._before())

    @property
    def has_settled(self) -> bool:
        """Whether connections are looked up in a slot that has no BEFORE."""
        return bool(self._flows() & ~(self._before() >> 30))

    @property
    def is_nobodys(self) -> bool:
        """Whether no slot has a backend."""
        return self.slots & _all(self.size, NUMBER) == _all(self.size, NOBODY)

    def named_before(self) -> frozenset[int]:
        """Numbers of backends that connections without an entry may go to by the table before."""
        if self.before is None:
            return frozenset()
        words, size = self.before.slots & _all(self.before.size, NUMBER), self.before.size
        if size == self.size:
            moved = _fill(self._before() >> 30)
            words = words & moved | (_all(size, NOBODY) & ~moved)
        return frozenset(unpack(size, words)) - {NOBODY}

    def _flows(self) -> int:
        """A 1 for each slot that has FLOWS."""
        return self.slots >> 31 & _all(self.size, 1)

    def _before(self) -> int:
        """BEFORE of each slot that has it."""
        return self.slots & _all(self.size, BEFORE)


NONE = Table(0, 0)


def pack(words: bytes | bytearray | array[int]) -> int:
    """Slots as one number."""
    return int.from_bytes(memoryview(words).cast("B"), "little")


def unpack(size: int, slots: int) -> array[int]:
    """The slots of such a number."""
    return array("I", to_bytes(size, slots))


def to_bytes(size: int, slots: int) -> bytes:
    """As the maps have them."""
    return slots.to_bytes(4 * size, "little")


def change(old: Table, size: int, slots: int, now: int, *, all_flows: bool = False) -> Table:
    """The table to write in place of another one.

    Args:
        old: in force.
        size: of the new one; 0 = there is no backend any more.
        slots: backends' numbers.
        now: seconds of CLOCK_MONOTONIC, above 0.
        all_flows: connections of any slot may have an entry.
    """
    if not old.size:
        return Table(size, slots) if size else NONE
    if not size:
        size, slots = old.size, _all(old.size, NOBODY)
    was = _rule(old)
    if was.size != size:
        return Table(size, slots | _all(size, FLOWS | BEFORE), _as_a_whole(old, was, now))

    moved = _differ(size, slots, was.slots & _all(size, NUMBER))
    known = _differ(size, was.slots >> _EPOCH_SHIFT & _all(size, EPOCHS), 0)
    since, epoch = _epoch(was.since, now) if moved & ~known else (was.since, 0)
    before = was.slots & _fill(moved) | (was.slots & _all(size, NUMBER))
    before |= (moved & ~known) * (epoch << _EPOCH_SHIFT)
    flows = _all(size, 1) if all_flows or old.size != size else old._flows() | moved
    return Table(size, slots | flows * FLOWS | moved * BEFORE, Before(size, before, since) if moved else None)


def _rule(table: Table) -> Before:
    """Where connections without an entry go, with the epochs of the slots that have one."""
    if table.before is None:
        return Before(table.size, table.slots & _all(table.size, NUMBER), (0,) * EPOCHS)
    if table.before.size != table.size:
        return table.before
    moved = _fill(table._before() >> 30)
    own = table.slots & _all(table.size, NUMBER)
    return replace(table.before, slots=table.before.slots & moved | (own & ~moved))


def _as_a_whole(old: Table, was: Before, now: int) -> Before:
    """A table before that is not kept slot by slot: all of it moves now, or has at the last such change."""
    if old.before is not None and old.before.size != old.size:
        return was
    slots = was.slots & _all(was.size, NUMBER) | _all(was.size, 1 << _EPOCH_SHIFT)
    return Before(was.size, slots, (_end(now), *(0,) * (EPOCHS - 1)))


def _epoch(since: tuple[int, ...], now: int) -> tuple[tuple[int, ...], int]:
    """The times with one for `now`, and its epoch. Where all are in use the last one becomes later."""
    end = _end(now)
    if end in since:
        return since, since.index(end) + 1
    times = list(since)
    index = times.index(0) if 0 in times else times.index(max(times))
    times[index] = end
    return tuple(times), index + 1


def _end(now: int) -> int:
    return -(-now // EPOCH_SECONDS) * EPOCH_SECONDS


def _of_epoch(slots: int, size: int, epoch: int) -> int:
    """A 1 for each slot of an epoch."""
    found = slots >> _EPOCH_SHIFT & _all(size, EPOCHS)
    return _all(size, 1) & ~_differ(size, found, _all(size, epoch))


def settle(table: Table, moved_by: int) -> Table:
    """Let slots that moved long enough ago lead all who have no entry; the same object where there are none.

    Args:
        table: as it is.
        moved_by: the latest time for that.
    """
    before = table.before
    if before is None:
        return table
    due = [epoch for epoch, since in enumerate(before.since, 1) if 0 < since <= moved_by]
    if not due:
        return table
    if before.size != table.size:
        if len(due) < sum(map(bool, before.since)):
            return table
        return Table(table.size, table.slots & ~_all(table.size, BEFORE))
    settled = 0
    for epoch in due:
        settled |= _of_epoch(before.slots, table.size, epoch) * BEFORE
    slots = table.slots & ~settled
    since = tuple(0 if epoch in due else at for epoch, at in enumerate(before.since, 1))
    return Table(
        table.size, slots, replace(before, since=since) if slots & _all(table.size, BEFORE) else None
    )


def end(table: Table, numbers: Collection[int]) -> Table:
    """Let connections without an entry leave these backends; the same object where none goes there."""
    before = table.before
    gone = table.named_before().intersection(numbers)
    if before is None or not gone:
        return table
    slots, size = before.slots, before.size
    for number in gone:
        here = _all(size, 1) & ~_differ(size, slots & _all(size, NUMBER), _all(size, number))
        slots |= here * NOBODY
    return replace(table, before=replace(before, slots=slots))


def needed(table: Table, entries: Iterable[tuple[int, int]]) -> list[bool]:
    """Whether entries tell more than their slots do.

    Args:
        table: as it is.
        entries: hash and backend's number of each connection.
    """
    words, size = unpack(table.size, table.slots), table.size
    return [words[at * size >> 32] & (NUMBER | BEFORE) != number for at, number in entries]


def forget(table: Table, entries: Iterable[int]) -> Table:
    """Look connections up no longer in slots where that would find nothing but what the slot says itself.

    Args:
        table: as it is.
        entries: hashes of connections that have a needed entry.
    """
    words = array("I", bytes(4 * table.size))
    for flow_hash in entries:
        words[flow_hash * table.size >> 32] = FLOWS
    kept = pack(words) | table._before() << 1
    return replace(table, slots=table.slots & ~(_all(table.size, FLOWS) & ~kept))


def _differ(size: int, one: int, other: int) -> int:
    """A 1 for each slot that differs; slots have less than 31 bits."""
    below = _all(size, (1 << 31) - 1)
    return ((one ^ other) + below) >> 31 & _all(size, 1)


def _fill(ones: int) -> int:
    """All 32 bits of the slots that have a 1."""
    return ones * _WORD


@lru_cache(maxsize=64)
def _all(size: int, word: int) -> int:
    """A word in each slot."""
    return ((1 << 32 * size) - 1) // _WORD * word
