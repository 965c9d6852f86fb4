"""Moments as the API has them."""

from __future__ import annotations

from datetime import datetime


def rfc3339(moment: datetime) -> str:
    """A moment as the API has it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str | None) -> datetime | None:
    """The moment that an RFC 3339 text says, None where there is none to be read."""
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment if moment is None or moment.tzinfo else None
