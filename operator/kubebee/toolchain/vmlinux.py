"""vmlinux.h of the running kernel and a precompiled header of it, made once per kernel and compiler.

Plain, the header costs clang 280 ms of a compile; precompiled 130 ms (clang 19, 2.8 MB header).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from kubebee.errors import UnsupportedError
from kubebee.toolchain import sandbox
from kubebee.toolchain.cache import write_atomically
from kubebee.toolchain.clang import Clang, flags
from kubebee.toolchain.errors import SandboxError

KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
INSIDE = "/vmlinux"
"""Where the sandbox sees the header; a precompiled header remembers this path."""

_DUMP_SECONDS = 20
_PCH_BYTES = 64 << 20
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_FIRST_DIRECTIVE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]vmlinux\.h[">]')


@dataclass(frozen=True)
class Vmlinux:
    """Where the header is.

    Attributes:
        directory: host directory to show at `INSIDE`; None when the cache cannot be written.
        text: the header itself in that case, else empty.
        pch: file name of the precompiled header in `directory`, or empty.
        warning: why one of them is missing, or empty.
    """

    directory: Path | None
    text: bytes = b""
    pch: str = ""
    warning: str = ""


def is_included_by(text: str) -> bool:
    """Whether `text` names the header at all (a comment counts: the cost is a mount)."""
    return "vmlinux.h" in text


def comes_first(source: str) -> bool:
    """Whether including the header is the first thing the source does.

    Only then may the precompiled one stand for it: a #define before it could change its meaning.
    """
    return _FIRST_DIRECTIVE.match(_COMMENT.sub("", source).lstrip()) is not None


@functools.cache
def kernel_btf_id() -> str:
    """sha256 of the kernel's BTF (10 ms, once per process).

    Raises:
        UnsupportedError: the kernel has no BTF.
    """
    try:
        return hashlib.sha256(KERNEL_BTF.read_bytes()).hexdigest()
    except OSError as error:
        raise UnsupportedError(
            f"{KERNEL_BTF}: {error.strerror}; CO-RE programs need the kernel's types",
            hint="run a kernel built with CONFIG_DEBUG_INFO_BTF=y (Debian 11 and later)",
        ) from error


async def prepare(cache: Path, clang: Clang) -> Vmlinux:
    """The header for this kernel, from `cache` or made now.

    Raises:
        UnsupportedError: no kernel BTF or no bpftool.
    """
    directory = cache / "vmlinux" / kernel_btf_id()[:16]
    header = directory / "vmlinux.h"
    if not header.exists():
        text = await _dump()
        try:
            write_atomically(header, text)
            directory.chmod(0o755)
        except OSError as error:
            return Vmlinux(None, text, warning=f"vmlinux.h not cached in {directory}: {error.strerror}")
    pch = _pch_name(clang, header)
    if (directory / pch).exists():
        return Vmlinux(directory, pch=pch)
    try:
        write_atomically(directory / pch, await _precompile(directory, clang))
    except OSError as error:
        return Vmlinux(directory, warning=f"vmlinux.h not precompiled in {directory}: {error.strerror}")
    except SandboxError as error:
        return Vmlinux(directory, warning=f"vmlinux.h not precompiled: {error.message}")
    return Vmlinux(directory, pch=pch)


def _pch_name(clang: Clang, header: Path) -> str:
    """A precompiled header fits one compiler, one set of flags and one header file by size and mtime."""
    made_of = (clang.version, *flags(), str(header.stat().st_mtime_ns))
    return f"{hashlib.sha256(' '.join(made_of).encode()).hexdigest()[:16]}.pch"


async def _dump() -> bytes:
    bpftool = shutil.which("bpftool", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if bpftool is None:
        raise UnsupportedError(
            "bpftool is not installed, so vmlinux.h cannot be made", hint="apt-get install bpftool"
        )
    process = await asyncio.create_subprocess_exec(
        *(bpftool, "btf", "dump", "file", str(KERNEL_BTF), "format", "c"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_DUMP_SECONDS):
            text, log = await process.communicate()
    except TimeoutError:
        raise UnsupportedError(f"bpftool made no vmlinux.h within {_DUMP_SECONDS} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        said = log.decode(errors="replace").strip()
        raise UnsupportedError(f"bpftool made no vmlinux.h: {said}", where=str(KERNEL_BTF))
    return text


async def _precompile(directory: Path, clang: Clang) -> bytes:
    outcome = await sandbox.run(
        sandbox.Job(
            argv=(clang.path, *flags(), "-x", "c-header", f"{INSIDE}/vmlinux.h", "-o", "-"),
            directories={INSIDE: directory},
            limits=sandbox.Limits(output_bytes=_PCH_BYTES),
        )
    )
    if outcome.returncode:
        raise SandboxError(outcome.stderr.decode(errors="replace")[-1000:], reason="CompileFailed")
    return outcome.stdout
