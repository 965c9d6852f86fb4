"""What our own programs of tc were loaded from, kept in the kernel beside them as a chain's object is.

Of those that see what comes in: `kubebee lb trace` runs them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

from kubebee.api.v1alpha1.attach import TcAttach
from kubebee.bpf.map import Map
from kubebee.loader.chain_object import ChainObject, KeptMap, KeptStage
from kubebee.loader.unit import CodeObject
from kubebee.planner.plan import ResourceKey


def functions_of(code: CodeObject) -> list[str]:
    """Functions whose object is kept."""
    if not code.bundle.trusted:
        return []
    attached = {plan.name: plan.attach for plan in code.functions if isinstance(plan.attach, TcAttach)}
    return [name for name, attach in attached.items() if attach.direction == "Ingress"]


def made_from(key: ResourceKey, function: str, elf: bytes, maps: Mapping[str, Map]) -> ChainObject:
    """What a function was loaded from: a chain of it alone.

    Args:
        key: of its unit.
        function: its name.
        elf: the object that it is in.
        maps: those that it uses, by their names there.
    """
    stage = KeptStage(key.kind, key.name, function, builtin=True)
    used = tuple(KeptMap(name, 0, name, each.info.id) for name, each in maps.items())
    return ChainObject(function, (stage,), used, elf)
