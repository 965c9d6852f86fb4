"""The ConfigMaps that have sources of BpfPrograms: watched by namespace, read one by one."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from kubebee.controller.api import METADATA_LIST, Api, ApiError, NotThere
from kubebee.controller.follow import Follower
from kubebee.controller.inbox import Inbox, Key, News
from kubebee.controller.kinds import config_maps
from kubebee.controller.objects import SOURCE, news_of, version_of

log = logging.getLogger("kubebee.sources")
_FORBIDDEN = 403


class Sources:
    """Keeps the inbox up to date on the ConfigMaps that are wanted.

    Args:
        api: the API server.
        inbox: where their contents go.
    """

    def __init__(self, api: Api, inbox: Inbox) -> None:
        self._api, self._inbox = api, inbox
        self._wanted: frozenset[tuple[str, str]] = frozenset()
        self._known: set[tuple[str, str]] = set()
        self._followers: dict[str, Follower] = {}

    def want(self, wanted: frozenset[tuple[str, str]]) -> bool:
        """Follow these (namespace, name) and no others; returns whether some were read just now.

        Raises:
            ApiError: one can't be read for now; call again.
        """
        before, self._wanted = self._wanted, wanted  # first: no change after the reading may be missed
        namespaces = {namespace for namespace, _ in wanted}
        for namespace in namespaces - self._followers.keys():
            self._followers[namespace] = self._follower(namespace)
            self._followers[namespace].start()
        for namespace in self._followers.keys() - namespaces:
            self._followers.pop(namespace).stop()
        for namespace, name in before - wanted:
            self._inbox.forget(Key(SOURCE, namespace, name))
        self._known &= wanted
        fresh = wanted - self._known
        for namespace, name in sorted(fresh):
            self._read(namespace, name)
            self._known.add((namespace, name))
        return bool(fresh)

    def stop(self) -> None:
        """Follow nothing more."""
        for follower in self._followers.values():
            follower.stop()

    def _follower(self, namespace: str) -> Follower:
        collection = config_maps(namespace)

        def listed() -> str:
            there, version = set(), ""
            for version_listed, items in self._api.pages(collection, METADATA_LIST):
                version = version_listed
                for item in items:
                    there.add(str(item["metadata"]["name"]))
                    happened(item, False)
            self._inbox.put_listed(SOURCE, namespace, there, version_of({"resourceVersion": version}))
            return version

        def happened(document: Mapping[str, Any], gone: bool) -> None:
            name = str(document["metadata"]["name"])
            if (namespace, name) not in self._wanted:
                return
            if gone:
                version = version_of(document["metadata"])
                self._inbox.put(News(Key(SOURCE, namespace, name), version, None))
            elif self._inbox.newer(Key(SOURCE, namespace, name), version_of(document["metadata"])):
                self._read(namespace, name)

        return Follower(self._api, collection, listed, happened)

    def _read(self, namespace: str, name: str) -> None:
        try:
            document = self._api.get(config_maps(namespace), name)
        except NotThere:
            return
        except ApiError as error:
            if error.status != _FORBIDDEN:
                raise
            log.warning("ConfigMap %s/%s can't be read: %s", namespace, name, error)
            return
        self._inbox.put(news_of(SOURCE, document))
