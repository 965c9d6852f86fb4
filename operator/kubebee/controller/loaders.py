"""The loaders' DaemonSet: the chart's manifest, applied where the planner wants loaders."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kubebee.controller.api import Api, ApiError
from kubebee.controller.inbox import Key, News
from kubebee.controller.kinds import Collection, daemon_sets, deployments
from kubebee.controller.objects import Workload, news_of
from kubebee.controller.writer import Write
from kubebee.errors import KubebeeError
from kubebee.planner.daemonset import Placement, daemonset

log = logging.getLogger("kubebee.loaders")


class LoaderManifestError(KubebeeError):
    """The file with the loaders' DaemonSet can't be used."""

    reason = "LoaderManifest"


def read_manifest(path: Path) -> dict[str, Any]:
    """The DaemonSet that the chart made.

    Raises:
        LoaderManifestError: it is not one.
    """
    hint = "mount the ConfigMap kubebee-loader of the chart, or name the file by --loader-manifest"
    try:
        manifest = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise LoaderManifestError(f"it can't be read: {error}", where=str(path), hint=hint) from error
    named = isinstance(manifest, dict) and isinstance(manifest.get("metadata"), dict)
    if not named or manifest.get("kind") != "DaemonSet" or not manifest["metadata"].get("name"):
        raise LoaderManifestError("it is no DaemonSet with a name", where=str(path), hint=hint)
    return dict(manifest)


def owner(api: Api, namespace: str, pod: str) -> dict[str, Any] | None:
    """A reference to the Deployment that a pod is of, None if it is of none.

    Raises:
        ApiError: the chain from the pod to it can't be read.
    """
    name, uid, collection = pod, "", Collection("v1", "Pod", "pods", namespace)
    for following in (Collection("apps/v1", "ReplicaSet", "replicasets", namespace), deployments(namespace)):
        owners = api.get(collection, name)["metadata"].get("ownerReferences") or ()
        found = next((each for each in owners if each["kind"] == following.kind), None)
        if found is None:
            return None
        name, uid, collection = str(found["name"]), str(found["uid"]), following
    return {
        "apiVersion": collection.api_version,
        "kind": collection.kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


class Loaders:
    """Keeps the DaemonSet as it shall be, also when somebody edits or deletes it.

    Args:
        api: the API server.
        namespace: where it is.
        manifest: of the chart.
        owner: reference to the object whose end shall be its own.
    """

    def __init__(
        self, api: Api, namespace: str, manifest: Mapping[str, Any], owner: Mapping[str, Any] | None
    ) -> None:
        self._api, self._owner = api, owner
        self._manifest = {
            **manifest,
            "metadata": {**manifest["metadata"], "namespace": namespace},
        }
        self.collection = daemon_sets(namespace, str(manifest["metadata"]["name"]))
        self._there: Workload | None = None
        self._applied: tuple[bytes, Workload] | None = None

    @property
    def name(self) -> str:
        """Name of the DaemonSet."""
        return str(self._manifest["metadata"]["name"])

    def put(self, content: Workload | None) -> None:
        """What became of it."""
        self._there = content

    def due(self, placement: Placement) -> Write | None:
        """The write that makes it what it shall be, None if it is."""
        wanted = daemonset(self._manifest, placement)
        if wanted is None:
            return None if self._there is None else Write("daemonset deletion", self.name, self._delete)
        if self._owner is not None:
            wanted["metadata"] = {**wanted["metadata"], "ownerReferences": [dict(self._owner)]}
        mark = msgspec.json.encode(wanted, order="deterministic")
        if self._applied is not None and self._applied == (mark, self._there):
            return None
        return Write("daemonset", self.name, lambda: self._apply(wanted, mark))

    def _apply(self, wanted: dict[str, Any], mark: bytes) -> News:
        news = news_of("DaemonSet", self._api.apply(self.collection, wanted))
        assert isinstance(news.content, Workload)
        self._applied = (mark, news.content)
        return news

    def _delete(self) -> News:
        self._api.delete(self.collection, self.name)
        return News(Key("DaemonSet", self.collection.namespace, self.name), 0, None)


def own_deployment(api: Api, namespace: str, pod: str) -> dict[str, Any] | None:
    """As `owner`; not knowing it is no reason not to work."""
    if not pod:
        return None
    try:
        return owner(api, namespace, pod)
    except ApiError as error:
        log.warning("the loaders' DaemonSet will have no owner: %s", error, extra={"reason": error.reason})
        return None
