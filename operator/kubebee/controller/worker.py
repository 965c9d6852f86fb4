"""The one reader of all news: what is new -> planner -> writes -> their answers are news again."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from kubebee.controller.api import METADATA_LIST, Api, ApiError
from kubebee.controller.inbox import Inbox, News
from kubebee.controller.kinds import BPF_NODES, NODES, OURS, bundles
from kubebee.controller.lists import put_all
from kubebee.controller.loaders import Loaders
from kubebee.controller.metrics import Metrics
from kubebee.controller.objects import BUNDLE, SOURCE, Workload
from kubebee.controller.sources import Sources
from kubebee.controller.writer import NotHeldError, Writer
from kubebee.planner.cluster import ClusterNode
from kubebee.planner.cluster_planner import ClusterPlanner
from kubebee.planner.nodes import BpfNodeRecord
from kubebee.planner.plan import ResourceKey
from kubebee.store.backoff import Backoff

log = logging.getLogger("kubebee.controller")
GATHER_SECONDS = (0.05, 0.5)
"""News of one change come in many. They are gathered for twice as long as the last planning took, within
these bounds: a thousand reports are a few rounds, not hundreds, and a small cluster does not wait."""
LIST_SECONDS = 300.0
"""Between whole lists, which find what no watch told."""
LOOK_SECONDS = 1.0
"""Between looks at whether the Lease is held still."""


class Worker:
    """Acts for the cluster as long as it may.

    Args:
        api: the API server.
        inbox: news of all objects.
        planner: decides; it starts empty.
        writer: writes.
        sources: follows the ConfigMaps that resources name.
        loaders: the loaders' DaemonSet, None: somebody else's business.
        namespace: where bundles are.
        metrics: told of rounds.
    """

    def __init__(
        self,
        api: Api,
        inbox: Inbox,
        planner: ClusterPlanner,
        writer: Writer,
        sources: Sources,
        loaders: Loaders | None,
        namespace: str,
        metrics: Metrics,
    ) -> None:
        self._api, self._inbox, self._planner, self._writer = api, inbox, planner, writer
        self._sources, self._loaders, self._metrics = sources, loaders, metrics
        self._bundles = bundles(namespace)
        self._resources: dict[ResourceKey, dict[str, object]] = {}
        self._counts: Counter[str] = Counter()
        self._known: set[tuple[str, ...]] = set()
        self._next_list = 0.0
        self._planning = 0.0
        self.listed = threading.Event()

    def run(self, stop: threading.Event, may_act: Callable[[], bool]) -> None:
        """Round after round until it is stopped or may not act any more."""
        backoff = Backoff()
        due = 0.0
        while not stop.is_set() and may_act():
            rest = due - time.monotonic()
            if rest > 0 and not len(self._inbox):
                self._inbox.wait(min(rest, LOOK_SECONDS))
                continue
            stop.wait(min(max(GATHER_SECONDS[0], 2 * self._planning), GATHER_SECONDS[1]))
            try:
                due = time.monotonic() + self._round()
                backoff.reset()
            except ApiError as error:
                wait = backoff.next(error.retry_after)
                log.warning("%s; next try in %.1f s", error, wait, extra={"reason": error.reason})
                stop.wait(wait)
            except NotHeldError:
                log.warning("the Lease is lost: writing stops")
                return

    def _round(self) -> float:
        """Returns in how many seconds the next one is due without news.

        Raises:
            ApiError: what must be known can't be read now.
            NotHeldError: the Lease was lost.
        """
        began = time.monotonic()
        if began >= self._next_list:
            self._list()
            self._next_list = time.monotonic() + LIST_SECONDS
            self.listed.set()
        self._feed()
        if self._sources.want(self._planner.sources):
            self._feed()
        planned_at = time.monotonic()
        moment = datetime.now(UTC)
        plan = self._planner.plan(moment)
        self._planning = time.monotonic() - planned_at
        loaders = self._loaders.due(plan.loaders) if self._loaders else None
        due = self._writer.write(plan, self._resources, loaders)
        self._metrics.round(time.monotonic() - began, self._planning)
        self._metrics.objects(self._counts)
        waits = [self._next_list - time.monotonic()]
        if due is not None:
            waits.append(due)
        if plan.next_at is not None:
            waits.append((plan.next_at - datetime.now(UTC)).total_seconds())
        return max(0.0, min(waits))

    def _list(self) -> None:
        """All there is: what no watch told of, too."""
        for kind, collection in OURS.items():
            put_all(self._api, self._inbox, collection, kind)
        put_all(self._api, self._inbox, NODES, "Node")
        put_all(self._api, self._inbox, self._bundles, BUNDLE, METADATA_LIST)
        if self._loaders is not None:
            put_all(self._api, self._inbox, self._loaders.collection, "DaemonSet", METADATA_LIST)

    # -- news ------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Tell the planner all news."""
        for news in self._inbox.take():
            if (news.content is None) == (news.key in self._known):
                self._counts[news.key.kind] += -1 if news.content is None else 1
            (self._known.discard if news.content is None else self._known.add)(news.key)
            self._tell(news)

    def _tell(self, news: News) -> None:
        kind, namespace, name = news.key
        planner, content = self._planner, news.content
        if kind == "Node":
            planner.drop_node(name) if content is None else planner.put_node(cast("ClusterNode", content))
        elif kind == BPF_NODES.kind:
            if content is None:
                planner.drop_bpf_node(name)
            else:
                planner.put_bpf_node(cast("BpfNodeRecord", content))
        elif kind == BUNDLE:
            planner.drop_bundle(name) if content is None else planner.put_bundle(name)
        elif kind == SOURCE:
            if content is None:
                planner.drop_config_map(namespace, name)
            else:
                planner.put_config_map(namespace, name, cast("dict[str, str]", content))
        elif kind == "DaemonSet":
            if self._loaders is not None:
                self._loaders.put(cast("Workload | None", content))
        else:
            self._tell_resource(ResourceKey(kind, name), cast("dict[str, object] | None", content))

    def _tell_resource(self, key: ResourceKey, manifest: dict[str, object] | None) -> None:
        if manifest is None:
            self._resources.pop(key, None)
            self._planner.drop_resource(key)
        else:
            self._resources[key] = manifest
            self._planner.put_resource(manifest)
