"""Rewrites of BTF and .BTF.ext: keep the types that are still used, rename some, move records of code.

Strings are only added, so offsets into the old string section, which .BTF.ext shares, stay valid.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from kubebee.bpf.btf import Btf, BtfError, Record
from kubebee.bpf.btf_types import DeclTag, Kind

_BTF_HEADER: Final = struct.Struct("<HBBIIIII")
_EXT_HEADER: Final = struct.Struct("<HBBIIIIIII")
_WORD: Final = struct.Struct("<I")
_THIRD_IS_TYPE: Final = {
    Kind.PTR, Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG, Kind.FUNC,
    Kind.FUNC_PROTO, Kind.VAR, Kind.DECL_TAG,
}  # fmt: skip
# (bytes per element, where in it the type stands)
_ELEMENTS: Final = {
    Kind.STRUCT: (12, 4),
    Kind.UNION: (12, 4),
    Kind.FUNC_PROTO: (8, 4),
    Kind.DATASEC: (12, 0),
}


def references(record: Record) -> list[int]:
    """Where in a record's bytes the ids of other types stand."""
    places = [8] if record.kind in _THIRD_IS_TYPE else []
    if record.kind == Kind.ARRAY:
        places += [12, 16]
    if record.kind in _ELEMENTS:
        size, at = _ELEMENTS[record.kind]
        places += [12 + size * i + at for i in range(record.count)]
    return places


