"""C source to BPF object with clang: cached, sandboxed, errors in the user's own lines."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from kubebee.errors import UnsupportedError
from kubebee.toolchain import diagnostics, sandbox, vmlinux
from kubebee.toolchain.cache import Entry, ObjectCache, default_directory
from kubebee.toolchain.clang import Clang, find_clang, flags
from kubebee.toolchain.errors import CompileError, SandboxError

MAX_SOURCE_BYTES = 1 << 20
_MAX_LOG_CHARS = 16 << 10
_SOURCES = "/src"
_BUILTIN_INCLUDE = "/kubebee"
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]{0,254}")
_MACRO_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# Part of every key: raise it when the same input must give another object.
_KEY_VERSION = "1"


@dataclass(frozen=True)
class CompileRequest:
    """What to compile.

    Attributes:
        source: the C text, at most 1 MiB.
        filename: its name in messages and debug information, e.g. "my-program.c".
        headers: relative path -> text, for `#include "path"`.
        defines: macros given on the command line.
        builtin: kubebee's own source: every warning is an error.
        line_map: for a rendered template, where each line of `source` comes from.
        limits: what the compiler may use.
    """

    source: str
    filename: str = "program.c"
    headers: Mapping[str, str] = field(default_factory=dict)
    defines: Mapping[str, str] = field(default_factory=dict)
    builtin: bool = False
    line_map: diagnostics.LineMap = ()
    limits: sandbox.Limits = field(default_factory=sandbox.Limits)


@dataclass(frozen=True)
class CompileResult:
    """An ELF object for BPF; `warnings` are the compiler's and the cache's; `seconds` of wall time."""

    elf: bytes
    seconds: float
    cached: bool
    warnings: tuple[str, ...]


class ClangToolchain:
    """A compiler with its cache.

    Not bound to a thread or an event loop; compiles may run side by side.
    """

    def __init__(self, cache_directory: Path) -> None:
        self._directory = cache_directory
        self._cache = ObjectCache(cache_directory / "objects")

    async def compile(self, request: CompileRequest) -> CompileResult:
        """Compile, or take from the cache.

        Raises:
            CompileError: refused by us (too large, bad names), by the compiler, or by a limit.
            UnsupportedError: no compiler, sandbox, or kernel BTF.
        """
        start = time.monotonic()
        _refuse_bad_request(request)
        clang = find_clang()
        files = _input_files(request)
        key = _cache_key(request, files, clang)
        entry = self._cache.get(key)
        warnings: list[str] = []
        cached = entry is not None
        if entry is None:
            entry, notes = await self._run(request, files, clang)
            warnings += [note for note in (*notes, self._cache.put(key, entry)) if note]
        found = diagnostics.parse(entry.log)
        mapped = diagnostics.map_back(found, request.filename, request.line_map)
        warnings += [f"{d.where}: {d.text}" for d in mapped if d.severity == "warning"]
        return CompileResult(entry.elf, time.monotonic() - start, cached, tuple(warnings))

    async def prepare_headers(self) -> None:
        """Make vmlinux.h and its precompiled form, which takes over a second the first time.

        Raises:
            UnsupportedError: no compiler, sandbox, or kernel BTF.
        """
        await vmlinux.prepare(self._directory, find_clang())

    async def _run(
        self, request: CompileRequest, files: dict[str, bytes], clang: Clang
    ) -> tuple[Entry, tuple[str, ...]]:
        argv = [clang.path, *flags(), *_request_flags(request)]
        directories: dict[str, Path] = {}
        notes: tuple[str, ...] = ()
        if _wants_vmlinux(request):
            header = await vmlinux.prepare(self._directory, clang)
            notes = (header.warning,)
            if header.directory is None:
                files = {**files, f"{vmlinux.INSIDE}/vmlinux.h": header.text}
            else:
                directories[vmlinux.INSIDE] = header.directory
            argv += ["-isystem", vmlinux.INSIDE]
            if header.pch and not request.defines and vmlinux.comes_first(request.source):
                argv += ["-include-pch", f"{vmlinux.INSIDE}/{header.pch}"]
        argv += ["-c", "-x", "c", request.filename, "-o", "-"]
        job = sandbox.Job(argv, files, directories, cwd=_SOURCES, limits=request.limits)
        try:
            outcome = await sandbox.run(job)
        except SandboxError as error:
            where = error.where or request.filename
            raise CompileError(
                error.message, reason=error.reason, where=where, hint=error.hint, may_pass=error.may_pass
            ) from error
        log = _bounded(outcome.stderr.decode(errors="replace"))
        if outcome.returncode:
            raise compile_error(log, request.filename, request.line_map)
        return Entry(outcome.stdout, log), notes


def compile_c(request: CompileRequest, cache_directory: Path | None = None) -> CompileResult:
    """`ClangToolchain.compile` for callers without a running event loop; see there for errors."""
    toolchain = _toolchain(cache_directory or default_directory())
    return asyncio.run(toolchain.compile(request))


def compile_error(log: str, filename: str, line_map: diagnostics.LineMap) -> CompileError:
    """The error for a compiler's log, in the user's own lines."""
    found = diagnostics.map_back(diagnostics.parse(log), filename, line_map)
    log = diagnostics.map_log(log, filename, line_map)
    first = diagnostics.first_error(found)
    if first is None:
        lines = log.strip().splitlines() or ["the compiler failed and said nothing"]
        return CompileError(lines[0], where=filename, log=log, diagnostics=found)
    return CompileError(first.text, where=first.where, log=log, diagnostics=found)


def refuse_large(source: str, filename: str) -> None:
    """Raise CompileError for a source over 1 MiB, before any work is spent on it."""
    size = len(source.encode(errors="surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        raise CompileError(
            f"the source has {size} bytes, the limit is {MAX_SOURCE_BYTES}",
            reason="SourceTooLarge",
            where=filename,
            hint="split it, or compile it yourself and give the object",
        )


@functools.cache
def _toolchain(directory: Path) -> ClangToolchain:
    return ClangToolchain(directory)


def _refuse_bad_request(request: CompileRequest) -> None:
    texts = {request.filename: request.source, **request.headers}
    refuse_large("".join(texts.values()), request.filename)
    for name in (request.filename, *request.headers):
        if not _FILE_NAME.fullmatch(name) or ".." in PurePosixPath(name).parts or name.endswith("/"):
            raise CompileError(
                f"{name!r} is not a relative path of letters, digits and _.+-/",
                reason="InvalidFileName",
                where=request.filename,
            )
    for name, value in request.defines.items():
        if not _MACRO_NAME.fullmatch(name) or "\n" in value or "\0" in value:
            raise CompileError(
                f"{name!r} is not a macro that can be defined", reason="InvalidMacro", where=request.filename
            )
    if any("\0" in text for text in texts.values()):
        raise CompileError("the source has a NUL byte", reason="InvalidSource", where=request.filename)


def _wants_vmlinux(request: CompileRequest) -> bool:
    return any(vmlinux.is_included_by(text) for text in (request.source, *request.headers.values()))


def _input_files(request: CompileRequest) -> dict[str, bytes]:
    files = {f"{_SOURCES}/{name}": text.encode() for name, text in request.headers.items()}
    files[f"{_SOURCES}/{request.filename}"] = request.source.encode()
    # kubebee's headers are no part of a program that does not name them, so our upgrades keep its cache.
    if request.builtin or any("kubebee/" in text for text in (request.source, *request.headers.values())):
        root = resources.files("kubebee_templates").joinpath("include")
        files |= _header_tree(root, f"{_BUILTIN_INCLUDE}/kubebee")
    return files


def _header_tree(folder: Traversable, inside: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    if folder.is_dir():
        for item in sorted(folder.iterdir(), key=lambda item: item.name):
            if item.is_dir():
                files |= _header_tree(item, f"{inside}/{item.name}")
            elif item.name.endswith(".h"):
                files[f"{inside}/{item.name}"] = item.read_bytes()
    return files


def _request_flags(request: CompileRequest) -> list[str]:
    given = [f"-D{name}={value}" for name, value in sorted(request.defines.items())]
    if request.builtin:
        # -I, not -isystem: warnings in our own headers are errors too.
        return [*given, "-Werror", f"-I{_BUILTIN_INCLUDE}", f"-I{_BUILTIN_INCLUDE}/kubebee"]
    return [*given, f"-I{_SOURCES}", "-isystem", _BUILTIN_INCLUDE]


def _cache_key(request: CompileRequest, files: Mapping[str, bytes], clang: Clang) -> str:
    """Everything that the object depends on; each part with its length, so parts cannot run together."""
    try:
        btf_id = vmlinux.kernel_btf_id()
    except UnsupportedError:
        btf_id = "no BTF"
    state = hashlib.sha256()
    texts = (_KEY_VERSION, btf_id, clang.version, request.filename, *flags(), *_request_flags(request))
    parts = [text.encode() for text in texts]
    for path in sorted(files):
        parts += [path.encode(), files[path]]
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def _bounded(log: str) -> str:
    """The beginning: the first error is the one that counts."""
    return log if len(log) <= _MAX_LOG_CHARS else f"{log[:_MAX_LOG_CHARS]}\n[cut]\n"
