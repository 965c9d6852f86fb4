"""Turns a program's object into a stage of the XDP chain: its entry becomes a global function to link.

The entry's section moves behind .text, global names get a prefix, data sections get names of their own, and
whatever the chain does not run is left out. So objects that use the same names link into one program, every
stage keeps its own maps, and the verifier checks each stage apart, as it does with global functions.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_rewrite import BtfExt, BtfRewrite, parse_ext
from kubebee.bpf.btf_types import Datasec, Enum, Func, FuncProto, Int, Kind, Linkage, Var
from kubebee.bpf.elf import (
    R_BPF_64_32,
    R_BPF_64_64,
    STB_LOCAL,
    STT_SECTION,
    UNDEFINED,
    Elf,
    Reloc,
    Section,
    Symbol,
    parse_elf,
)
from kubebee.errors import KubebeeError

# What license_is_gpl_compatible() in include/linux/license.h takes.
GPL_COMPATIBLE: Final = frozenset(
    {"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"}
)
_DATA: Final = re.compile(r"\.(data|bss|rodata)(\..*)?")
_PREFIX: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_INSN: Final = 8


class StageError(KubebeeError):
    """The object is sound but cannot be a stage of the chain."""

    reason = "UnsuitableStage"


def as_stage(elf: bytes, entry: str, prefix: str, symbol: str = "") -> bytes:
    """The object with function ``entry`` as a global function, to be linked into a chain.

    It is called ``<prefix>_<entry>``, or ``symbol`` if given. All other global names get the prefix.

    Raises ElfError, BtfError or StageError; ElfError FunctionNotFound if there is no such function.
    """
    if not _PREFIX.fullmatch(prefix):
        raise StageError(f"{prefix!r} is no prefix for C names")
    whole = parse_elf(elf)
    function = whole.function(entry)
    if not function.is_global:
        raise StageError(f"{entry} is static", hint="a program's entry function must not be static")
    _check_license(whole)
    if not whole.section(".BTF"):
        raise StageError("the object has no BTF", hint="compile with -g")
    kept = whole.keep([i for i, s in enumerate(whole.sections) if _belongs(s, function.section)])
    moved, shift = _move_code(kept, function.section)
    return _rename(
        moved, entry, symbol or stage_symbol(entry, prefix), prefix, function.section, shift
    ).to_bytes()


def stage_symbol(entry: str, prefix: str) -> str:
    """The name under which a dispatcher calls the stage."""
    return f"{prefix}_{entry}"


def stage_maps(elf: bytes, prefix: str) -> dict[str, str]:
    """Names of the object's maps, data sections included, as libbpf says them -> their names in the stage."""
    model = parse_elf(elf)
    section = model.index(".maps")
    names = {s.name: f"{prefix}_{s.name}" for s in model.symbols if s.section == section >= 0 and s.is_global}
    return names | {s.name: _section_name(s.name, prefix) for s in model.sections if _is_data(s)}


def _is_data(section: Section) -> bool:
    return section.size > 0 and bool(_DATA.fullmatch(section.name))


def _belongs(section: Section, entry_section: str) -> bool:
    known = {".text", ".maps", ".BTF", ".BTF.ext", ".addr_space.1", entry_section}
    return section.name in known or _is_data(section)


def _section_name(name: str, prefix: str) -> str:
    found = _DATA.fullmatch(name)
    return f".{found[1]}.{prefix}{found[2] or ''}" if found else name


def _check_license(elf: Elf) -> None:
    text = elf.license()
    if text not in GPL_COMPATIBLE:
        raise StageError(
            f'license "{text}" is not compatible with the GPL' if text else "the object names no license",
            reason="LicenseRefused",
            hint='an interface\'s programs become one: SEC("license") must say "GPL" or "Dual BSD/GPL"',
        )


def _move_code(elf: Elf, entry_section: str) -> tuple[Elf, int]:
    """Put the entry's section behind .text; returns also by how many bytes it moved."""
    source, target = elf.index(entry_section), elf.index(".text")
    if source == target:
        return elf, 0
    if target == UNDEFINED:
        sections = list(elf.sections)
        sections[source] = replace(sections[source], name=".text")
        return replace(elf, sections=tuple(sections)), 0
    text, code = elf.sections[target], elf.sections[source]
    shift = text.size
    anchor = _section_symbol(elf, target)
    symbols = list(elf.symbols)
    if anchor is None:
        anchor = len(symbols)
        symbols.append(Symbol("", 0, 0, STB_LOCAL, STT_SECTION, 0, target))
    old_anchor = _section_symbol(elf, source)

    data = bytearray(text.data + code.data)
    shifted = (Reloc(r.offset + shift, r.type, r.symbol) for r in code.relocs)
    relocs = tuple(_anchor(r, data, old_anchor, anchor, shift) for r in (*text.relocs, *shifted))
    for i, symbol in enumerate(symbols):
        if symbol.section == source and i != old_anchor:
            symbols[i] = replace(symbol, section=target, value=symbol.value + shift)
    sections = list(elf.sections)
    align = max(text.align, code.align)
    sections[target] = replace(text, data=bytes(data), size=len(data), align=align, relocs=relocs)
    merged = Elf(elf.flags, tuple(sections), tuple(symbols))
    return merged.keep([i for i in range(len(sections)) if i != source]), shift


def _section_symbol(elf: Elf, section: int) -> int | None:
    found = (i for i, s in enumerate(elf.symbols) if s.type == STT_SECTION and s.section == section)
    return next(found, None)


