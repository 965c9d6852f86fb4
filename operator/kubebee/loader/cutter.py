"""Has UDP sockets ended whose backend left: with each write to the load balancer's maps, at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from kubebee.bpf import features
from kubebee.bpf.map import Map
from kubebee.errors import KubebeeError
from kubebee.lb.cut import STORAGES, CutReport, SocketCut
from kubebee.lb.family import IPV6
from kubebee.lb.grace import wait_for_readers
from kubebee.lb.reports import Left
from kubebee.loader.compiled import Compiler
from kubebee.planner.plan import Bundle, Toolchain
from kubebee.render.environment import render_builtin

log = logging.getLogger("kubebee")
AGAIN_SECONDS = 1.0
"""A socket that was about to connect, with the backend chosen already, is connected by then."""
RETRY_SECONDS = 5.0


def notes(maps: Mapping[str, Map]) -> list[str]:
    """What a user should know of sockets that will not be ended here; empty without socket programs."""
    if not _has_sockets(maps):
        return []
    ends, enters = features.feature("sock_destroy"), features.feature("netns")
    if not ends.available:
        return [f"UDP clients of a backend that leaves are not cut off: {ends.why}"]
    if not enters.available:
        return [f"UDP clients in pods are not cut off when their backend leaves: {enters.why}"]
    return []


def _has_sockets(maps: Mapping[str, Map]) -> bool:
    return STORAGES[0] in maps


class Cutter:
    """Follows the maps that it was last given.

    Attributes:
        total: over all cuts.

    Args:
        compiler: makes the iterators.
        tell: called once with each reason for which sockets went on.
    """

    def __init__(self, compiler: Compiler, tell: Callable[[str], None]) -> None:
        self.total = CutReport()
        self._compiler = compiler
        self._tell = tell
        self._told: set[str] = set()
        self._maps: Mapping[str, Map] = {}
        self._loaded: SocketCut | None = None
        self._loaded_over: frozenset[int] = frozenset()
        self._now: list[Left] = []
        self._again: list[tuple[float, Sequence[Left]]] = []
        self._cutting = False
        self._wake = asyncio.Event()

    def follow(self, maps: Mapping[str, Map], left: Sequence[Left]) -> None:
        """Cut off clients of backends that left `maps`; call it after each write to them."""
        if not _has_sockets(maps) or not features.feature("sock_destroy").available:
            self.rest()
            return
        self._maps = maps
        self._now += left
        if left or self._storages() != self._loaded_over:
            self._wake.set()

    def rest(self) -> None:
        """There is nothing to follow."""
        self._maps, self._now, self._again = {}, [], []
        if not self._cutting:
            self._unload()

    async def run(self) -> None:
        """Work until cancelled; what fails is logged and tried again."""
        while True:
            await self._pause()
            self._wake.clear()
            try:
                await self._work()
            except (KubebeeError, OSError) as error:
                log.warning("load balancer's sockets: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    async def _pause(self) -> None:
        """Until something left, or it is time to look again."""
        wait = max(0.0, self._again[0][0] - time.monotonic()) if self._again else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()

    async def _work(self) -> None:
        if self._storages() != self._loaded_over:
            await self._load()
        if self._now:
            left, self._now = self._now, []
            await self._cut(left)
            self._again.append((time.monotonic() + AGAIN_SECONDS, left))
        while self._again and self._again[0][0] <= time.monotonic():
            await self._cut(self._again.pop(0)[1])

    async def _cut(self, left: Sequence[Left]) -> None:
        """Off the event loop: waits for calls that still saw the old tables, and reads the kernel's."""
        program = self._loaded
        if program is None:
            return
        self._cutting = True
        try:
            await asyncio.to_thread(wait_for_readers)
            self._report(await asyncio.to_thread(program.cut, left))
        finally:
            self._cutting = False
            if not self._maps:
                self._unload()

    async def _load(self) -> None:
        source = render_builtin("socketcut", {"ipv6": IPV6.present(self._maps)})
        bundle = Bundle(Toolchain.CLANG, source, "socketcut.bpf.c", trusted=True)
        wanted = self._storages()
        elf, *_ = await self._compiler.elf(bundle)
        if self._storages() != wanted:  # there are others by now, or none
            self._wake.set()
            return
        self._unload()
        self._loaded, self._loaded_over = SocketCut.load(elf, self._maps), wanted

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded.close()
        self._loaded, self._loaded_over = None, frozenset()

    def _storages(self) -> frozenset[int]:
        return frozenset(self._maps[name].info.id for name in STORAGES if name in self._maps)

    def _report(self, report: CutReport) -> None:
        self.total = self.total.plus(report)
        if report.cut:
            log.info("load balancer: ended %d UDP sockets whose backend left", report.cut)
        if report.missed and report.why not in self._told:
            self._told.add(report.why)
            self._tell(f"{report.missed} UDP sockets go on though their backend left: {report.why}")
