"""Kubernetes-shaped Events of the directory store: repeats are counted, not repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kubebee.planner.report import Happening
from kubebee.store.state import EventRecord

KEPT = 500


class EventLog:
    """The most recent events, oldest first.

    Args:
        records: events of earlier runs.
        now: the clock, RFC 3339 text.
    """

    def __init__(self, records: list[EventRecord], now: Callable[[], str]) -> None:
        self._now = now
        self._records = {_identity(record): record for record in records[-KEPT:]}
        self.changed = False

    @property
    def records(self) -> list[EventRecord]:
        """All kept events, the most recent last."""
        return list(self._records.values())

    def add(self, happenings: Iterable[Happening]) -> None:
        """Record what happened."""
        for happening in happenings:
            now = self._now()
            record = EventRecord(
                kind=happening.key.kind,
                name=happening.key.name,
                type="Warning" if happening.warning else "Normal",
                reason=happening.reason,
                message=happening.message,
                count=1,
                first_timestamp=now,
                last_timestamp=now,
            )
            known = self._records.pop(_identity(record), None)
            if known is not None:
                record.count, record.first_timestamp = known.count + 1, known.first_timestamp
            self._records[_identity(record)] = record
            self.changed = True
        while len(self._records) > KEPT:
            self._records.pop(next(iter(self._records)))


def _identity(record: EventRecord) -> tuple[str, str, str, str]:
    return (record.kind, record.name, record.reason, record.message)
