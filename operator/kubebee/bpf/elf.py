"""A pure model of what clang writes for BPF: little-endian ELF64 relocatable objects, read and written back.

Section and symbol names are text, references between them are indexes into the model's own tuples: an edit is
a new ``Elf``, and the writer lays out string tables, symbol table and relocation sections anew.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from kubebee.errors import KubebeeError

SHT_PROGBITS: Final = 1
SHT_SYMTAB: Final = 2
SHT_STRTAB: Final = 3
SHT_RELA: Final = 4
SHT_NOBITS: Final = 8
SHT_REL: Final = 9
SHF_WRITE: Final = 1
SHF_ALLOC: Final = 2
SHF_EXECINSTR: Final = 4

STB_LOCAL: Final = 0
STT_NOTYPE: Final = 0
STT_OBJECT: Final = 1
STT_FUNC: Final = 2
STT_SECTION: Final = 3
STT_FILE: Final = 4

R_BPF_64_64: Final = 1
R_BPF_64_32: Final = 10

# Where a symbol lives when it is in no section; outside the range of tuple indexes on purpose.
UNDEFINED: Final = -1
ABSOLUTE: Final = -2
COMMON: Final = -3

_SPECIAL: Final = {0: UNDEFINED, 0xFFF1: ABSOLUTE, 0xFFF2: COMMON}
_SPECIAL_OUT: Final = {index: number for number, index in _SPECIAL.items()}

_EM_BPF: Final = 247
_MAX_ALIGN: Final = 4096
_MAX_SECTION: Final = 64 << 20  # bounds what a section without bytes (.bss) makes readers allocate
_MACHINES: Final = {3: "x86 (32 bit)", 40: "ARM", 62: "x86-64", 183: "AArch64", 22: "s390", 21: "PowerPC64"}
_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_REL: Final = struct.Struct("<QII")  # r_info split: type in the low word, symbol in the high word


class ElfError(KubebeeError):
    """The bytes are no BPF object that can be used; the message says at which place."""

    reason = "CorruptObject"


@dataclass(frozen=True)
class Reloc:
    """One relocation: ``offset`` in bytes into its section, ``symbol`` an index into ``Elf.symbols``."""

    offset: int
    type: int
    symbol: int


@dataclass(frozen=True)
class Section:
    """One section with its relocations; ``size`` counts also where there are no bytes (SHT_NOBITS)."""

    name: str
    type: int
    flags: int
    align: int
    entry_size: int
    size: int
    data: bytes
    relocs: tuple[Reloc, ...] = ()

    @property
    def is_code(self) -> bool:
        """Whether the section holds instructions."""
        return bool(self.flags & SHF_EXECINSTR) and self.type == SHT_PROGBITS


@dataclass(frozen=True)
class Symbol:
    """One symbol; ``section`` is an index into ``Elf.sections`` or UNDEFINED, ABSOLUTE, COMMON."""

    name: str
    value: int
    size: int
    binding: int
    type: int
    visibility: int
    section: int

    @property
    def is_global(self) -> bool:
        """Global or weak: seen by other objects when linked."""
        return self.binding != STB_LOCAL


@dataclass(frozen=True)
class Function:
    """A function as the object defines it; ``offset`` and ``size`` in bytes in its section."""

    name: str
    section: str
    offset: int
    size: int
    is_global: bool


@dataclass(frozen=True)
class Elf:
    """An object: sections in file order, symbols without the null one."""

    flags: int
    sections: tuple[Section, ...]
    symbols: tuple[Symbol, ...]

    def section(self, name: str) -> Section | None:
        """The first section of this name."""
        return next((section for section in self.sections if section.name == name), None)

    def index(self, name: str) -> int:
        """The index of the first section of this name, UNDEFINED if there is none."""
        return next((i for i, section in enumerate(self.sections) if section.name == name), UNDEFINED)

    def functions(self) -> tuple[Function, ...]:
        """Functions that the object defines, in the order of the symbol table."""
        return tuple(
            Function(s.name, self.sections[s.section].name, s.value, s.size, s.is_global)
            for s in self.symbols
            if s.type == STT_FUNC and s.section >= 0
        )

    def function(self, name: str) -> Function:
        """The function of this name; else ElfError (FunctionNotFound) with the names that exist."""
        functions = self.functions()
        found = next((function for function in functions if function.name == name), None)
        if found is None:
            known = ", ".join(sorted(f"{f.name} ({f.section})" for f in functions)) or "none"
            raise ElfError(
                f"the object has no function {name}",
                reason="FunctionNotFound",
                hint=f"functions in it: {known}",
            )
        return found

    def license(self) -> str:
        """The text of section ``license``, empty when there is none."""
        section = self.section("license")
        return section.data.split(b"\0")[0].decode(errors="replace") if section else ""

    def keep(self, sections: Collection[int]) -> Elf:
        """Only these sections, their symbols, and what they refer to outside of all sections."""
        new_section = {old: new for new, old in enumerate(sorted(sections))}
        used = {reloc.symbol for index in new_section for reloc in self.sections[index].relocs}
        kept = [
            i
            for i, symbol in enumerate(self.symbols)
            if (symbol.section in new_section or (symbol.section < 0 and i in used))
            and symbol.type != STT_FILE
        ]
        new_symbol = {old: new for new, old in enumerate(kept)}
        return Elf(
            self.flags,
            tuple(_renumber(self, self.sections[index], new_symbol) for index in new_section),
            tuple(
                replace(self.symbols[i], section=new_section.get(s, s))
                for i in kept
                for s in [self.symbols[i].section]
            ),
        )

    def without_debug(self) -> Elf:
        """Without DWARF and what only other tools read; BTF stays."""
        return self.keep([i for i, section in enumerate(self.sections) if not is_debug(section.name)])

    def to_bytes(self) -> bytes:
        """The object as a file."""
        return _Writer().write(self)


def is_debug(section_name: str) -> bool:
    """Sections that neither libbpf nor the kernel reads."""
    return section_name.startswith(".debug_") or section_name in {".llvm_addrsig", ".eh_frame", ".comment"}


def _renumber(elf: Elf, section: Section, symbols: dict[int, int]) -> Section:
    for reloc in section.relocs:
        if reloc.symbol not in symbols:
            target = elf.symbols[reloc.symbol]
            name = target.name or (elf.sections[target.section].name if target.section >= 0 else "?")
            raise ElfError(
                f"{section.name}+{reloc.offset:#x} refers to {name}, which is not part of it",
                reason="UnsupportedObject",
                hint="a function, table or variable used here must not refer to another program's section",
            )
    return replace(section, relocs=tuple(replace(r, symbol=symbols[r.symbol]) for r in section.relocs))


def parse_elf(data: bytes) -> Elf:
    """Read an object; raises ElfError with reason CorruptObject or WrongMachine."""
    return _Reader(data).read()


@dataclass(frozen=True)
class _Header:
    name: int
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry_size: int


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> Elf:
        flags, names_index, headers = self._headers()
        if not 0 < names_index < len(headers):
            raise ElfError(f"section name table {names_index} is not among {len(headers)} sections")
        names = self._content(headers[names_index], "section names")
        tables = [i for i, header in enumerate(headers) if header.type == SHT_SYMTAB]
        if len(tables) != 1:
            raise ElfError(f"{len(tables)} symbol tables where one is expected")
        symtab = headers[tables[0]]
        if not 0 < symtab.link < len(headers):
            raise ElfError(f"symbol name table {symtab.link} is not among {len(headers)} sections")
        kept = [
            i
            for i, header in enumerate(headers)
            if i not in {0, names_index, symtab.link} and header.type not in {SHT_SYMTAB, SHT_REL}
        ]
        place = {old: new for new, old in enumerate(kept)}
        symbols = self._symbols(symtab, self._content(headers[symtab.link], "symbol names"), place, headers)
        relocs = self._relocs(headers, names, tables[0], len(symbols), place)
        sections = []
        for i in kept:
            header, name = headers[i], _name(names, headers[i].name, f"section {i}")
            if header.type == SHT_RELA:
                raise ElfError(f"{name}: relocations with addends are not used in BPF objects")
            content = b"" if header.type == SHT_NOBITS else self._content(header, name)
            if header.align & (header.align - 1) or header.align > _MAX_ALIGN or header.size > _MAX_SECTION:
                raise ElfError(f"{name}: {header.size} bytes aligned to {header.align} are no BPF section")
            if header.flags & SHF_EXECINSTR and header.size % 8:
                raise ElfError(f"{name}: {header.size} bytes are not whole instructions of 8")
            sections.append(
                Section(
                    name, header.type, header.flags, header.align, header.entry_size, header.size, content,
                    tuple(relocs.get(i, ())),
                )
            )  # fmt: skip
        return Elf(flags, tuple(sections), tuple(symbols))

    def _headers(self) -> tuple[int, int, list[_Header]]:
        data = self._data
        if data[:4] != b"\x7fELF":
            raise ElfError("not an ELF object", hint="give what `clang -target bpf -c` writes")
        if len(data) < _EHDR.size:
            raise ElfError(f"the ELF header is cut off at {len(data)} of {_EHDR.size} bytes")
        if data[4] != 2 or data[5] != 1:
            kind = f"{'32' if data[4] == 1 else '64'}-bit {'big' if data[5] == 2 else 'little'}-endian"
            raise ElfError(
                f"{kind} ELF, not 64-bit little-endian", reason="WrongMachine", hint="-target bpfel"
            )
        _, type_, machine, _, _, _, start, flags, _, _, _, entry, count, names = _EHDR.unpack_from(data)
        if machine != _EM_BPF:
            known = _MACHINES.get(machine, f"machine {machine}")
            raise ElfError(f"object for {known}, not BPF", reason="WrongMachine", hint="-target bpf")
        if type_ != 1:
            raise ElfError(f"ELF type {type_}, not a relocatable object", hint="compile with -c, do not link")
        if entry != _SHDR.size or not count:
            raise ElfError(f"{count} section headers of {entry} bytes, not {_SHDR.size}")
        if start + count * entry > len(data):
            raise ElfError(f"section headers end at byte {start + count * entry} of a file of {len(data)}")
        headers = []
        for fields in _SHDR.iter_unpack(data[start : start + count * entry]):
            name, kind_, section_flags, _, offset, size, link, info, align, entry_size = fields
            headers.append(_Header(name, kind_, section_flags, offset, size, link, info, align, entry_size))
        return flags, names, headers

    def _content(self, header: _Header, name: str) -> bytes:
        end = header.offset + header.size
        if end > len(self._data):
            raise ElfError(f"{name} ends at byte {end} of a file of {len(self._data)}")
        return self._data[header.offset : end]

    def _symbols(
        self, table: _Header, names: bytes, place: dict[int, int], headers: list[_Header]
    ) -> list[Symbol]:
        content = self._content(table, "symbol table")
        if not content or len(content) % _SYM.size:
            raise ElfError(f"symbol table of {len(content)} bytes does not hold whole symbols of {_SYM.size}")
        symbols = []
        for i, (name, info, other, number, value, size) in enumerate(_SYM.iter_unpack(content)):
            if i == 0:
                continue
            text = _name(names, name, f"symbol {i}")
            section = _SPECIAL.get(number, place.get(number))
            if section is None:
                raise ElfError(f"symbol {text or i} is in section {number}, which does not exist")
            if section >= 0 and value + size > headers[number].size:
                raise ElfError(f"symbol {text or i} ends at byte {value + size}, behind its section's end")
            symbols.append(Symbol(text, value, size, info >> 4, info & 15, other, section))
        return symbols

    def _relocs(
        self, headers: list[_Header], names: bytes, symtab: int, symbols: int, place: dict[int, int]
    ) -> dict[int, list[Reloc]]:
        relocs: dict[int, list[Reloc]] = {}
        for i, header in enumerate(headers):
            if header.type != SHT_REL:
                continue
            name = _name(names, header.name, f"section {i}")
            if name in {".rel.BTF", ".rel.BTF.ext"}:  # their values are in place; libbpf reads neither
                continue
            if header.info not in place or header.link != symtab:
                raise ElfError(f"{name}: relocates section {header.info} with symbols of {header.link}")
            content = self._content(header, name)
            if len(content) % _REL.size:
                raise ElfError(f"{name}: {len(content)} bytes do not hold whole relocations of {_REL.size}")
            limit = headers[header.info].size
            for offset, type_, symbol in _REL.iter_unpack(content):
                if not 0 < symbol <= symbols or offset + 4 > limit:
                    raise ElfError(f"{name}: relocation of byte {offset} by symbol {symbol} is out of range")
                relocs.setdefault(header.info, []).append(Reloc(offset, type_, symbol - 1))
        return relocs


def _name(table: bytes, offset: int, whose: str) -> str:
    end = table.find(b"\0", offset)
    if offset >= len(table) or end < 0:
        raise ElfError(f"the name of {whose} is at byte {offset} of a table of {len(table)}")
    try:
        return table[offset:end].decode()
    except UnicodeDecodeError:
        raise ElfError(f"the name of {whose} is not text") from None


class _Writer:
    def __init__(self) -> None:
        self._strings = bytearray(b"\0")
        self._offsets: dict[str, int] = {"": 0}
        self._body = bytearray(_EHDR.size)
        self._headers = bytearray(_SHDR.size)  # the null section

    def write(self, elf: Elf) -> bytes:
        # Local symbols come first in an ELF symbol table (sh_info is where the others begin).
        order = sorted(range(len(elf.symbols)), key=lambda i: elf.symbols[i].is_global)
        number = {old: new for new, old in enumerate(order, start=1)}
        for s in elf.sections:
            self._section(s.name, s.type, s.flags, s.data, size=s.size, align=s.align, entry=s.entry_size)
        symtab = len(elf.sections) + sum(bool(s.relocs) for s in elf.sections) + 1
        for i, s in enumerate(elf.sections, start=1):
            if s.relocs:
                content = b"".join(_REL.pack(r.offset, r.type, number[r.symbol]) for r in s.relocs)
                self._section(".rel" + s.name, SHT_REL, 0, content, align=8, entry=16, link=symtab, info=i)
        locals_ = 1 + sum(not symbol.is_global for symbol in elf.symbols)
        content = bytes(_SYM.size) + b"".join(self._symbol(elf.symbols[i]) for i in order)
        self._section(
            ".symtab", SHT_SYMTAB, 0, content, align=8, entry=_SYM.size, link=symtab + 1, info=locals_
        )
        self._string(".strtab")
        self._section(".strtab", SHT_STRTAB, 0, bytes(self._strings))
        self._body += bytes(-len(self._body) % 8)
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        self._body[: _EHDR.size] = _EHDR.pack(
            ident, 1, _EM_BPF, 1, 0, 0, len(self._body), elf.flags, _EHDR.size, 0, 0, _SHDR.size,
            symtab + 2, symtab + 1,
        )  # fmt: skip
        return bytes(self._body + self._headers)

    def _string(self, text: str) -> int:
        if text not in self._offsets:
            self._offsets[text] = len(self._strings)
            self._strings += text.encode() + b"\0"
        return self._offsets[text]

    def _symbol(self, symbol: Symbol) -> bytes:
        section = _SPECIAL_OUT[symbol.section] if symbol.section < 0 else symbol.section + 1
        info = symbol.binding << 4 | symbol.type
        return _SYM.pack(
            self._string(symbol.name), info, symbol.visibility, section, symbol.value, symbol.size
        )

    def _section(
        self, name: str, type_: int, flags: int, data: bytes, *,
        size: int | None = None, align: int = 1, entry: int = 0, link: int = 0, info: int = 0,
    ) -> None:  # fmt: skip
        self._body += bytes(-len(self._body) % max(align, 1))
        self._headers += _SHDR.pack(
            self._string(name), type_, flags, 0, len(self._body), len(data) if size is None else size,
            link, info, align, entry,
        )  # fmt: skip
        self._body += data
