"""Whole lists, which alone tell what is gone: at the start, after a lost watch, and now and then."""

from __future__ import annotations

from kubebee.controller.api import Api
from kubebee.controller.inbox import Inbox
from kubebee.controller.kinds import Collection
from kubebee.controller.objects import news_of, version_of


def put_all(
    api: Api, inbox: Inbox, collection: Collection, kind: str, accept: str = "application/json"
) -> str:
    """Put all objects of a collection into the inbox, and that others are gone.

    Args:
        api: the API server.
        inbox: where news go.
        collection: what to list.
        kind: as of `objects.news_of`.
        accept: form of the objects.

    Returns:
        The resourceVersion of the list, to watch from.

    Raises:
        ApiError: it can't be listed.
    """
    names: list[str] = []
    version = ""
    for listed, items in api.pages(collection, accept):
        version = listed
        for item in items:
            news = news_of(kind, item)
            names.append(news.key.name)
            inbox.put(news)
    inbox.put_listed(kind, collection.namespace, names, version_of({"resourceVersion": version}))
    return version
