"""A node's store against a real API server: its watch, its schema, its patches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster import Cluster
from kubebee.api.v1alpha1.bpfnode import Feature
from kubebee.bpf import features
from kubebee.planner import wire
from kubebee.planner.node_status import Outcome, node_status
from kubebee.planner.plan import ResourceKey
from kubebee.planner.report import Attached, Failure, MapFact, Stage, UnitReport
from kubebee.store import api_access
from kubebee.store.api_client import ApiClient
from kubebee.store.node import NodeStore
from kubebee.store.node_api import NodeApi
from kubebee.store.node_cache import NodeCache
from kubebee.store.snapshot import Snapshot
from support.running import wait_for
from support.site import counter, program

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0
PACKETS = program("packets", counter())


@dataclass
class Site:
    """A BpfNode and bundles of this test alone, as a controller makes them."""

    cluster: Cluster
    name: str = field(default_factory=lambda: f"agent-api-{uuid.uuid4().hex[:8]}")

    def put_bundle(self, manifest: dict[str, Any], generation: int = 1) -> dict[str, Any]:
        """Make a resource's ConfigMap; returns the reference to it."""
        encoded = wire.encode(manifest, "2026-01-01T00:00:00Z")
        key, raw = encoded.data
        packed = {"binaryData": {key: base64.b64encode(raw).decode()}}
        self.cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": encoded.config_map, "namespace": self.name},
                "immutable": True,
                **(packed if key == wire.PACKED else {"data": {key: raw.decode()}}),
            }
        )
        return {
            "kind": encoded.key.kind,
            "name": encoded.key.name,
            "generation": generation,
            "hash": encoded.digest,
            "configMap": encoded.config_map,
        }

    def set_spec(self, bundles: list[dict[str, Any]]) -> int:
        """Apply the BpfNode as the controller does; returns its generation."""
        body = {"apiVersion": "kubebee.dev/v1alpha1", "kind": "BpfNode", "metadata": {"name": self.name}}
        apply = ("apply", "--server-side", "--field-manager=kubebee", "--force-conflicts", "-f", "-")
        self.cluster.kubectl(*apply, stdin=json.dumps({**body, "spec": {"bundles": bundles}}))
        return int(self.node()["metadata"]["generation"])

    def node(self) -> dict[str, Any]:
        """The BpfNode."""
        return self.cluster.get("bpfnode", self.name)

    def status(self) -> dict[str, Any]:
        """Its status."""
        return dict(self.node().get("status", {}))


@pytest.fixture
def site(cluster: Cluster) -> Iterator[Site]:
    made = Site(cluster)
    cluster.kubectl("apply", "-f", str(ROOT / "crds"))
    crds = ("crd/bpfnodes.kubebee.dev",)
    cluster.kubectl("wait", "--for=condition=Established", *crds, "--timeout=60s")
    cluster.kubectl("create", "namespace", made.name)
    yield made
    cluster.kubectl("delete", "bpfnode", made.name, "--ignore-not-found")
    cluster.kubectl("delete", "namespace", made.name, "--wait=false")


@contextlib.asynccontextmanager
async def following(site: Site, folder: Path) -> AsyncIterator[NodeStore]:
    """A store that follows the site's BpfNode as an administrator."""
    access = api_access.from_kubeconfig(site.cluster.spec.kubeconfig)
    async with ApiClient(access) as client:
        store = NodeStore(NodeApi(client, site.name, site.name), NodeCache(folder, site.name))
        task = asyncio.create_task(store.follow(1.0))
        try:
            yield store
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def news(store: NodeStore) -> Snapshot:
    """The next snapshot that a change leads to."""
    async with asyncio.timeout(DEADLINE):
        async for _ in store.changes():
            break
    return store.scan()


async def until(what: str, look: Callable[[], object]) -> None:
    """Wait for something to come true; kubectl blocks, so in a thread."""
    await asyncio.to_thread(wait_for, what, look, DEADLINE)


