"""Order of our programs on one tcx hook: by priority, then name. Programs of others keep their places."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from kubebee.bpf.attach import Position

Rank = tuple[int, str, str]
"""Priority, resource, function: lower runs first."""


def position(rank: Rank, others: Sequence[tuple[Rank, int]]) -> Position:
    """Where a program of this rank goes.

    Args:
        rank: of the new one.
        others: rank and link id of ours that are on the hook.
    """
    before = max((other for other in others if other[0] < rank), default=None)
    after = min((other for other in others if other[0] > rank), default=None)
    if before is not None:
        return Position.after_link(before[1])
    return Position.before_link(after[1]) if after is not None else Position()


def to_move(wanted: Sequence[int], actual: Sequence[int]) -> list[int]:
    """The fewest link ids that must change their place to make the order `actual` the one `wanted`."""
    places = {one: place for place, one in enumerate(wanted)}
    tails: list[int] = []
    runs: list[list[int]] = []  # runs[n]: longest ascending run found so far of n + 1 places
    for place in (places[one] for one in actual):
        length = bisect_left(tails, place)
        run = [*(runs[length - 1] if length else []), place]
        tails[length : length + 1] = [place]
        runs[length : length + 1] = [run]
    stay = set(runs[-1]) if runs else set()
    return [one for place, one in enumerate(wanted) if place not in stay]
