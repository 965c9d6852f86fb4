"""Manifests named on the command line, planned as for a node, without a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubebee.api.parse import parse_resource
from kubebee.cli.outcomes import unit_keys
from kubebee.errors import KubebeeError
from kubebee.loader.unit import Unit, units_of
from kubebee.planner.build import Planned, Planner
from kubebee.planner.declared import Declared, Inputs, Node
from kubebee.planner.plan import ResourceKey
from kubebee.planner.prepare import prepare
from kubebee.render.builtin import Datapaths
from kubebee.render.template_source import render_template
from kubebee.store.manifests import SUFFIXES, Document, ManifestError, read_documents


@dataclass(frozen=True)
class Offline:
    """What some files come to.

    Attributes:
        files: file that each resource is in, in order of reading.
        errors: by "file" or "file: Kind/name", what is not valid.
        planned: what the valid rest comes to.
        units: the code, by the resource that asks for it.
    """

    files: Mapping[ResourceKey, str]
    errors: Sequence[tuple[str, ResourceKey | None, KubebeeError]]
    planned: Planned
    units: Mapping[ResourceKey, Unit]


def read(paths: Sequence[Path]) -> Offline:
    """Read files, and folders of files, as `kubebee run` would; nothing is raised, all is told."""
    errors: list[tuple[str, ResourceKey | None, KubebeeError]] = []
    files: dict[ResourceKey, str] = {}
    declared: list[Declared] = []
    config_maps: dict[tuple[str, str], Mapping[str, str]] = {}
    for path in _files(paths):
        try:
            documents = read_documents(path)
        except KubebeeError as error:
            errors.append((str(path), None, error))
            continue
        for document in documents:
            if _is_config_map(document):
                _keep_config_map(document, config_maps)
                continue
            key = _key(document)
            try:
                resource = parse_resource(document.body, document.where)
                key = ResourceKey(type(resource).__name__, resource.metadata.name)
                prepared = prepare(resource)
                if key in files:
                    raise ManifestError(
                        f"{key} is already defined in {files[key]}",
                        reason="DuplicateResource",
                        where=document.where,
                        hint="rename or remove one of the two",
                    )
            except KubebeeError as error:
                errors.append((str(path), key, error))
                continue
            files[key] = str(path)
            declared.append(Declared(key, resource, 1, f"{len(declared):09}", prepared))
    planned = Planner(Datapaths()).plan(
        Inputs(tuple(declared), config_maps, Node("this", {}), render_template)
    )
    return Offline(files, errors, planned, _units(planned))


def _files(paths: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.name[0] != ".")
        else:
            found.append(path)
    return found


def _units(planned: Planned) -> dict[ResourceKey, Unit]:
    by_key = {unit.key: unit for unit in units_of(planned.plan)}
    owned = {owner: by_key[key] for owner, key in unit_keys(planned).items()}
    return {key: unit for key, unit in by_key.items() if key.kind == "BpfProgram"} | owned


def _key(document: Document) -> ResourceKey | None:
    body = document.body
    if not isinstance(body, dict) or not isinstance(body.get("metadata"), dict):
        return None
    kind, name = body.get("kind"), body["metadata"].get("name")
    return ResourceKey(kind, name) if isinstance(kind, str) and isinstance(name, str) else None


def _is_config_map(document: Document) -> bool:
    return isinstance(document.body, dict) and document.body.get("kind") == "ConfigMap"


def _keep_config_map(document: Document, known: dict[tuple[str, str], Mapping[str, str]]) -> None:
    body = document.body
    assert isinstance(body, dict)
    metadata, data = body.get("metadata"), body.get("data")
    if isinstance(metadata, dict) and isinstance(data, dict):
        key = (str(metadata.get("namespace", "default")), str(metadata.get("name", "")))
        known[key] = {str(k): v for k, v in data.items() if isinstance(v, str)}
