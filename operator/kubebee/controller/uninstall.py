"""Leaves nothing of kubebee in a cluster but its CustomResourceDefinitions and what users made.

Each step is safe on its own and may be made again: an uninstallation that was cut off is started over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from kubebee.controller import documents
from kubebee.controller.api import METADATA_LIST, Api, ApiError, NotThere
from kubebee.controller.kinds import (
    BPF_NODES,
    NODES,
    OURS,
    USER_KINDS,
    Collection,
    bundles,
    daemon_sets,
    deployments,
    leases,
)
from kubebee.controller.lease import Lease
from kubebee.controller.objects import node
from kubebee.errors import KubebeeError
from kubebee.planner.cluster import FINALIZER
from kubebee.planner.nodes import BpfNodeRecord, read_bpf_node
from kubebee.store.backoff import Backoff

log = logging.getLogger("kubebee.uninstall")
LOOK_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""A node that has not said anything at all for so long has no loader, and runs nothing that we know of."""
_NAMED = 10
_CONFLICT = 409
_T = TypeVar("_T")


class UninstallError(KubebeeError):
    """It could not be brought to its end in time."""

    reason = "StillRunning"


@dataclass(frozen=True, slots=True)
class Names:
    """What the chart calls its objects."""

    namespace: str
    deployment: str
    daemon_set: str
    lease: str


