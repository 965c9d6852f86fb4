"""Services, EndpointSlices and Pods of a folder of manifests, on their way into the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kubebee.errors import KubebeeError
from kubebee.lb.services.claims import Name
from kubebee.lb.services.intake import Intake, name_of
from kubebee.lb.services.objects import PodObject, ServiceObject, SliceObject
from kubebee.lb.services.table import ServiceTable
from kubebee.store.snapshot import Snapshot


class FolderServices:
    """Takes what each scan of the folder found; node ports are served on the machine's own addresses.

    Attributes:
        trouble, pods_trouble: None: a folder that can't be read is said elsewhere.
        heard_at: time.time() of the last scan, 0 before the first.
        wanted: whether somebody wants them.
        changed: set when a new address of the machine is noticed.

    Args:
        table: where objects go.
        addresses: of this machine.
    """

    trouble: KubebeeError | None = None
    pods_trouble: KubebeeError | None = None

    def __init__(self, table: ServiceTable, addresses: Callable[[], tuple[bytes, ...]]) -> None:
        self.table = table
        self.heard_at = 0.0
        self.wanted = False
        self.changed = asyncio.Event()
        self._addresses = addresses
        self._intake = Intake(table)
        self._services: dict[Name, ServiceObject] = {}
        self._slices: dict[Name, SliceObject] = {}
        self._pods: dict[Name, PodObject] = {}

    @property
    def watching(self) -> bool:
        """Whether news would come in now."""
        return True

    def want(self, wanted: bool, *, pods: bool = False) -> None:  # noqa: ARG002
        """What is in the folder is read anyway."""
        self.wanted = wanted

    def take(self, snapshot: Snapshot) -> None:
        """What a scan found; objects that are the same as before cost nothing."""
        self.look()
        services = {name_of(found): found for found in snapshot.services}
        for service_name, service in services.items():
            if self._services.get(service_name) is not service:
                self._intake.put_service(service)
        slices = {name_of(found): found for found in snapshot.slices}
        for slice_name, one in slices.items():
            if self._slices.get(slice_name) is not one:
                self._intake.put_slice(one)
        pods = {name_of(found): found for found in snapshot.pods}
        for pod_name, pod in pods.items():
            if self._pods.get(pod_name) is not pod:
                self._intake.put_pod(pod)
        self._intake.keep_services(services.keys())
        self._intake.keep_slices(slices.keys())
        self._intake.keep_pods(pods.keys())
        self._services, self._slices, self._pods = services, slices, pods
        self.table.synced = self.table.host_ports.synced = True
        self.heard_at = time.time()

    def look(self) -> None:
        """Notice addresses of the machine that came or went."""
        self.table.put_facts(self.table.facts._replace(addresses=self._addresses()))

    async def run(self) -> None:
        """Nothing to follow: the store's own changes lead to scans."""
        await asyncio.Event().wait()
