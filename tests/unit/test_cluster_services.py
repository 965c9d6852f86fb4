"""Services from a small API server: lists, watches, outages, and what may be taken for gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.table import ServiceTable
from kubebee.store import reflector
from kubebee.store.api_access import ApiAccess
from kubebee.store.api_client import ApiClient
from kubebee.store.services import ClusterServices
from support.api_server import ApiServer, bound
from support.services import (
    ALL,
    HERE,
    VIP,
    ZONE,
    endpoint,
    endpoint_slice,
    here,
    host_port,
    pod,
    service,
)

DEADLINE = 20.0
SERVICES, SLICES, NODES = "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", HERE


def node(zone: str = ZONE, *addresses: str) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": HERE, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": one} for one in addresses]},
    }


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with ApiServer(bound(socket.socket)) as server:
        server.put(node(ZONE, "172.18.0.11"))
        yield server


class Following:
    """A table that follows an API server."""

    def __init__(self, services: ClusterServices) -> None:
        self.services = services
        self.table = services.table

    def served(self) -> dict[str, list[str]]:
        """What each address leads to, as of now."""
        self.table.refresh()
        return {
            str(key): [str(backend) for backend in frontend.backends]
            for key, frontend in self.table.frontends.items()
        }

    async def until(self, what: str, look: Callable[[], object]) -> None:
        """Wait for a condition."""
        for _ in range(int(DEADLINE / 0.01)):
            if look():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{what}: not within {DEADLINE} s; served: {self.served()}")

    async def until_served(self, wanted: dict[str, list[str]]) -> None:
        """Wait until exactly this is served, and all is listed."""
        await self.until(f"served is {wanted}", lambda: self.table.synced and self.served() == wanted)


@contextlib.asynccontextmanager
async def following(server: ApiServer, table: ServiceTable | None = None) -> AsyncIterator[Following]:
    async with ApiClient(ApiAccess(server.url)) as client:
        table = table or ServiceTable(NodeFacts(HERE))
        table.want(ALL)
        services = ClusterServices(client, table)
        task = asyncio.create_task(services.run())
        services.want(True)
        try:
            yield Following(services)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


WEB = {f"{VIP}:80/TCP": ["10.1.0.1:8080"]}


def test_what_there_is_and_what_changes_is_served(api: ApiServer) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"))
        async with following(api) as follow:
            await follow.until_served(WEB)
            api.put(endpoint_slice("10.1.0.1", "10.1.0.2"))
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.1:8080", "10.1.0.2:8080"]})
            api.drop(endpoint_slice("10.1.0.1"))
            await follow.until_served({f"{VIP}:80/TCP": []})
            api.drop(service())
            await follow.until_served({})

    run(test)


def test_nothing_is_asked_before_somebody_wants_services_and_after_nobody_does(api: ApiServer) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"))
        async with following(api) as follow:
            await follow.until_served(WEB)
            follow.services.want(False)
            await follow.until("it is forgotten", lambda: not follow.table.synced)
            assert follow.served() == {}
            lists = api.count("list")
            follow.services.want(True)
            await follow.until_served(WEB)
            assert api.count("list") == lists + 3
        async with ApiClient(ApiAccess(api.url)) as client:
            idle = ClusterServices(client, ServiceTable(NodeFacts(HERE)))
            task = asyncio.create_task(idle.run())
            await asyncio.sleep(0)
            assert api.count("list") == lists + 3
            task.cancel()

    run(test)


def test_a_long_list_comes_in_pages(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reflector, "PAGE", 2)

    async def test() -> None:
        services = [service(f"s{i}", clusterIP=f"10.96.0.{i}") for i in range(1, 6)]
        api.put(*services)
        async with following(api) as follow:
            await follow.until_served({f"10.96.0.{i}:80/TCP": [] for i in range(1, 6)})
        pages = [request for request in api.requests if request == ("list", SERVICES, 200)]
        assert sum((one.verb, one.name) == ("list", SERVICES) for one in api.requests) == 3, pages

    run(test)


def test_a_list_that_grew_too_old_between_pages_begins_anew(
    api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reflector, "PAGE", 2)

    async def test() -> None:
        api.put(*(service(f"s{i}", clusterIP=f"10.96.0.{i}") for i in range(1, 6)))
        api.compact_after = 1
        async with following(api) as follow:
            await follow.until_served({f"10.96.0.{i}:80/TCP": [] for i in range(1, 6)})
        assert api.count("list", 410) == 1

    run(test)


def test_nothing_counts_as_known_before_all_three_kinds_are_listed(api: ApiServer) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"))
        api.refuse_path(SLICES, 403)
        async with following(api) as follow:
            await follow.until("the refusal is known", lambda: follow.services.trouble is not None)
            assert "403" in str(follow.services.trouble)
            assert not follow.table.synced
            api.refuse_path(SLICES, 0)
            await follow.until_served(WEB)
            assert follow.services.trouble is None

    run(test)


def test_an_outage_drops_nothing_and_what_changed_meanwhile_comes_in_after_it(api: ApiServer) -> None:
    async def test() -> None:
        gone = service("gone", clusterIP="10.96.0.99")
        api.put(service(), endpoint_slice("10.1.0.1"), gone)
        before = WEB | {"10.96.0.99:80/TCP": []}
        async with following(api) as follow:
            await follow.until_served(before)
            await follow.until("all are watched", lambda: follow.services.watching)
            api.stop()
            await follow.until("it is noticed", lambda: follow.services.trouble is not None)
            assert (follow.table.synced, follow.served()) == (True, before)
            api.drop(gone)
            api.put(endpoint_slice("10.1.0.2"))
            api.compact()  # what happened can't be watched any more: it must be listed
            api.start()
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.2:8080"]})

    run(test)


@pytest.mark.parametrize("how", ["cut", "expired"])
def test_a_watch_that_ends_is_taken_up_again(api: ApiServer, how: str) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"))
        async with following(api) as follow:
            await follow.until_served(WEB)
            await follow.until("all are watched", lambda: follow.services.watching)
            lists = api.count("list")
            api.cut_watches() if how == "cut" else api.expire_watches()
            api.put(endpoint_slice("10.1.0.3"))
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.3:8080"]})
            await follow.until("all are watched", lambda: follow.services.watching)
            assert api.count("list") == lists + (0 if how == "cut" else 3)

    run(test)


def test_a_bookmark_spares_a_list_after_the_past_is_gone(api: ApiServer) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"))
        async with following(api) as follow:
            await follow.until_served(WEB)
            await follow.until("all are watched", lambda: follow.services.watching)
            lists, heard = api.count("list"), follow.services.heard_at
            api.compact(but_the_newest=True)
            api.bookmark()
            await follow.until("it is heard", lambda: follow.services.heard_at > heard)
            api.cut_watches()
            api.put(endpoint_slice("10.1.0.3"))
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.3:8080"]})
            assert api.count("list") == lists

    run(test)


def test_services_of_other_proxies_and_headless_ones_are_not_even_asked_for(api: ApiServer) -> None:
    async def test() -> None:
        labels = {"service.kubernetes.io/service-proxy-name": "other"}
        api.put(service(), endpoint_slice("10.1.0.1"), service("other", labels=labels, clusterIP="10.96.0.2"))
        async with following(api) as follow:
            await follow.until_served(WEB)
            assert set(follow.services._intake._services) == {("default", "web")}
            api.put(service(labels=labels))
            await follow.until_served({})
            api.put(service())
            await follow.until_served(WEB)

    run(test)


def test_node_ports_zones_and_local_endpoints_are_those_of_the_own_node(api: ApiServer) -> None:
    async def test() -> None:
        api.put({**node("zone-x", "172.18.0.99"), "metadata": {"name": "other-node"}})
        spec = {"type": "NodePort", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}
        near, far = endpoint("10.1.0.1", zones=[ZONE]), here("10.1.0.2", zones=["zone-b"])
        api.put(service(externalTrafficPolicy="Local", **spec), endpoint_slice(near, far))
        async with following(api) as follow:
            local = {"172.18.0.11:30080/TCP": ["10.1.0.2:8080"], "127.0.0.1:30080/TCP": ["10.1.0.2:8080"]}
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.1:8080"], **local})
            api.put(node("zone-b", "172.18.0.12"))
            moved = {"172.18.0.12:30080/TCP": ["10.1.0.2:8080"], "127.0.0.1:30080/TCP": ["10.1.0.2:8080"]}
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.2:8080"], **moved})
            api.drop(node())
            api.put(endpoint_slice(far))
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.2:8080"], **moved})

    run(test)


def test_an_object_that_can_not_be_read_is_said_and_what_is_known_stays(api: ApiServer) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"))
        async with following(api) as follow:
            await follow.until_served(WEB)
            api.put({**endpoint_slice("10.1.0.9"), "ports": "eighty"})
            await follow.until("it is said", lambda: follow.services.trouble is not None)
            assert follow.served() == WEB
            api.put(endpoint_slice("10.1.0.9"))
            await follow.until_served({f"{VIP}:80/TCP": ["10.1.0.9:8080"]})

    run(test)


# -- host ports ----------------------------------------------------------------------------------------------

PODS = "/api/v1/pods"
HOST_PORT = {"172.18.0.11:8000/TCP": ["10.1.0.7:80"], "127.0.0.1:8000/TCP": ["10.1.0.7:80"]}


def test_of_pods_only_those_of_the_own_node_are_asked_for(api: ApiServer) -> None:
    async def test() -> None:
        api.put(pod("web-0", host_port()), pod("far", host_port(9000), nodeName="node-2"))
        async with following(api) as follow:
            follow.services.want(True, pods=True)
            await follow.until_served(HOST_PORT)
            await follow.until("all are watched", lambda: follow.services.watching)
            assert follow.table.host_ports.synced
            api.put(pod("web-0", host_port(), phase="Succeeded"))
            await follow.until_served({})
            api.put(pod("web-1", host_port()))
            await follow.until_served(HOST_PORT)
            api.drop(pod("web-1"))
            await follow.until_served({})

    run(test)


def test_pods_are_asked_for_only_where_host_ports_are_wanted(api: ApiServer) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"), pod("web-0", host_port()))
        async with following(api) as follow:
            await follow.until_served(WEB)
            await follow.until("all are watched", lambda: follow.services.watching)
            assert api.count("list") == 3
            follow.services.want(True, pods=True)
            await follow.until_served(WEB | HOST_PORT)
            follow.services.want(False)
            await follow.until("it is forgotten", lambda: not follow.table.host_ports.synced)
            assert follow.served() == {}

    run(test)


def test_without_the_right_to_pods_services_are_served_and_it_is_said(api: ApiServer) -> None:
    async def test() -> None:
        api.put(service(), endpoint_slice("10.1.0.1"), pod("web-0", host_port()))
        api.refuse_path(PODS, 403)
        async with following(api) as follow:
            follow.services.want(True, pods=True)
            await follow.until_served(WEB)
            await follow.until("the refusal is known", lambda: follow.services.pods_trouble is not None)
            assert follow.services.trouble is None
            assert not follow.table.host_ports.synced
            api.refuse_path(PODS, 0)
            await follow.until_served(WEB | HOST_PORT)
            assert follow.services.pods_trouble is None

    run(test)
