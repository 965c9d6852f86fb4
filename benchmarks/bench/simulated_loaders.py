"""N loaders in one process: each watches its own BpfNode, fetches its bundles and writes its status.

Run as a program: ``simulated_loaders.py SERVER CERTIFICATES N`` prints ``ready`` when all watches stand, then
works until its standard input ends. What a real loader does on its node takes WORK_SECONDS here; its traffic
with the API server is the same: one watch, one GET for each new bundle, one PATCH of the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

WORK_SECONDS = 0.2
REQUESTS_AT_ONCE = 64
RETRY_SECONDS = 1.0
_NODES = "/apis/kubebee.dev/v1alpha1/bpfnodes"
_BUNDLES = "/api/v1/namespaces/kubebee-system/configmaps"
_PATCH = {"Content-Type": "application/json-patch+json"}


class _Bundle(msgspec.Struct, rename="camel"):
    kind: str
    name: str
    generation: int
    hash: str
    config_map: str


class _Spec(msgspec.Struct):
    bundles: list[_Bundle] = []


class _Meta(msgspec.Struct):
    name: str = ""
    generation: int = 0
    uid: str = ""


class _Node(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class _Event(msgspec.Struct):
    type: str
    object: _Node


_decode = msgspec.json.Decoder(_Event).decode


def node_name(number: int) -> str:
    """Name of a simulated node."""
    return f"sim-{number:05}"


def tls(certificates: Path) -> ssl.SSLContext:
    """The administrator's credentials."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
    context.load_cert_chain(certificates / "admin.crt", certificates / "admin.key")
    return context


class Loaders:
    """All simulated loaders.

    Args:
        session: connections to the API server.
        count: how many there will be.
    """

    def __init__(self, session: aiohttp.ClientSession, count: int) -> None:
        self._session = session
        self._slots = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._count, self._watching = count, 0
        self.all_watch = asyncio.Event()

    async def run(self, name: str) -> None:
        """One loader, for good."""
        known: set[str] = set()
        pending: asyncio.Queue[_Node] = asyncio.Queue()
        worker = asyncio.create_task(self._work(name, pending, known))
        try:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
                    async for node in self._watch(name):
                        pending.put_nowait(node)
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            worker.cancel()

    async def _watch(self, name: str) -> AsyncIterator[_Node]:
        query = {"watch": "1", "fieldSelector": f"metadata.name={name}"}
        async with self._session.get(_NODES, params=query) as response:
            response.raise_for_status()
            self._watching += 1
            if self._watching == self._count:
                self.all_watch.set()
            async for line in response.content:
                event = _decode(line)
                if event.type in ("ADDED", "MODIFIED"):
                    yield event.object

    async def _work(self, name: str, pending: asyncio.Queue[_Node], known: set[str]) -> None:
        told = -1
        while True:
            node = await pending.get()
            while not pending.empty():
                node = pending.get_nowait()
            if node.metadata.generation == told:  # only its status changed
                continue
            for bundle in node.spec.bundles:
                if bundle.config_map not in known:
                    await self._request("GET", f"{_BUNDLES}/{bundle.config_map}")
                    known.add(bundle.config_map)
            await asyncio.sleep(WORK_SECONDS)
            told = node.metadata.generation
            patch = [
                {"op": "test", "path": "/metadata/uid", "value": node.metadata.uid},
                {"op": "add", "path": "/status", "value": status(node)},
            ]
            await self._request("PATCH", f"{_NODES}/{name}/status", msgspec.json.encode(patch))

    async def _request(self, method: str, path: str, body: bytes | None = None) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with self._slots:
                    headers = _PATCH if body else {}
                    async with self._session.request(method, path, data=body, headers=headers) as response:
                        await response.read()
                        if response.status < 300 or response.status == 404:
                            return
            await asyncio.sleep(RETRY_SECONDS)


def status(node: _Node) -> dict[str, Any]:
    """What a node says that runs everything it was given."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    count = len(node.spec.bundles)
    return {
        "observedGeneration": node.metadata.generation,
        "kernel": "6.12.0",
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Running",
                "message": f"{count} of {count} run",
                "lastTransitionTime": now,
            }
        ],
        "nodes": {"desired": 1, "ready": 1, "failed": 0, "pending": 0, "summary": "1/1"},
        "resources": [_resource(number, bundle) for number, bundle in enumerate(node.spec.bundles)],
    }


def _resource(number: int, bundle: _Bundle) -> dict[str, Any]:
    place = {"type": "XDP", "point": "eth0", "mode": "Native", "position": number, "linkId": 1000 + number}
    return {
        "kind": bundle.kind,
        "name": bundle.name,
        "generation": bundle.generation,
        "bundle": bundle.hash,
        "stage": "Running",
        "wantedHash": bundle.hash[:12],
        "runningHash": bundle.hash[:12],
        "mapIds": [2000 + number, 2001 + number],
        "programs": [{"function": "bench", "progId": 3000 + number, "attachments": [place]}],
    }


async def _main(server: str, certificates: Path, count: int) -> None:
    connector = aiohttp.TCPConnector(limit=0, ssl=tls(certificates))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30)
    async with aiohttp.ClientSession(server, connector=connector, timeout=timeout) as session:
        loaders = Loaders(session, count)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loaders.run(node_name(number))) for number in range(count)]
            await loaders.all_watch.wait()
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
            for task in tasks:
                task.cancel()


if __name__ == "__main__":
    _soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
    asyncio.run(_main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
