"""What is kept of an object: a thousand BpfNodes as documents would take hundreds of megabytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubebee.controller.inbox import Key, News
from kubebee.controller.kinds import USER_KINDS
from kubebee.planner.cluster import ClusterNode
from kubebee.planner.nodes import read_bpf_node

BUNDLE = "Bundle"
SOURCE = "Source"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Workload:
    """A DaemonSet.

    Attributes:
        generation: number of its spec.
    """

    uid: str
    generation: int


def news_of(kind: str, document: Mapping[str, Any], gone: bool = False) -> News:
    """News of an object.

    Args:
        kind: of the object; `BUNDLE` and `SOURCE` for the two sorts of ConfigMaps.
        document: as the API server has it; of a DaemonSet and a bundle the metadata will do.
        gone: it was deleted.
    """
    metadata = document["metadata"]
    key = Key(kind, str(metadata.get("namespace", "")), str(metadata["name"]))
    return News(key, version_of(metadata), None if gone else _kept(kind, document))


def version_of(metadata: Mapping[str, Any]) -> int:
    """The resourceVersion of an object or a list as a number, 0 where it is none."""
    text = str(metadata.get("resourceVersion", ""))
    return int(text) if text.isdecimal() else 0


def _kept(kind: str, document: Mapping[str, Any]) -> object:
    metadata = document["metadata"]
    if kind in USER_KINDS:
        return manifest(kind, document)
    if kind == "Node":
        return node(document)
    if kind == "BpfNode":
        return read_bpf_node(document)
    if kind == SOURCE:
        return dict(document.get("data") or {})
    return Workload(str(metadata.get("uid", "")), int(metadata.get("generation", 0)))


def manifest(kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """A resource of the user's without what only the API server and kubectl need."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    annotations = metadata.get("annotations") or {}
    if _LAST_APPLIED in annotations:
        metadata["annotations"] = {k: v for k, v in annotations.items() if k != _LAST_APPLIED}
    return {**document, "kind": kind, "metadata": metadata}


def node(document: Mapping[str, Any]) -> ClusterNode:
    """A Node."""
    metadata = document["metadata"]
    conditions = (document.get("status") or {}).get("conditions") or ()
    ready: Mapping[str, Any] = next((each for each in conditions if each.get("type") == "Ready"), {})
    return ClusterNode(
        name=str(metadata["name"]),
        labels=metadata.get("labels") or {},
        ready=ready.get("status") == "True",
        since=str(ready.get("lastTransitionTime") or ""),
    )
