"""Every manifest in examples/ is a valid resource, and together they show each attach type."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kubebee.api.parse import parse_resource
from kubebee.api.v1alpha1.bpfprogram import BpfProgram
from kubebee.lb.services.objects import service_from, slice_from

EXAMPLES = Path(__file__).parents[2] / "examples"
OF_THE_CLUSTER = {"quickstart/service.yaml"}
"""Examples of what a cluster has of itself."""
FILES = sorted(
    path for path in EXAMPLES.rglob("*.yaml") if str(path.relative_to(EXAMPLES)) not in OF_THE_CLUSTER
)
BUILT = {
    *("XDP", "TC", "Tracepoint", "RawTracepoint", "TpBtf", "Uprobe", "Uretprobe", "CgroupSkb", "CgroupSock"),
    *("CgroupSockAddr", "SockOps", "Iter", "StructOps", "Kprobe", "Kretprobe", "Fentry", "Fexit", "Lsm"),
}


def resources(path: Path) -> list[object]:
    documents = yaml.safe_load_all(path.read_text())
    return [parse_resource(document, str(path)) for document in documents if document["kind"] != "ConfigMap"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_manifest_is_valid(path: Path) -> None:
    assert resources(path)


def test_examples_show_every_attach_type() -> None:
    programs = [each for path in FILES for each in resources(path) if isinstance(each, BpfProgram)]
    assert {function.attach.type for each in programs for function in each.spec.programs} >= BUILT


def test_names_are_unique() -> None:
    names = [(each.kind, each.metadata.name) for path in FILES for each in resources(path)]  # type: ignore[attr-defined]
    assert len(names) == len(set(names))


def test_what_a_cluster_has_of_itself_is_read_too() -> None:
    readers = {"Service": service_from, "EndpointSlice": slice_from}
    for name in OF_THE_CLUSTER:
        for document in yaml.safe_load_all((EXAMPLES / name).read_text()):
            assert readers[document["kind"]](document, name).metadata.name
