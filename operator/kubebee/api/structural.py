"""From pydantic's JSON schema to the structural schema that an API server accepts.

What it refuses and pydantic makes: `$ref`, `anyOf` for optional fields, `oneOf` for unions, `const`, `title`,
and `additionalProperties` beside `properties`. Defaults are left out on purpose: kubebee never changes what
was applied, and says its defaults in the descriptions.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from kubebee.api.docs import about, field_docs
from kubebee.api.v1alpha1.common import ApiModel, Later, RuledModel, StatusModel, cel_field

Schema: TypeAlias = dict[str, Any]
"""A JSON schema; its values are JSON."""

VALIDATIONS = "x-kubernetes-validations"
_KEPT = {
    "type", "format", "description", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "maxProperties", "required", "items", "properties", "additionalProperties",
}  # fmt: skip


class _Generator(GenerateJsonSchema):
    """pydantic's generator, with descriptions, rules, and defaults told in words."""

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        made = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        docs = field_docs(model)
        for name, info in model.model_fields.items():
            field = made["properties"][info.alias or name]
            default = None if issubclass(model, StatusModel) else info.default
            field["description"] = _described(docs[name], default) + _not_yet(info)
        made["x-built"] = not issubclass(model, ApiModel) or model.built
        rules = model.rules if issubclass(model, RuledModel) else ()
        if told := [{"rule": rule.cel, "message": rule.message} for rule in rules if rule.cel]:
            made[VALIDATIONS] = told
        return made

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> Schema:
        made = super().dataclass_schema(schema)
        docs = field_docs(schema["cls"])
        for field in schema["fields"]:
            default = made["properties"][field].get("default")
            made["properties"][field]["description"] = _described(docs[field], default)
        made["description"] = about(schema["cls"])
        return made

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Schema:
        return self.generate_inner(schema["schema"])


def _not_yet(field: FieldInfo) -> str:
    mark = next((item for item in field.metadata if isinstance(item, Later)), None)
    if mark is None:
        return ""
    return (
        f" Not implemented yet: {', '.join(sorted(mark.values))}." if mark.values else " Not implemented yet."
    )


def _described(text: str, default: object) -> str:
    told = isinstance(default, bool | int | str) and default != ""
    if not told or "Default:" in text:
        return text
    value = str(default).lower() if isinstance(default, bool) else default
    return f"{text} Default: {value}."


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the structural schema of a model and all it holds, without references."""
    model.model_rebuild()
    raw = model.model_json_schema(by_alias=True, schema_generator=_Generator, mode="validation")
    return _Structural(raw.pop("$defs", {})).convert(raw)


class _Structural:
    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def convert(self, node: Schema) -> Schema:
        node = self._resolved(node)
        if "discriminator" in node:
            node = self._flattened(node)
        if "const" in node:
            node["enum"] = [node["const"]]
        kept = {key: value for key, value in node.items() if key in _KEPT or key.startswith("x-kubernetes-")}
        if "properties" in kept:
            kept.pop("additionalProperties", None)
            kept["properties"] = {name: self.convert(field) for name, field in kept["properties"].items()}
        elif kept.get("type") == "object":
            kept["additionalProperties"] = self.convert(_free_values(node))
        if "items" in kept:
            kept["items"] = self.convert(kept["items"])
        if "x-kubernetes-int-or-string" in kept or "x-kubernetes-preserve-unknown-fields" in kept:
            kept.pop("type", None)
        return kept

    def _resolved(self, node: Schema) -> Schema:
        """Put a definition in place of its reference; what stands beside the reference wins."""
        reference = node.get("$ref")
        if reference is None:
            return dict(node)
        beside = {key: value for key, value in node.items() if key != "$ref"}
        return {**self._definitions[reference.rpartition("/")[2]], **beside}

    def _flattened(self, union: Schema) -> Schema:
        """Turn a union told apart by `type` into one object: a field only with the types that have it."""
        variants = {
            tag: self._resolved({"$ref": reference})
            for tag, reference in union["discriminator"]["mapping"].items()
        }
        key = union["discriminator"]["propertyName"]
        fields: dict[str, dict[str, Schema]] = {}
        for tag, variant in variants.items():
            for name, field in variant["properties"].items():
                if name != key:
                    fields.setdefault(name, {})[tag] = self.convert(field)
        missing = [tag for tag, variant in variants.items() if not variant["x-built"]]
        text = f"What it is attached to. Not implemented yet: {', '.join(missing)}."
        kinds = {"type": "string", "enum": list(variants), "description": text}
        return {
            "type": "object",
            "required": [key],
            "properties": {key: kinds} | {name: _merged(uses) for name, uses in fields.items()},
            VALIDATIONS: _union_rules(variants, fields),
        } | {name: value for name, value in union.items() if name == "description"}


def _free_values(node: Schema) -> Schema:
    """Schema of the values of a map; a constraint on its keys turns it into one pattern."""
    patterns: dict[str, Schema] = node.get("patternProperties") or {}
    for values in (*patterns.values(), node.get("additionalProperties")):
        if isinstance(values, dict):
            return values
    message = f"the API server would drop all fields of {node}"
    raise ValueError(message)


def _merged(uses: dict[str, Schema]) -> Schema:
    """One schema that admits every use of a field; where uses differ, rules tell them apart."""
    schemas = list(uses.values())
    merged = {
        key: value
        for key, value in schemas[0].items()
        if all(schema.get(key) == value for schema in schemas[1:])
    }
    if "enum" not in merged and any("enum" in schema or "maxLength" in schema for schema in schemas):
        merged["maxLength"] = max(schema.get("maxLength", 0) for schema in schemas) or 64
        merged.pop("const", None)
    texts = {schema["description"]: None for schema in schemas}
    merged["description"] = f"{' Or: '.join(texts)} For {', '.join(uses)}."
    return merged


def _union_rules(variants: dict[str, Schema], fields: dict[str, dict[str, Schema]]) -> list[Schema]:
    rules: dict[tuple[str, str], list[str]] = {}
    told: list[Schema] = []
    for name, uses in fields.items():
        told.append(
            {
                "rule": f"!has({cel_field(name)}) || {_type_in(list(uses))}",
                "message": f"{name} is for the types {', '.join(uses)} only",
            }
        )
        needing = [tag for tag in uses if name in variants[tag].get("required", ())]
        if needing:
            told.append(
                {
                    "rule": f"has({cel_field(name)}) || !({_type_in(needing)})",
                    "message": f"{name} must be set for the types {', '.join(needing)}",
                }
            )
        if len({str(schema.get("enum")) for schema in uses.values()}) > 1:
            told += [_enum_rule(tag, name, schema) for tag, schema in uses.items() if "enum" in schema]
    for tag, variant in variants.items():
        for rule in variant.get(VALIDATIONS, ()):
            rules.setdefault((rule["rule"], rule["message"]), []).append(tag)
    told += [
        {"rule": f"!({_type_in(tags)}) || ({rule})", "message": message}
        for (rule, message), tags in rules.items()
    ]
    return told


def _enum_rule(tag: str, name: str, schema: Schema) -> Schema:
    allowed = ", ".join(f"'{value}'" for value in schema["enum"])
    field = cel_field(name)
    return {
        "rule": f"self.type != '{tag}' || !has({field}) || {field} in [{allowed}]",
        "message": f"{name} of the type {tag} must be one of {', '.join(schema['enum'])}",
    }


def _type_in(tags: list[str]) -> str:
    return "self.type in [" + ", ".join(f"'{tag}'" for tag in tags) + "]"
