"""Makes the writes that plans ask for, each safe on its own and made again until a plan asks for it no more.

There is one policy for what fails: a write that was refused is left alone for a while that grows with each
refusal; one that shows that the server is away or overloaded ends the round, and all writes wait.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from kubebee.api.v1alpha1.common import API_VERSION
from kubebee.controller import documents
from kubebee.controller.api import Api, ApiError
from kubebee.controller.inbox import Inbox, Key, News
from kubebee.controller.kinds import BPF_NODES, EVENTS, OURS, Collection, bundles
from kubebee.controller.objects import BUNDLE, news_of
from kubebee.planner.cluster import ClusterPlan
from kubebee.planner.events import PlannedEvent
from kubebee.planner.nodes import Ref
from kubebee.planner.plan import ResourceKey
from kubebee.planner.wire import Encoded
from kubebee.store.backoff import Backoff

log = logging.getLogger("kubebee.write")
AT_ONCE = 8
BPF_NODES_A_ROUND = 200
"""So that a round of a thousand nodes does not keep everything else waiting for seconds."""
STATUS_SECONDS = 1.0
EVENTS_KEPT = 1000
_CONFLICT = 409
_INVALID = 422

Resources = Mapping[ResourceKey, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Write:
    """One write.

    Attributes:
        what: for metrics and logs, such as `status`.
        name: of what is written.
        send: does it, tells what the object is now, None where a watch will.
    """

    what: str
    name: str
    send: Callable[[], News | None]


@dataclass
class _Refusals:
    """When a write may be tried again."""

    at: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)


class NotHeldError(Exception):
    """The Lease was lost: nothing may be written any more."""


class Writer:
    """Writes to the API server while this controller may.

    Args:
        api: the API server.
        inbox: where the answers go.
        namespace: where bundles are.
        may_write: whether we hold the Lease, asked before every single write.
        count: told of each write what it was and whether it was done.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        api: Api,
        inbox: Inbox,
        namespace: str,
        may_write: Callable[[], bool],
        count: Callable[[str, bool], None] = lambda _what, _done: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._inbox, self._bundles = api, inbox, bundles(namespace)
        self._may_write, self._count, self._clock = may_write, count, clock
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="write")
        self._refusals: dict[tuple[str, str], _Refusals] = {}
        self._pause = _Refusals()
        self._events: dict[str, PlannedEvent] = {}
        self._status_at: dict[ResourceKey, float] = {}
        self._due: list[float] = []

    @property
    def waiting_events(self) -> frozenset[str]:
        """Names of Events that are not made yet."""
        return frozenset(self._events)

    def close(self) -> None:
        """Write nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def write(self, plan: ClusterPlan, resources: Resources, loaders: Write | None) -> float | None:
        """Write what a plan asks for, as far as it can be done now.

        Args:
            plan: what to write.
            resources: manifests of the resources that it speaks of.
            loaders: the write of the loaders' DaemonSet, if it is due.

        Returns:
            Seconds until what was left out may be written; None if nothing was.

        Raises:
            NotHeldError: the Lease was lost.
        """
        now = self._clock()
        self._due = []
        for event in plan.events:
            if len(self._events) < EVENTS_KEPT:
                self._events[event.name] = event
        if now < self._pause.at:
            return self._pause.at - now
        done: Counter[str] = Counter()
        for phase in (
            (self._bundle(encoded) for encoded in plan.bundles),
            self._finalizers(plan, resources),
            [self._bpf_node(name, refs) for name, refs in list(plan.bpf_nodes.items())[:BPF_NODES_A_ROUND]],
            [loaders] if loaders else [],
            [self._event(event) for event in self._events.values()],
            list(self._statuses(plan, resources, now)),
            [self._delete("bpfnode", BPF_NODES, "BpfNode", name) for name in plan.gone],
            [self._delete("bundle", self._bundles, BUNDLE, name) for name in plan.unused],
        ):
            done += self._make(phase)
            if self._clock() < self._pause.at:
                break
        if done:
            log.info("wrote %s", ", ".join(f"{count} {what}" for what, count in sorted(done.items())))
        if len(plan.bpf_nodes) > BPF_NODES_A_ROUND:
            self._due.append(now)
        soonest = min(
            [*self._due, *([self._pause.at] if self._pause.at > self._clock() else [])], default=None
        )
        return None if soonest is None else max(0.0, soonest - self._clock())

    # -- one write -------------------------------------------------------------------------------------------

    def _make(self, writes: Iterable[Write]) -> Counter[str]:
        """Make some writes at once; counts those that were done."""
        done: Counter[str] = Counter()
        now = self._clock()
        ready = []
        for write in writes:
            refused = self._refusals.get((write.what, write.name))
            if refused is not None and now < refused.at:
                self._due.append(refused.at)
            else:
                ready.append(write)
        for write, succeeded in zip(ready, self._pool.map(self._one, ready), strict=True):
            if succeeded:
                done[write.what] += 1
        return done

    def _one(self, write: Write) -> bool:
        if self._clock() < self._pause.at:
            return False
        if not self._may_write():
            raise NotHeldError
        try:
            news = write.send()
        except ApiError as error:
            self._failed(write, error)
            return False
        if news is not None:
            self._inbox.put(news)
        self._refusals.pop((write.what, write.name), None)
        if self._clock() >= self._pause.at:  # else this was answered before the pause began
            self._pause = _Refusals()
        self._count(write.what, True)
        return True

    def _failed(self, write: Write, error: ApiError) -> None:
        self._count(write.what, False)
        if error.overloaded:
            if self._clock() >= self._pause.at:  # one of several at once
                self._pause.at = self._clock() + self._pause.backoff.next(error.retry_after)
                log.warning("writing pauses: %s", error, extra={"reason": error.reason})
            return
        refused = self._refusals.setdefault((write.what, write.name), _Refusals())
        refused.at = self._clock() + refused.backoff.next(error.retry_after)
        self._due.append(refused.at)
        log.log(
            logging.DEBUG if error.status == _CONFLICT else logging.WARNING,
            "%s %s was not written: %s",
            write.what,
            write.name,
            error,
            extra={"reason": error.reason},
        )

    # -- what is written -------------------------------------------------------------------------------------

    def _bundle(self, encoded: Encoded) -> Write:
        def send() -> News:
            try:
                answer = self._api.apply(self._bundles, documents.bundle(encoded))
            except ApiError as error:
                if error.status == _INVALID:  # somebody made another one of this name, and it is immutable
                    self._api.delete(self._bundles, encoded.config_map)
                raise
            return news_of(BUNDLE, answer)

        return Write("bundle", encoded.config_map, send)

    def _bpf_node(self, name: str, refs: tuple[Ref, ...]) -> Write:
        def send() -> News:
            return news_of("BpfNode", self._api.apply(BPF_NODES, documents.bpf_node(name, refs)))

        return Write("bpfnode", name, send)

    def _finalizers(self, plan: ClusterPlan, resources: Resources) -> list[Write]:
        return [
            self._finalizer(key, wanted, resources[key]["metadata"])
            for key, wanted in plan.finalizers.items()
            if key in resources
        ]

    def _finalizer(self, key: ResourceKey, wanted: bool, metadata: Mapping[str, Any]) -> Write:
        collection = OURS[key.kind]

        def send() -> News | None:
            if wanted:
                return news_of(
                    key.kind, self._api.apply(collection, documents.finalizer(key.name, metadata["uid"]))
                )
            answer = self._api.merge(collection, key.name, documents.without_finalizer(metadata))
            return None if metadata.get("deletionTimestamp") else news_of(key.kind, answer)

        return Write("finalizer", str(key), send)

    def _statuses(self, plan: ClusterPlan, resources: Resources, now: float) -> Iterable[Write]:
        self._status_at = {key: at for key, at in self._status_at.items() if now - at < STATUS_SECONDS}
        for key, content in plan.statuses.items():
            if key not in resources:
                continue
            if key in self._status_at:
                self._due.append(self._status_at[key] + STATUS_SECONDS)
                continue
            yield self._status(key, str(resources[key]["metadata"]["uid"]), content)

    def _status(self, key: ResourceKey, uid: str, content: Mapping[str, Any]) -> Write:
        def send() -> News:
            self._status_at[key] = self._clock()
            document = documents.status(key.name, uid, content)
            return news_of(key.kind, self._api.apply(OURS[key.kind], document, "status"))

        return Write("status", str(key), send)

    def _event(self, event: PlannedEvent) -> Write:
        def send() -> None:
            try:
                self._api.create(EVENTS, documents.event(event, API_VERSION))
            except ApiError as error:
                if error.overloaded:
                    raise
                if error.status != _CONFLICT:
                    log.warning("an Event is left out: %s", error, extra={"reason": error.reason})
            self._events.pop(event.name, None)

        return Write("event", event.name, send)

    def _delete(self, what: str, collection: Collection, kind: str, name: str) -> Write:
        def send() -> News:
            self._api.delete(collection, name)
            return News(Key(kind, collection.namespace, name), 0, None)

        return Write(f"{what} deletion", name, send)
