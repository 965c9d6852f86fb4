"""Would it run here? Everything up to attaching, by the loader's own code, and nothing left behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kubebee.bpf.syscall import BpfError
from kubebee.errors import KubebeeError
from kubebee.loader.chain import Chain
from kubebee.loader.compiled import Compiler, load_hash
from kubebee.loader.failures import describe
from kubebee.loader.interfaces import XdpInterfaces
from kubebee.loader.loaded import load_unit, sizes_of
from kubebee.loader.pins import PinRoot
from kubebee.loader.placing import stage_of
from kubebee.loader.unit import Unit
from kubebee.planner.report import Failure, Stage

_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | (1 << 18)


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of a unit.

    Attributes:
        failure: None if it can run here.
        notes: warnings of the compiler.
    """

    failure: Failure | None
    notes: tuple[str, ...]
    compile_seconds: float
    load_seconds: float


@contextlib.contextmanager
def private_bpffs() -> Iterator[Path]:
    """A BPF file system that only this process sees; its pins go with it.

    The process stays in a mount namespace of its own.

    Raises:
        BpfError: EPERM without CAP_SYS_ADMIN.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(result: int, what: str) -> None:
        if result < 0:
            raise BpfError(f"can't {what}", ctypes.get_errno(), hint="run as root")

    call(libc.unshare(_CLONE_NEWNS), "make a mount namespace")
    call(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC_PRIVATE), None), "keep mounts private")
    with tempfile.TemporaryDirectory(prefix="kubebee-") as folder:
        call(
            libc.mount(b"bpf", os.fsencode(folder), b"bpf", ctypes.c_ulong(0), None),
            "mount a bpf file system",
        )
        try:
            yield Path(folder)
        finally:
            call(libc.umount2(os.fsencode(folder), 2), "unmount the bpf file system")


class Verifier:
    """Compiles and loads units without attaching them.

    Args:
        bpffs: a BPF file system for this alone.
        cache: directory of the compile cache.
    """

    def __init__(self, bpffs: Path, cache: Path) -> None:
        self._pins = PinRoot(bpffs)
        self._pins.prepare()
        self._compiler = Compiler(cache)
        self._xdp = XdpInterfaces(self._pins, self._compiler)

    async def verify(self, unit: Unit) -> Verified:
        """Take a unit through compiler and verifier, its XDP functions behind a dispatcher of their own."""
        notes: tuple[str, ...] = ()
        start = compiled_at = time.perf_counter()
        failure = None
        try:
            compiled = await self._compiler.unit(unit)
            compiled_at = time.perf_counter()
            notes = tuple(text for item in compiled for text in item.warnings)
            sizes = sizes_of(unit, self._pins)
            loaded = load_unit(unit, compiled, load_hash(compiled, sizes), sizes, self._pins)
            try:
                for plan in {plan.name: plan for plan in unit.functions}.values():
                    if plan.attach.type == "XDP":
                        await self._xdp.program(Chain.of([stage_of(loaded, plan)]))
                self._xdp.drop_unused()
            finally:
                loaded.close()
        except KubebeeError as error:
            failure = describe(error, Stage.VERIFY)
            compiled_at = max(compiled_at, start)
        return Verified(failure, notes, compiled_at - start, time.perf_counter() - compiled_at)
