"""The CustomResourceDefinitions, made from the models; `crds/` holds what this module says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kubebee.api.docs import about
from kubebee.api.structural import Schema, structural_schema
from kubebee.api.v1alpha1.common import GROUP, VERSION
from kubebee.api.v1alpha1.resources import KINDS, AnyResource, spec_model, status_model
from kubebee.api.v1alpha1.servicelb import ServiceLB

_HEAD = "# Generated from operator/kubebee/api by `make crds`; change the models, not this file.\n"

_FIRST_STATUS = {"default": {"observedGeneration": -1}}
"""So that kstatus, which takes an object without a status for done, waits for the first one."""

_FULLEST = ("Fullest", "string", ".status.fullest", "The table with the least room, where it is fullest")
_COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether all nodes run it"),
    ("Nodes", "string", ".status.nodes.summary", "Nodes that run it, of those that shall"),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not"),
    ("Age", "date", ".metadata.creationTimestamp", "Time since it was created"),
)


def all_crds() -> dict[str, str]:
    """Return the text of every CRD by file name."""
    return {f"{GROUP}_{kind.names.plural}.yaml": _text(crd(kind)) for kind in KINDS}


def check(folder: Path) -> list[str]:
    """Return what differs between a folder of CRDs and the models, one sentence per file."""
    wanted = all_crds()
    drift = []
    for name, text in wanted.items():
        file = folder / name
        if not file.is_file():
            drift.append(f"{name} is missing")
        elif file.read_text() != text:
            drift.append(f"{name} differs from the models")
    strays = {file.name for file in folder.glob("*.yaml")} - wanted.keys()
    return drift + [f"{name} is not one of ours" for name in sorted(strays)]


def write(folder: Path) -> None:
    """Write every CRD into a folder."""
    for name, text in all_crds().items():
        (folder / name).write_text(text)


def kind_schema(kind: type[AnyResource]) -> Schema:
    """Return the structural schema of a kind."""
    spec, status = spec_model(kind), status_model(kind)
    return {
        "type": "object",
        "description": about(kind),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(spec) | {"description": about(spec)},
            "status": structural_schema(status) | {"description": about(status)} | _FIRST_STATUS,
        },
    }


def crd(kind: type[AnyResource]) -> Schema:
    """Return the CustomResourceDefinition of a kind."""
    name = kind.__name__
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.names.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.names.plural,
                "singular": name.lower(),
                "shortNames": [kind.names.short],
                "categories": ["kubebee"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(*column) for column in _columns(kind)],
                    "schema": {"openAPIV3Schema": kind_schema(kind)},
                }
            ],
        },
    }


def _columns(kind: type[AnyResource]) -> tuple[tuple[str, str, str, str], ...]:
    return (*_COLUMNS[:-1], _FULLEST, _COLUMNS[-1]) if kind is ServiceLB else _COLUMNS


def _column(name: str, kind: str, path: str, text: str) -> Schema:
    return {"name": name, "type": kind, "jsonPath": path, "description": text}


class _Dumper(yaml.SafeDumper):
    """YAML without anchors: the same rule may stand in many places."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(document: Schema) -> str:
    return _HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=True, width=110, allow_unicode=True)
