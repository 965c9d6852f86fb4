"""Tables in rows of the slot array, with what lies behind one some of whose slots moved.

rows of the table | its own row: size of the table before, 15 times | rows of the table before
"""

from __future__ import annotations

import struct

from kubebee.bpf.map import Map
from kubebee.lb import moving
from kubebee.lb.layout import ROW_BYTES, ROW_SLOTS, u32
from kubebee.lb.moving import EPOCHS, Before, Table
from kubebee.lb.tables import LARGEST_TABLE, rows_of

_HEAD = struct.Struct(f"={1 + EPOCHS}I")
assert _HEAD.size == ROW_BYTES


def rows_behind(table: Table) -> int:
    """Rows that follow those of the table."""
    if not table.flagged:
        return 0
    return 1 + rows_of(table.before.size if table.before else 0)


def pack(table: Table) -> bytes:
    """Rows of a table and of what lies behind it."""
    packed = _slots(table.size, table.slots)
    if not table.flagged:
        return packed
    packed += _head(table)
    if table.before is not None:
        packed += _slots(table.before.size, table.before.slots)
    return packed


def _slots(size: int, slots: int) -> bytes:
    return moving.to_bytes(size, slots).ljust(rows_of(size) * ROW_BYTES, b"\0")


def _head(table: Table) -> bytes:
    before = table.before
    return _HEAD.pack(before.size, *before.since) if before else bytes(ROW_BYTES)


def read_plain(rows: Map, base: int, size: int) -> Table:
    """A table behind which nothing lies."""
    return Table(size, _read_slots(rows, base // ROW_SLOTS, size)) if size else moving.NONE


def read(rows: Map, base: int, size: int) -> tuple[Table, int] | None:
    """A table with what lies behind it, and in how many rows; None if no writer wrote that."""
    row = base // ROW_SLOTS
    behind = row + rows_of(size)
    raw = rows.lookup(u32(behind))
    if raw is None:
        return None
    before_size, *since = _HEAD.unpack(raw)
    count = 1 + rows_of(before_size)
    if before_size > LARGEST_TABLE or behind + count > rows.info.max_entries:
        return None
    table = Table(size, _read_slots(rows, row, size))
    if table.has_before and not before_size:
        return None
    if table.has_before:
        before = Before(before_size, _read_slots(rows, behind + 1, before_size), tuple(since))
        table = Table(size, table.slots, before)
    return table, count


def _read_slots(rows: Map, row: int, size: int) -> int:
    return moving.pack(rows.read_run(row, rows_of(size))[: 4 * size])


def changed_rows(base: int, old: Table, new: Table) -> dict[int, bytes]:
    """Rows by number to write over those of a table that lies at `base`; flags and times may differ, no size.

    In an order in which each row may be seen before the next is written.
    """
    row = base // ROW_SLOTS
    was, will = _slots(old.size, old.slots), _slots(new.size, new.slots)
    changed = _differing(was, will, row)
    behind = row + rows_of(old.size)
    if old.before is not None and new.before is not None:
        was, will = (_slots(each.size, each.slots) for each in (old.before, new.before))
        changed |= _differing(was, will, behind + 1)
    if _head(old) != _head(new) and new.flagged:
        # The size stays as long as a slot may be read that has BEFORE: in each run that began before this.
        changed[behind] = _HEAD.pack(old.before.size if old.before else 0, *_HEAD.unpack(_head(new))[1:])
    return changed


def _differing(was: bytes, will: bytes, row: int) -> dict[int, bytes]:
    return {
        row + at // ROW_BYTES: will[at : at + ROW_BYTES]
        for at in range(0, len(was), ROW_BYTES)
        if was[at : at + ROW_BYTES] != will[at : at + ROW_BYTES]
    }
