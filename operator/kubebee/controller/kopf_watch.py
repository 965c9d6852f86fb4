"""The watches of our kinds and of Nodes, by kopf, in a thread with an event loop of its own.

kopf is asked for events alone: it writes nothing to objects and keeps no state of them. What it does not do
is done elsewhere: it tells of no deletion that happened while it was not watching (see `lists`), and it ends
when a kind is no longer served, so it is started again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import kopf
from kopf import DiffBaseStorage, ProgressStorage

from kubebee.api.v1alpha1.common import GROUP, VERSION
from kubebee.controller.inbox import Inbox
from kubebee.controller.kinds import NODES, OURS
from kubebee.controller.objects import news_of
from kubebee.store.backoff import Backoff

log = logging.getLogger("kubebee.watch")
PAGE = 100
SILENCE_SECONDS = 75.0
"""A watch without news is made anew that often: kopf sets nothing on sockets, so nobody may be at its end."""
CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
WATCH_SECONDS = (240, 360)
WORKER_IDLE_SECONDS = 0.2
"""kopf keeps the last document of each object for so long (by default 5 s: of 1,000 BpfNodes 150 MB)."""
_random = random.SystemRandom()
logging.getLogger("kopf._core.reactor.running").addFilter(
    lambda record: "OS signals are ignored" not in record.getMessage()  # they are the main thread's business
)


class _Forever:
    """Waits between tries of a request, until the end: the API server may be away for any time."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def __iter__(self) -> Iterator[float]:
        backoff = Backoff()
        while not self._stop.is_set():
            yield backoff.next()


class _NoDiff(DiffBaseStorage):
    """kopf copies each object to find out what changed in it, even if nobody asks: 1 ms for a BpfNode."""

    def build(self, *, body: Any, extra_fields: Any = None) -> Any:  # noqa: ARG002 (kopf's signature)
        return {}

    def fetch(self, *, body: Any) -> Any:  # noqa: ARG002
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        """Nothing."""


class _NoProgress(ProgressStorage):
    """Handlers of events have no progress to keep."""

    def fetch(self, *, key: Any, body: Any) -> Any:  # noqa: ARG002
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        """Nothing."""

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        """Nothing."""

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        """Nothing."""

    def clear(self, *, essence: Any) -> Any:
        return essence


class KopfWatch:
    """Puts what happens to our kinds and to Nodes into an inbox.

    Args:
        inbox: where news go.
        login: access to the API server, asked for again when it is refused.
        served: waits until all our kinds are served; false if it was stopped meanwhile.
    """

    def __init__(
        self,
        inbox: Inbox,
        login: Callable[[], kopf.ConnectionInfo],
        served: Callable[[threading.Event], bool],
    ) -> None:
        self._inbox, self._login, self._served = inbox, login, served
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked_to_end: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)

    def start(self) -> None:
        """Watch."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Watch no more, and wait for the end of it for so long."""
        self._stop.set()
        if self._loop is not None and self._asked_to_end is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._asked_to_end.set)
            except RuntimeError:  # closed in between
                return
        self._thread.join(seconds)

    def _run(self) -> None:
        backoff = Backoff()
        while self._served(self._stop):
            try:
                asyncio.run(self._watch())
            except Exception as error:
                log.warning("watching ended: %s: %s; it starts over", type(error).__name__, error)
            if self._stop.is_set():
                return
            self._stop.wait(backoff.next())

    async def _watch(self) -> None:
        self._loop, self._asked_to_end = asyncio.get_running_loop(), asyncio.Event()
        if self._stop.is_set():
            return
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(self._stop),
            standalone=True,
            identity=cast("Any", "kubebee"),  # never used; without it kopf asks for a user name
            clusterwide=True,
            stop_flag=self._asked_to_end,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**_: Any) -> kopf.ConnectionInfo:
            return self._login()

        for kind, collection in OURS.items():
            kopf.on.event(GROUP, VERSION, collection.plural, registry=registry, id=f"see-{kind}")(
                self._seer(kind)
            )
        kopf.on.event("", "v1", NODES.plural, registry=registry, id="see-Node")(self._seer("Node"))
        return registry

    def _seer(self, kind: str) -> Callable[..., Any]:
        async def see(event: Mapping[str, Any], **_: Any) -> None:
            self._inbox.put(news_of(kind, event["object"], gone=event["type"] == "DELETED"))

        return see


def _settings(stop: threading.Event) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # else it watches CustomResourceDefinitions and Namespaces
    settings.process.ultimate_exiting_timeout = None
    settings.persistence.diffbase_storage = _NoDiff()
    settings.persistence.progress_storage = _NoProgress()
    settings.queueing.idle_timeout = WORKER_IDLE_SECONDS
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.networking.connect_timeout = CONNECT_SECONDS
    settings.networking.error_backoffs = _Forever(stop)
    settings.watching.chunk_size = PAGE
    settings.watching.inactivity_timeout = SILENCE_SECONDS
    settings.watching.server_timeout = _random.randint(*WATCH_SECONDS)
    settings.watching.client_timeout = WATCH_SECONDS[1] + REQUEST_SECONDS
    return settings
