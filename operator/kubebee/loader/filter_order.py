"""Priorities of our filters on one clsact hook, from the order of our programs: pure.

A manifest's priority can't be the filter's: several programs may have the same, and filters of one priority
run in an order that nobody chose. So ours get numbers of their own, in a band that starts above the low ones
which others write by hand and ends below those that `tc` gives itself (49152 downwards).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kubebee.errors import KubebeeError
from kubebee.loader.tcx_order import Rank, to_move

FIRST, LAST = 10_000, 40_000
_START, _STEP = 20_000, 100


class HookFullError(KubebeeError):
    """The band is full."""

    reason = "HookFull"


def between(rank: Rank, others: Sequence[tuple[Rank, int]], taken: Collection[int]) -> int:
    """The priority for a new program.

    Args:
        rank: of the new one.
        others: rank and priority of ours that are at the hook.
        taken: every priority in use there, by whomever.

    Returns:
        A free priority between those of its neighbours; where none is left any free one, which
        `in_order` then mends.

    Raises:
        HookFullError: the band is full.
    """
    before = max((other for other in others if other[0] < rank), default=None)
    after = min((other for other in others if other[0] > rank), default=None)
    low = before[1] if before else None
    high = after[1] if after else None
    found = _free(low, high, taken) or _free(None, None, taken)
    if found is None:
        raise _full()
    return found


def in_order(current: Sequence[int], taken: Collection[int]) -> list[int]:
    """Priorities that rise: as few as possible differ from `current`, and those are free now.

    Args:
        current: of our programs, in the order in which they shall run.
        taken: every priority in use at the hook, by whomever.

    Raises:
        HookFullError: the band is full.
    """
    moving = set(to_move(current, sorted(current)))
    wanted: list[int] = []
    busy = {*taken, *current}
    for place, one in enumerate(current):
        if one in moving:
            stays = next((other for other in current[place + 1 :] if other not in moving), None)
            found = _free(wanted[-1] if wanted else None, stays, busy)
            if found is None:
                return _spread(len(current), {*taken, *current})
            busy.add(found)
            wanted.append(found)
        else:
            wanted.append(one)
    return wanted


def _free(low: int | None, high: int | None, taken: Collection[int]) -> int | None:
    """A free priority above `low` and below `high`, with room around it; None if there is none."""
    if low is None and high is None:
        ideal, lowest, highest = _START, FIRST, LAST
    elif high is None:
        assert low is not None
        ideal, lowest, highest = low + _STEP, low + 1, LAST
    elif low is None:
        ideal, lowest, highest = high - _STEP, FIRST, high - 1
    else:
        ideal, lowest, highest = (low + high) // 2, low + 1, high - 1
    if lowest > highest:
        return None
    ideal = min(max(ideal, lowest), highest)
    upwards = (one for one in range(ideal, highest + 1) if one not in taken)
    downwards = (one for one in range(ideal - 1, lowest - 1, -1) if one not in taken)
    return next(upwards, next(downwards, None))


def _spread(count: int, taken: Collection[int]) -> list[int]:
    """`count` free priorities that rise, with room between them."""
    free = [one for one in range(FIRST, LAST + 1) if one not in taken]
    if len(free) < count:
        raise _full()
    return [free[(2 * place + 1) * len(free) // (2 * count)] for place in range(count)]


def _full() -> HookFullError:
    return HookFullError(
        f"no priority from {FIRST} to {LAST} is free for a tc filter",
        hint="tc filter show dev NAME ingress (egress) lists those there are",
    )
