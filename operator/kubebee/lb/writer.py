"""Collects map writes and makes them in the one order that never shows a half-written frontend."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

from kubebee.bpf.map import Map
from kubebee.lb import layout, table_rows, tables
from kubebee.lb.family import Family
from kubebee.lb.members import Contents
from kubebee.lb.moving import Table

_FLUSH_ROWS = 32768
"""2 MiB of slots: enough for batches to pay, little beside the loader's memory."""


class TableWriter:
    """One pass of changes.

    flush() writes backends and source ranges, then slots, then the frontends that lead to them, and only then
    what marks backends as gone and what takes source ranges away: a packet finds either the old table or the
    whole new one.
    """

    def __init__(self, maps: Mapping[str, Map], family: Family) -> None:
        self._maps = maps
        self.slots = maps[family.slots]
        # Code without that table, an older version's, knows no flags of slots.
        self.keeps_connections = family.dsr_flows in maps
        self._family = family
        self.backends_written = 0
        self.rows_written = 0
        self.frontends_written = 0
        self._reset()

    def _reset(self) -> None:
        self._backend_ids = array("I")
        self._backends: list[bytes] = []
        self._rows = array("I")
        self._slots = bytearray()
        self._frontend_keys: list[bytes] = []
        self._frontends: list[bytes] = []
        self._gone_ids = array("I")
        self._gone: list[bytes] = []
        self._admitted: list[bytes] = []
        self._expelled: list[bytes] = []
        self._here: dict[bytes, int] = {}

    def backend(self, number: int, value: layout.BackendValue) -> None:
        """Write a backend before the tables; one on this node is to be found by its address too."""
        self._backend_ids.append(number)
        self._backends.append(value.pack())
        if value.hop is not None and value.hop.is_local and self._family.here in self._maps:
            self._here[layout.pack_here(value.frontend, value.address)] = number

    def gone(self, number: int, value: layout.BackendValue) -> None:
        """Write a backend after the tables that no longer name it."""
        self._gone_ids.append(number)
        self._gone.append(value.pack())

    def admit(self, sources: Iterable[bytes]) -> None:
        """Write source ranges, by their keys, before the frontends."""
        self._admitted += sources

    def expel(self, sources: Iterable[bytes]) -> None:
        """Delete source ranges after the frontends."""
        self._expelled += sources

    def tables(self, value: layout.FrontendValue, contents: Contents, moved: Table | None = None) -> None:
        """Fill the tables of a frontend where its value says they lie.

        Args:
            value: of the frontend.
            contents: of its tables.
            moved: instead of the one for packets.
        """
        if moved is None:
            self._table(value.base, contents.size, contents.outside)
        else:
            rows = table_rows.pack(moved)
            first = value.base // layout.ROW_SLOTS
            self._rows.extend(range(first, first + len(rows) // layout.ROW_BYTES))
            self._slots.extend(rows)
        if not contents.shared:
            self._table(value.inside_base, contents.inside_size, contents.inside)

    def _table(self, base: int, size: int, members: bytes) -> None:
        if not size:
            return
        row = base // layout.ROW_SLOTS
        rows = tables.rows_of(size)
        at = len(self._rows)
        self._rows.extend(range(row, row + rows))
        self._slots.extend(bytes(rows * layout.ROW_BYTES))
        tables.fill(self._slots, at, size, members)

    def frontend(self, key: bytes, value: layout.FrontendValue) -> None:
        """Write a frontend's value."""
        self._frontend_keys.append(key)
        self._frontends.append(value.pack())

    def flush_if_large(self) -> None:
        """Write what has gathered if it is much."""
        if len(self._rows) >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered."""
        family = self._family
        self._write(family.backends, self._backend_ids.tobytes(), self._backends)
        if self._here:
            self._write(family.here, b"".join(self._here), [*map(layout.u32, self._here.values())])
        self._write(family.sources, b"".join(self._admitted), [b"\1"] * len(self._admitted))
        if self._rows:
            self._maps[family.slots].update_batch(self._rows.tobytes(), bytes(self._slots), len(self._rows))
        self._write(family.frontends, b"".join(self._frontend_keys), self._frontends)
        self._write(family.backends, self._gone_ids.tobytes(), self._gone)
        if self._expelled:
            self._maps[family.sources].delete_batch(b"".join(self._expelled), len(self._expelled))
        self.backends_written += len(self._backends) + len(self._gone)
        self.rows_written += len(self._rows)
        self.frontends_written += len(self._frontends)
        self._reset()

    def _write(self, name: str, keys: bytes, values: list[bytes]) -> None:
        if values:
            self._maps[name].update_batch(keys, b"".join(values), len(values))
