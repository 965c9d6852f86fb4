"""One line of text that is equal for types of equal layout and meaning: what decides if a map can be kept."""

from __future__ import annotations

from kubebee.bpf.btf import VOID, Btf
from kubebee.bpf.btf_types import (
    Array,
    Composite,
    Datasec,
    Enum,
    Float,
    Int,
    Kind,
    Modifier,
    Typedef,
    Var,
)

_MAX_DEPTH = 16


def layout_of(btf: Btf, type_id: int, depth: int = 0) -> str:
    """Spell a type with its members' names, offsets (bits) and sizes; typedefs and qualifiers don't count."""
    if type_id == VOID or depth > _MAX_DEPTH:
        return "void"
    found = btf[type_id]
    match found:
        case Typedef() | Modifier():
            return layout_of(btf, found.target, depth + 1)
        case Array():
            return f"[{found.count}]{layout_of(btf, found.element, depth + 1)}"
        case Composite():
            members = (
                f"{m.name}@{m.offset}:{m.bits}:{layout_of(btf, m.type, depth + 1)}" for m in found.members
            )
            return f"{'U' if found.union else 'S'}{found.size}({','.join(members)})"
        case Datasec():
            return ",".join(layout_of(btf, placed.type, depth + 1) for placed in found.variables)
        case Var():
            return f"{found.name}={layout_of(btf, found.type, depth + 1)}"
        case Int():
            return f"{'i' if found.signed else 'u'}{found.bits}"
        case Float() | Enum():
            return f"{type(found).__name__}{found.size}"
        case _:
            return type(found).__name__


def section_layout(btf: Btf, name: str) -> str:
    """Layout of all variables of a data section; empty if BTF does not describe it."""
    type_id = btf.find(name, Kind.DATASEC)
    return "" if type_id is None else layout_of(btf, type_id)
