"""Services from a real API server: pages, watches, a past that is gone, an outage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from cluster import Cluster
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.table import ServiceTable
from kubebee.store import api_access, reflector
from kubebee.store.api_client import ApiClient
from kubebee.store.services import ClusterServices
from support.services import ALL, endpoint_slice, service

DEADLINE = 60.0
COUNT = 7


@dataclass
class Site:
    """A namespace of this test alone."""

    cluster: Cluster
    name: str = field(default_factory=lambda: f"services-{uuid.uuid4().hex[:8]}")

    def apply(self, *documents: dict[str, Any]) -> None:
        """Apply documents to the namespace; the server gives Services their addresses."""
        for document in documents:
            document["metadata"]["namespace"] = self.name
            document["metadata"].pop("creationTimestamp", None)
            document.get("spec", {}).pop("clusterIP", None)
        items = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.cluster.kubectl("apply", "-f", "-", stdin=json.dumps(items))


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Site]:
    made = Site(cluster)
    cluster.kubectl("create", "namespace", made.name)
    yield made
    cluster.kubectl("delete", "namespace", made.name, "--wait=false")


class Following:
    """A table that follows the cluster."""

    def __init__(self, services: ClusterServices, namespace: str) -> None:
        self.services = services
        self._namespace = namespace

    def served(self) -> dict[str, list[str]]:
        """What the namespace's Services lead to, by the Service's name."""
        self.services.table.refresh()
        found = {}
        for frontend in self.services.table.frontends.values():
            _, namespace, rest = frontend.owner.split("/")
            if namespace == self._namespace:
                found[rest.partition(":")[0]] = [str(backend) for backend in frontend.backends]
        return found

    async def until(self, what: str, look: Callable[[], object]) -> None:
        for _ in range(int(DEADLINE / 0.05)):
            if look():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"{what}: not within {DEADLINE} s; served: {self.served()}")

    async def until_served(self, wanted: dict[str, list[str]]) -> None:
        table = self.services.table
        await self.until(f"served is {wanted}", lambda: table.synced and self.served() == wanted)


@contextlib.asynccontextmanager
async def following(site: Site) -> AsyncIterator[Following]:
    access = api_access.from_kubeconfig(site.cluster.spec.kubeconfig)
    async with ApiClient(access) as client:
        table = ServiceTable(NodeFacts(site.cluster.nodes[0].name))
        table.want(ALL)
        services = ClusterServices(client, table)
        task = asyncio.create_task(services.run())
        services.want(True)
        try:
            yield Following(services, site.name)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def test_lists_come_in_pages_and_news_by_watches(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "PAGE", 2)
    names = [f"s{number}" for number in range(COUNT)]

    async def test() -> None:
        site.apply(*map(service, names), *(endpoint_slice("10.1.0.1", of=name) for name in names))
        async with following(site) as follow:
            await follow.until_served({name: ["10.1.0.1:8080"] for name in names})
            assert follow.services.table.facts.addresses, "those of the Node object"
            await asyncio.to_thread(site.apply, endpoint_slice("10.1.0.1", "10.1.0.2", of="s3"))
            wanted = {name: ["10.1.0.1:8080"] for name in names} | {"s3": ["10.1.0.1:8080", "10.1.0.2:8080"]}
            await follow.until_served(wanted)
            await asyncio.to_thread(
                site.cluster.kubectl, "-n", site.name, "label", "service", "s4",
                "service.kubernetes.io/service-proxy-name=other",
            )  # fmt: skip
            del wanted["s4"]
            await follow.until_served(wanted)

    asyncio.run(test())


def test_a_version_that_the_server_has_no_more_leads_to_a_new_list(site: Site) -> None:
    async def test() -> None:
        site.apply(service("web"), endpoint_slice("10.1.0.1"))
        async with following(site) as follow:
            await follow.until_served({"web": ["10.1.0.1:8080"]})
            await follow.until("all are watched", lambda: follow.services.watching)
            asked: list[tuple[str, str]] = []
            follow.services._client.answered = lambda verb, status: asked.append((verb, status))
            await asyncio.to_thread(site.cluster.stop_api)
            try:
                await follow.until("it is noticed", lambda: not follow.services.watching)
                assert follow.served() == {"web": ["10.1.0.1:8080"]}
                for one in follow.services._reflectors:
                    one._version = "1"  # what a server's watch cache has begins after its start
            finally:
                await asyncio.to_thread(site.cluster.start_api)
            await asyncio.to_thread(site.apply, endpoint_slice("10.1.0.2"))
            await follow.until_served({"web": ["10.1.0.2:8080"]})
            assert ("list", "200") in asked

    asyncio.run(test())
