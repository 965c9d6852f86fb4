"""Units that go on under another name.

HostPolicies are one unit with those of equal selectors, named by the selector. An edit of it makes another
name of the same rules: their counters and connections go on, and what runs stays until the new does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kubebee.planner.plan import PolicyUnit, ResourceKey


def successors(
    before: Sequence[PolicyUnit], now: Sequence[PolicyUnit], held: Collection[ResourceKey] = ()
) -> dict[ResourceKey, ResourceKey]:
    """New names by old ones.

    Args:
        before: what was wanted.
        now: what is wanted.
        held: units that stay as they are, though their manifests can't be read.
    """
    names = {unit.key for unit in now}
    gone = [unit for unit in before if unit.key not in names and unit.key not in held]
    known = {unit.key for unit in before}
    found: dict[ResourceKey, ResourceKey] = {}
    for unit in now:
        if unit.key in known:
            continue
        owners = {owner for owner, _ in unit.owners}
        for old in gone:
            if old.key not in found and owners & {owner for owner, _ in old.owners}:
                found[old.key] = unit.key
                break
    return found
