"""What the API server has for one node, as far as its loader reads it; unknown fields are passed over."""

from __future__ import annotations

import msgspec

from kubebee.planner.nodes import Ref


class Wanted(msgspec.Struct, frozen=True):
    """A spec that was read.

    Attributes:
        uid: of the BpfNode; one that was deleted and made anew has another.
        generation: metadata.generation of the BpfNode.
    """

    uid: str
    generation: int
    bundles: tuple[Ref, ...]


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""


class _Spec(msgspec.Struct, frozen=True):
    bundles: tuple[Ref, ...] | None = None


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    observed_generation: int = 0


class NodeObject(msgspec.Struct, frozen=True):
    """A BpfNode."""

    metadata: _Metadata
    spec: _Spec | None = None
    status: _Status | None = None

    @property
    def wanted(self) -> Wanted | None:
        """What it asks for. Without a list of bundles it asks for nothing: not even that nothing runs."""
        if self.spec is None or self.spec.bundles is None:
            return None
        return Wanted(self.metadata.uid, self.metadata.generation, self.spec.bundles)


class BundleMap(msgspec.Struct, frozen=True, rename="camel"):
    """A ConfigMap's content; msgspec decodes the base64 of binaryData."""

    data: dict[str, str] = {}
    binary_data: dict[str, bytes] = {}
