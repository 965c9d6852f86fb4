"""Static linking of BPF objects by libbpf, as ``bpftool gen object`` does."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from contextlib import ExitStack

from kubebee.bpf.btf import Btf
from kubebee.bpf.btf_types import Datasec, Func, Kind, Var
from kubebee.bpf.elf import UNDEFINED, parse_elf
from kubebee.bpf.libbpf import captured_messages, library
from kubebee.bpf.syscall import errno_name
from kubebee.errors import KubebeeError


class LinkError(KubebeeError):
    """libbpf does not link the objects; the message has its words, objects counted from 1 as given."""

    reason = "LinkFailed"


def link(objects: Sequence[bytes]) -> bytes:
    """Link relocatable BPF objects into one; the first is the one that calls the others.

    Raises:
        LinkError: a symbol is missing or defined twice, declarations differ, or an object is not sound.
    """
    lib = library()
    with ExitStack() as files, captured_messages() as messages:
        # Memory files: libbpf knows objects by path only, and a full disk shall not stop a chain.
        output = _memory_file(files, b"")
        inputs = [_memory_file(files, content) for content in objects]
        names = {_path(fd): f"object {number}" for number, fd in enumerate(inputs, start=1)}
        linker = lib.bpf_linker__new(_path(output).encode(), None)
        if not linker:
            raise _error(ctypes.get_errno(), messages, names)
        try:
            for fd in inputs:
                if error := lib.bpf_linker__add_file(linker, _path(fd).encode(), None):
                    raise _error(-error, messages, names)
            if error := lib.bpf_linker__finalize(linker):
                raise _error(-error, messages, names)
        finally:
            lib.bpf_linker__free(linker)
        linked = _content(output)
    _check_defined(linked)
    return linked


def _check_defined(linked: bytes) -> None:
    """Libbpf leaves what is missing to the loading, which then only says ENOENT."""
    elf = parse_elf(linked)
    section = elf.section(".BTF")
    btf = Btf(section.data if section else b"")
    sections = (btf.expect(type_id, Datasec) for type_id in btf.each(Kind.DATASEC))
    # Externs that the kernel provides (kfuncs, kernel variables, its configuration) have data sections.
    found = (btf[placed.type] for datasec in sections for placed in datasec.variables)
    provided = {type_.name for type_ in found if isinstance(type_, Var | Func)}
    missing = sorted({s.name for s in elf.symbols if s.section == UNDEFINED} - provided)
    if missing:
        raise LinkError(f"no object defines {', '.join(missing)}", reason="UndefinedSymbol")


def _memory_file(files: ExitStack, content: bytes) -> int:
    fd = os.memfd_create("object")
    files.callback(os.close, fd)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(content)
    return fd


def _path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _content(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    content = os.pread(fd, size, 0)
    assert len(content) == size
    return content


def _error(number: int, messages: list[str], names: dict[str, str]) -> LinkError:
    text = "; ".join(message.removeprefix("libbpf: ").strip() for message in messages)
    for path, name in names.items():
        text = text.replace(path, name)
    return LinkError(text or f"libbpf says {errno_name(number)} and no more")
