"""Tries servers when they are due, never too many at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable

from kubebee.lb.health.agenda import Agenda
from kubebee.lb.health.check import Target

log = logging.getLogger("kubebee")
AT_ONCE = 256
"""Servers that are tried at one time. If so many don't answer, the rest has to wait."""


class Prober:
    """Tries targets until cancelled.

    Args:
        probe: tries one; why it failed, or "".
        result: told of each outcome.
    """

    def __init__(
        self, probe: Callable[[Target], Awaitable[str]], result: Callable[[Target, str], None]
    ) -> None:
        self._probe = probe
        self._result = result
        self._agenda = Agenda(random.random)
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def want(self, targets: Iterable[Target]) -> None:
        """Try exactly these from now on."""
        self._agenda.want(targets, time.monotonic())
        self._wake.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        try:
            while True:
                self._wake.clear()
                self._begin_due()
                await self._pause()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _begin_due(self) -> None:
        while len(self._running) < AT_ONCE:
            target = self._agenda.take(time.monotonic())
            if target is None:
                return
            task = asyncio.create_task(self._try(target))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake.set()  # there is room again, or a new turn to wait for

    async def _try(self, target: Target) -> None:
        began = time.monotonic()
        try:
            failure = await self._probe(target)
        except Exception as error:  # ours, not the server's
            log.exception("check of %s: %s", target, error)
        else:
            self._result(target, failure)
        finally:
            self._agenda.done(target, began, time.monotonic())

    async def _pause(self) -> None:
        due = self._agenda.next_due() if len(self._running) < AT_ONCE else None
        wait = None if due is None else max(0.0, due - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()
