"""A cluster's Services and EndpointSlices, and a node's own Node and Pods, on their way into the table."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from kubebee.errors import KubebeeError
from kubebee.lb.services.claims import Name
from kubebee.lb.services.intake import Intake, name_of
from kubebee.lb.services.objects import (
    HEADLESS,
    PROXY_NAME,
    NodeObject,
    PodObject,
    ServiceObject,
    SliceObject,
)
from kubebee.lb.services.table import ServiceTable
from kubebee.store.api_client import ApiClient
from kubebee.store.reflector import Collection, Reflector
from kubebee.store.snapshot import Snapshot

log = logging.getLogger("kubebee.services")
_FOR_PROXIES = {"labelSelector": f"!{PROXY_NAME},!{HEADLESS}"}
_SERVICES = "/api/v1/services"
_SLICES = "/apis/discovery.k8s.io/v1/endpointslices"
_NODES = "/api/v1/nodes"
_PODS = "/api/v1/pods"
_T = TypeVar("_T", ServiceObject, SliceObject, NodeObject, PodObject)


class ClusterServices:
    """Follows the API server while Services are wanted; see the module's docstring.

    An outage drops nothing, and what was never listed is not taken for absent: `table.synced` says when
    Services, EndpointSlices and the Node were listed once, `table.host_ports.synced` when Pods were. Nothing
    waits for Pods: without the right to them all else is served.

    Attributes:
        heard_at: time.time() when the API server last said anything, 0 before the first.
        changed: set when there is news, and when all is listed.

    Args:
        client: the API server.
        table: where objects go; it knows the name of the node.
    """

    def __init__(self, client: ApiClient, table: ServiceTable) -> None:
        self.table = table
        self.heard_at = 0.0
        self.changed = asyncio.Event()
        self._client = client
        self._intake = Intake(table)
        self._on, self._off, self._pods_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._reflectors: list[Reflector[Any]] = []
        self._sinks: list[_Sink[Any]] = []
        self._pods: _Sink[PodObject] | None = None

    @property
    def wanted(self) -> bool:
        """Whether somebody wants them."""
        return self._on.is_set()

    @property
    def watching(self) -> bool:
        """Whether news of all kinds would come in now."""
        return bool(self._reflectors) and all(reflector.watching for reflector in self._reflectors)

    @property
    def trouble(self) -> KubebeeError | None:
        """Why the API server can't be asked, None while it can."""
        return next((sink.trouble for sink in self._sinks if sink.trouble is not None), None)

    @property
    def pods_trouble(self) -> KubebeeError | None:
        """The same for Pods."""
        return self._pods.trouble if self._pods is not None else None

    def want(self, wanted: bool, *, pods: bool = False) -> None:
        """Whether to follow, and whether the node's Pods, too; those go on until nothing is wanted."""
        now, otherwise = (self._on, self._off) if wanted else (self._off, self._on)
        now.set()
        otherwise.clear()
        if wanted and pods:
            self._pods_on.set()
        if not wanted:
            self._pods_on.clear()

    def take(self, snapshot: Snapshot) -> None:
        """Nothing: in a cluster Services don't come with the resources."""

    async def run(self) -> None:
        """Follow when it is wanted, until cancelled."""
        while True:
            await self._on.wait()
            tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._off.wait())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if tasks[0].done():
                    tasks[0].result()  # it ends only by an error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            self._forget()

    async def _follow(self) -> None:
        ours = {"fieldSelector": f"metadata.name={self.table.facts.name}"}
        intake = self._intake
        services = _Sink(self, intake.put_service, intake.drop_service, intake.keep_services)
        slices = _Sink(self, intake.put_slice, intake.drop_slice, intake.keep_slices)
        # A Node that is gone leaves what was known of it in force.
        node = _Sink(self, intake.put_node, lambda _: None, lambda _: None)
        self._sinks = [services, slices, node]
        self._reflectors = [
            Reflector(self._client, Collection(_SERVICES, ServiceObject, _FOR_PROXIES), services),
            Reflector(self._client, Collection(_SLICES, SliceObject, _FOR_PROXIES), slices),
            Reflector(self._client, Collection(_NODES, NodeObject, ours), node),
        ]
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(reflector.run())
            await self._pods_on.wait()
            group.create_task(self._follow_pods())

    async def _follow_pods(self) -> None:
        ours = {"fieldSelector": f"spec.nodeName={self.table.facts.name}"}
        intake = self._intake
        self._pods = _Sink(self, intake.put_pod, intake.drop_pod, intake.keep_pods)
        reflector = Reflector(self._client, Collection(_PODS, PodObject, ours), self._pods)
        self._reflectors.append(reflector)
        await reflector.run()

    def _forget(self) -> None:
        """Nobody wants them any more, and what is not followed grows old."""
        self.table.synced = self.table.host_ports.synced = False
        self._reflectors, self._sinks, self._pods = [], [], None
        self._intake.keep_pods(set())
        self._intake.keep_services(set())
        self._intake.keep_slices(set())

    def alive(self) -> None:
        """The API server said something, news or not."""
        self.heard_at = time.time()

    def news(self) -> None:
        """Objects came in or went."""
        if not self.table.synced and all(sink.listed for sink in self._sinks):
            self.table.synced = True
            log.info("all Services, EndpointSlices and this node's Node are listed")
        if self._pods is not None and self._pods.listed:
            self.table.host_ports.synced = True
        if self.table.synced:
            self.changed.set()


class _Sink(Generic[_T]):
    """Objects of one kind.

    Attributes:
        listed: all of them were put in at least once.
        trouble: why they can't be asked for.
    """

    def __init__(
        self,
        source: ClusterServices,
        put: Callable[[_T], None],
        drop: Callable[[Name], None],
        keep: Callable[[set[Name]], None],
    ) -> None:
        self.listed = False
        self.trouble: KubebeeError | None = None
        self._source = source
        self._put: Callable[[_T], None] = put
        self._drop = drop
        self._keep = keep
        self._names: set[Name] | None = None  # while a list comes in

    def begin(self) -> None:
        self._names = set()

    def put(self, found: _T) -> None:
        self._put(found)
        if self._names is not None:
            self._names.add(name_of(found))
        else:
            self._source.news()

    def drop(self, found: _T) -> None:
        self._drop(name_of(found))
        self._source.news()

    def complete(self) -> None:
        self._keep(self._names or set())
        self._names = None
        self.listed = True
        self._source.news()

    def alive(self) -> None:
        self.trouble = None
        self._source.alive()

    def failed(self, error: KubebeeError) -> None:
        if getattr(error, "status", 0) == 403:
            error.hint = "the loader's role needs list and watch of it: loader.services in the chart's values"
        if str(error) != str(self.trouble):
            self.trouble = error
            self._source.changed.set()
