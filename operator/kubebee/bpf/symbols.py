"""Where a function lies in an ELF file: the offset that a uprobe is set at."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from kubebee.errors import KubebeeError

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")  # type, flags, offset, vaddr, paddr, filesz, memsz, align
_SHDR = struct.Struct("<IIQQQQIIQQ")  # name, type, flags, addr, offset, size, link, info, align, entsize
_SYM = struct.Struct("<IBBHQQ")  # name, info, other, shndx, value, size
_PT_LOAD = 1
_SHT_SYMTAB, _SHT_DYNSYM = 2, 11
_STT_FUNC, _STT_GNU_IFUNC = 2, 10


class SymbolError(KubebeeError):
    """A file has no such function, or is no ELF file."""

    reason = "SymbolNotFound"


def file_offset(path: str | Path, symbol: str) -> int:
    """Return the offset in the file, in bytes, of a function's first instruction.

    Args:
        path: a little-endian ELF64 executable or library.
        symbol: the function's name, without version; from .symtab, else .dynsym.

    Raises:
        SymbolError: no ELF file, stripped, or no such function.
    """
    where = str(path)
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as image:
            return _find(image, symbol, where)
    except OSError as error:
        raise SymbolError(f"cannot read the file: {error.strerror}", where=where) from error
    except (ValueError, struct.error) as error:  # empty, or headers that point past the end
        raise SymbolError("not a complete ELF file", where=where) from error


def _find(image: mmap.mmap, symbol: str, where: str) -> int:
    if image[:6] != b"\x7fELF\x02\x01":
        raise SymbolError("not a 64-bit little-endian ELF file", where=where)
    _, _, _, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, _ = _EHDR.unpack_from(image)
    sections = [_SHDR.unpack_from(image, shoff + i * shentsize) for i in range(shnum)]
    wanted = symbol.encode()
    for address in _addresses(image, sections, wanted):
        for i in range(phnum):
            kind, _, offset, vaddr, _, filesz, _, _ = _PHDR.unpack_from(image, phoff + i * phentsize)
            if kind == _PT_LOAD and vaddr <= address < vaddr + filesz:
                return int(address - vaddr + offset)
    raise SymbolError(
        f"no function {symbol}", where=where, hint=f"list what it has: nm {where}, or nm -D {where}"
    )


def _addresses(image: mmap.mmap, sections: list[tuple[int, ...]], wanted: bytes) -> Iterator[int]:
    """Yield the virtual addresses of defined functions with the name."""
    for _, kind, _, _, offset, size, strings, _, _, _ in sections:
        if kind not in (_SHT_SYMTAB, _SHT_DYNSYM):
            continue
        _, _, _, _, names, names_size, _, _, _, _ = sections[strings]
        for name, info, _, section, value, _ in _SYM.iter_unpack(image[offset : offset + size]):
            if info & 0xF not in (_STT_FUNC, _STT_GNU_IFUNC) or section == 0 or name >= names_size:
                continue
            end = names + name + len(wanted)
            if image[names + name : end] == wanted and image[end] in b"\0@":
                yield value
