"""One version of a resource on its way to the nodes: a ConfigMap's content, named by its digest.

The document has all that a node needs and nothing that only the controller does: a template is rendered and a
ConfigMap's text is in it; node selector, rollout and suspension are left out. So an edit of those is no new
version, and two edits that come to the same are one version.

Source of the sizes: an object in etcd ends at 1.5 MiB, a ConfigMap's data at 1 MiB (core/v1 MaxSecretSize).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from kubebee.api.parse import parse_resource
from kubebee.errors import KubebeeError
from kubebee.planner.declared import Declared, Rendered
from kubebee.planner.plan import ResourceKey
from kubebee.planner.prepare import prepare
from kubebee.toolchain.diagnostics import SourceLine

FORMAT = 1
PLAIN = "bundle.json"
PACKED = "bundle.json.gz"
PACK_ABOVE = 256 * 1024
MAX_BYTES = 900 * 1024
MAX_UNPACKED = 64 * 1024 * 1024
DIGEST_CHARS = 16
_NAME_CHARS = 40
_FOR_CONTROLLER = ("nodeSelector", "rollout", "suspend")


class BundleTooLargeError(KubebeeError):
    """A resource does not fit into one ConfigMap."""

    reason = "BundleTooLarge"


class BundleError(KubebeeError):
    """A bundle can't be read, or is not what its name says."""

    reason = "InvalidBundle"
    may_pass = True


@dataclass(frozen=True, slots=True)
class Encoded:
    """A bundle as a ConfigMap carries it.

    Attributes:
        digest: first 16 hexadecimal digits of the SHA-256 of the document.
        config_map: name of the ConfigMap.
        data: key to bytes: `bundle.json` as text, or `bundle.json.gz` as binary data.
    """

    key: ResourceKey
    digest: str
    config_map: str
    data: tuple[str, bytes]


class _Line(msgspec.Struct, frozen=True, array_like=True):
    file: str
    line: int


class _Rendered(msgspec.Struct, frozen=True):
    text: str
    lines: tuple[_Line, ...] = ()


class _Document(msgspec.Struct, frozen=True):
    format: int
    created: str
    manifest: dict[str, Any]
    rendered: _Rendered | None = None


def encode(manifest: Mapping[str, Any], created: str, rendered: Rendered | None = None) -> Encoded:
    """A version of a resource as its bundle.

    Args:
        manifest: apiVersion, kind, metadata and spec as the user applied them.
        created: RFC 3339, of the resource.
        rendered: C text of its template or ConfigMap.

    Raises:
        BundleTooLargeError: it takes more than 900 KiB, compressed.
    """
    kind, name = str(manifest["kind"]), str(manifest["metadata"]["name"])
    spec = {field: value for field, value in manifest["spec"].items() if field not in _FOR_CONTROLLER}
    body = {
        "apiVersion": manifest["apiVersion"],
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }
    lines = tuple(_Line(line.file, line.line) for line in rendered.line_map) if rendered else ()
    packed = _Rendered(rendered.text, lines) if rendered else None
    raw = msgspec.json.encode(_Document(FORMAT, created, body, packed), order="deterministic")
    digest = hashlib.sha256(raw).hexdigest()[:DIGEST_CHARS]
    data = (PLAIN, raw) if len(raw) <= PACK_ABOVE else (PACKED, gzip.compress(raw, mtime=0))
    if len(data[1]) > MAX_BYTES:
        raise BundleTooLargeError(
            f"it comes to {len(data[1]) // 1024} KiB, compressed; {MAX_BYTES // 1024} KiB travel to a node",
            where=f"{kind}/{name}",
            hint="split it, or put a compiled object on the nodes and name its path",
        )
    key = ResourceKey(kind, name)
    return Encoded(key, digest, bundle_name(key, digest), data)


def bundle_name(key: ResourceKey, digest: str) -> str:
    """The ConfigMap that carries a version; it ends with the digest, see `digest_in`."""
    stem = re.sub(r"[^a-z0-9-]", "-", key.name)[:_NAME_CHARS]
    return f"{key.kind.lower()}-{stem}-{digest}"


def digest_in(config_map: str) -> str:
    """The digest that a bundle's name ends with."""
    return config_map[-DIGEST_CHARS:]


def decode(data: tuple[str, bytes], generation: int, digest: str) -> Declared:
    """The resource in a bundle.

    Args:
        data: key and bytes, as in `Encoded`.
        generation: that the node shall call it.
        digest: that it must have.

    Raises:
        BundleError: it is damaged, or of a newer version of kubebee.
        KubebeeError: the resource can't be acted on by this version; reasons as of `planner.prepare`.
    """
    raw = _unpack(data, digest)
    try:
        document = msgspec.json.decode(raw, type=_Document)
    except msgspec.DecodeError as error:
        raise _damaged(digest, str(error)) from error
    if document.format != FORMAT:
        raise BundleError(
            f"bundle {digest} has format {document.format}, this loader reads {FORMAT}",
            hint="update the loader's image to the controller's version",
        )
    resource = parse_resource(document.manifest, f"bundle {digest}")
    rendered = None
    if document.rendered is not None:
        lines = tuple(SourceLine(line.file, line.line) for line in document.rendered.lines)
        rendered = Rendered(document.rendered.text, lines)
    key = ResourceKey(resource.kind, resource.metadata.name)
    return Declared(key, resource, generation, document.created, prepare(resource), rendered, digest)


def _unpack(data: tuple[str, bytes], digest: str) -> bytes:
    name, raw = data
    if name == PACKED:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
                raw = file.read(MAX_UNPACKED + 1)
        except (OSError, EOFError) as error:
            raise _damaged(digest, str(error)) from error
    if len(raw) > MAX_UNPACKED or hashlib.sha256(raw).hexdigest()[:DIGEST_CHARS] != digest:
        raise _damaged(digest, "its content does not match its name")
    return raw


def _damaged(digest: str, why: str) -> BundleError:
    return BundleError(
        f"bundle {digest} can't be read: {why}", hint="delete its ConfigMap; the controller makes it anew"
    )
