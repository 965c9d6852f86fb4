"""From a unit's bundles to ELF objects and their facts, through the compile cache."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from kubebee.errors import KubebeeError
from kubebee.loader import bcc
from kubebee.loader.bcc import MadeByBcc
from kubebee.loader.facts import FACTS_VERSION, ObjectFacts, read_facts
from kubebee.loader.host_files import HostFiles
from kubebee.loader.unit import CodeObject, Unit
from kubebee.planner.plan import Bundle, ResourceKey, Toolchain
from kubebee.toolchain import object as elf_source
from kubebee.toolchain.compile import ClangToolchain, CompileRequest

PARALLEL_COMPILES = 2


@dataclass(frozen=True)
class Compiled:
    """One object of a unit.

    Attributes:
        elf: empty for BCC, which loads what it compiles and leaves no object.
        seconds: wall time, also of a cache hit.
        made: what BCC loaded; None if an earlier version of the same is to be adopted.
    """

    code: CodeObject
    elf: bytes
    facts: ObjectFacts
    seconds: float
    cached: bool
    warnings: tuple[str, ...] = ()
    made: MadeByBcc | None = None


class StillCompilingError(KubebeeError):
    """The compiler is still at work on it."""

    reason = "Compiling"


@dataclass
class _Work:
    """A unit that is being compiled; `late` once somebody stopped waiting for it."""

    objects: tuple[CodeObject, ...]
    task: asyncio.Task[tuple[Compiled, ...]]
    late: bool = False


class Compiler:
    """Compiles bundles, two at a time, and remembers the facts of what it made.

    Attributes:
        on_late: called when something is compiled that nobody waited for.

    Args:
        cache: directory of the compile cache.
        adoptable: whether what BCC would make of a source is loaded already.
        files: of the node, for objects that are given by path; None: of this machine.
    """

    def __init__(
        self,
        cache: Path,
        adoptable: Callable[[ResourceKey, Compiled], bool] = lambda _key, _item: False,
        files: HostFiles | None = None,
    ) -> None:
        self.on_late: Callable[[], None] = lambda: None
        self._adoptable, self._files = adoptable, files or HostFiles()
        self._work: dict[ResourceKey, _Work] = {}
        self._clang = ClangToolchain(cache)
        self._facts_directory = cache / "facts"
        self._slots = asyncio.Semaphore(PARALLEL_COMPILES)
        self._facts: dict[str, ObjectFacts] = {}

    async def unit(self, unit: Unit, patience: float | None = None) -> tuple[Compiled, ...]:
        """All objects of a unit.

        Args:
            unit: what to compile; work on an older version of it is given up.
            patience: seconds to wait. What takes longer goes on, and `on_late` is called when it is done:
                ask again then.

        Raises:
            StillCompilingError: it takes longer than that.
            CompileError: the compiler refuses a source, or a limit stopped it.
            KubebeeError: an object can't be read.
        """
        work = self._work.get(unit.key)
        if work is None or work.objects != unit.objects:
            self.forget(unit.key)
            work = self._work[unit.key] = _Work(unit.objects, asyncio.create_task(self._all_of(unit)))
        done, _ = await asyncio.wait([work.task], timeout=0 if work.late else patience)
        if not done:
            if not work.late:
                work.late = True
                work.task.add_done_callback(self._late)
            raise StillCompilingError("the compiler is still at work", where=str(unit.key))
        if self._work.get(unit.key) is work:
            del self._work[unit.key]
        return work.task.result()

    def forget(self, key: ResourceKey) -> None:
        """Give up work on a unit."""
        work = self._work.pop(key, None)
        if work is not None:
            work.task.cancel()

    def stop(self) -> None:
        """Give up all work."""
        for key in list(self._work):
            self.forget(key)

    def _late(self, task: asyncio.Task[tuple[Compiled, ...]]) -> None:
        if not task.cancelled():
            self.on_late()

    async def _all_of(self, unit: Unit) -> tuple[Compiled, ...]:
        return tuple(await asyncio.gather(*(self._object(unit.key, code) for code in unit.objects)))

    async def prepare_headers(self) -> None:
        """Make vmlinux.h and its precompiled form, if this kernel's are not there yet."""
        async with self._slots:
            await self._clang.prepare_headers()

    async def elf(self, bundle: Bundle) -> tuple[bytes, float, bool, tuple[str, ...]]:
        """ELF object of a bundle: (bytes, seconds, cached, warnings); errors as for `unit`."""
        if bundle.toolchain is Toolchain.OBJECT:
            return self._given_object(bundle), 0.0, False, ()
        request = CompileRequest(
            source=bundle.source,
            filename=bundle.filename,
            headers=dict(bundle.headers),
            builtin=bundle.trusted,
            line_map=bundle.line_map,
        )
        async with self._slots:
            result = await self._clang.compile(request)
        return result.elf, result.seconds, result.cached, result.warnings

    def _given_object(self, bundle: Bundle) -> bytes:
        if not bundle.path:
            return elf_source.from_base64(bundle.source, bundle.sha256)
        try:
            return elf_source.from_path(self._files.find(bundle.path), bundle.sha256)
        except elf_source.ObjectError as error:
            error.where = bundle.path
            if error.reason == "ObjectNotFound":
                error.hint = self._files.hint
            raise

    async def _object(self, key: ResourceKey, code: CodeObject) -> Compiled:
        if code.bundle.toolchain is Toolchain.BCC:
            return await self._made_by_bcc(key, code)
        elf, seconds, cached, warnings = await self.elf(code.bundle)
        try:
            facts = self._facts_of(elf)
        except KubebeeError as error:
            error.where = error.where or code.bundle.filename
            error.hint = error.hint or "compile it anew: clang -target bpf -O2 -g -c"
            raise
        return Compiled(code, elf, facts, seconds, cached, warnings)

    async def _made_by_bcc(self, key: ResourceKey, code: CodeObject) -> Compiled:
        item = Compiled(code, b"", ObjectFacts(FACTS_VERSION, {}, (), ()), 0.0, True)
        if self._adoptable(key, item):
            return item
        async with self._slots:
            made = await bcc.make(code)
        return replace(item, seconds=made.seconds, cached=False, made=made)

    def _facts_of(self, elf: bytes) -> ObjectFacts:
        digest = hashlib.sha256(elf).hexdigest()
        known = self._facts.get(digest) or self._read_facts(digest)
        if known is None:
            known = read_facts(elf)
            self._write_facts(digest, known)
        self._facts[digest] = known
        return known

    def _read_facts(self, digest: str) -> ObjectFacts | None:
        try:
            facts = msgspec.json.decode((self._facts_directory / digest).read_bytes(), type=ObjectFacts)
        except (OSError, msgspec.DecodeError):
            return None
        return facts if facts.version == FACTS_VERSION else None

    def _write_facts(self, digest: str, facts: ObjectFacts) -> None:
        try:
            self._facts_directory.mkdir(parents=True, exist_ok=True)
            temporary = self._facts_directory / f".{digest}"
            temporary.write_bytes(msgspec.json.encode(facts))
            temporary.replace(self._facts_directory / digest)
        except OSError:
            pass  # a full disk costs time at the next start, nothing else


def load_hash(compiled: tuple[Compiled, ...], sizes: Mapping[str, int]) -> str:
    """Hash of all that decides what is loaded: code, constants, map sizes, what functions are loaded as.

    Live global variables, targets and priorities are not in it: changing them loads nothing.
    """
    digest = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode())
    for item in compiled:
        digest.update(hashlib.sha256(item.elf or item.code.bundle.code_hash.encode()).digest())
        digest.update(json.dumps(_constants(item), sort_keys=True, default=str).encode())
        for function in item.code.functions:
            attach = function.attach.model_dump(exclude={"interfaces", "cgroup", "pid", "mode"}, mode="json")
            digest.update(json.dumps([function.name, attach], sort_keys=True).encode())
    return digest.hexdigest()


def _constants(item: Compiled) -> Mapping[str, object]:
    constants = set(item.facts.constants)
    return {name: value for name, value in item.code.globals.items() if name in constants}
