"""What becomes of a frontend's tables when its backends change."""

from __future__ import annotations

from typing import NamedTuple

from kubebee.bpf.map import Map
from kubebee.lb import layout, moving, table_rows, tables
from kubebee.lb.members import Contents
from kubebee.lb.model import Frontend
from kubebee.lb.moving import Table
from kubebee.lb.served import Served, flags_of, keeps_connections


class Places(NamedTuple):
    """Where a frontend's tables lie, as its value has it."""

    base: int
    size: int
    inside_base: int
    inside_size: int


def places_from(contents: Contents, row: int, size: int, rows: int) -> Places:
    """For tables from a row on: that for packets, of `size` slots, takes `rows` with what lies behind it."""
    base = row * layout.ROW_SLOTS if size else 0
    if contents.shared:
        return Places(base, size, base, size)
    inside_base = (row + rows) * layout.ROW_SLOTS if contents.inside_size else 0
    return Places(base, size, inside_base, contents.inside_size)


def read_table(slots: Map, served: Served) -> Table:
    """The table for packets, as the maps have it."""
    value = served.value
    found = table_rows.read(slots, value.base, value.size) if served.moving else None
    return found[0] if found else table_rows.read_plain(slots, value.base, value.size)


def has_tables(served: Served, frontend: Frontend, contents: Contents) -> bool:
    """Whether the tables that a frontend has can stay as they are."""
    value, empty = served.value, served.moving is not None and not contents.size
    if value.fingerprint != contents.fingerprint:
        return False
    if value.size != contents.size and not empty:
        return False
    if value.inside_size != contents.inside_size and not (empty and contents.shared):
        return False
    ends_affinity = value.affinity and not frontend.affinity_seconds
    if served.moving is not None or ends_affinity:
        keeps = [keeps_connections(frontend.key, each) for each in (value.flags, flags_of(frontend))]
        return not any(keeps) or (all(keeps) and not ends_affinity)
    return True


def moved_table(slots: Map, served: Served, frontend: Frontend, contents: Contents, now: int) -> Table | None:
    """The table for packets with flags where connections have to stay in spite of it; None: nowhere.

    Args:
        slots: the slot array.
        served: the frontend as it is.
        frontend: as it shall be.
        contents: of its new tables.
        now: seconds of CLOCK_MONOTONIC.
    """
    value = served.value
    if not value.size or not all(
        keeps_connections(frontend.key, flags) for flags in (value.flags, flags_of(frontend))
    ):
        return None
    rows = bytearray(tables.rows_of(contents.size) * layout.ROW_BYTES)
    if contents.size:
        tables.fill(rows, 0, contents.size, contents.outside)
    table = moving.change(
        read_table(slots, served),
        contents.size,
        moving.pack(rows[: 4 * contents.size]),
        now,
        all_flows=bool(value.affinity),
    )
    return table if table.flagged else None
