"""Bring our programs at one tc hook into their order, by tcx or by filters; others keep their places."""

from __future__ import annotations

from collections.abc import Sequence

from kubebee.bpf.attach import attach_tcx
from kubebee.bpf.clsact import Hook, filters_at
from kubebee.bpf.inventory import tcx_programs
from kubebee.bpf.program import Program
from kubebee.errors import KubebeeError
from kubebee.loader import filter_order, tcx_order
from kubebee.loader.filters import HeldFilter
from kubebee.loader.held import ActiveLink, HeldLink


def reorder(hook: Hook, ours: Sequence[ActiveLink]) -> list[tuple[ActiveLink, KubebeeError]]:
    """Let programs run in the order of their ranks.

    Args:
        hook: an interface and a side of it.
        ours: all our programs there.

    Returns:
        Those that could not be brought to their place; one that runs no more is not `alive`.
    """
    wanted = sorted(ours, key=lambda active: active.rank)
    failures = _reorder_tcx(hook, wanted) + _reorder_filters(hook, wanted)
    for position, active in enumerate(wanted):
        active.position = position
    return failures


def links_of(actives: Sequence[ActiveLink]) -> list[tuple[tcx_order.Rank, int]]:
    """Rank and link id of those that are held by a link."""
    return [(one.rank, one.held.link_id) for one in actives if isinstance(one.held, HeldLink) and one.alive]


def priorities_of(actives: Sequence[ActiveLink]) -> list[tuple[tcx_order.Rank, int]]:
    """Rank and priority of those that are held by a filter."""
    return [(one.rank, one.held.priority) for one in actives if isinstance(one.held, HeldFilter)]


def _reorder_tcx(hook: Hook, ours: Sequence[ActiveLink]) -> list[tuple[ActiveLink, KubebeeError]]:
    """A link can't change its place: a program that must move is off its hook for some microseconds."""
    wanted = {active.held.link_id: active for active in ours if isinstance(active.held, HeldLink)}
    failures = []
    actual = [link for _, link in tcx_programs(hook.ifindex, hook.ingress) if link in wanted]
    for link_id in tcx_order.to_move(list(wanted), actual) if len(actual) == len(wanted) else ():
        moving = wanted[link_id]
        try:
            _move_link(hook, moving, [active for active in ours if active is not moving])
        except KubebeeError as error:
            failures.append((moving, error))
    return failures


def _move_link(hook: Hook, moving: ActiveLink, others: Sequence[ActiveLink]) -> None:
    """Attach a program anew where its rank wants it; the kernel refuses it twice on one hook."""
    pin = moving.held.pin
    assert pin is not None
    with Program.from_pin(moving.program) as program:
        moving.held.release()
        position = tcx_order.position(moving.rank, links_of(others))
        moving.held = HeldLink(attach_tcx(program.fd, hook.ifindex, hook.ingress, position), "TCX")
    moving.held.keep(pin)


def _reorder_filters(hook: Hook, ours: Sequence[ActiveLink]) -> list[tuple[ActiveLink, KubebeeError]]:
    """A filter moves by being there twice for some microseconds: no packet misses it."""
    held = [(active, active.held) for active in ours if isinstance(active.held, HeldFilter)]
    current = [filter_.priority for _, filter_ in held]
    if current == sorted(current):
        return []
    failures = []
    taken = {found.priority for found in filters_at(hook)}
    for (active, filter_), priority in zip(held, filter_order.in_order(current, taken), strict=True):
        if priority == filter_.priority:
            continue
        try:
            with Program.from_pin(active.program) as program:
                filter_.move(program.fd, priority)
        except KubebeeError as error:
            failures.append((active, error))
    return failures
