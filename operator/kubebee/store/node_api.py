"""The few requests that a node's loader makes of the API server for its own plan.

It lists and watches its own BpfNode, reads bundles, and writes its BpfNode's status. Nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kubebee.api.v1alpha1.common import GROUP, VERSION
from kubebee.planner import wire
from kubebee.store.api_client import ApiClient, ApiError, decoded
from kubebee.store.node_plan import BundleMap, NodeObject
from kubebee.store.reflector import Collection, Reflector, Sink

FIELD_MANAGER = "kubebee-loader"

_NODES = f"/apis/{GROUP}/{VERSION}/bpfnodes"
_BUNDLE = msgspec.json.Decoder(BundleMap)


class NodeApi:
    """A node's view of the API server.

    Args:
        client: connections to it.
        node: name of the node, which is its BpfNode's.
        namespace: where bundles are.
    """

    def __init__(self, client: ApiClient, node: str, namespace: str) -> None:
        self._client = client
        self._node = node
        self._namespace = namespace

    def following(self, sink: Sink[NodeObject]) -> Reflector[NodeObject]:
        """What brings the node's BpfNode to `sink`."""
        ours = Collection(_NODES, NodeObject, {"fieldSelector": f"metadata.name={self._node}"})
        return Reflector(self._client, ours, sink)

    async def bundle(self, config_map: str) -> tuple[str, bytes]:
        """Key and bytes of a bundle, as `planner.wire` takes them.

        Raises:
            ApiError: it can't be read; BundleMissing: it is not there, or has no bundle in it.
        """
        where = f"ConfigMap {self._namespace}/{config_map}"
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{config_map}"
        try:
            raw = await self._client.read("get", path)
        except ApiError as error:
            if error.status == 404:
                raise _missing("is not there", where) from error
            raise
        found = decoded(raw, _BUNDLE)
        if wire.PACKED in found.binary_data:
            return wire.PACKED, found.binary_data[wire.PACKED]
        if wire.PLAIN in found.data:
            return wire.PLAIN, found.data[wire.PLAIN].encode()
        raise _missing("has no bundle in it", where)

    async def write_status(self, uid: str, status: Mapping[str, object]) -> None:
        """Make `status` the status of the BpfNode, unless it was made anew since.

        A JSON patch, for it can test the uid: server-side apply and merge patches ignore one on the status of
        a custom resource, and would give the state of a deleted object to its successor.

        Raises:
            ApiError: it was not written; with status 422 where the uid is another or the schema refuses.
        """
        patch = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "add", "path": "/status", "value": status},
        ]
        path, params = f"{_NODES}/{self._node}/status", {"fieldManager": FIELD_MANAGER}
        await self._client.read("patch", path, params, msgspec.json.encode(patch))


def _missing(what: str, where: str) -> ApiError:
    hint = "the controller makes it; see its log"
    return ApiError(f"the bundle's ConfigMap {what}", reason="BundleMissing", where=where, hint=hint)
