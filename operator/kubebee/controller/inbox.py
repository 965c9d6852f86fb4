"""What is new about the cluster's objects, for one reader, whoever heard of it: watches, lists, own writes.

News come in any order and more than once. The newer resourceVersion wins: within a cluster they grow with
every write (documented as comparable since Kubernetes 1.35, and so for etcd ever since).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

FORGOTTEN = 10_000
"""Objects that are gone, of which the last version is remembered: late news of them must not revive them."""


class Key(NamedTuple):
    """An object; a ConfigMap is a `Bundle` or a `Source` here, as what is kept of it differs."""

    kind: str
    namespace: str
    name: str


class News(NamedTuple):
    """What an object is now.

    Attributes:
        version: its resourceVersion, 0 where that can't be compared.
        content: None: there is no such object.
    """

    key: Key
    version: int
    content: object | None


class Inbox:
    """The newest of each object until it is taken."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[Key, News] = {}
        self._there: dict[Key, int] = {}
        self._gone: OrderedDict[Key, int] = OrderedDict()

    def put(self, news: News) -> None:
        """Take in news, unless newer ones are known."""
        with self._changed:
            known = self._there.get(news.key) or self._gone.get(news.key, 0)
            if news.version and news.version <= known:
                return
            if news.content is None:
                was_there = self._there.pop(news.key, None) is not None
                self._gone[news.key] = news.version or known
                self._gone.move_to_end(news.key)
                while len(self._gone) > FORGOTTEN:
                    self._gone.popitem(last=False)
                if not was_there and news.key not in self._waiting:
                    return
            else:
                self._gone.pop(news.key, None)
                self._there[news.key] = news.version
            self._waiting[news.key] = news
            self._changed.notify_all()

    def put_listed(self, kind: str, namespace: str, names: Iterable[str], version: int) -> None:
        """Objects of a kind and namespace that a list of this version did not have are gone."""
        listed = set(names)
        with self._changed:
            missing = [
                key
                for key, known in self._there.items()
                if key.kind == kind
                and key.namespace == namespace
                and key.name not in listed
                and known < version
            ]
        for key in missing:
            self.put(News(key, version, None))

    def there(self, key: Key) -> bool:
        """Whether the object was there when last heard of."""
        with self._changed:
            return key in self._there

    def newer(self, key: Key, version: int) -> bool:
        """Whether this version of an object would be news."""
        with self._changed:
            return not version or version > (self._there.get(key) or self._gone.get(key, 0))

    def forget(self, key: Key) -> None:
        """Nobody listens to this object any more: whoever does next starts over."""
        with self._changed:
            self._there.pop(key, None)
            self._gone.pop(key, None)
            self._waiting.pop(key, None)

    def wait(self, seconds: float) -> None:
        """Wait for news, but not longer than this."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting), timeout=max(0.0, seconds))

    def take(self) -> list[News]:
        """All news since the last call."""
        with self._changed:
            news, self._waiting = list(self._waiting.values()), {}
            return news

    def __len__(self) -> int:
        return len(self._waiting)
