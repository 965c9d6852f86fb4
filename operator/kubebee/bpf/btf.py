"""BTF, the type information of objects and of the kernel: a pure reader.

Records are found in one pass and become typed values when asked for: the kernel's own BTF has over 100,000.
Layout: Documentation/bpf/btf.rst. Little endian; split BTF (modules) is not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

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
    Member,
    Modifier,
    Placed,
    Ptr,
    Type,
    Typedef,
    Var,
    Void,
)
from kubebee.errors import KubebeeError

VOID: Final = 0

_HEADER: Final = struct.Struct("<HBBIIIII")
_RECORD: Final = struct.Struct("<III")
_MAGIC: Final = 0xEB9F
_MAX_DEPTH: Final = 32  # the kernel's own limit for chains of types (MAX_RESOLVE_DEPTH)
_T = TypeVar("_T")

# Bytes behind a record's 12: (fixed, per element).
_TAIL: Final[dict[int, tuple[int, int]]] = {
    Kind.INT: (4, 0),
    Kind.ARRAY: (12, 0),
    Kind.STRUCT: (0, 12),
    Kind.UNION: (0, 12),
    Kind.ENUM: (0, 8),
    Kind.FUNC_PROTO: (0, 8),
    Kind.VAR: (4, 0),
    Kind.DATASEC: (0, 12),
    Kind.DECL_TAG: (4, 0),
    Kind.ENUM64: (0, 12),
}


class BtfError(KubebeeError):
    """The bytes are no BTF, or hold no such type."""

    reason = "CorruptBTF"


@dataclass(frozen=True)
class Record:
    """A type as stored: offset in the type section, kind, number of elements, kind flag."""

    offset: int
    kind: Kind
    count: int
    flag: bool


class Btf:
    """Types by id (1 up; 0 is void). Errors are BtfError."""

    def __init__(self, data: bytes) -> None:
        if len(data) < _HEADER.size:
            raise BtfError(f"BTF header is cut off at {len(data)} of {_HEADER.size} bytes")
        magic, version, _, header, type_at, type_len, str_at, str_len = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise BtfError(f"BTF starts with {magic:#06x}, not {_MAGIC:#06x} (little endian)")
        if version != 1 or header < _HEADER.size:
            raise BtfError(f"BTF version {version} with a header of {header} bytes is not known")
        end = header + max(type_at + type_len, str_at + str_len)
        if end > len(data):
            raise BtfError(f"BTF is cut off: its sections end at byte {end} of {len(data)}")
        self._types = data[header + type_at : header + type_at + type_len]
        self.strings = data[header + str_at : header + str_at + str_len]
        if not self.strings or self.strings[0] or self.strings[-1]:
            raise BtfError("BTF strings do not start and end with NUL")
        self._offsets = self._scan()
        self._cache: dict[int, Type] = {}
        self._ids: dict[str, list[int]] | None = None

    def __len__(self) -> int:
        """The number of types, void included: ids are below it."""
        return len(self._offsets)

    def __getitem__(self, type_id: int) -> Type:
        """The type of this id."""
        found = self._cache.get(type_id)
        if found is None:
            found = self._cache[type_id] = self._build(type_id)
        return found

    def ids(self, name: str) -> list[int]:
        """All types of this name."""
        if self._ids is None:
            self._ids = {}
            for type_id in range(1, len(self)):
                (at,) = struct.unpack_from("<I", self._types, self._offsets[type_id])
                if at:
                    self._ids.setdefault(self.string(at), []).append(type_id)
        return self._ids.get(name, [])

    def find(self, name: str, *kinds: Kind) -> int | None:
        """The first type of this name and of one of these kinds (any if none is given)."""
        return next((i for i in self.ids(name) if not kinds or self.record(i).kind in kinds), None)

    def expect(self, type_id: int, cls: type[_T]) -> _T:
        """The type, which must be of this class."""
        found = self[type_id]
        if not isinstance(found, cls):
            raise BtfError(f"BTF type {type_id} is {type(found).__name__}, not {cls.__name__}")
        return found

    def each(self, kind: Kind) -> Iterator[int]:
        """Ids of all types of a kind."""
        return (i for i in range(1, len(self)) if self.record(i).kind == kind)

    def resolve(self, type_id: int) -> int:
        """Behind typedefs, const and the like."""
        for _ in range(_MAX_DEPTH):
            found = self[type_id]
            if not isinstance(found, Typedef | Modifier):
                return type_id
            type_id = found.target
        raise BtfError(f"BTF type {type_id} refers to itself")

    def size(self, type_id: int, depth: int = 0) -> int:
        """Size in bytes of a value of this type."""
        found = self[self.resolve(type_id)]
        if isinstance(found, Int | Float | Composite | Enum):
            return found.size
        if isinstance(found, Ptr):
            return 8
        if isinstance(found, Array) and depth < _MAX_DEPTH:
            return found.count * self.size(found.element, depth + 1)
        raise BtfError(f"BTF type {type_id} ({type(found).__name__}) has no size")

    def record(self, type_id: int) -> Record:
        """How the type is stored."""
        if not 0 < type_id < len(self):
            raise BtfError(f"BTF refers to type {type_id} of {len(self)}")
        offset = self._offsets[type_id]
        (info,) = struct.unpack_from("<I", self._types, offset + 4)
        return Record(offset, Kind(info >> 24 & 31), info & 0xFFFF, bool(info >> 31))

    def raw(self, record: Record) -> bytes:
        """A record's bytes."""
        fixed, each = _TAIL.get(record.kind, (0, 0))
        return self._types[record.offset : record.offset + _RECORD.size + fixed + each * record.count]

    def string(self, offset: int) -> str:
        """The string at an offset of the string section."""
        if offset >= len(self.strings):
            raise BtfError(f"BTF string at {offset} is behind the end ({len(self.strings)})")
        end = self.strings.index(b"\0", offset)
        return self.strings[offset:end].decode(errors="replace")

    def _scan(self) -> list[int]:
        types, offset, offsets = self._types, 0, [0]
        tails = [_TAIL.get(kind, (0, 0)) for kind in range(len(Kind))]
        unpack = struct.Struct("<I").unpack_from
        while offset < len(types):
            if offset + _RECORD.size > len(types):
                raise BtfError(f"BTF type {len(offsets)} is cut off at byte {offset} of {len(types)}")
            info = unpack(types, offset + 4)[0]
            kind = info >> 24 & 31
            if not 0 < kind < len(tails):
                raise BtfError(f"BTF type {len(offsets)} is of unknown kind {kind}")
            offsets.append(offset)
            fixed, each = tails[kind]
            offset += _RECORD.size + fixed + each * (info & 0xFFFF)
        if offset != len(types):
            raise BtfError(f"BTF type {len(offsets) - 1} ends at byte {offset} of {len(types)}")
        return offsets

    def _build(self, type_id: int) -> Type:
        if type_id == VOID:
            return Void()
        record = self.record(type_id)
        name_at, _, third = _RECORD.unpack_from(self._types, record.offset)
        name, kind, tail = self.string(name_at), record.kind, record.offset + _RECORD.size
        if kind in {Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG}:
            return Modifier(kind, third, name)
        if kind in {Kind.STRUCT, Kind.UNION}:
            return Composite(name, third, self._members(record, tail), kind == Kind.UNION)
        if kind in {Kind.ENUM, Kind.ENUM64}:
            return self._enum(record, name, third, tail)
        if kind == Kind.FUNC_PROTO:
            params = struct.iter_unpack("<II", self._types[tail : tail + 8 * record.count])
            return FuncProto(third, tuple((self.string(at), type_) for at, type_ in params))
        if kind == Kind.DATASEC:
            placed = struct.iter_unpack("<III", self._types[tail : tail + 12 * record.count])
            return Datasec(name, third, tuple(Placed(*fields) for fields in placed))
        if kind == Kind.ARRAY:
            element, _, count = struct.unpack_from("<III", self._types, tail)
            return Array(element, count)
        if kind == Kind.FUNC:
            return Func(name, third, record.count)
        return self._simple(kind, name, third, record.flag, tail)

    def _simple(self, kind: Kind, name: str, third: int, flag: bool, tail: int) -> Type:
        """Kinds of fixed length whose third word is a size or a type."""
        if kind == Kind.PTR:
            return Ptr(third)
        if kind == Kind.TYPEDEF:
            return Typedef(name, third)
        if kind == Kind.FLOAT:
            return Float(name, third)
        if kind == Kind.FWD:
            return Fwd(name, flag)
        (word,) = struct.unpack_from("<I", self._types, tail)
        if kind == Kind.VAR:
            return Var(name, third, word)
        if kind == Kind.DECL_TAG:
            return DeclTag(name, third, -1 if word == 0xFFFFFFFF else word)
        encoding = word >> 24 & 15
        signed, char, boolean = (bool(encoding & bit) for bit in (1, 2, 4))
        return Int(name, third, word & 255, word >> 16 & 255, signed, char, boolean)

    def _members(self, record: Record, tail: int) -> tuple[Member, ...]:
        members = []
        for at, type_, offset in struct.iter_unpack("<III", self._types[tail : tail + 12 * record.count]):
            bits = offset >> 24 if record.flag else 0
            members.append(Member(self.string(at), type_, offset & 0xFFFFFF if record.flag else offset, bits))
        return tuple(members)

    def _enum(self, record: Record, name: str, size: int, tail: int) -> Enum:
        signed, values = record.flag, []
        if record.kind == Kind.ENUM64:
            for at, low, high in struct.iter_unpack("<III", self._types[tail : tail + 12 * record.count]):
                number = high << 32 | low
                values.append((self.string(at), number - (1 << 64) if signed and high >> 31 else number))
        else:
            code = "<Ii" if signed else "<II"
            for at, number in struct.iter_unpack(code, self._types[tail : tail + 8 * record.count]):
                values.append((self.string(at), number))
        return Enum(name, size, signed, tuple(values))
