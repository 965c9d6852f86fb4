"""Spells BTF types as C does, for messages to people: ``const volatile __u32[4]``, ``struct rule *``."""

from __future__ import annotations

from typing import assert_never

from kubebee.bpf.btf import VOID, Btf
from kubebee.bpf.btf_types import (
    Array,
    Composite,
    Datasec,
    DeclTag,
    Enum,
    Float,
    Func,
    FuncProto,
    Fwd,
    Int,
    Kind,
    Modifier,
    Ptr,
    Typedef,
    Var,
    Void,
)

_MAX_DEPTH = 32


def c_name(btf: Btf, type_id: int, depth: int = 0) -> str:
    """The type as one would write it in C, without a variable's name."""
    if depth > _MAX_DEPTH:
        return "..."
    found = btf[type_id]
    match found:
        case Void():
            return "void"
        case Int() | Float() | Typedef() | Func() | Var() | Datasec() | DeclTag():
            return found.name
        case Ptr():
            return f"{c_name(btf, found.target, depth + 1)} *"
        case Array():
            return _array(btf, found, depth)
        case Composite() | Fwd():
            return f"{'union' if found.union else 'struct'} {found.name or '{...}'}"
        case Enum():
            return f"enum {found.name or '{...}'}"
        case Modifier():
            inner = c_name(btf, found.target, depth + 1)
            return inner if found.kind == Kind.TYPE_TAG else f"{found.kind.name.lower()} {inner}"
        case FuncProto():
            return f"{c_name(btf, found.returns, depth + 1)} (*)()"
    assert_never(found)


def _array(btf: Btf, array: Array, depth: int) -> str:
    """Outer counts come first: ``int[2][3]``."""
    counts, element = f"[{array.count}]", array.element
    while element != VOID and isinstance(inner := btf[element], Array):
        counts, element = f"{counts}[{inner.count}]", inner.element
    return c_name(btf, element, depth + 1) + counts