def everything() -> dict[str, object]:
    """A status that has all that a node may say."""
    key = ResourceKey("BpfProgram", "packets")
    failure = Failure(Stage.ATTACH, "EBUSY", "x" * 3000, "EBUSY", "log" * 2000, "hint", False)
    attached = (Attached("count", "XDP", "eth0", "Native", 0, 7, 8),)
    unit = UnitReport(
        key, 1, Stage.ATTACH, "a" * 64, "b" * 64, attached, (MapFact("m", 9, "hash", 8),), failure
    )
    kernel = [Feature(name=f.name, available=f.available, detail=f.why[:253]) for f in features.features()]
    status = node_status([Outcome(key, 1, "c" * 16, unit)], "6.18", kernel, (), None, "2026-01-01T00:00:00Z")
    return status.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def publish(site: Site, store: NodeStore, snapshot: Snapshot, status: dict[str, object]) -> None:
    """Say something of the node."""
    document = {"metadata": {"generation": snapshot.generation}, "status": status}
    store.publish(ResourceKey("BpfNode", site.name), document)


def test_a_spec_comes_in_and_the_status_is_taken_by_the_schema(site: Site, tmp_path: Path) -> None:
    async def test() -> None:
        generation = site.set_spec([site.put_bundle(PACKETS, 5)])
        async with following(site, tmp_path) as store:
            snapshot = await news(store)
            assert snapshot.generation == generation
            assert [(d.key.name, d.generation) for d in snapshot.resources] == [("packets", 5)]
            said = everything()
            publish(site, store, snapshot, said)
            await store.finish(10)
            assert site.status() == {**said, "observedGeneration": generation}, "nothing was pruned"

    asyncio.run(test())


def test_what_is_no_longer_said_leaves_the_status(site: Site, tmp_path: Path) -> None:
    async def test() -> None:
        site.set_spec([])
        async with following(site, tmp_path) as store:
            snapshot = await news(store)
            publish(site, store, snapshot, everything())
            await store.finish(10)
            assert "resources" in site.status()
            publish(site, store, snapshot, {"kernel": "6", "nodes": {"desired": 1, "ready": 1}})
            await store.finish(10)
            left = {"kernel": "6", "nodes": {"desired": 1, "ready": 1}}
            assert site.status() == {**left, "observedGeneration": snapshot.generation}

    asyncio.run(test())


def test_an_emptied_list_of_bundles_is_one_that_says_so(site: Site, tmp_path: Path) -> None:
    async def test() -> None:
        site.set_spec([site.put_bundle(PACKETS)])
        async with following(site, tmp_path) as store:
            assert len((await news(store)).resources) == 1
            site.set_spec([])
            assert (await news(store)).resources == ()

    asyncio.run(test())


def test_a_successor_is_never_told_of_its_predecessor(site: Site, tmp_path: Path) -> None:
    async def test() -> None:
        site.set_spec([])
        uid = site.node()["metadata"]["uid"]
        site.cluster.kubectl("delete", "bpfnode", site.name)
        site.set_spec([])
        access = api_access.from_kubeconfig(site.cluster.spec.kubeconfig)
        async with ApiClient(access) as client:
            with pytest.raises(Exception, match="422"):
                await NodeApi(client, site.name, site.name).write_status(uid, {"kernel": "6"})
        assert "kernel" not in site.status()

    asyncio.run(test())


def test_it_goes_on_after_the_api_server_was_away(site: Site, tmp_path: Path) -> None:
    async def test() -> None:
        ref = site.put_bundle(PACKETS)
        site.set_spec([ref])
        async with following(site, tmp_path) as store:
            snapshot = await news(store)
            await until("a watch", lambda: store.watching)
            await asyncio.to_thread(site.cluster.stop_api)
            try:
                await until("the outage is noticed", lambda: not store.watching)
                publish(site, store, snapshot, {"kernel": "after"})
                assert len(store.scan().resources) == 1
            finally:
                await asyncio.to_thread(site.cluster.start_api)
            site.set_spec([{**ref, "generation": 2}])
            assert [d.generation for d in (await news(store)).resources] == [2]
            await until("the status", lambda: site.status().get("kernel") == "after")

    asyncio.run(test())
