"""Counters of frontends and backends."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from kubebee.bpf.map import Map
from kubebee.lb.family_state import FamilyState
from kubebee.lb.layout import Stat, u32
from kubebee.lb.model import Backend, FrontendKey
from kubebee.lb.sync import LbState

_FEW = 512
"""Up to so many backends single look-ups cost less than reading the whole table."""


@dataclass(frozen=True, slots=True)
class BackendStats:
    """Counts towards one backend since it joined; `draining`: it takes no new flows."""

    backend: Backend
    counts: Stat
    draining: bool


@dataclass(frozen=True, slots=True)
class FrontendStats:
    """Counts of one frontend, those of backends that have left included, so that they never fall."""

    key: FrontendKey
    owner: str
    counts: Stat
    backends: tuple[BackendStats, ...]


def read(maps: Mapping[str, Map], state: LbState) -> list[FrontendStats]:
    """Return the counters of all frontends, IPv4 first, in order of their keys.

    Under DSR a UDP packet opens no connection that could be counted, so `connections` stays 0.
    """
    return [each for part in state.families.values() for each in _read_family(maps, part)]


def _read_family(maps: Mapping[str, Map], state: FamilyState) -> list[FrontendStats]:
    numbers = [number for served in state.served.values() for number in served.ids]
    numbers += state.gone
    counts = backend_counts(maps[state.family.backend_counts], numbers)
    draining: dict[int, list[int]] = {}
    for number, gone in state.gone.items():
        draining.setdefault(gone.frontend, []).append(number)

    result = []
    for key in sorted(state.served):
        served = state.served[key]
        backends = [
            BackendStats(member, counts[number], draining=False)
            for member, number in zip(served.members, served.ids, strict=True)
        ]
        for number in draining.get(served.value.id, ()):
            value = state.gone[number]
            backends.append(
                BackendStats(Backend(value.address, value.port, value.weight), counts[number], draining=True)
            )
        total = Stat.sum(maps[state.family.frontend_counts].lookup(u32(served.value.id)) or Stat().pack())
        for entry in backends:
            total = total.plus(entry.counts)
        owner = served.desired.owner if served.desired else ""
        result.append(FrontendStats(key, owner, total, tuple(backends)))
    return result


def backend_counts(table: Map, numbers: list[int]) -> dict[int, Stat]:
    """What was counted towards backends, by number."""
    if len(numbers) <= _FEW:
        return {number: Stat.sum(table.lookup(u32(number)) or Stat().pack()) for number in numbers}
    wanted = set(numbers)
    counts = {}
    for key, values in table.items():
        number = int.from_bytes(key, sys.byteorder)
        if number in wanted:
            counts[number] = Stat.sum(values)
    return counts
