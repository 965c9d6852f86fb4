"""What the API has and this version does not act on is found wherever a manifest uses it."""

from __future__ import annotations

import pytest
import yaml

from kubebee.api.later import unbuilt
from kubebee.api.parse import parse_resource

PROGRAM = "source: {inline: a}, programs: [{name: f, attach: {type: Iter, target: task}}]"


def used(kind: str, spec: str) -> tuple[str, ...]:
    metadata = {"name": "it"}
    doc = {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": kind,
        "metadata": metadata,
        "spec": yaml.safe_load(spec),
    }
    return unbuilt(parse_resource(doc))


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("BpfProgram", f"{{{PROGRAM}, overheadBudget: {{cpuPercent: 5}}}}", "spec.overheadBudget"),
        ("BpfProgram", f"{{{PROGRAM}, toolchain: Bpftrace}}", "spec.toolchain: Bpftrace"),
        (
            "BpfProgram",
            "{source: {inline: a}, programs: [{name: f, attach: {type: SkLookup}}]}",
            "spec.programs[0].attach.type: SkLookup",
        ),
        (
            "BpfProgram",
            "{source: {inline: a},"
            " programs: [{name: f, attach: {type: XDP, interfaces: {pods: {selector: {}}}}}]}",
            "spec.programs[0].attach.interfaces.pods",
        ),
        (
            "BpfProgram",
            "{source: {object: {image: x}}, programs: [{name: f, attach: {type: StructOps}}]}",
            "spec.source.object.image",
        ),
        ("HostPolicy", "{egress: [{name: a, action: Deny}]}", "spec.egress"),
        ("HostPolicy", "{defaultAction: {egress: Deny}}", "spec.defaultAction.egress"),
        (
            "HostPolicy",
            "{ingress: [{name: a, action: Deny, from: [{set: s}]}]}",
            "spec.ingress[0].from[0].set",
        ),
    ],
)
def test_a_field_that_is_not_built_is_found(kind: str, spec: str, expected: str) -> None:
    assert used(kind, spec) == (expected,)


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("BpfProgram", f"{{{PROGRAM}, toolchain: Bcc, suspend: true}}"),
        ("ServiceLB", "{forwarding: {mode: DSR, dispatch: IPIP}, socketLB: {hostNamespaceOnly: false}}"),
        ("ServiceLB", "{cutOver: {from: KubeProxy, handBack: true}}"),
        ("ServiceLB", "{forwarding: {mode: DSR, dispatch: L2}}"),
        ("ServiceLB", "{forwarding: {mode: DSR, dispatch: IPOption}}"),
        (
            "ServiceLB",
            "{frontends: [{name: a, address: 10.0.0.1, port: 1, forwarding: {dispatch: IPOption}}]}",
        ),
        ("HostPolicy", "{audit: true, ingress: [{name: a, action: Deny, log: false}]}"),
    ],
)
def test_what_is_built_and_what_is_switched_off_are_not(kind: str, spec: str) -> None:
    assert used(kind, spec) == ()
