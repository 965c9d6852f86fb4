"""Counters of two moments as totals and rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kubebee.cli.snapshot import Snapshot

NONE = "-"
_KILO = 1000
_EXACT = 100_000
Name = tuple[object, ...]
"""What a counter counts, and of which object."""


def counters(snapshot: Snapshot) -> Iterator[tuple[Name, int]]:
    """Everything that is counted, by name."""
    for function in snapshot.counters.functions:
        yield ("runs", function.key, function.function), function.runs
    for frontend in snapshot.counters.frontends:
        yield ("connections", frontend.key), frontend.counts.connections
        yield ("packets", frontend.key), frontend.counts.packets
        for backend in frontend.backends:
            yield ("connections", frontend.key, backend.backend), backend.counts.connections
            yield ("packets", frontend.key, backend.backend), backend.counts.packets
    for rule in snapshot.counters.rules:
        # Only one of the two counts at a time: which one, the policy's audit mode says.
        yield ("hits", rule.policy, rule.rule), rule.audit_packets if rule.audit else rule.packets
    for drop in snapshot.counters.drops:
        for reason, packets in drop.packets.items():
            yield ("dropped", drop.key, reason), packets


@dataclass(frozen=True, slots=True)
class Rates:
    """Counters of one moment, and of one before it.

    Attributes:
        seconds: between the two; 0: there is none before.
    """

    now: dict[Name, int]
    before: dict[Name, int]
    seconds: float

    @classmethod
    def of(cls, now: Snapshot, before: Snapshot | None) -> Rates:
        """Rates of `now` since `before`."""
        if before is None or now.at <= before.at:
            return cls(dict(counters(now)), {}, 0.0)
        return cls(dict(counters(now)), dict(counters(before)), now.at - before.at)

    def cells(self, *names: Name) -> tuple[str, str]:
        """The sum of some counters and its rate, as text; `NONE` for what is not known."""
        known = [name for name in names if name in self.now]
        if not known:
            return NONE, NONE
        return count(sum(self.now[name] for name in known)), self._rate(known)

    def rate(self, *names: Name) -> float | None:
        """The sum of some counters' rates; None for what is not known."""
        if any(name not in self.before for name in names):
            return None
        # A counter that fell started anew: its resource was made again.
        return sum(max(0, self.now[name] - self.before[name]) for name in names) / self.seconds

    def _rate(self, names: Sequence[Name]) -> str:
        rate = self.rate(*names)
        if rate is None:
            return NONE
        return count(round(rate)) if rate >= 10 or rate == 0 else f"{rate:.1f}"


def count(number: int) -> str:
    """A number in at most six characters: 99999, then 100k, 12.3M."""
    if number < _EXACT:
        return str(number)
    value = float(number)
    for unit in ("", "k", "M", "G", "T"):
        if value < _KILO or unit == "T":
            break
        value /= _KILO
    return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"
