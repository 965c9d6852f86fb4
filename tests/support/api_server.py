"""A small API server: BpfNodes, ConfigMaps, Services and watches, with a real one's failures on demand."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from kubebee.planner import wire
from kubebee.planner.declared import Rendered

NAMESPACE = "kubebee-system"
CREATED = "2026-01-01T00:00:00Z"
_NODES = "/apis/kubebee.dev/v1alpha1/bpfnodes"
_COLLECTIONS = {
    "Service": "/api/v1/services",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/endpointslices",
    "Node": "/api/v1/nodes",
    "Pod": "/api/v1/pods",
}


def bound(open_socket: Callable[[], socket.socket], address: str = "127.0.0.1") -> socket.socket:
    """A socket with a port of its own choice, bound by number: only then it keeps it while not listening."""
    with open_socket() as choosing:
        choosing.bind((address, 0))
        port = choosing.getsockname()[1]
    chosen = open_socket()
    chosen.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    chosen.bind((address, port))
    return chosen


@dataclass(frozen=True)
class Request:
    """One request that was made: verb as of RBAC, the object's name where there is one."""

    verb: str
    name: str
    status: int


@dataclass(frozen=True)
class _Query:
    """Which objects of a collection: those of a name, of a node, or without some labels."""

    path: str
    name: str
    node: str
    without: tuple[str, ...]

    @classmethod
    def of(cls, request: web.Request) -> _Query:
        field, _, wanted = request.query.get("fieldSelector", "").partition("=")
        name = wanted if field == "metadata.name" else ""
        node = wanted if field == "spec.nodeName" else ""
        labels = filter(None, request.query.get("labelSelector", "").split(","))
        return cls(request.path, name, node, tuple(label.removeprefix("!") for label in labels))

    def takes(self, path: str, found: Mapping[str, Any]) -> bool:
        metadata = found["metadata"]
        labels = metadata.get("labels", {})
        named = not self.name or metadata["name"] == self.name
        here = not self.node or found.get("spec", {}).get("nodeName") == self.node
        return path == self.path and named and here and not any(label in labels for label in self.without)


@dataclass(frozen=True)
class _Change:
    """What happened to an object of a collection."""

    kind: str
    path: str
    known: dict[str, Any]
    before: Mapping[str, Any] | None

    def seen_by(self, query: _Query) -> bytes:
        """The line that a watch is told; b"" for none."""
        if query.takes(self.path, self.known):
            return _line(self.kind, self.known)
        left = self.before is not None and query.takes(self.path, self.before)
        return _line("DELETED", self.known) if left else b""


@dataclass
class _Watch:
    """A watch that is open."""

    query: _Query
    lines: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)


