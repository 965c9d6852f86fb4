"""Watches of namespaced objects, for which kopf would need the right to see those of all namespaces.

Only metadata is asked for: a bundle's content is known by its name, and of ConfigMaps few are sources.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kubebee.controller.api import METADATA, METADATA_LIST, Api, ApiError
from kubebee.controller.inbox import Inbox
from kubebee.controller.kinds import Collection
from kubebee.controller.lists import put_all
from kubebee.controller.objects import news_of
from kubebee.store.backoff import Backoff

log = logging.getLogger("kubebee.watch")
WATCH_SECONDS = (240, 360)
"""How long the server shall keep up a watch: not the same for all, so that they don't all end at once."""
SILENCE_SECONDS = WATCH_SECONDS[1] + 30.0
"""Not less than a watch lasts: without news its only bookmark may come at the end (seen with 1.34). A
connection to nobody is noticed by TCP, see `access`."""
_random = random.SystemRandom()


class Follower:
    """Follows a collection in a thread of its own, from when it is listed until it is stopped.

    Args:
        api: the API server.
        collection: what to follow.
        listed: takes all there is, returns the list's resourceVersion; raises ApiError.
        happened: takes an object's metadata document, and whether it is gone.
    """

    def __init__(
        self,
        api: Api,
        collection: Collection,
        listed: Callable[[], str],
        happened: Callable[[Mapping[str, Any], bool], None],
    ) -> None:
        self._api, self._collection, self._listed, self._happened = api, collection, listed, happened
        self._stop = threading.Event()
        name = f"{collection.plural} {collection.namespace}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Follow."""
        self._thread.start()

    def stop(self) -> None:
        """Tell nothing more; the thread ends with its connection."""
        self._stop.set()

    def _run(self) -> None:
        backoff, version, told = Backoff(), "", ""
        while not self._stop.is_set():
            try:
                if not version:
                    version = self._listed()
                version = self._watch(version)
                backoff.reset()
                told = ""
            except ApiError as error:
                if not error.overloaded:
                    version = ""
                if str(error) != told:
                    log.warning("%s", error, extra={"reason": error.reason})
                    told = str(error)
                self._stop.wait(backoff.next(error.retry_after))
            except Exception:  # a fault of ours must not end the thread unseen
                log.exception("following %s starts over", self._collection.path)
                version = ""
                self._stop.wait(backoff.next())

    def _watch(self, version: str) -> str:
        """Returns the version to go on from, empty: list again."""
        seconds = _random.randint(*WATCH_SECONDS)
        for event in self._api.watch(self._collection, version, seconds, SILENCE_SECONDS, METADATA):
            if self._stop.is_set():
                return version
            if event["type"] == "ERROR":
                return ""
            version = str(event["object"]["metadata"]["resourceVersion"])
            if event["type"] != "BOOKMARK":
                self._happened(event["object"], event["type"] == "DELETED")
        return version


def into(api: Api, inbox: Inbox, collection: Collection, kind: str) -> Follower:
    """A follower that puts the objects of a collection into an inbox."""

    def happened(document: Mapping[str, Any], gone: bool) -> None:
        inbox.put(news_of(kind, document, gone))

    return Follower(api, collection, lambda: put_all(api, inbox, collection, kind, METADATA_LIST), happened)