class BtfRewrite:
    """An edit of one object's BTF; ``build`` gives the new bytes and the map of old ids to new ones."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._strings = bytearray(btf.strings)
        self._added = {"": 0}
        self._bytes: dict[int, bytearray] = {}
        self._refs: dict[int, list[int]] = {}
        self._next = len(btf)
        self._roots: set[int] = set()

    def keep(self, type_ids: Iterable[int]) -> None:
        """These types stay, with all that they refer to and all tags on what stays."""
        self._roots.update(type_ids)

    def rename(self, type_id: int, name: str) -> None:
        """Give a type another name."""
        _WORD.pack_into(self._record(type_id), 0, self.string(name))

    def retarget(self, type_id: int, target: int) -> None:
        """Let a FUNC, PTR, TYPEDEF and so on refer to another type."""
        _WORD.pack_into(self._record(type_id), 8, target)

    def filter_datasec(self, type_id: int, variables: Collection[int]) -> None:
        """Keep only these variables of a data section."""
        old = self._record(type_id)
        entries = [old[at : at + 12] for at in range(12, len(old), 12)]
        kept = [entry for entry in entries if _WORD.unpack_from(entry)[0] in variables]
        new = bytearray(old[:12]) + b"".join(kept)
        _WORD.pack_into(new, 4, Kind.DATASEC << 24 | len(kept))
        self._bytes[type_id] = new
        self._refs[type_id] = references(Record(0, Kind.DATASEC, len(kept), flag=False))

    def add(self, kind: Kind, name: str, third: int, tail: tuple[int, ...] = (), count: int = 0) -> int:
        """Add a type; returns its id, which other edits may use."""
        type_id, self._next = self._next, self._next + 1
        words = (self.string(name), kind << 24 | count, third, *tail)
        self._bytes[type_id] = bytearray(struct.pack(f"<{len(words)}I", *words))
        self._refs[type_id] = references(Record(0, kind, count, flag=False))
        return type_id

    def string(self, text: str) -> int:
        """The offset of a string, added at its first use."""
        if text not in self._added:
            self._added[text] = len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._added[text]

    def build(self) -> tuple[bytes, dict[int, int]]:
        """New BTF, and old id -> new id of what stayed."""
        kept = self._reach(self._roots)
        tags = [
            i
            for i in self._btf.each(Kind.DECL_TAG)
            if i not in kept and self._btf.expect(i, DeclTag).target in kept
        ]
        kept |= self._reach(tags)
        new = {0: 0} | {old: number for number, old in enumerate(sorted(kept), start=1)}
        types = bytearray()
        for old in sorted(kept):
            record = self._record(old)
            start = len(types)
            types += record
            for at in self._refs[old]:
                _WORD.pack_into(types, start + at, new[_WORD.unpack_from(record, at)[0]])
        header = _BTF_HEADER.pack(
            0xEB9F, 1, 0, _BTF_HEADER.size, 0, len(types), len(types), len(self._strings)
        )
        return header + types + self._strings, new

    def _reach(self, roots: Iterable[int]) -> set[int]:
        seen: set[int] = set()
        todo = [root for root in roots if root]
        while todo:
            type_id = todo.pop()
            if type_id in seen:
                continue
            seen.add(type_id)
            record = self._record(type_id)
            todo += [i for at in self._refs[type_id] if (i := _WORD.unpack_from(record, at)[0])]
        return seen

    def _record(self, type_id: int) -> bytearray:
        if type_id not in self._bytes:
            record = self._btf.record(type_id)
            self._bytes[type_id] = bytearray(self._btf.raw(record))
            self._refs[type_id] = references(record)
        return self._bytes[type_id]


@dataclass(frozen=True)
class CodeInfo:
    """One kind of records about code, by section: the offset in bytes comes first in each record."""

    record_size: int
    records: Mapping[str, tuple[bytes, ...]]

    def move(self, source: str, target: str, shift: int) -> CodeInfo:
        """The records of ``target``, with those of ``source`` behind, ``shift`` bytes further; no others."""
        moved = tuple(
            _WORD.pack(_WORD.unpack_from(record)[0] + shift) + record[4:]
            for record in self.records.get(source, ())
        )
        both = self.records.get(target, ()) + moved
        return CodeInfo(self.record_size, {target: both} if both else {})

    def type_ids(self) -> set[int]:
        """The types in the second word (of func_info and CO-RE relocations)."""
        return {_WORD.unpack_from(record, 4)[0] for records in self.records.values() for record in records}

    def map_types(self, new: Mapping[int, int]) -> CodeInfo:
        """With the second word translated."""
        return CodeInfo(
            self.record_size,
            {
                section: tuple(
                    record[:4] + _WORD.pack(new[_WORD.unpack_from(record, 4)[0]]) + record[8:]
                    for record in records
                )
                for section, records in self.records.items()
            },
        )


@dataclass(frozen=True)
class BtfExt:
    """.BTF.ext: which function, which source line and which CO-RE relocation is at which instruction."""

    functions: CodeInfo
    lines: CodeInfo
    relocations: CodeInfo

    def move(self, source: str, target: str, shift: int) -> BtfExt:
        """Move the records of a section behind those of another; drop those of all others."""
        parts = (self.functions, self.lines, self.relocations)
        return BtfExt(*(part.move(source, target, shift) for part in parts))

    def to_bytes(self, rewrite: BtfRewrite) -> bytes:
        """The section's bytes; section names go into the rewritten BTF's strings."""
        bodies = [_pack(part, rewrite) for part in (self.functions, self.lines, self.relocations)]
        ends = [sum(len(body) for body in bodies[:i]) for i in range(3)]
        spans = [word for start, body in zip(ends, bodies, strict=True) for word in (start, len(body))]
        return _EXT_HEADER.pack(0xEB9F, 1, 0, _EXT_HEADER.size, *spans) + b"".join(bodies)


def parse_ext(data: bytes, btf: Btf) -> BtfExt:
    """Read .BTF.ext; ``btf`` has its strings."""
    if len(data) < 24:
        raise BtfError(f".BTF.ext header is cut off at {len(data)} bytes")
    magic, version, _, header = struct.unpack_from("<HBBI", data)
    if magic != 0xEB9F or version != 1 or header < 24 or header > len(data):
        raise BtfError(f".BTF.ext version {version} with a header of {header} bytes is not known")
    # Headers of 24 bytes are from before CO-RE and end without its two words.
    words = (*struct.unpack_from("<6I" if header >= _EXT_HEADER.size else "<4I", data, 8), 0, 0)
    spans = [data[header + words[i] : header + words[i] + words[i + 1]] for i in (0, 2, 4)]
    if any(len(span) != words[2 * i + 1] for i, span in enumerate(spans)):
        raise BtfError(f".BTF.ext is cut off at {len(data)} bytes")
    return BtfExt(_unpack(spans[0], btf, 8), _unpack(spans[1], btf, 16), _unpack(spans[2], btf, 16))


def _unpack(data: bytes, btf: Btf, least: int) -> CodeInfo:
    if not data:
        return CodeInfo(least, {})
    if len(data) < 4 or (size := _WORD.unpack_from(data)[0]) < least:
        raise BtfError(f".BTF.ext records are shorter than {least} bytes")
    records: dict[str, tuple[bytes, ...]] = {}
    at = 4
    while at < len(data):
        if at + 8 > len(data):
            raise BtfError(f".BTF.ext section header is cut off at byte {at}")
        name, count = struct.unpack_from("<II", data, at)
        at, end = at + 8, at + 8 + count * size
        if end > len(data):
            raise BtfError(f".BTF.ext records of {btf.string(name)} end at byte {end} of {len(data)}")
        chunk = tuple(data[i : i + size] for i in range(at, end, size))
        records[btf.string(name)] = records.get(btf.string(name), ()) + chunk
        at = end
    return CodeInfo(size, records)


def _pack(part: CodeInfo, rewrite: BtfRewrite) -> bytes:
    if not part.records:
        return b""
    body = _WORD.pack(part.record_size)
    for section, records in part.records.items():
        body += struct.pack("<II", rewrite.string(section), len(records)) + b"".join(records)
    return body
