"""NodeStore: one node's BpfNode and its bundles as the source of resources, its status as their outcome.

Only a spec that was read says what shall run. That there is no BpfNode, or none that can be read, is no wish
to remove anything: the last spec stays in force, over restarts too, until another one is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from kubebee.errors import KubebeeError
from kubebee.planner import wire
from kubebee.planner.declared import Declared
from kubebee.planner.nodes import Ref
from kubebee.planner.plan import ResourceKey
from kubebee.store.api_client import ApiError
from kubebee.store.backoff import Backoff
from kubebee.store.node_api import NodeApi
from kubebee.store.node_cache import NodeCache
from kubebee.store.node_plan import NodeObject, Wanted
from kubebee.store.node_reporter import NodeReporter
from kubebee.store.snapshot import Rejected, Snapshot
from kubebee.store.state import EventRecord, ServicesRecord

log = logging.getLogger("kubebee.node")


class NoPlanError(KubebeeError):
    """Nobody has said yet what this node shall run."""

    reason = "NoPlan"


class NodeStore:
    """Reads a node's spec and bundles, and keeps them; see the module's docstring.

    Attributes:
        known: set once there is a spec to act on, from the API server or from the disk.

    Args:
        api: the API server.
        cache: this node's files.
    """

    def __init__(self, api: NodeApi, cache: NodeCache) -> None:
        self._api = api
        self._cache = cache
        self._reporter = NodeReporter(api.write_status)
        self._node = api.following(_Sink(self))
        self.known = asyncio.Event()
        self._changed = asyncio.Event()
        self._asked = asyncio.Event()
        self._newest: Wanted | None = None
        self._wanted: Wanted | None = None
        self._decoded: dict[str, Declared] = {}
        self._errors: dict[str, KubebeeError] = {}
        self._unsaved: dict[str, tuple[str, bytes]] = {}
        self._in_force: dict[ResourceKey, tuple[Ref, Declared]] = {}
        self._saved: tuple[Wanted, tuple[Ref, ...]] | None = None

    @property
    def watching(self) -> bool:
        """Whether news of the BpfNode would come in now."""
        return self._node.watching

    @property
    def wants_nothing(self) -> bool:
        """Whether the spec in force was read and names nothing to run."""
        return self._wanted is not None and not self._wanted.bundles

    # -- as the agent's store --------------------------------------------------------------------------------

    def scan(self) -> Snapshot:
        """What is in force now.

        Raises:
            NoPlanError: no spec is known; wait for `known` first.
        """
        wanted = self._wanted
        if wanted is None:
            raise NoPlanError("no spec of this node is known yet")
        rejected = []
        for ref in wanted.bundles:
            declared = self._decoded.get(ref.hash)
            if declared is None:
                rejected.append(Rejected(ref.key, self._errors[ref.hash], ref.generation, ref.hash))
            elif self._in_force.get(ref.key, (None,))[0] != ref:
                self._in_force[ref.key] = (ref, replace(declared, generation=ref.generation))
        for key in self._in_force.keys() - {ref.key for ref in wanted.bundles}:
            del self._in_force[key]
        self._forget_unused(wanted)
        self._reporter.address(wanted.uid, wanted.generation)
        resources = tuple(self._in_force[key][1] for key in sorted(self._in_force, key=str))
        return Snapshot(resources, {}, tuple(rejected), generation=wanted.generation)

    def _forget_unused(self, wanted: Wanted) -> None:
        coming = self._newest.bundles if self._newest else ()  # may be half fetched
        used = {ref.hash for ref in (*wanted.bundles, *coming)}
        used |= {ref.hash for ref, _ in self._in_force.values()}
        known: dict[str, Any]
        for known in (self._decoded, self._errors, self._unsaved):
            for digest in known.keys() - used:
                del known[digest]

    def stale(self) -> bool:
        """Never: a watch tells of everything."""
        return False

    async def changes(self) -> AsyncIterator[None]:
        """Yield once for each spec, and when a bundle came in late."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield

    def save(self) -> None:
        """Keep what `scan` returned last over a restart.

        Raises:
            OSError: it can't be kept; it is tried again at the next call.
        """
        if self._wanted is None:
            return
        for digest in list(self._unsaved):
            self._cache.save_bundle(digest, self._unsaved[digest])
            del self._unsaved[digest]
        state = (self._wanted, tuple(ref for ref, _ in self._in_force.values()))
        if state != self._saved:
            self._cache.save_plan(*state)
            self._saved = state

    def publish(self, key: ResourceKey, document: dict[str, object]) -> None:
        """Take the node's status; those of single resources are the controller's to make."""
        if key.kind != "BpfNode":
            return
        metadata, status = document["metadata"], document["status"]
        assert isinstance(metadata, dict)
        assert isinstance(status, dict)
        self._reporter.status(metadata["generation"], status)

    def publish_events(self, events: list[EventRecord]) -> None:
        """Take the recent Events.

        Raises:
            OSError: they can't be kept.
        """
        self._reporter.happenings(events)
        self._cache.save_happenings(events)

    def publish_services(self, record: ServicesRecord | None) -> None:
        """Nothing: metrics say it. A write by every node with each change would be too much."""

    def earlier_events(self) -> list[EventRecord]:
        """Events of earlier runs; they are said again, for nobody may have read them."""
        records = self._cache.happenings()
        self._reporter.happenings(records)
        return records

    # -- the API server --------------------------------------------------------------------------------------

    async def follow(self, patience: float) -> None:
        """Follow the BpfNode until cancelled.

        Args:
            patience: seconds to wait for the API server before the plan on the disk is acted on.
        """
        self._restore()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._node.run())
            group.create_task(self._fetch())
            group.create_task(self._reporter.run())
            group.create_task(self._fall_back(patience))

    async def finish(self, seconds: float) -> None:
        """Wait until the newest status is written, but not for longer than this."""
        await self._reporter.finish(seconds)

    def take(self, found: NodeObject | None) -> None:
        """Take in the BpfNode as it is now; None: there is none."""
        wanted = found.wanted if found else None
        if found is None or wanted is None:
            log.warning("this node has no BpfNode with a list of bundles: what runs goes on")
        elif wanted != self._newest:
            self._newest = wanted
            self._asked.set()
        elif found.status is None or found.status.observed_generation <= 0:
            self._reporter.rewrite()

    async def _fetch(self) -> None:
        """Get the bundles of each new spec, then put it in force; what could not be had is tried again."""
        backoff, wait = Backoff(), None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._asked.wait()
            if self._asked.is_set():
                backoff.reset()
            self._asked.clear()
            wanted = self._newest
            assert wanted is not None
            lacking = {ref.hash: ref for ref in wanted.bundles if ref.hash not in self._decoded}
            done = await asyncio.gather(*(self._get(ref) for ref in lacking.values()))
            news = wanted != self._wanted or any(done)
            if wanted is self._newest and news and not self._unheard_of(wanted):
                self._put_in_force(wanted)
            retry = any(self._errors[h].may_pass for h in lacking if h in self._errors)
            wait = backoff.next() if retry else None

    def _unheard_of(self, wanted: Wanted) -> bool:
        """Whether after a start something is not known that may run already: without it, it would be removed.

        A ConfigMap that is not there is an answer; that the API server gave none is not.
        """
        if self._wanted is not None:
            return False
        errors = (self._errors.get(ref.hash) for ref in wanted.bundles if ref.key not in self._in_force)
        return any(isinstance(error, ApiError) and error.reason != "BundleMissing" for error in errors)

    async def _get(self, ref: Ref) -> bool:
        """Have a bundle decoded or its error known; returns whether that is news."""
        before = self._errors.get(ref.hash)
        if before is not None and not before.may_pass:
            return False
        if self._decode(ref, self._cache.bundle(ref.hash)):
            return True
        kept = self._errors.get(ref.hash)
        if kept is not None and not kept.may_pass:
            return True  # it is whole, and this version can't act on it
        try:
            data = await self._api.bundle(ref.config_map)
        except KubebeeError as error:
            self._errors[ref.hash] = error
            return before is None or str(before) != str(error)
        self._decode(ref, data)
        after = self._errors.get(ref.hash)
        if after is None or not after.may_pass:
            self._keep(ref.hash, data)
        return True

    def _keep(self, digest: str, data: tuple[str, bytes]) -> None:
        try:
            self._cache.save_bundle(digest, data)
        except OSError as error:
            log.warning("bundle %s can't be kept on disk: %s", digest, error.strerror)
            self._unsaved[digest] = data

    def _decode(self, ref: Ref, data: tuple[str, bytes] | None) -> bool:
        """Whether the data is the bundle; if not, why is kept."""
        if data is None:
            return False
        try:
            declared = wire.decode(data, ref.generation, ref.hash)
            if declared.key != ref.key:
                raise wire.BundleError(f"bundle {ref.hash} is of {declared.key}, not of {ref.key}")
        except KubebeeError as error:
            self._errors[ref.hash] = error
            return False
        except Exception as error:  # one resource must not end the loader of all
            log.exception("bundle %s can't be read", ref.hash)
            said, hint = f"{type(error).__name__}: {error}", "this is a fault of kubebee: please report it"
            self._errors[ref.hash] = KubebeeError(said, reason="InternalError", hint=hint)
            return False
        self._decoded[ref.hash] = declared
        self._errors.pop(ref.hash, None)
        return True

    def _put_in_force(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.known.set()
        self._changed.set()

    # -- the disk --------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """Know which version of each resource was in force: one that can't be had now leaves it so."""
        plan = self._cache.plan()
        for ref in plan.in_force if plan else ():
            if self._decode(ref, self._cache.bundle(ref.hash)):
                self._in_force[ref.key] = (ref, self._decoded[ref.hash])

    async def _fall_back(self, patience: float) -> None:
        await asyncio.sleep(patience)
        self.use_saved()

    def use_saved(self) -> None:
        """Act on the plan on the disk if none is known: a node comes up as it was without an API server."""
        plan = self._cache.plan()
        if plan is None or self.known.is_set():
            return
        log.warning("the API server has not said yet what to run: going on with the plan kept on disk")
        for ref in plan.wanted.bundles:
            if ref.hash not in self._decoded and not self._decode(ref, self._cache.bundle(ref.hash)):
                missing = ApiError("the bundle is not on this node's disk", reason="BundleMissing")
                self._errors.setdefault(ref.hash, missing)
        self._put_in_force(plan.wanted)


class _Sink:
    """Where the BpfNode comes from the API server."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._seen = False

    def begin(self) -> None:
        self._seen = False

    def put(self, found: NodeObject) -> None:
        self._seen = True
        self._store.take(found)

    def drop(self, _: NodeObject) -> None:
        self._store.take(None)

    def complete(self) -> None:
        if not self._seen:
            self._store.take(None)

    def alive(self) -> None:
        """No news."""

    def failed(self, _: KubebeeError) -> None:
        self._store.use_saved()
