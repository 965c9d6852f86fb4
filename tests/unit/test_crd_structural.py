"""An API server accepts the CRDs: the rules of apiextensions.k8s.io/v1 for structural schemas."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from kubebee.api.crd import all_crds

Schema = dict[str, Any]

CRDS = {name: yaml.safe_load(text) for name, text in all_crds().items()}
REFUSED = {
    "$ref", "definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties",
    "readOnly", "writeOnly", "xml", "uniqueItems", "const", "anyOf", "oneOf", "allOf", "not",
    "exclusiveMinimum", "exclusiveMaximum", "title", "default", "propertyNames", "additionalItems",
}  # fmt: skip


def version(crd: Schema) -> Schema:
    (only,) = crd["spec"]["versions"]
    return dict(only)


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema in a schema, with its path."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[{key}]")


def all_nodes() -> list[tuple[str, Schema]]:
    return [
        (f"{name}{path}", node)
        for name, crd in CRDS.items()
        for path, node in nodes(version(crd)["schema"]["openAPIV3Schema"])
    ]


ALL = all_nodes()


def test_there_are_four_kinds() -> None:
    assert sorted(CRDS) == [
        "kubebee.dev_bpfnodes.yaml",
        "kubebee.dev_bpfprograms.yaml",
        "kubebee.dev_hostpolicies.yaml",
        "kubebee.dev_servicelbs.yaml",
    ]


def test_no_keyword_that_an_api_server_refuses_is_used() -> None:
    assert [(path, key) for path, node in ALL for key in REFUSED & node.keys() - first_status(path)] == []


def first_status(path: str) -> set[str]:
    """The one default there is: it changes nothing that a user wrote."""
    return {"default"} if path.endswith(".yaml.status") else set()


def test_every_schema_has_a_type_unless_it_holds_any_value() -> None:
    free = ("x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")
    assert [path for path, node in ALL if ("type" in node) == any(key in node for key in free)] == []


def test_no_object_loses_its_fields_to_pruning() -> None:
    empty = [
        path
        for path, node in ALL
        if node.get("type") == "object"
        and "properties" not in node
        and "additionalProperties" not in node
        and not path.endswith(".metadata")
    ]
    assert empty == []


def test_properties_never_stand_beside_additional_properties() -> None:
    assert [path for path, node in ALL if {"properties", "additionalProperties"} <= node.keys()] == []


def test_every_list_says_what_it_holds_and_how_many() -> None:
    lists = [(path, node) for path, node in ALL if node.get("type") == "array"]
    assert [path for path, node in lists if not {"items", "maxItems"} <= node.keys()] == []


def test_every_string_and_map_has_a_bound() -> None:
    def bounded(node: Schema) -> bool:
        if node.get("type") == "string":
            return "maxLength" in node or "enum" in node
        return "additionalProperties" not in node or "maxProperties" in node

    top = (".apiVersion", ".kind")
    unbounded = [path for path, node in ALL if not bounded(node)]
    assert [path for path in unbounded if not (path.endswith(top) and path.count(".") == 3)] == []


def test_the_keys_of_list_maps_are_required_scalars() -> None:
    for path, node in ALL:
        for key in node.get("x-kubernetes-list-map-keys", ()):
            assert key in node["items"]["required"], path
            assert node["items"]["properties"][key]["type"] == "string", path


def test_required_fields_exist() -> None:
    for path, node in ALL:
        assert set(node.get("required", ())) <= node.get("properties", {}).keys(), path


def test_metadata_is_left_to_kubernetes() -> None:
    for crd in CRDS.values():
        assert version(crd)["schema"]["openAPIV3Schema"]["properties"]["metadata"] == {"type": "object"}


def test_every_rule_has_a_message_and_names_fields_that_exist() -> None:
    for path, node in ALL:
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"], path
            named = {name.strip("_") for name in re.findall(r"self\.(\w+)", rule["rule"])}
            assert named, path
            assert named <= node["properties"].keys(), path


def test_every_field_has_a_description() -> None:
    plain = (".apiVersion", ".kind", ".metadata")
    bare = [
        path
        for path, node in ALL
        if "description" not in node and not path.endswith("]") and not path.endswith(plain)
    ]
    assert bare == []


@pytest.mark.parametrize("file", CRDS)
def test_kubectl_shows_state_and_knows_short_names(file: str) -> None:
    crd = CRDS[file]
    shown = version(crd)
    assert crd["spec"]["scope"] == "Cluster"
    assert crd["metadata"]["name"] == f"{crd['spec']['names']['plural']}.kubebee.dev"
    assert crd["spec"]["names"]["categories"] == ["kubebee"]
    assert shown["subresources"] == {"status": {}}
    fullest = ["Fullest"] if file.endswith("servicelbs.yaml") else []
    columns = [column["name"] for column in shown["additionalPrinterColumns"]]
    assert columns == ["Ready", "Nodes", "Reason", *fullest, "Age"]


def test_a_union_becomes_one_object_whose_fields_go_with_their_types() -> None:
    attach = dict(ALL)["kubebee.dev_bpfprograms.yaml.spec.programs[items].attach"]
    rules = {rule["message"]: rule["rule"] for rule in attach["x-kubernetes-validations"]}
    assert attach["required"] == ["type"]
    assert {"XDP", "TC", "StructOps", "Netfilter"} <= set(attach["properties"]["type"]["enum"])
    assert rules["mode is for the types XDP only"] == "!has(self.mode) || self.type in ['XDP']"
    assert rules["target must be set for the types Iter"] == "has(self.target) || !(self.type in ['Iter'])"
    # The expression language reserves the word "function".
    assert "has(self.__function__)" in rules["function is for the types Fentry, Fexit, FmodRet only"]
    assert "'Connect4'" in next(rule for text, rule in rules.items() if "type CgroupSockAddr" in text)


def test_free_values_survive_in_globals() -> None:
    node = dict(ALL)["kubebee.dev_bpfprograms.yaml.spec.globals"]
    assert node["additionalProperties"] == {"x-kubernetes-preserve-unknown-fields": True}
