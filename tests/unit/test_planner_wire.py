"""One version of a resource on its way to the nodes."""

from __future__ import annotations

import base64
import random
from typing import Any

import pytest

from kubebee.errors import KubebeeError
from kubebee.planner.declared import Rendered
from kubebee.planner.wire import MAX_BYTES, PACKED, PLAIN, BundleError, BundleTooLargeError, decode, encode
from kubebee.toolchain.diagnostics import SourceLine

CREATED = "2026-01-01T00:00:00Z"
XDP = [{"name": "count", "attach": {"type": "XDP", "interfaces": {"primary": True}}}]


def program(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kubebee.dev/v1alpha1",
        "kind": "BpfProgram",
        "metadata": {"name": "my.program", "labels": {"team": "a"}, "resourceVersion": "12"},
        "spec": {"source": source, "programs": XDP, **more},
    }


def test_a_resource_comes_out_as_it_went_in() -> None:
    encoded = encode(program({"inline": "int x;"}, globals={"limit": 7}), CREATED)
    declared = decode(encoded.data, 3, encoded.digest)
    assert (declared.key, declared.generation, declared.created) == (encoded.key, 3, CREATED)
    assert declared.resource.spec.globals == {"limit": 7}  # type: ignore[union-attr]
    assert declared.version == encoded.digest


def test_its_config_map_is_named_by_kind_name_and_digest() -> None:
    encoded = encode(program({"inline": "int x;"}), CREATED)
    assert encoded.config_map == f"bpfprogram-my-program-{encoded.digest}"


def test_rendered_text_keeps_its_line_map() -> None:
    rendered = Rendered("int x;\n", (SourceLine("template counter", 12),))
    encoded = encode(program({"template": {"name": "xdp-counter"}}), CREATED, rendered)
    assert decode(encoded.data, 1, encoded.digest).rendered == rendered


def test_what_only_the_controller_needs_makes_no_new_version() -> None:
    plain = encode(program({"inline": "int x;"}), CREATED)
    chosen = encode(
        program({"inline": "int x;"}, nodeSelector={"zone": "a"}, rollout={"paused": True}), CREATED
    )
    assert plain == chosen


def test_another_value_makes_a_new_version() -> None:
    versions = {encode(program({"inline": "int x;"}, globals={"a": n}), CREATED).digest for n in range(5)}
    assert len(versions) == 5


def test_a_large_one_travels_compressed() -> None:
    encoded = encode(program({"inline": "int x;\n" * 60_000}), CREATED)
    assert encoded.data[0] == PACKED
    assert len(encoded.data[1]) < 10_000
    assert decode(encoded.data, 1, encoded.digest).key == encoded.key


def test_one_that_does_not_fit_is_refused_by_name() -> None:
    noise = base64.b64encode(random.Random(1).randbytes(MAX_BYTES)).decode()
    with pytest.raises(BundleTooLargeError, match=r"BpfProgram/my\.program") as caught:
        encode(program({"inline": noise}), CREATED)
    assert caught.value.reason == "BundleTooLarge"


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-1], lambda raw: raw + b" ", lambda raw: raw.replace(b"int", b"INT"), lambda _: b""],
)
def test_a_damaged_one_is_refused(damage: Any) -> None:
    encoded = encode(program({"inline": "int x;"}), CREATED)
    with pytest.raises(BundleError, match=encoded.digest):
        decode((PLAIN, damage(encoded.data[1])), 1, encoded.digest)


def test_compressed_garbage_is_refused() -> None:
    encoded = encode(program({"inline": "int x;\n" * 60_000}), CREATED)
    for raw in (encoded.data[1][:100], b"garbage", b""):
        with pytest.raises(BundleError):
            decode((PACKED, raw), 1, encoded.digest)


def test_a_resource_of_a_newer_schema_is_refused_and_named() -> None:
    encoded = encode(program({"inline": "int x;"}, novelty=1), CREATED)
    with pytest.raises(KubebeeError, match="novelty") as caught:
        decode(encoded.data, 1, encoded.digest)
    assert caught.value.reason == "UnknownField"
