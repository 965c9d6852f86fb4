"""The CRD reference as Markdown, made from the same schemas that the API server gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kubebee.api.crd import kind_schema
from kubebee.api.structural import VALIDATIONS, Schema
from kubebee.api.v1alpha1.common import API_VERSION, EXPECTED
from kubebee.api.v1alpha1.resources import KINDS, AnyResource

_HEAD = f"""<!-- Generated from operator/kubebee/api by `make crds`; change the models, not this file. -->
# Resource reference

All kinds are `{API_VERSION}` and belong to the cluster, not to a namespace. What is "not implemented yet"
is part of the API, and refused by this version with the condition Stalled, reason NotImplemented.
"""


def markdown() -> str:
    """Return the reference of all kinds."""
    return _HEAD + "".join(_kind(kind) for kind in KINDS)


def drift(file: Path) -> list[str]:
    """Return what differs between a written reference and the models."""
    if file.is_file() and file.read_text() == markdown():
        return []
    return [f"{file.name} differs from the models"]


def _kind(kind: type[AnyResource]) -> str:
    schema = kind_schema(kind)
    names = kind.names
    parts = [
        f"\n## {kind.__name__}\n\n{schema['description']}\n\n",
        f"`kubectl get {names.plural}`, or `{names.short}` for short.\n",
    ]
    for part in ("spec", "status"):
        parts.append(f"\n### {kind.__name__} {part}\n\n| field | type | description |\n| --- | --- | --- |\n")
        parts += [_row(*row) for row in _rows(schema["properties"][part], part)]
    if rules := list(_rules(schema["properties"]["spec"], "spec")):
        parts.append(f"\nRules of {kind.__name__}:\n\n")
        parts += [f"- `{path}`: {message}\n" for path, message in rules]
    return "".join(parts)


def _rows(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Fields below an object, each with its path, schema and whether it is required."""
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, field, name in required
        items, values = field.get("items", {}), field.get("additionalProperties", {})
        yield from _rows(field, here)
        yield from _rows(items, f"{here}[]")
        yield from _rows(values, f"{here}.*")


def _row(path: str, field: Schema, required: bool) -> str:
    text = field.get("description", "").replace("|", "\\|")
    mark = "**required** " if required else ""
    return f"| `{path}` | {_type(field)} | {mark}{text}{_bounds(field)} |\n"


def _type(field: Schema) -> str:
    if "x-kubernetes-int-or-string" in field:
        return "number or string"
    if "x-kubernetes-preserve-unknown-fields" in field:
        return "any value"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    kind = str(field["type"])
    if kind == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    return kind


def _bounds(field: Schema) -> str:
    bounds = []
    if pattern := EXPECTED.get(field.get("pattern", "")):
        bounds.append(pattern)
    if "minimum" in field or "maximum" in field:
        bounds.append(f"{field.get('minimum', '')} to {field.get('maximum', 'any')}")
    for key, noun in (("maxLength", "characters"), ("maxItems", "items"), ("maxProperties", "entries")):
        if key in field:
            bounds.append(f"at most {field[key]} {noun}")
    return f" ({'; '.join(bounds)})" if bounds else ""


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get(VALIDATIONS, ()):
        yield path, rule["message"]
    for name, field in schema.get("properties", {}).items():
        yield from _rules(field, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield from _rules(schema[key], f"{path}{suffix}")
