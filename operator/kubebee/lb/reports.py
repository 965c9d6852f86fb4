"""What bringing the maps to what is desired came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kubebee.lb.model import FrontendKey


@dataclass(frozen=True, slots=True)
class Unserved:
    """A frontend that keeps its old table, or has none, because a map is full."""

    key: FrontendKey
    owner: str
    why: str


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What one apply() did. Zero everywhere = the maps were right already.

    Attributes:
        crowded: frontends whose connections may have moved, as there was no room for the table before.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    backends_written: int = 0
    rows_written: int = 0
    unserved: tuple[Unserved, ...] = ()
    crowded: int = 0

    def plus(self, other: SyncReport) -> SyncReport:
        """What both did."""
        return SyncReport(
            self.added + other.added,
            self.changed + other.changed,
            self.removed + other.removed,
            self.backends_written + other.backends_written,
            self.rows_written + other.rows_written,
            self.unserved + other.unserved,
            self.crowded + other.crowded,
        )


class Left(NamedTuple):
    """A backend that left, with the number that sockets and flows know it by."""

    number: int
    address: bytes
    port: int
