"""Reading manifests: what is valid is typed, what is not says which field, why, and what was likely meant."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
import yaml

from kubebee.api.parse import SpecError, parse_resource
from kubebee.api.v1alpha1.attach import UprobeAttach, XdpAttach
from kubebee.api.v1alpha1.bpfprogram import BpfProgram
from kubebee.api.v1alpha1.hostpolicy import HostPolicy
from kubebee.api.v1alpha1.servicelb import Backend, ServiceLB


def document(kind: str, spec: str, name: str = "it") -> dict[str, Any]:
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": yaml.safe_load(spec),
    }


def program(attach: str, more: str = "") -> dict[str, Any]:
    return document(
        "BpfProgram", f"{{source: {{inline: int x;}}, programs: [{{name: f, attach: {attach}}}]{more}}}"
    )


def error(doc: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_resource(doc, "it.yaml")
    return caught.value


def lb(frontends: str) -> dict[str, Any]:
    return document("ServiceLB", f"{{frontends: [{frontends}]}}")


def policy(rule: str) -> dict[str, Any]:
    return document("HostPolicy", f"{{ingress: [{{name: r, action: Allow, {rule}}}]}}")


# --- valid manifests -------------------------------------------------------------------------------------


def test_a_program_is_typed_down_to_its_attachment() -> None:
    resource = parse_resource(program("{type: XDP, interfaces: {regexes: ['eth.*'], exclude: [eth9]}}"))
    assert isinstance(resource, BpfProgram)
    (function,) = resource.spec.programs
    assert isinstance(function.attach, XdpAttach)
    assert (function.attach.mode, function.priority) == ("Auto", 500)
    assert function.attach.interfaces.regexes == ("eth.*",)


def test_uprobe_takes_a_symbol_an_offset_or_both() -> None:
    for place in ("symbol: main", "offset: 16", "symbol: main, offset: 16"):
        resource = parse_resource(program(f"{{type: Uprobe, path: /bin/true, {place}}}"))
        assert isinstance(resource, BpfProgram)
        assert isinstance(resource.spec.programs[0].attach, UprobeAttach)


def test_globals_keep_their_yaml_types() -> None:
    values = "{type: Iter, target: task}", ", globals: {a: 1, b: true, c: 10.0.0.1, d: [1, 2], e: {x: 1}}"
    resource = parse_resource(program(*values))
    assert isinstance(resource, BpfProgram)
    assert resource.spec.globals == {"a": 1, "b": True, "c": "10.0.0.1", "d": [1, 2], "e": {"x": 1}}
    assert resource.spec.globals["b"] is True


def test_a_load_balancer_has_frontends_with_weighted_backends() -> None:
    backends = "[{address: 10.0.0.1, port: 8080}, {address: 10.0.0.2, port: 8080, weight: 3}]"
    resource = parse_resource(lb(f"{{name: web, address: 192.0.2.1, port: 80, backends: {backends}}}"))
    assert isinstance(resource, ServiceLB)
    assert resource.spec.frontends[0].backends == (Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080, 3))


def test_ports_and_protocols_may_be_numbers_or_text() -> None:
    protocols = "[{protocol: 6, ports: [80, '8000-8010']}, {protocol: ICMP, icmp: {type: 8}}]"
    resource = parse_resource(
        policy(f"from: [{{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], protocols: {protocols}")
    )
    assert isinstance(resource, HostPolicy)
    (rule,) = resource.spec.ingress
    assert rule.protocols[0].protocol == "6"
    assert rule.protocols[0].ports == ("80", "8000-8010")
    assert rule.from_[0].except_ == ("10.1.0.0/16",)


def test_what_was_parsed_can_be_written_and_parsed_again() -> None:
    doc = policy("from: [{cidr: 10.0.0.0/8}], protocols: [{protocol: TCP, ports: [22]}]")
    resource = parse_resource(doc)
    assert parse_resource(resource.to_json()) == resource


def test_a_resource_cannot_be_changed() -> None:
    resource = parse_resource(program("{type: Iter, target: task}"))
    with pytest.raises(ValueError, match="frozen"):
        resource.metadata.name = "other"


def test_a_status_of_another_version_is_left_out_and_rewritten() -> None:
    doc = program("{type: Iter, target: task}")
    doc["status"] = {"observedGeneration": "many"}
    assert parse_resource(doc).status is None
    doc["status"] = {"observedGeneration": 3, "inventedLater": 1}
    status = parse_resource(doc).status
    assert status is not None
    assert status.observed_generation == 3


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "255.255.255.255", "::", "::1", "1::", "fe80::1:2", "1:2:3:4:5:6:7:8", "2001:DB8::a"]
)
def test_addresses_are_taken(text: str) -> None:
    ipaddress.ip_address(text)
    parse_resource(lb(f"{{name: a, address: '{text}', port: 1}}"))


@pytest.mark.parametrize(
    "text",
    [
        "256.0.0.1",
        "1.2.3",
        "01.2.3.4",
        "1.2.3.4/32",
        "1.2.3.4 ",
        ":::",
        "1:2:3:4:5:6:7",
        "1::2::3",
        "g::",
        "12345::",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|appear"):
        ipaddress.ip_address(text)
    assert "is not an IP address such as 192.0.2.1" in str(
        error(lb(f"{{name: a, address: '{text}', port: 1}}"))
    )


# --- invalid manifests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("doc", "reason", "message"),
    [
        (program("{type: XPD}"), "InvalidSpec", "spec.programs[0].attach.type: 'XPD' is not one of XDP, TC"),
        (program("{type: XPD}"), "InvalidSpec", "did you mean XDP?"),
        (program("{}"), "InvalidSpec", "spec.programs[0].attach.type: required"),
        (
            program("{type: XDP, interfaces: {nams: [eth0]}}"),
            "UnknownField",
            "spec.programs[0].attach.interfaces.nams: unknown field, did you mean names?",
        ),
        (
            program("{type: TC, direction: Ingress, mode: Native, interfaces: {primary: true}}"),
            "UnknownField",
            "spec.programs[0].attach.mode: does not go with this type",
        ),
        (
            program("{type: TC, direction: In, interfaces: {all: true}}"),
            "InvalidSpec",
            "'In' is not one of Ingress, E",
        ),
        (
            program("{type: XDP, interfaces: {regexes: ['eth(']}}"),
            "InvalidSpec",
            "interfaces.regexes[0]: 'eth(' is not a regular expression: missing )",
        ),
        (program("{type: XDP, interfaces: {}}"), "InvalidSpec", "no interface is chosen"),
        (
            program("{type: XDP, interfaces: {names: [a/b]}}"),
            "InvalidSpec",
            "is not the name of a network interface",
        ),
        (
            program("{type: Uprobe, path: /bin/sh}"),
            "InvalidSpec",
            "at least one of symbol, offset must be set",
        ),
        (program("{type: Uprobe, path: sh, offset: 0}"), "InvalidSpec", "path: 'sh' is not an absolute path"),
        (
            program("{type: Iter, target: task}", ", globals: {a: 1.5}"),
            "InvalidSpec",
            "spec.globals.a: is a fraction",
        ),
        (
            program("{type: Iter, target: task}", ", suspend: 'no'"),
            "InvalidSpec",
            "suspend: expected true or false",
        ),
        (
            document("BpfProgram", "{source: {inline: a, template: {name: t}}, programs: []}"),
            "InvalidSpec",
            "spec.source: exactly one of inline, template, configMap, object must be set",
        ),
        (
            document("BpfProgram", "{source: {inline: a}}"),
            "InvalidSpec",
            "programs must name at least one function",
        ),
        (document("BpfProgram", "{source: {object: {path: /x.o}}}"), "InvalidSpec", "sha256 must be set"),
        (document("BpfProgram", "null"), "InvalidSpec", "spec: expected an object, got nothing"),
        (
            lb("{name: a, address: 10.0.0.1, port: 80, backends: [{address: web, port: 80}]}"),
            "InvalidSpec",
            "spec.frontends[0].backends[0].address: 'web' is not an IP address",
        ),
        (
            lb(
                "{name: a, address: 10.0.0.1, port: 80, backends: [{address: 10.0.0.2, port: 80, wieght: 1}]}"
            ),
            "UnknownField",
            "spec.frontends[0].backends[0].wieght: unknown field, did you mean weight?",
        ),
        (
            lb("{name: a, address: 10.0.0.1, port: 0}"),
            "InvalidSpec",
            "port: '0' is no port from 1 to 65535",
        ),
        (
            lb("{name: a, address: 10.0.0.1, port: 8010-8000}"),
            "InvalidSpec",
            "port: '8010-8000' is no port from 1 to 65535 nor a range of them, first to last",
        ),
        (
            lb("{name: a, address: 10.0.0.1, port: 65000-65536}"),
            "InvalidSpec",
            "port: '65000-65536' is no port",
        ),
        (
            lb("{name: a, address: 10.0.0.1, port: 1000-2000}"),
            "InvalidSpec",
            "port: '1000-2000' are 1001 ports, at most 1000 are allowed",
        ),
        (
            lb(
                "{name: a, address: 10.0.0.1, port: 90},"
                " {name: b, address: 10.0.0.1, port: 80-100},"
                " {name: c, address: 10.0.0.1, port: 95, protocol: UDP}"
            ),
            "InvalidSpec",
            "frontends[0] and frontends[1] both have 10.0.0.1 port 90/TCP",
        ),
        (
            lb("{name: a, address: 10.0.0.1, port: '80-'}"),
            "InvalidSpec",
            "port: '80-' is not a port such as 80",
        ),
        (
            lb("{name: a, address: 10.0.0.1, port: 80}, {name: b, address: 10.0.0.1, port: 80}"),
            "InvalidSpec",
            "frontends[0] and frontends[1] both have 10.0.0.1 port 80/TCP",
        ),
        (
            lb("{name: a, address: 10.0.0.1, port: 80}, {name: a, address: 10.0.0.1, port: 81}"),
            "InvalidSpec",
            "frontends[0] and frontends[1] both have the name a",
        ),
        (
            policy("from: [{cidr: 10.0.0.0/33}]"),
            "InvalidSpec",
            "'10.0.0.0/33' is not an address with prefix length",
        ),
        (
            policy("from: [{cidr: 10.0.0.0}]"),
            "InvalidSpec",
            "'10.0.0.0' is not an address with prefix length",
        ),
        (
            policy("protocols: [{protocol: TCP, ports: ['90-80']}]"),
            "InvalidSpec",
            "a port range ends before it starts",
        ),
        (policy("protocols: [{protocol: TCP, ports: [65536]}]"), "InvalidSpec", "not between 1 and 65535"),
        (
            policy("protocols: [{protocol: ICMP, ports: [80]}]"),
            "InvalidSpec",
            "ports are for TCP, UDP and SCTP only",
        ),
        (policy("protocols: [{protocol: 256}]"), "InvalidSpec", "a protocol number from 0 to 255"),
        (document("ServiceLb", "{}"), "UnknownKind", "did you mean ServiceLB?"),
        ({"apiVersion": "v1", "kind": "ConfigMap"}, "UnknownKind", "expected 'kubebee.dev/v1alpha1'"),
        ({"apiVersion": "kubebee.dev/v2", "kind": "ServiceLB"}, "UnsupportedVersion", "'kubebee.dev/v2'"),
        (document("ServiceLB", "{}", name="a..b"), "InvalidName", "metadata.name: 'a..b' is not lower-case"),
        (
            document("ServiceLB", "{}", name="n" * 300),
            "InvalidName",
            "has 300 characters, at most 253 are allowed",
        ),
        (
            {"apiVersion": "kubebee.dev/v1alpha1", "kind": "ServiceLB"},
            "InvalidName",
            "metadata: expected an object",
        ),
        (["a"], "InvalidSpec", "expected an object, got list"),
    ],
)
def test_an_error_names_the_field_and_what_was_expected(doc: object, reason: str, message: str) -> None:
    found = error(doc)
    assert message in str(found)
    assert found.reason == reason
    assert found.where == "it.yaml"


def test_all_bad_fields_are_told_at_once() -> None:
    found = error(lb("{name: A, address: x, port: 0}"))
    assert [problem.path for problem in found.problems] == [
        f"spec.frontends[0].{f}" for f in ("name", "address", "port")
    ]


def test_an_error_knows_whose_status_to_write() -> None:
    doc = program("{type: XPD}")
    doc["metadata"]["generation"] = 7
    found = error(doc)
    assert (found.kind, found.name, found.generation) == ("BpfProgram", "it", 7)


def test_a_source_of_10_mb_is_refused_without_repeating_it() -> None:
    doc = program("{type: Iter, target: task}")
    doc["spec"]["source"]["inline"] = "x" * 10_000_000
    found = str(error(doc))
    assert "spec.source.inline: has 10000000 characters, at most 524288 are allowed" in found
    assert len(found) < 200


def test_values_nested_without_end_are_refused() -> None:
    value: object = 1
    for _ in range(50):
        value = [value]
    doc = program("{type: Iter, target: task}")
    doc["spec"]["globals"] = {"deep": value}
    assert "nested more than 8 levels deep" in str(error(doc))
