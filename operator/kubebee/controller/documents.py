"""The planner's wishes as the API server takes them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from kubebee.controller.kinds import BUNDLE_LABEL, EVENTS
from kubebee.planner import wire
from kubebee.planner.cluster import FINALIZER
from kubebee.planner.events import PlannedEvent
from kubebee.planner.nodes import Ref, bpf_node_spec
from kubebee.planner.wire import Encoded

COMPONENT = "kubebee-controller"
Document = dict[str, Any]


def bundle(encoded: Encoded) -> Document:
    """A ConfigMap that carries a version."""
    name, raw = encoded.data
    content: Document = (
        {"data": {name: raw.decode()}}
        if name == wire.PLAIN
        else {"binaryData": {name: base64.b64encode(raw).decode()}}
    )
    metadata = {"name": encoded.config_map, "labels": {BUNDLE_LABEL: "true"}}
    return {"metadata": metadata, "immutable": True, **content}


def bpf_node(name: str, refs: tuple[Ref, ...]) -> Document:
    """What a node shall run."""
    return {"metadata": {"name": name}, "spec": bpf_node_spec(refs)}


def finalizer(name: str, uid: str) -> Document:
    """That nodes must clean up before the resource goes."""
    return {"metadata": {"name": name, "uid": uid, "finalizers": [FINALIZER]}}


def without_finalizer(metadata: Mapping[str, Any]) -> Document:
    """A merge patch that takes our finalizer away from the object of this metadata, and from no newer one."""
    others = [each for each in metadata.get("finalizers") or () if each != FINALIZER]
    return {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": others}}


def status(name: str, uid: str, content: Mapping[str, Any]) -> Document:
    """A resource's whole status; one made anew under the same name has another uid and gets none of it."""
    return {"metadata": {"name": name, "uid": uid}, "status": content}


def event(planned: PlannedEvent, api_version: str) -> Document:
    """An Event."""
    source = {"component": COMPONENT} | ({"host": planned.node} if planned.node else {})
    return {
        "metadata": {"name": planned.name, "namespace": EVENTS.namespace},
        "involvedObject": {
            "apiVersion": api_version,
            "kind": planned.key.kind,
            "name": planned.key.name,
            "uid": planned.uid,
        },
        "type": planned.type,
        "reason": planned.reason,
        "message": planned.message,
        "firstTimestamp": planned.time,
        "lastTimestamp": planned.time,
        "count": 1,
        "source": source,
        "reportingComponent": COMPONENT,
    }