class ApiServer:
    """Serves in a thread until it is closed; what tests call is safe from theirs.

    Args:
        listening: a bound socket, which decides in which network namespace it is reached.
        tls: to speak TLS.

    Attributes:
        token: if set, every request must show it.
        requests: all that were answered.
        page: objects in an answer to a list, at most; the request's own limit counts too.
        compact_after: after so many more pages a continued list is told 410, once.
    """

    def __init__(self, listening: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self.port = int(listening.getsockname()[1])
        self.address = str(listening.getsockname()[0])
        self.token = ""
        self.requests: list[Request] = []
        self.page = 500
        self.compact_after: int | None = None
        self._listening, self._tls = listening, tls
        self._nodes: dict[str, dict[str, Any]] = {}
        self._objects: dict[str, dict[str, dict[str, Any]]] = {path: {} for path in _COLLECTIONS.values()}
        self._objects[_NODES] = self._nodes
        self._config_maps: dict[str, dict[str, Any]] = {}
        self._versions = itertools.count(100)
        self._version = next(self._versions)
        self._oldest = 0
        self._history: list[tuple[int, _Change]] = []
        self._watches: list[_Watch] = []
        self._refusals: list[tuple[str, int, str]] = []
        self._refused_paths: dict[str, int] = {}
        self._uids = itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-server")
        self._thread.start()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._listening.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self._tls else 'http'}://{self.address}:{self.port}"

    def kubeconfig(self) -> str:
        """A kubeconfig that leads here."""
        cluster = {"name": "c", "cluster": {"server": self.url}}
        user = {"name": "u", "user": {"token": self.token} if self.token else {}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        lists = {"clusters": [cluster], "users": [user], "contexts": [context]}
        return json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "x", **lists})

    # -- what a controller does ------------------------------------------------------------------------------

    def put_bundle(
        self, manifest: Mapping[str, Any], generation: int = 1, rendered: Rendered | None = None
    ) -> dict[str, Any]:
        """Make a resource's ConfigMap; returns the reference for `set_spec`."""
        encoded = wire.encode(manifest, CREATED, rendered)
        name, raw = encoded.data
        text = {"binaryData": {name: base64.b64encode(raw).decode()}} if name == wire.PACKED else None
        self._do(
            lambda: self._config_maps.update({encoded.config_map: text or {"data": {name: raw.decode()}}})
        )
        return {
            "kind": encoded.key.kind,
            "name": encoded.key.name,
            "generation": generation,
            "hash": encoded.digest,
            "configMap": encoded.config_map,
        }

    def drop_bundle(self, reference: Mapping[str, Any]) -> dict[str, Any]:
        """Delete a bundle's ConfigMap; returns its content."""
        return self._do(lambda: self._config_maps.pop(reference["configMap"]))

    def put_config_map(self, name: str, content: dict[str, Any]) -> None:
        """Make a ConfigMap of any content."""
        self._do(lambda: self._config_maps.update({name: content}))

    def set_spec(self, node: str, bundles: list[dict[str, Any]] | None, **more: Any) -> int:
        """Create or edit a BpfNode; None leaves out the list of bundles. Returns its generation."""
        spec = more if bundles is None else {"bundles": bundles, **more}

        def apply() -> int:
            known = self._nodes.get(node)
            if known is None:
                metadata = {"name": node, "uid": f"uid-{next(self._uids)}", "generation": 1}
                known = {"apiVersion": "kubebee.dev/v1alpha1", "kind": "BpfNode", "metadata": metadata}
                self._nodes[node] = {**known, "spec": spec}
                self._happened("ADDED", node)
            elif known["spec"] != spec:
                generation = known["metadata"]["generation"] + 1
                self._nodes[node] = {
                    **known,
                    "spec": spec,
                    "metadata": {**known["metadata"], "generation": generation},
                }
                self._happened("MODIFIED", node)
            return int(self._nodes[node]["metadata"]["generation"])

        return self._do(apply)

    def delete_node(self, node: str) -> None:
        """Delete a BpfNode."""

        def delete() -> None:
            self._happened("DELETED", node)
            del self._nodes[node]

        self._do(delete)

    def put(self, *documents: Mapping[str, Any]) -> None:
        """Create or replace Services, EndpointSlices and Nodes."""

        def apply() -> None:
            for document in documents:
                path, name = _place(document)
                before = self._objects[path].get(name)
                uid = before["metadata"]["uid"] if before else f"uid-{next(self._uids)}"
                self._objects[path][name] = {**document, "metadata": {"uid": uid, **document["metadata"]}}
                self._happened("MODIFIED" if before else "ADDED", name, path, before)

        self._do(apply)

    def drop(self, *documents: Mapping[str, Any]) -> None:
        """Delete Services, EndpointSlices and Nodes."""

        def delete() -> None:
            for document in documents:
                path, name = _place(document)
                self._happened("DELETED", name, path)
                del self._objects[path][name]

        self._do(delete)

    def bookmark(self) -> None:
        """Tell all watches the newest version, as a server does once a minute."""

        def tell() -> None:
            self._version = next(self._versions)
            found = {"metadata": {"resourceVersion": str(self._version)}}
            for watch in self._watches:
                watch.lines.put_nowait(_line("BOOKMARK", found))

        self._do(tell)

    def clear_status(self, node: str) -> None:
        """Take a BpfNode's status away, as somebody with too many rights may."""

        def clear() -> None:
            self._nodes[node] = {k: v for k, v in self._nodes[node].items() if k != "status"}
            self._happened("MODIFIED", node)

        self._do(clear)

    def status(self, node: str) -> dict[str, Any]:
        """Status of a BpfNode; empty before there is one."""
        return self._do(lambda: dict(self._nodes.get(node, {}).get("status", {})))

    # -- what goes wrong -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Answer again."""
        if self._runner is not None:
            return

        async def begin() -> None:
            application = web.Application()
            application.add_routes(
                [
                    *(web.get(path, self._list_or_watch) for path in self._objects),
                    web.patch(_NODES + "/{name}/status", self._patch_status),
                    web.get("/api/v1/namespaces/{namespace}/configmaps/{name}", self._config_map),
                ]
            )
            self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
            await self._runner.setup()
            await web.SockSite(self._runner, self._listening.dup(), ssl_context=self._tls).start()

        asyncio.run_coroutine_threadsafe(begin(), self._loop).result(5)

    def stop(self, *, silent: bool = False) -> None:
        """Be away: connections end, new ones are refused, or with `silent` made and never answered."""
        if self._runner is not None:
            self.cut_watches()
            asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(5)
            self._runner = None
            if not silent:
                self._listening.shutdown(socket.SHUT_RDWR)  # it stays bound, and `start` listens again

    @contextlib.contextmanager
    def away(self, *, silent: bool = False) -> Iterator[None]:
        """An outage for as long as the block takes."""
        self.stop(silent=silent)
        try:
            yield
        finally:
            self.start()

    def cut_watches(self) -> None:
        """End all watches in the middle."""
        self._do(lambda: [watch.lines.put_nowait(None) for watch in self._watches] and None)

    def compact(self, *, but_the_newest: bool = False) -> None:
        """Forget the past: whoever goes on from there is told 410; a bookmark after this may lead past it."""

        def forget() -> None:
            self._oldest = next(self._versions)
            if not but_the_newest:
                self._version = self._oldest
            self._history.clear()

        self._do(forget)

    def expire_watches(self) -> None:
        """Tell all watches that they are too old, as a server does in the middle of one."""
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
        self.compact()
        self._do(lambda: [watch.lines.put_nowait(line) for watch in self._watches] and None)

    def refuse(self, verb: str, status: int, times: int = 1, retry_after: str = "") -> None:
        """Answer the next requests of a verb with a status."""
        self._do(lambda: self._refusals.extend([(verb, status, retry_after)] * times))

    def refuse_path(self, path: str, status: int) -> None:
        """Answer every list and watch of a collection with a status; 0: no longer."""
        self._do(lambda: self._refused_paths.update({path: status}))

    def count(self, verb: str, status: int = 200) -> int:
        """How many requests of a verb were answered so."""
        return sum((one.verb, one.status) == (verb, status) for one in list(self.requests))

    # -- HTTP ------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def _happened(
        self, kind: str, name: str, path: str = _NODES, before: Mapping[str, Any] | None = None
    ) -> None:
        self._version = next(self._versions)
        known = self._objects[path][name]
        known["metadata"] = {**known["metadata"], "resourceVersion": str(self._version)}
        change = _Change(kind, path, dict(known), before)
        self._history.append((self._version, change))
        for watch in self._watches:
            if line := change.seen_by(watch.query):
                watch.lines.put_nowait(line)

    def _check(self, request: web.Request, verb: str, name: str) -> web.Response | None:
        """An answer for what shall not go on."""
        refusal = next((one for one in self._refusals if one[0] == verb), None)
        status, retry_after = 0, ""
        if refusal is not None:
            self._refusals.remove(refusal)
            status, retry_after = refusal[1:]
        elif self._refused_paths.get(request.path):
            status = self._refused_paths[request.path]
        elif self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            status = 401
        return self._refused(verb, name, status, retry_after) if status else None

    def _refused(self, verb: str, name: str, status: int, retry_after: str = "") -> web.Response:
        self.requests.append(Request(verb, name, status))
        headers = {"Retry-After": retry_after} if retry_after else {}
        body = {"kind": "Status", "code": status, "message": f"{name} is refused with {status} by the test"}
        return web.json_response(body, status=status, headers=headers)

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        query, verb = _Query.of(request), "watch" if request.query.get("watch") else "list"
        refused = self._check(request, verb, query.name or query.path)
        if refused is not None:
            return refused
        return await self._watch(request, query) if verb == "watch" else self._list(request, query)

    def _list(self, request: web.Request, query: _Query) -> web.Response:
        start = int(request.query.get("continue", "0"))
        if start and self.compact_after is not None:
            self.compact_after -= 1
            if self.compact_after < 0:
                self.compact_after = None
                return self._refused("list", query.name or query.path, 410)
        self.requests.append(Request("list", query.name or query.path, 200))
        found = [one for one in self._objects[query.path].values() if query.takes(query.path, one)]
        end = start + min(self.page, int(request.query.get("limit", "0")) or len(found))
        metadata = {"resourceVersion": str(self._version)}
        if end < len(found):
            metadata["continue"] = str(end)
        return web.json_response({"metadata": metadata, "items": found[start:end] or None})

    async def _watch(self, request: web.Request, query: _Query) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        if since < self._oldest:
            return self._refused("watch", query.name or query.path, 410)
        self.requests.append(Request("watch", query.name or query.path, 200))
        watch = _Watch(query)
        for version, change in self._history:
            if version > since and (line := change.seen_by(query)):
                watch.lines.put_nowait(line)
        self._watches.append(watch)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            with contextlib.suppress(ConnectionResetError):  # the agent was killed
                while (line := await watch.lines.get()) is not None:
                    await response.write(line)
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._watches.remove(watch)
        return response

    async def _patch_status(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        refused = self._check(request, "patch", name)
        if refused is not None:
            return refused
        assert request.headers["Content-Type"] == "application/json-patch+json"
        assert request.query["fieldManager"] == "kubebee-loader"
        test, add = json.loads(await request.read())
        assert (test["op"], test["path"]) == ("test", "/metadata/uid")
        assert (add["op"], add["path"]) == ("add", "/status")
        known = self._nodes.get(name)
        if known is None or known["metadata"]["uid"] != test["value"]:
            return self._refused("patch", name, 404 if known is None else 422)
        self.requests.append(Request("patch", name, 200))
        if known.get("status") != add["value"]:
            known["status"] = add["value"]
            self._happened("MODIFIED", name)
        return web.json_response(known)

    async def _config_map(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        refused = self._check(request, "get", name)
        if refused is not None:
            return refused
        known = self._config_maps.get(name) if request.match_info["namespace"] == NAMESPACE else None
        if known is None:
            return self._refused("get", name, 404)
        self.requests.append(Request("get", name, 200))
        return web.json_response(known)


def _line(kind: str, known: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": known}).encode() + b"\n"


def _place(document: Mapping[str, Any]) -> tuple[str, str]:
    """Path of an object's collection, and its name in there."""
    metadata = document["metadata"]
    return _COLLECTIONS[document["kind"]], f"{metadata.get('namespace', '')}/{metadata['name']}"
