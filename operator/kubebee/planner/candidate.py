"""A resource as the API server has it to what the cluster's planner needs of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from kubebee.api.parse import parse_resource
from kubebee.api.v1alpha1.bpfprogram import BpfProgram, TemplateSource
from kubebee.api.v1alpha1.resources import AnyResource
from kubebee.api.v1alpha1.rollout import Rollout
from kubebee.api.v1alpha1.servicelb import ServiceLBStatus
from kubebee.api.v1alpha1.status import CommonStatus
from kubebee.errors import KubebeeError
from kubebee.planner import bpfprogram
from kubebee.planner.declared import Declared, Inputs, Node, Rendered
from kubebee.planner.members import Version
from kubebee.planner.plan import ResourceKey
from kubebee.planner.prepare import prepare
from kubebee.planner.selection import Labels, labels_of
from kubebee.planner.wire import Encoded, encode

Render = Callable[[TemplateSource], Rendered]
ConfigMaps = Mapping[tuple[str, str], Mapping[str, str]]
_NOWHERE = Node("")
_STATUS: Mapping[str, type[CommonStatus]] = {"ServiceLB": ServiceLBStatus}


@dataclass(frozen=True)
class Wish:
    """What the spec of a resource comes to.

    Attributes:
        selector: labels of the nodes it is for, None where that can't be read.
        encoded: its newest version, None where it is refused or suspended.
        error: why it is refused.
        rollout: how the version shall reach the nodes; of a spec that can't be read, only whether it says so.
        declared: the resource, None where it can't be read.
        source: (namespace, name) of the ConfigMap that has its source.
    """

    selector: Labels | None = None
    encoded: Encoded | None = None
    error: KubebeeError | None = None
    rollout: Rollout | None = None
    suspended: bool = False
    declared: Declared | None = None
    source: tuple[str, str] | None = None


@dataclass(frozen=True)
class Candidate:
    """A resource.

    Attributes:
        deleting: it shall go once no node runs it.
        finalizers: all it has.
        status: as it was written last, None where there is none to be read.
    """

    key: ResourceKey
    uid: str
    generation: int
    created: str
    deleting: bool
    finalizers: tuple[str, ...]
    status: CommonStatus | None
    wish: Wish

    @property
    def version(self) -> Version | None:
        """The newest version."""
        encoded = self.wish.encoded
        return Version(self.generation, encoded.digest, encoded.config_map) if encoded else None


def read(
    manifest: Mapping[str, Any], config_maps: ConfigMaps, render: Render, before: Candidate | None = None
) -> Candidate:
    """The candidate of a manifest.

    Args:
        manifest: with apiVersion and kind.
        config_maps: data by (namespace, name).
        render: turns a template source into C.
        before: the candidate before; its spec is not read again if it is the same.
    """
    metadata = manifest["metadata"]
    key = ResourceKey(str(manifest["kind"]), str(metadata["name"]))
    uid, generation = str(metadata.get("uid", "")), int(metadata.get("generation", 0))
    if before is not None and (before.uid, before.generation) == (uid, generation):
        wish = before.wish
    else:
        wish = wish_of(manifest, config_maps, render)
    return Candidate(
        key=key,
        uid=uid,
        generation=generation,
        created=str(metadata.get("creationTimestamp") or ""),
        deleting=metadata.get("deletionTimestamp") is not None,
        finalizers=tuple(metadata.get("finalizers") or ()),
        status=_status(key.kind, manifest.get("status")),
        wish=wish,
    )


def with_source(candidate: Candidate, wish: Wish) -> Candidate:
    """The candidate after its ConfigMap changed."""
    return replace(candidate, wish=wish)


def wish_of(manifest: Mapping[str, Any], config_maps: ConfigMaps, render: Render) -> Wish:
    """What the spec of a manifest comes to; a refusal is part of it, never raised."""
    metadata = manifest["metadata"]
    spec = manifest.get("spec")
    raw = spec if isinstance(spec, dict) else {}
    document = {name: value for name, value in manifest.items() if name not in ("metadata", "status")}
    try:
        resource = parse_resource({**document, "metadata": {"name": metadata["name"]}})
    except KubebeeError as error:
        careful = Rollout() if raw.get("rollout") is not None else None
        return Wish(selector=labels_of(raw.get("nodeSelector")), rollout=careful, error=error)
    wish = Wish(
        selector=labels_of(getattr(resource.spec, "node_selector", None)),
        rollout=getattr(resource.spec, "rollout", None),
        suspended=bool(getattr(resource.spec, "suspend", False)),
        source=_source(resource),
    )
    try:
        return _encoded(wish, resource, manifest, config_maps, render)
    except KubebeeError as error:
        return replace(wish, error=error)


def _encoded(
    wish: Wish, resource: AnyResource, manifest: Mapping[str, Any], config_maps: ConfigMaps, render: Render
) -> Wish:
    prepared = prepare(resource)
    metadata = manifest["metadata"]
    created = str(metadata.get("creationTimestamp") or "")
    declared = Declared(
        ResourceKey(resource.kind, resource.metadata.name),
        resource,
        int(metadata.get("generation", 0)),
        created,
        prepared,
    )
    if wish.suspended:
        return replace(wish, declared=declared)
    rendered = _rendered(declared, config_maps, render)
    return replace(wish, declared=declared, encoded=encode(manifest, created, rendered))


def _rendered(declared: Declared, config_maps: ConfigMaps, render: Render) -> Rendered | None:
    """C of a template or a ConfigMap, which nodes can't read themselves."""
    program = declared.resource
    if not isinstance(program, BpfProgram):
        return None
    if program.spec.source.template is None and program.spec.source.config_map is None:
        return None
    unit = bpfprogram.unit(declared, program, Inputs((), config_maps, _NOWHERE, render))
    return Rendered(unit.bundle.source, unit.bundle.line_map)


def _source(resource: AnyResource) -> tuple[str, str] | None:
    if not isinstance(resource, BpfProgram) or resource.spec.source.config_map is None:
        return None
    wanted = resource.spec.source.config_map
    return wanted.namespace, wanted.name


def _status(kind: str, document: object) -> CommonStatus | None:
    if not document:
        return None
    try:
        return _STATUS.get(kind, CommonStatus).model_validate(document)
    except ValidationError:
        return None  # it is written anew from what the nodes say
