"""Objects as a cluster or a folder has them, on their way into the table."""

from __future__ import annotations

import sys
from collections.abc import Set

from kubebee.lb.services.claims import Name
from kubebee.lb.services.facts import NodeFacts
from kubebee.lb.services.objects import SERVICE_NAME, NodeObject, PodObject, ServiceObject, SliceObject
from kubebee.lb.services.pods import pack_pod
from kubebee.lb.services.service import pack_service
from kubebee.lb.services.slices import Packer
from kubebee.lb.services.table import ServiceTable

DEFAULT_NAMESPACE = "default"


def name_of(found: ServiceObject | SliceObject | NodeObject | PodObject) -> Name:
    """Namespace and name of an object; a manifest may leave the namespace out."""
    return sys.intern(found.metadata.namespace or DEFAULT_NAMESPACE), found.metadata.name


def _once(name: Name) -> Name:
    """Of a Service: its slices have its name, too."""
    return name[0], sys.intern(name[1])


class Intake:
    """Packs objects and knows which there are.

    Args:
        table: what they are for.
    """

    def __init__(self, table: ServiceTable) -> None:
        self.table = table
        self._packer = Packer(table.facts.name)
        self._services: dict[Name, Name] = {}  # half as large as a set
        self._pods: set[Name] = set()
        self._slices: dict[Name, Name] = {}  # to the Service that each is of

    def put_service(self, found: ServiceObject) -> None:
        """A Service as it is now."""
        name = _once(name_of(found))
        name = self._services.setdefault(name, name)
        self.table.put_service(name, pack_service(found))

    def drop_service(self, name: Name) -> None:
        """A Service is gone."""
        self._services.pop(name, None)
        self.table.put_service(name, None)

    def put_slice(self, found: SliceObject) -> None:
        """An EndpointSlice as it is now; without its label it is of no Service."""
        name = name_of(found)
        service = (found.metadata.labels or {}).get(SERVICE_NAME, "")
        owner = _once((name[0], service))
        owner = self._services.get(owner, owner)
        known = self._slices.get(name)
        if known is not None and known != owner:
            self.table.put_slice(known, name[1], None)
        if service:
            self._slices[name] = owner
            self.table.put_slice(owner, name[1], self._packer.pack(found))
        else:
            self._slices.pop(name, None)

    def drop_slice(self, name: Name) -> None:
        """An EndpointSlice is gone."""
        owner = self._slices.pop(name, None)
        if owner is not None:
            self.table.put_slice(owner, name[1], None)

    def put_node(self, found: NodeObject) -> None:
        """The node as it is now."""
        self.table.put_facts(NodeFacts.of(found))

    def put_pod(self, found: PodObject) -> None:
        """A pod as it is now; of those without host ports nothing is kept."""
        name, pod = name_of(found), pack_pod(found, self.table.facts.name)
        if pod is None:
            self.drop_pod(name)
        else:
            self._pods.add(name)
            self.table.host_ports.put(name, pod)

    def drop_pod(self, name: Name) -> None:
        """A pod is gone."""
        if name in self._pods:
            self._pods.discard(name)
            self.table.host_ports.put(name, None)

    def keep_pods(self, names: Set[Name]) -> None:
        """These are all the pods of the node."""
        for name in self._pods - names:
            self.drop_pod(name)

    def keep_services(self, names: Set[Name]) -> None:
        """These are all the Services there are."""
        for name in self._services.keys() - names:
            self.drop_service(name)

    def keep_slices(self, names: Set[Name]) -> None:
        """These are all the EndpointSlices there are."""
        for name in self._slices.keys() - names:
            self.drop_slice(name)
