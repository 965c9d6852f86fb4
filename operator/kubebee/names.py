"""Names of what maps know by number, kept in a map beside them: templates/include/names.h.

Whoever can read the maps can say what is in them, without the resources and while no kubebee runs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from kubebee.bpf.map import Map

BYTES = 192
_NUMBER = struct.Struct("=I")
_CUT = "..."


class NameTable:
    """A map of names, written only where it differs. One writer."""

    def __init__(self) -> None:
        self.written: dict[int, str] = {}

    @classmethod
    def adopt(cls, table: Map) -> NameTable:
        """Read what is in a map, a new one or an earlier loader's.

        Raises:
            BpfError: it can't be read.
        """
        made = cls()
        made.written = read(table)
        return made

    def write(self, table: Map, names: Mapping[int, str]) -> None:
        """Let these numbers have these names; others stay.

        Raises:
            BpfError: the map refused a write; adopt it anew.
        """
        changed = {number: _fitting(name) for number, name in names.items()}
        changed = {number: name for number, name in changed.items() if self.written.get(number) != name}
        keys = b"".join(map(_NUMBER.pack, changed))
        values = b"".join(name.encode().ljust(BYTES, b"\0") for name in changed.values())
        table.update_batch(keys, values, len(changed))
        self.written.update(changed)

    def forget(self, table: Map, numbers: Iterable[int]) -> None:
        """Take the names of numbers away that mean nothing any more.

        Raises:
            BpfError: the map refused it; adopt it anew.
        """
        known = [number for number in numbers if self.written.pop(number, None) is not None]
        table.delete_batch(b"".join(map(_NUMBER.pack, known)), len(known))


def read(table: Map) -> dict[int, str]:
    """Names by number.

    Raises:
        BpfError: the map can't be read.
    """
    return {
        _NUMBER.unpack(key)[0]: value.partition(b"\0")[0].decode(errors="replace")
        for key, value in table.items()
    }


def _fitting(name: str) -> str:
    """A name that leaves room for its NUL."""
    raw = name.encode()
    if len(raw) < BYTES:
        return name
    return raw[: BYTES - 1 - len(_CUT)].decode(errors="ignore") + _CUT