def _anchor(reloc: Reloc, code: bytearray, old: int | None, new: int, shift: int) -> Reloc:
    """Let a reference to a static function of the moved section count from the start of .text."""
    if reloc.symbol != old:
        return reloc
    # Calls count in instructions, addresses of functions (callbacks) in bytes.
    step = {R_BPF_64_32: shift // _INSN, R_BPF_64_64: shift}.get(reloc.type)
    if step is None:
        raise StageError(f"relocation type {reloc.type} of .text+{reloc.offset:#x} is not known")
    (immediate,) = struct.unpack_from("<i", code, reloc.offset + 4)
    struct.pack_into("<i", code, reloc.offset + 4, immediate + step)
    return replace(reloc, symbol=new)


def _rename(elf: Elf, entry: str, symbol: str, prefix: str, entry_section: str, shift: int) -> Elf:
    """Prefix names in the symbol table, the sections and the BTF alike."""
    renamed = {s.name: f"{prefix}_{s.name}" for s in elf.symbols if s.is_global and s.section >= 0}
    renamed[entry] = symbol
    btf_section, ext_section = elf.section(".BTF"), elf.section(".BTF.ext")
    assert btf_section is not None
    btf = Btf(btf_section.data)
    rewrite = BtfRewrite(btf)
    ext = None
    if ext_section is not None:
        ext = parse_ext(ext_section.data, btf).move(entry_section, ".text", shift)
        rewrite.keep(ext.functions.type_ids() | ext.relocations.type_ids())
    _edit_types(btf, rewrite, elf, renamed, prefix)
    _fix_prototype(btf, rewrite, entry)
    contents = _contents(rewrite, ext)
    return Elf(
        elf.flags,
        tuple(
            replace(s, name=_section_name(s.name, prefix), data=data, size=len(data) or s.size)
            for s in elf.sections
            for data in [contents.get(s.name, s.data)]
        ),
        tuple(replace(s, name=renamed[s.name]) if s.is_global and s.section >= 0 else s for s in elf.symbols),
    )


def _contents(rewrite: BtfRewrite, ext: BtfExt | None) -> dict[str, bytes]:
    if ext is None:
        return {".BTF": rewrite.build()[0]}
    ext.to_bytes(rewrite)  # adds its strings to the BTF, before that is packed
    types, new = rewrite.build()
    final = BtfExt(ext.functions.map_types(new), ext.lines, ext.relocations.map_types(new))
    return {".BTF": types, ".BTF.ext": final.to_bytes(rewrite)}


def _edit_types(btf: Btf, rewrite: BtfRewrite, elf: Elf, renamed: Mapping[str, str], prefix: str) -> None:
    sections = {section.name for section in elf.sections}
    externs = {s.name for s in elf.symbols if s.section == UNDEFINED}
    for type_id in btf.each(Kind.FUNC):
        func = btf.expect(type_id, Func)
        if func.linkage == Linkage.GLOBAL and func.name in renamed:
            rewrite.rename(type_id, renamed[func.name])
        if func.linkage == Linkage.EXTERN and func.name in externs:
            rewrite.keep([type_id])
    for type_id in btf.each(Kind.VAR):
        var = btf.expect(type_id, Var)
        if var.linkage == Linkage.GLOBAL and var.name in renamed:
            rewrite.rename(type_id, renamed[var.name])
    for type_id in btf.each(Kind.DATASEC):
        datasec = btf.expect(type_id, Datasec)
        if datasec.name in sections:
            rewrite.rename(type_id, _section_name(datasec.name, prefix))
            rewrite.keep([type_id])
        elif used := {v.type for v in datasec.variables if _is_extern(btf, v.type, externs)}:
            rewrite.filter_datasec(type_id, used)  # .ksyms and .kconfig have no ELF section
            rewrite.keep([type_id])


def _is_extern(btf: Btf, type_id: int, externs: set[str]) -> bool:
    found = btf[type_id]
    return isinstance(found, Var | Func) and found.linkage == Linkage.EXTERN and found.name in externs


def _fix_prototype(btf: Btf, rewrite: BtfRewrite, entry: str) -> None:
    """Declare the entry as ``int f(struct xdp_md *)``: linking compares it with the dispatcher's extern."""
    func_id = btf.find(entry, Kind.FUNC)
    if func_id is None:
        raise StageError(f"the object's BTF does not know {entry}", hint="compile with -g")
    proto = btf.expect(btf.expect(func_id, Func).proto, FuncProto)
    returns = btf[btf.resolve(proto.returns)]
    if not isinstance(returns, Int | Enum) or len(proto.params) > 1:
        raise StageError(f"{entry} is not like int {entry}(struct xdp_md *ctx)")
    context = btf.find("xdp_md", Kind.STRUCT)
    if context is None:
        raise StageError(
            f"{entry} does not take struct xdp_md *", hint=f"declare int {entry}(struct xdp_md *ctx)"
        )
    number = btf.find("int", Kind.INT)
    if number is None:
        number = rewrite.add(Kind.INT, "int", 4, (1 << 24 | 32,))
    pointer = rewrite.add(Kind.PTR, "", context)
    argument = rewrite.string(proto.params[0][0] if proto.params else "ctx")
    rewrite.retarget(func_id, rewrite.add(Kind.FUNC_PROTO, "", number, (argument, pointer), count=1))
    rewrite.keep([func_id])
