"""Where objects are in the API server."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from kubebee.api.v1alpha1.common import API_VERSION
from kubebee.api.v1alpha1.resources import KINDS

BUNDLE_LABEL = "kubebee.dev/bundle"
USER_KINDS = ("BpfProgram", "ServiceLB", "HostPolicy")


@dataclass(frozen=True, slots=True)
class Collection:
    """All objects of a kind, in the cluster or a namespace.

    Attributes:
        plural: as in URLs, RBAC rules and metrics.
        namespace: empty for kinds without.
        labels, fields: only the objects that these selectors choose, where objects are listed.
    """

    api_version: str
    kind: str
    plural: str
    namespace: str = ""
    labels: str = ""
    fields: str = ""

    @property
    def path(self) -> str:
        """Of the URL."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        return (
            f"{root}/namespaces/{self.namespace}/{self.plural}" if self.namespace else f"{root}/{self.plural}"
        )

    def named(self, name: str, subresource: str = "") -> str:
        """Path of one object."""
        path = f"{self.path}/{quote(name, safe='')}"
        return f"{path}/{subresource}" if subresource else path

    @property
    def query(self) -> dict[str, str]:
        """The selectors as the API server takes them."""
        chosen = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in chosen.items() if value}


OURS = {kind.__name__: Collection(API_VERSION, kind.__name__, kind.names.plural) for kind in KINDS}
"""Our own kinds."""
BPF_NODES = OURS["BpfNode"]
NODES = Collection("v1", "Node", "nodes")
EVENTS = Collection("v1", "Event", "events", "default")
"""Events of objects without a namespace are in this one (core/v1 validation)."""


def bundles(namespace: str) -> Collection:
    """ConfigMaps that carry versions to the nodes."""
    return Collection("v1", "ConfigMap", "configmaps", namespace, labels=f"{BUNDLE_LABEL}=true")


def config_maps(namespace: str) -> Collection:
    """All ConfigMaps of a namespace."""
    return Collection("v1", "ConfigMap", "configmaps", namespace)


def daemon_sets(namespace: str, name: str = "") -> Collection:
    """DaemonSets of a namespace, or the one of this name."""
    fields = f"metadata.name={name}" if name else ""
    return Collection("apps/v1", "DaemonSet", "daemonsets", namespace, fields=fields)


def deployments(namespace: str) -> Collection:
    """Deployments of a namespace."""
    return Collection("apps/v1", "Deployment", "deployments", namespace)


def leases(namespace: str) -> Collection:
    """Leases of a namespace."""
    return Collection("coordination.k8s.io/v1", "Lease", "leases", namespace)
