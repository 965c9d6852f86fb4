"""Follows a collection of the API server: lists it page by page, then watches it, for as long as it takes.

What a sink was told stays true through outages: nothing is dropped but what the server says is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import msgspec

from kubebee.errors import KubebeeError
from kubebee.store.api_client import ApiClient, ApiError, ApiStatus, GoneError, decoded
from kubebee.store.backoff import MOST_SECONDS, Backoff

log = logging.getLogger("kubebee.node")
PAGE = 500
"""Objects a page: some MiB at a time, however many there are."""


class _Metadata(Protocol):
    @property
    def resource_version(self) -> str: ...


class Object(Protocol):
    """What is read of any object."""

    @property
    def metadata(self) -> _Metadata:
        """Its metadata."""


T = TypeVar("T", bound=Object)
T_contra = TypeVar("T_contra", contravariant=True)


class Sink(Protocol[T_contra]):
    """Where objects go."""

    def begin(self) -> None:
        """A list begins: what is put until `complete` is all there is."""

    def put(self, found: T_contra) -> None:
        """An object as it is now."""

    def drop(self, found: T_contra) -> None:
        """An object is gone; this is what it last was."""

    def complete(self) -> None:
        """All there is was put since `begin`."""

    def alive(self) -> None:
        """The server answered: with a page, a watch, an event or a bookmark."""

    def failed(self, error: KubebeeError) -> None:
        """The server can't be asked now; it is tried again."""


@dataclass(frozen=True)
class Collection(Generic[T]):
    """Which objects.

    Attributes:
        path: of the collection.
        kind: what is read of each.
        params: selectors.
    """

    path: str
    kind: type[T]
    params: Mapping[str, str] = field(default_factory=dict)


class _ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    go_on: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, Generic[T], frozen=True):
    metadata: _ListMetadata
    items: list[T] | None = None


class _Event(msgspec.Struct, frozen=True):
    """One line of a watch; `object` is a Status where type is ERROR."""

    type: str
    object: msgspec.Raw


_EVENT, _STATUS = msgspec.json.Decoder(_Event), msgspec.json.Decoder(ApiStatus)


class Reflector(Generic[T]):
    """Keeps a sink up to date.

    Attributes:
        watching: whether news would come in now.

    Args:
        client: the API server.
        collection: what to follow.
        sink: is told of it.
    """

    def __init__(self, client: ApiClient, collection: Collection[T], sink: Sink[T]) -> None:
        self.watching = False
        self._client = client
        self._collection = collection
        self._sink = sink
        self._version = ""
        self._pages = msgspec.json.Decoder(_Page[collection.kind])  # type: ignore[name-defined]
        self._objects = msgspec.json.Decoder(collection.kind)

    async def run(self) -> None:
        """Follow until cancelled."""
        backoff, trouble = Backoff(), ""
        while True:
            wait, began = 0.0, time.monotonic()
            try:
                await self._follow_once()
                trouble = ""
            except GoneError as error:
                log.info("%s", error)
                self._version = ""
            except KubebeeError as error:
                wait = getattr(error, "retry_after", 0.0)
                if str(error) != trouble:
                    log.warning("%s", error)
                    trouble = str(error)
                self._sink.failed(error)
            self.watching = False
            if time.monotonic() - began > MOST_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next(wait))

    async def _follow_once(self) -> None:
        """Watch from where the last watch ended; list first where there is no such place."""
        if not self._version:
            self._version = await self._list()
        lines = self._client.watch(self._collection.path, self._collection.params, self._version)
        async with contextlib.aclosing(lines):
            async for line in lines:
                self.watching = True
                self._sink.alive()
                if line:
                    self._version = self._take(line)

    async def _list(self) -> str:
        """List all; returns the version from which to watch.

        Raises:
            GoneError: the list is too old to go on with; the next begins anew.
        """
        params = {**self._collection.params, "limit": str(PAGE)}
        self._sink.begin()
        while True:
            page = decoded(await self._client.read("list", self._collection.path, params), self._pages)
            self._sink.alive()
            for found in page.items or ():
                self._sink.put(found)
            if not page.metadata.go_on:
                self._sink.complete()
                return page.metadata.resource_version
            params["continue"] = page.metadata.go_on

    def _take(self, line: bytes) -> str:
        """Tell of an event; returns its version."""
        event = decoded(line, _EVENT)
        if event.type == "ERROR":
            status = decoded(bytes(event.object), _STATUS)
            kind = GoneError if status.code == 410 else ApiError
            raise kind(f"the watch ended: {status.message}", status=status.code)
        try:
            found = decoded(bytes(event.object), self._objects)
        except ApiError as error:  # what is known of it stays, and what follows comes in
            log.warning("%s", error)
            self._sink.failed(error)
            return self._version
        if event.type == "DELETED":
            self._sink.drop(found)
        elif event.type != "BOOKMARK":
            self._sink.put(found)
        return found.metadata.resource_version
