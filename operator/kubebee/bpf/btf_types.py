"""The types that BTF can hold, one class per kind; types refer to each other by id (0 is void)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """BTF_KIND_*."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


class Linkage(IntEnum):
    """BTF_FUNC_* and BTF_VAR_*, which share their numbers."""

    STATIC = 0
    GLOBAL = 1
    EXTERN = 2


@dataclass(frozen=True)
class Void:
    """Type 0."""


@dataclass(frozen=True)
class Int:
    """An integer of ``bits`` bits stored in ``size`` bytes."""

    name: str
    size: int
    bits: int
    offset: int
    signed: bool
    char: bool
    bool: bool


@dataclass(frozen=True)
class Float:
    """float, double."""

    name: str
    size: int


@dataclass(frozen=True)
class Ptr:
    """A pointer; 8 bytes."""

    target: int


@dataclass(frozen=True)
class Array:
    """``count`` elements."""

    element: int
    count: int


@dataclass(frozen=True)
class Member:
    """A member; offset in bits from the start, ``bits`` is 0 unless it is a bitfield."""

    name: str
    type: int
    offset: int
    bits: int


@dataclass(frozen=True)
class Composite:
    """A struct or union."""

    name: str
    size: int
    members: tuple[Member, ...]
    union: bool


@dataclass(frozen=True)
class Enum:
    """An enum of 32 or 64 bits; values as (name, number)."""

    name: str
    size: int
    signed: bool
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Fwd:
    """A struct or union that is only declared."""

    name: str
    union: bool


@dataclass(frozen=True)
class Typedef:
    """A second name."""

    name: str
    target: int


@dataclass(frozen=True)
class Modifier:
    """const, volatile, restrict, or a type tag (then ``tag`` is its text)."""

    kind: Kind
    target: int
    tag: str


@dataclass(frozen=True)
class Func:
    """A function; ``proto`` is its FuncProto."""

    name: str
    proto: int
    linkage: int


@dataclass(frozen=True)
class FuncProto:
    """Parameters as (name, type)."""

    returns: int
    params: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Var:
    """A global variable, a map included."""

    name: str
    type: int
    linkage: int


@dataclass(frozen=True)
class Placed:
    """A variable's place in its section, in bytes."""

    type: int
    offset: int
    size: int


@dataclass(frozen=True)
class Datasec:
    """A data section and its variables. clang leaves ``size`` 0: the ELF section knows it."""

    name: str
    size: int
    variables: tuple[Placed, ...]


@dataclass(frozen=True)
class DeclTag:
    """A tag on a declaration; component -1 is the declaration itself, else a member or parameter."""

    name: str
    target: int
    component: int


Type = (
    Void | Int | Float | Ptr | Array | Composite | Enum | Fwd | Typedef | Modifier
    | Func | FuncProto | Var | Datasec | DeclTag
)  # fmt: skip
