"""Real controllers on a real API server without nodes, and hands that do what loaders and users do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import yaml

from cluster import Cluster
from kubebee.controller.access import client
from kubebee.controller.api import Api, ApiError, NotThere
from kubebee.controller.kinds import BPF_NODES, NODES, OURS, bundles, config_maps, daemon_sets, leases
from support.running import KUBEBEE, wait_for

NAMESPACE = "kubebee-system"
DEADLINE = 120.0
MANIFEST = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "kubebee-loader"},
    "spec": {
        "selector": {"matchLabels": {"app": "kubebee-loader"}},
        "template": {
            "metadata": {"labels": {"app": "kubebee-loader"}},
            "spec": {"containers": [{"name": "loader", "image": "kubebee-loader:test"}]},
        },
    },
}


def seen(what: str, look: Callable[[], Any]) -> Any:
    """As `wait_for`, and an object that is not there is not yet there."""

    def patiently() -> Any:
        try:
            return look()
        except ApiError as error:
            raise AssertionError(str(error)) from error

    return wait_for(what, patiently, DEADLINE)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@dataclass
class Running:
    """A controller process."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def metric(self, name: str) -> float:
        """Sum of a metric over its labels."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    @property
    def acts(self) -> bool:
        """Whether it holds the Lease."""
        try:
            return self.metric("kubebee_controller_is_leader") == 1
        except OSError:
            return False

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait(10)

    def end(self) -> int:
        """As the kubelet does; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


class Bare:
    """An API server and etcd: Nodes are objects only, and what loaders report is made up.

    Args:
        cluster: without nodes, with our CustomResourceDefinitions.
        folder: for logs.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.api = Api(client(cluster.spec.kubeconfig, 4))
        self._folder = folder
        self._manifest = folder / "daemonset.yaml"
        self._manifest.write_text(yaml.safe_dump(MANIFEST))
        self.controllers: list[Running] = []

    # -- controllers -----------------------------------------------------------------------------------------

    def start(self, kubeconfig: Path | None = None) -> Running:
        """A controller; a kubeconfig says how it reaches the API server if not directly."""
        port = free_port()
        log = self._folder / f"controller-{port}.log"
        command = [KUBEBEE, "controller", "--namespace", NAMESPACE, "--metrics-port", str(port)]
        kubeconfig = kubeconfig or self.cluster.spec.kubeconfig
        command += ["--kubeconfig", str(kubeconfig), "--metrics-address", "127.0.0.1"]
        command += ["--loader-manifest", str(self._manifest), "--log", "text"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("POD_", "KUBE"))}
        with log.open("wb") as out:
            process = subprocess.Popen(command, stderr=out, stdout=out, env=environment)
        running = Running(process, port, log)
        self.controllers.append(running)
        return running

    @contextmanager
    def acting(self) -> Iterator[Running]:
        """A controller that acts, until the end of the block."""
        running = self.start()
        try:
            wait_for("it acts", lambda: running.acts, DEADLINE)
            yield running
        finally:
            running.kill()

    # -- users -----------------------------------------------------------------------------------------------

    def put(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Apply a resource; returns it as the server has it."""
        body = {**manifest, "metadata": dict(manifest["metadata"])}
        collection = OURS[manifest["kind"]]
        try:
            return self.api.create(collection, body)
        except ApiError as error:
            if error.status != 409:
                raise
        return self.api.merge(collection, body["metadata"]["name"], {"spec": body["spec"]})

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """A resource."""
        return self.api.get(OURS[kind], name)

    def has(self, kind: str, name: str) -> bool:
        """Whether a resource is there."""
        try:
            self.get(kind, name)
        except NotThere:
            return False
        return True

    def ready(self, kind: str, name: str) -> bool:
        """Whether its status says that its newest generation is in force."""
        document = self.get(kind, name)
        status = document.get("status", {})
        told = {each["type"]: each for each in status.get("conditions", ())}
        current = status.get("observedGeneration") == document["metadata"]["generation"]
        return current and told.get("Ready", {}).get("status") == "True"

    def reason(self, kind: str, name: str) -> str:
        """Of its condition Ready."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", ())
        return next((each["reason"] for each in conditions if each["type"] == "Ready"), "")

    # -- nodes and loaders -----------------------------------------------------------------------------------

    def add_node(self, name: str, ready: bool = True) -> None:
        """A Node."""
        try:
            self.api.create(NODES, {"metadata": {"name": name}})
        except ApiError as error:
            if error.status != 409:
                raise
        status = "True" if ready else "Unknown"
        condition = {
            "type": "Ready",
            "status": status,
            "reason": "Test",
            "message": "",
            "lastTransitionTime": None,
        }
        self.api.merge(NODES, name, {"status": {"conditions": [condition]}}, "status")

    def wanted(self, node: str) -> dict[str, str]:
        """Digests by resource that a node shall run."""
        spec = self.api.get(BPF_NODES, node).get("spec", {})
        return {f"{ref['kind']}/{ref['name']}": ref["hash"] for ref in spec.get("bundles", ())}

    def obey(self, *nodes: str) -> bool:
        """Report that each node runs what its BpfNode says; whether that was news for any."""
        news = False
        for node in nodes:
            try:
                document = self.api.get(BPF_NODES, node)
            except NotThere:
                continue
            generation = document["metadata"]["generation"]
            if document.get("status", {}).get("observedGeneration") == generation:
                continue
            resources = [
                {
                    "kind": ref["kind"],
                    "name": ref["name"],
                    "generation": ref["generation"],
                    "bundle": ref["hash"],
                    "stage": "Running",
                }
                for ref in document["spec"].get("bundles", ())
            ]
            status = {"status": {"observedGeneration": generation, "resources": resources}}
            self.api.merge(BPF_NODES, node, status, "status")
            news = True
        return news

    def obeying(self, look: Callable[[], Any], *nodes: str) -> Callable[[], Any]:
        """A condition, with nodes that obey while it is waited for."""

        def both() -> Any:
            self.obey(*nodes)
            return look()

        return both

    # -- what there is ---------------------------------------------------------------------------------------

    def names(self, what: str) -> set[str]:
        """Names of the bundles, BpfNodes or DaemonSets."""
        collection = {
            "bundles": bundles(NAMESPACE),
            "bpfnodes": BPF_NODES,
            "daemonsets": daemon_sets(NAMESPACE),
        }[what]
        return {item["metadata"]["name"] for _, items in self.api.pages(collection) for item in items}

    def clear(self) -> None:
        """Take away all that tests and controllers made; no controller may run."""
        for running in self.controllers:
            if running.process.poll() is None:
                running.kill()
        for kind in ("BpfProgram", "ServiceLB", "HostPolicy"):
            for _, items in self.api.pages(OURS[kind]):
                for item in items:
                    name = item["metadata"]["name"]
                    self.api.merge(OURS[kind], name, {"metadata": {"finalizers": []}})
                    self.api.delete(OURS[kind], name)
        for collection in (BPF_NODES, NODES, bundles(NAMESPACE), daemon_sets(NAMESPACE), leases(NAMESPACE)):
            for _, items in self.api.pages(collection):
                for item in items:
                    self.api.delete(collection, item["metadata"]["name"])
        self.api.delete(config_maps("default"), "code")
