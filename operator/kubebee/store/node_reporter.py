"""Brings a node's status to the API server: the newest wins, one write a second, none without news."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

from kubebee.errors import KubebeeError
from kubebee.planner.status import MESSAGE_CHARS
from kubebee.store.api_client import ApiError
from kubebee.store.backoff import Backoff
from kubebee.store.state import EventRecord

log = logging.getLogger("kubebee.node")
WRITE_SECONDS = 1.0
MAX_HAPPENINGS = 50

_Document = tuple[str, dict[str, object]]
"""uid of the BpfNode, and its status."""


class NodeReporter:
    """Holds what is to be said of the node until it has been said.

    Args:
        write: writes (uid, status); raises KubebeeError.
    """

    def __init__(self, write: Callable[[str, Mapping[str, object]], Awaitable[None]]) -> None:
        self._write = write
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._uid = ""
        self._spoken_of: tuple[str, int] = ("", 0)
        self._status: dict[str, object] | None = None
        self._happenings: list[dict[str, object]] = []
        self._written: _Document | None = None

    def address(self, uid: str, generation: int) -> None:
        """Whose status it is from now on: that of the spec that is being applied.

        What was said of the same generation of an earlier object is true of this one too: it is made anew
        with the same content, and then nothing new is published.
        """
        if uid == self._uid:
            return
        self._uid = uid
        if self._spoken_of[1] == generation:
            self._spoken_of = (uid, generation)
        self._changed()

    def rewrite(self) -> None:
        """Somebody took the status away: say it again."""
        self._written = None
        self._changed()

    def status(self, generation: int, status: Mapping[str, object]) -> None:
        """The newest status, and the generation of the spec that it speaks of."""
        self._spoken_of = (self._uid, generation)
        self._status = {**status, "observedGeneration": generation}
        self._changed()

    def happenings(self, records: Sequence[EventRecord]) -> None:
        """What happened lately, newest last."""
        self._happenings = [_happening(record) for record in records[-MAX_HAPPENINGS:]]
        self._changed()

    def _changed(self) -> None:
        self._idle.clear()
        self._news.set()

    def _document(self) -> _Document | None:
        """What shall be said now; None: nothing, or nobody to say it of."""
        if self._status is None or not self._uid or self._spoken_of[0] != self._uid:
            return None
        status = dict(self._status)
        if self._happenings:
            status["happenings"] = self._happenings
        document = (self._uid, status)
        return None if document == self._written else document

    async def run(self) -> None:
        """Write until cancelled."""
        backoff, written_at, trouble = Backoff(), float("-inf"), ("", "")
        while True:
            await self._news.wait()
            await asyncio.sleep(max(0.0, written_at + WRITE_SECONDS - time.monotonic()))
            self._news.clear()
            document = self._document()
            if document is None:
                self._idle.set()
                continue
            try:
                written_at = time.monotonic()
                await self._write(*document)
            except KubebeeError as error:
                if (error.reason, error.message) != trouble:
                    log.warning("the node's status was not written: %s", error)
                trouble = (error.reason, error.message)
                if isinstance(error, ApiError) and error.status in (404, 422):
                    self._idle.set()
                    continue  # the object is gone or another, or refuses this: only news can help
                self._news.set()
                await asyncio.sleep(backoff.next(getattr(error, "retry_after", 0.0)))
            else:
                self._written, trouble = document, ("", "")
                backoff.reset()
                if not self._news.is_set():
                    self._idle.set()

    async def finish(self, seconds: float) -> None:
        """Wait until all is said, but not for longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._idle.wait()


def _happening(record: EventRecord) -> dict[str, object]:
    return {
        "kind": record.kind,
        "name": record.name,
        "type": record.type,
        "reason": record.reason,
        "message": record.message[:MESSAGE_CHARS],
        "time": record.last_timestamp,
    }
