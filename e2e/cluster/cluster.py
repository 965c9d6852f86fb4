"""A real Kubernetes cluster on this machine: what tests, and the command line, do with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from cluster import binaries, certificates, images, network, node_files, teardown
from cluster.collect import collect
from cluster.commands import Done, run, wait_until
from cluster.control_plane import API_SERVER, CONTROLLER_MANAGER, ETCD, SCHEDULER, ControlPlane
from cluster.errors import ClusterError
from cluster.host import Client
from cluster.node import Node
from cluster.prepare import locked, prepare
from cluster.spec import API_PORT, DNS_SERVICE_ADDRESS, MAX_NODES, ClusterSpec

_COREDNS = Path(__file__).parent / "manifests" / "coredns.yaml"
_READY_WITHIN_S = 120.0
_T = TypeVar("_T")


class Cluster:
    """A cluster, up or down. It keeps no state but the machine's: any process may make one and use it.

    Args:
        spec: its name and addresses.
    """

    def __init__(self, spec: ClusterSpec | None = None) -> None:
        self.spec = spec or ClusterSpec()
        self.programs = binaries.folder(self.spec.home)
        self.control = ControlPlane(self.spec, self.programs)
        self.client = Client(self.spec)
        self._loaded = self.spec.state / "archives"

    def up(self, nodes: int = 2) -> Self:
        """Bring it up with at least so many nodes, all Ready, and DNS; what is up stays as it is.

        Raises:
            ClusterError: something does not start; says what, with the end of its log.
        """
        prepare(self.spec.home)
        with locked(self.spec.home / f"{self.spec.name}.lock"):
            self._start_control_plane(ETCD, API_SERVER, CONTROLLER_MANAGER, SCHEDULER)
            with ThreadPoolExecutor() as pool:
                started = list(pool.map(self._boot, (self._node(number) for number in range(1, nodes + 1))))
            self.client.start()
            self._start_dns()
            self.wait_nodes_ready(*started)
            self.wait_available("deployment/coredns", "kube-system")
        return self

    def up_without_nodes(self) -> Self:
        """Bring up etcd and the API server alone: for objects, and for nodes that are only simulated."""
        prepare(self.spec.home)
        with locked(self.spec.home / f"{self.spec.name}.lock"):
            self._start_control_plane(ETCD, API_SERVER)
        return self

    def down(self) -> None:
        """Leave nothing of it but the cache of binaries and images."""
        self.spec.home.mkdir(parents=True, exist_ok=True)
        with locked(self.spec.home / f"{self.spec.name}.lock"):
            teardown.remove_all(self.spec)

    @property
    def is_up(self) -> bool:
        """Whether its API server runs."""
        return self.control.runs(API_SERVER)

    # Nodes

    @property
    def nodes(self) -> list[Node]:
        """Its nodes, up and down, in order."""
        every = (self._node(number) for number in range(1, MAX_NODES + 1))
        return [node for node in every if node.spec.home.exists()]

    def node(self, name: str | int) -> Node:
        """The node of a name, or a number from 1."""
        for node in self.nodes:
            if name in (node.name, node.spec.number):
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise ClusterError(f"no node {name}", hint=f"there are {names}")

    def add_node(self) -> Node:
        """Add a node and wait until it is Ready."""
        taken = {node.spec.number for node in self.nodes}
        free = [number for number in range(1, MAX_NODES + 1) if number not in taken]
        if not free:
            raise ClusterError(f"{MAX_NODES} nodes are the most")
        node = self._boot(self._node(free[0]))
        self.wait_nodes_ready(node)
        return node

    def remove_node(self, node: Node) -> None:
        """Stop a node, delete its Node and its disk."""
        node.kill()
        self.kubectl("delete", "node", node.name, "--ignore-not-found")
        node.erase()

    def stop_node(self, node: Node) -> None:
        """Cut a node's power: all of it ends at once, its disk stays. The control plane notices later."""
        node.kill()

    def start_node(self, node: Node) -> None:
        """Boot a stopped node and wait until it is Ready."""
        self._boot(node)
        self.wait_nodes_ready(node)

    def reboot_node(self, node: Node) -> None:
        """Stop and start a node: its BPF file system is empty, its pods run anew, its disk is as it was."""
        self.stop_node(node)
        self.start_node(node)

    def load_image(self, archive: Path, *nodes: Node) -> None:
        """Import an image archive (docker's or OCI's) into nodes; by default all, those added later too."""
        archive = archive.resolve()
        if not nodes and archive not in self._archives():
            with self._loaded.open("a") as file:
                file.write(f"{archive}\n")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.load_image(archive), nodes or self.nodes))

    # The control plane

    def stop_api(self) -> None:
        """Kill the API server."""
        self.control.stop(API_SERVER)

    def start_api(self) -> None:
        """Start the API server and wait until it is ready."""
        self.control.start(API_SERVER)

    def stop_etcd(self) -> None:
        """Kill etcd; the API server goes on without."""
        self.control.stop(ETCD)

    def start_etcd(self) -> None:
        """Start etcd and wait until it, and the API server if it runs, is ready."""
        self.control.start(ETCD)
        if self.is_up:
            self.control.start(API_SERVER)

    # Objects

    def kubectl(
        self, *args: str | Path, check: bool = True, stdin: str | None = None, timeout: float = 60
    ) -> Done:
        """Run kubectl as administrator.

        Raises:
            ClusterError: it failed and `check` is true; has what it said.
        """
        command = [self.programs / "kubectl", f"--kubeconfig={self.spec.kubeconfig}", *args]
        return run(command, check=check, stdin=stdin, timeout=timeout)

    def apply(
        self, manifest: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]], *args: str
    ) -> Done:
        """Apply manifests: YAML text, a file or folder, or documents as mappings; `args` go to kubectl."""
        if isinstance(manifest, Path):
            return self.kubectl("apply", "-f", manifest, *args)
        if isinstance(manifest, Mapping):
            manifest = [manifest]
        if not isinstance(manifest, str):
            manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifest)})
        return self.kubectl("apply", "-f", "-", *args, stdin=manifest)

    def get(self, kind: str, name: str = "", *, namespace: str = "", selector: str = "") -> dict[str, Any]:
        """An object, or without a name a list of them (``["items"]``), as mappings."""
        words = ["get", kind, *filter(None, [name]), "-o", "json"]
        words += ["-n", namespace] if namespace else []
        words += ["-l", selector] if selector else []
        answer: dict[str, Any] = json.loads(self.kubectl(*words).stdout)
        return answer

    # Waiting

    def wait_until(self, condition: Callable[[], _T], what: str, within: float = 60) -> _T:
        """Ask until the answer is true; a failing kubectl in it counts as "not yet".

        Raises:
            ClusterError: time is up; has the pods and the latest events.
        """
        return wait_until(condition, what, within, self._explain)

    def wait_nodes_ready(self, *nodes: Node, within: float = _READY_WITHIN_S) -> None:
        """Wait until nodes, all by default, are Ready and have said so since they booted."""
        wanted = nodes or tuple(self.nodes)

        def ready() -> bool:
            told = self._told_by_nodes()
            return all(told.get(node.name) == ("True", node.boot_id) for node in wanted)

        self.wait_until(ready, f"Ready: {', '.join(node.name for node in wanted)}", within)

    def wait_node_not_ready(self, node: Node, within: float = 90) -> None:
        """Wait until the control plane has noticed that a node is gone."""

        def gone() -> bool:
            ready, _ = self._told_by_nodes().get(node.name, ("", ""))
            return ready != "True"

        self.wait_until(gone, f"{node.name} not Ready", within)

    def wait_available(self, what: str, namespace: str = "default", within: float = _READY_WITHIN_S) -> None:
        """Wait for a rollout, e.g. of ``deployment/coredns``."""

        def available() -> bool:
            words = ("rollout", "status", what, "-n", namespace, "--watch=false")
            return "successfully rolled out" in self.kubectl(*words).stdout

        self.wait_until(available, f"{namespace} {what} available", within)

    def collect(self, folder: Path) -> None:
        """Write logs, descriptions and the nodes' BPF state to a folder, for a reader of a failure."""
        collect(self.spec, self.nodes, self.kubectl, folder)

    # Parts of `up`

    def _node(self, number: int) -> Node:
        return Node(self.spec.node(number), self.programs)

    def _start_control_plane(self, *components: str) -> None:
        spec = self.spec
        if (
            not spec.kubeconfig.exists()
        ):  # the last file of a start: without it the start never came to its end
            teardown.remove_all(spec)
            spec.logs.mkdir(parents=True)
            certificates.make_authority(spec)
            for identity in certificates.control_plane(spec):
                certificates.issue(spec, identity)
                certificates.write_kubeconfig(spec, identity.file)
            network.compile_pass(spec)
            certificates.write_kubeconfig(spec, "admin", spec.kubeconfig)
        network.make_bridge(spec)
        for component in components:
            self.control.start(component)

    def _boot(self, node: Node) -> Node:
        node.install()
        node.boot()
        for archive in self._archives():  # before pods come: one that finds no image tries again only later
            node.load_image(archive)
        created = self.kubectl("create", "-f", "-", stdin=node_files.node_object(node.spec), check=False)
        if created.returncode and "AlreadyExists" not in created.stderr:
            raise ClusterError(f"{node.name}: {created.stderr.strip()}")
        node.start_kubelet()
        return node

    def _archives(self) -> list[Path]:
        """The image archives that every node has: the cluster's own, and those that were loaded into all."""
        own = [images.archive(self.spec.home, image) for image in images.IMAGES]
        told = self._loaded.read_text().splitlines() if self._loaded.exists() else []
        return own + [Path(line) for line in told if Path(line).exists()]

    def _start_dns(self) -> None:
        filled = {"@IMAGE@": images.COREDNS_IMAGE, "@DNS_ADDRESS@": DNS_SERVICE_ADDRESS}
        filled |= {"@API_HOST@": self.spec.gateway, "@API_PORT@": str(API_PORT)}
        manifest = _COREDNS.read_text()
        for name, value in filled.items():
            manifest = manifest.replace(name, value)
        self.apply(manifest)

    def _told_by_nodes(self) -> dict[str, tuple[str, str]]:
        """By node: the status of its condition Ready, and the boot that it last reported from."""
        told = {}
        for node in self.get("nodes")["items"]:
            status = node.get("status", {})
            ready = [each["status"] for each in status.get("conditions", []) if each["type"] == "Ready"]
            boot = status.get("nodeInfo", {}).get("bootID", "")
            told[node["metadata"]["name"]] = (str(ready[0]) if ready else "", str(boot))
        return told

    def _explain(self) -> str:
        pods = self.kubectl("get", "pods", "-A", "-o", "wide", check=False).stdout
        events = self.kubectl("get", "events", "-A", "--sort-by=.lastTimestamp", check=False).stdout
        return "\n".join([pods, *events.splitlines()[-15:]])