class Uninstall:
    """Takes kubebee off a cluster.

    Args:
        api: the API server.
        names: of the chart's objects.
        lease: the controllers' Lease, which keeps them from acting.
        seconds: how long all of it may take.
        force: go on although nodes still run something.
    """

    def __init__(self, api: Api, names: Names, lease: Lease, seconds: float, force: bool = False) -> None:
        self._api, self._names, self._lease, self._force = api, names, lease, force
        self._ends = time.monotonic() + seconds
        self._seconds = seconds
        self._began = time.monotonic()

    def run(self) -> None:
        """All steps.

        Raises:
            UninstallError: the time is over.
            ApiError: the API server refuses.
        """
        stop = threading.Event()
        self._patiently(self._scale_down)
        campaign = threading.Thread(target=self._lease.campaign, args=(stop,), name="lease", daemon=True)
        campaign.start()
        try:
            self._wait(
                lambda: [] if self._lease.held else [self._lease.holder or "nobody yet"], _STILL_ACTING
            )
            log.info("no controller acts any more")
            self._patiently(self._empty_nodes)
            try:
                self._wait(lambda: self._patiently(self._running), _STILL_RUNNING)
                log.info("no node runs anything")
            except UninstallError as error:
                if not self._force:
                    raise
                log.warning("%s", error)
                self._ends = time.monotonic() + self._seconds
            self._remove_loaders()
            self._patiently(self._remove_bpf_nodes)
            self._patiently(self._remove_bundles)
            self._patiently(self._release_resources)
        finally:
            stop.set()
            campaign.join(LOOK_SECONDS)
        self._patiently(lambda: self._api.delete(leases(self._names.namespace), self._names.lease))

    # -- steps -----------------------------------------------------------------------------------------------

    def _scale_down(self) -> None:
        """So that nobody puts back what is taken away."""
        collection = deployments(self._names.namespace)
        try:
            self._api.merge(collection, self._names.deployment, {"spec": {"replicas": 0}}, "scale")
        except NotThere:
            log.info("there is no Deployment %s", self._names.deployment)

    def _empty_nodes(self) -> None:
        for document in self._all(BPF_NODES):
            record = read_bpf_node(document)
            if record.bundles or document.get("spec", {}).get("bundles") is None:
                self._api.apply(BPF_NODES, documents.bpf_node(record.name, ()))

    def _running(self) -> list[str]:
        """Nodes that are there, ready, and still run something as far as they say."""
        ready = {each.name for each in map(node, self._all(NODES)) if each.ready}
        records = (read_bpf_node(document) for document in self._all(BPF_NODES))
        return [record.name for record in records if record.name in ready and self._occupied(record)]

    def _occupied(self, record: BpfNodeRecord) -> bool:
        if not record.observed and not record.reports:
            return time.monotonic() < self._began + SILENT_SECONDS
        return bool(record.reports) or record.observed != record.generation

    def _remove_loaders(self) -> None:
        """Delete the DaemonSet and wait for its pods: their last reports must not outlive them."""
        collection, name = daemon_sets(self._names.namespace), self._names.daemon_set
        uid = self._patiently(lambda: self._uid(collection, name))
        if not uid:
            return
        self._patiently(lambda: self._api.delete(collection, name))
        self._wait(lambda: self._patiently(lambda: self._pods_of(uid)), _LOADERS_LEFT)
        log.info("the loaders are gone")

    def _uid(self, collection: Collection, name: str) -> str:
        try:
            return str(self._api.get(collection, name)["metadata"]["uid"])
        except NotThere:
            return ""

    def _pods_of(self, uid: str) -> list[str]:
        pods = Collection("v1", "Pod", "pods", self._names.namespace)
        return [
            str(document["metadata"]["name"])
            for document in self._all(pods, METADATA_LIST)
            if any(each["uid"] == uid for each in document["metadata"].get("ownerReferences") or ())
        ]

    def _remove_bpf_nodes(self) -> None:
        for document in self._all(BPF_NODES, METADATA_LIST):
            self._api.delete(BPF_NODES, document["metadata"]["name"])

    def _remove_bundles(self) -> None:
        collection = bundles(self._names.namespace)
        for document in self._all(collection, METADATA_LIST):
            self._api.delete(collection, document["metadata"]["name"])

    def _release_resources(self) -> None:
        """No resource waits for us, nor says that it runs."""
        for kind in USER_KINDS:
            for document in self._all(OURS[kind]):
                metadata = document["metadata"]
                if (document.get("status") or {}).get("conditions"):
                    empty = documents.status(metadata["name"], metadata["uid"], {})
                    metadata = self._api.apply(OURS[kind], empty, "status")["metadata"]
                if FINALIZER in (metadata.get("finalizers") or ()):
                    self._api.merge(OURS[kind], metadata["name"], documents.without_finalizer(metadata))

    # -- patience --------------------------------------------------------------------------------------------

    def _all(self, collection: Collection, accept: str = "application/json") -> Iterator[dict[str, Any]]:
        """All objects; none of a kind that is not served."""
        try:
            for _, items in self._api.pages(collection, accept):
                yield from items
        except NotThere:
            return

    def _patiently(self, step: Callable[[], _T]) -> _T:
        """Try again what may pass, until the time is over."""
        backoff = Backoff()
        while True:
            try:
                return step()
            except ApiError as error:
                wait = backoff.next(error.retry_after)
                passing = error.overloaded or error.status in (_CONFLICT, 404)
                if not passing or time.monotonic() + wait > self._ends:
                    raise
                log.warning("%s; next try in %.1f s", error, wait)
                time.sleep(wait)

    def _wait(self, remaining: Callable[[], list[str]], what: tuple[str, str]) -> None:
        """Wait until nothing remains, and say what does."""
        told: list[str] = []
        while left := remaining():
            if time.monotonic() > self._ends:
                text, hint = what
                names = ", ".join(left[:_NAMED]) + (
                    f" and {len(left) - _NAMED} more" if left[_NAMED:] else ""
                )
                raise UninstallError(f"{text.format(names)} after {self._seconds:.0f} s", hint=hint)
            if left != told:
                log.info(what[0].format(", ".join(left[:_NAMED])))
                told = left
            time.sleep(LOOK_SECONDS)


_STILL_ACTING = (
    "the controllers' Lease is held by {}",
    "end the controllers: `kubectl -n NAMESPACE get pods`, then try again",
)
_STILL_RUNNING = (
    "nodes that still run something: {}",
    "see the loader's log there, then try again; --force goes on, and what runs there stays until a reboot",
)
_LOADERS_LEFT = ("pods of loaders that don't end: {}", "`kubectl describe` them, then try again")
