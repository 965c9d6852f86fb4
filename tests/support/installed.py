"""kubebee as its Helm chart installs it on the tests' cluster, and what its users see of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from cluster import Cluster, ClusterError, Node
from cluster.commands import Done, run

NAMESPACE = "kubebee-system"
RELEASE = "kubebee"
KINDS = ("bpfprograms", "servicelbs", "hostpolicies")
_CHART = Path(__file__).parents[2] / "charts" / "kubebee"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Status:
    """What kubectl says of a resource."""

    document: Mapping[str, Any]

    @property
    def status(self) -> dict[str, Any]:
        """Its status, empty before the first."""
        found: dict[str, Any] = self.document.get("status", {})
        return found

    @property
    def generation(self) -> int:
        """Of its spec."""
        return int(self.document["metadata"]["generation"])

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition, empty where it is not there."""
        return next((each for each in self.status.get("conditions", []) if each["type"] == kind), {})

    @property
    def current(self) -> bool:
        """Whether its status speaks of its spec."""
        return bool(self.status.get("observedGeneration") == self.generation)

    @property
    def ready(self) -> bool:
        """Whether the newest spec is in force everywhere."""
        return self.current and self.condition("Ready").get("status") == "True"

    @property
    def reason(self) -> str:
        """Why it is Ready or not."""
        return str(self.condition("Ready").get("reason", ""))

    @property
    def nodes(self) -> str:
        """`ready/desired`."""
        return str(self.status.get("nodes", {}).get("summary", ""))

    @property
    def rollout(self) -> dict[str, Any]:
        """How far the newest version has come."""
        found: dict[str, Any] = self.status.get("rollout", {})
        return found


class Installed:
    """kubebee on a cluster.

    Args:
        cluster: where.
        helm: the program.
        images: archives of the controller's and the loader's image.
    """

    def __init__(self, cluster: Cluster, helm: Path, images: tuple[Path, ...]) -> None:
        self.cluster = cluster
        self._helm = helm
        self._images = images

    # Helm

    def helm(self, *words: str | Path, check: bool = True, timeout: float = 240) -> Done:
        """Run helm on this cluster.

        Raises:
            ClusterError: it failed and `check` is true.
        """
        command = [self._helm, f"--kubeconfig={self.cluster.spec.kubeconfig}", "-n", NAMESPACE, *words]
        return run(command, check=check, timeout=timeout)

    def load_images(self) -> None:
        """Bring the images onto all nodes."""
        for archive in self._images:
            self.cluster.load_image(archive)

    def install(self, *words: str, chart: Path = _CHART) -> Self:
        """Install or upgrade the release, also over what kubectl applied, and wait for the controller."""
        gateway = self.cluster.spec.gateway
        values = {
            "kubebee.k8sServiceHost": gateway,
            "kubebee.k8sServicePort": "6443",
            "loader.cgroup": "/sys/fs/cgroup/unified/$(KUBEBEE_NODE)",
        }
        pairs = [word for name, value in values.items() for word in ("--set-string", f"{name}={value}")]
        how = ("--install", "--create-namespace", "--take-ownership", "--wait")
        self.helm("upgrade", *how, RELEASE, chart, *pairs, *words)
        return self

    def uninstall(self) -> None:
        """Uninstall the release; custom resources may be there."""
        self.helm("uninstall", RELEASE, "--wait", "--timeout=180s")

    # Resources

    @property
    def size(self) -> int:
        """How many nodes the cluster has."""
        return len(self.cluster.nodes)

    def apply(self, manifest: str | Path | Mapping[str, Any], *, check: bool = True) -> Done:
        """kubectl apply."""
        if isinstance(manifest, Path):
            manifest = manifest.read_text()
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        return self.cluster.kubectl("apply", "-f", "-", stdin=text, check=check)

    def delete(self, kind: str, name: str, *, wait: bool = True) -> None:
        """kubectl delete."""
        self.cluster.kubectl("delete", kind, name, "--ignore-not-found", f"--wait={str(wait).lower()}")

    def delete_all(self) -> None:
        """Delete every custom resource and wait until all are gone."""
        for kind in KINDS:
            self.cluster.kubectl("delete", kind, "--all", "--wait=true", "--timeout=60s", timeout=90)

    def status(self, kind: str, name: str) -> Status:
        """What kubectl has of it now."""
        return Status(self.cluster.get(kind, name))

    def wait(self, kind: str, name: str, until: Callable[[Status], _T], within: float = 60) -> Status:
        """Wait until a status says something.

        Raises:
            ClusterError: time is up; has the status as it was last.
        """
        last: list[Status] = []

        def look() -> Status | None:
            found = self.status(kind, name)
            last[:] = [found]
            return found if until(found) else None

        try:
            found = self.cluster.wait_until(look, f"{kind}/{name}", within)
        except ClusterError as error:
            shown = json.dumps(last[0].status, indent=1)[:6000] if last else "(nothing)"
            raise ClusterError(f"{error}\nlast status: {shown}") from error
        assert found is not None
        return found

    def wait_ready(self, kind: str, name: str, nodes: int | None = None, within: float = 60) -> Status:
        """Wait until the newest spec is in force, on so many nodes if given."""
        return self.wait(
            kind, name, lambda s: s.ready and (nodes is None or s.nodes == f"{nodes}/{nodes}"), within
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events about a resource."""
        items = self.cluster.get("events", namespace="default")["items"]
        return [item for item in items if item["involvedObject"]["name"] == name]

    # Pods

    def loader_pod(self, node: Node) -> str:
        """Name of the loader's pod of a node.

        Raises:
            ClusterError: there is none that runs.
        """
        for pod in self.pods("loader"):
            running = pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
            if pod["spec"].get("nodeName") == node.name and running:
                return str(pod["metadata"]["name"])
        raise ClusterError(f"no loader runs on {node.name}")

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Pods of the controller or of the loaders."""
        selector = f"app.kubernetes.io/component={component}"
        found: list[dict[str, Any]] = self.cluster.get("pods", namespace=NAMESPACE, selector=selector)[
            "items"
        ]
        return found

    def in_loader(self, node: Node, *argv: str) -> str:
        """Run a command in the loader of a node."""
        pod = self.loader_pod(node)
        return self.cluster.kubectl("exec", "-n", NAMESPACE, pod, "-c", "loader", "--", *argv).stdout

    # The kernel's side

    def pins(self, node: Node) -> list[str]:
        """All that kubebee has pinned on a node."""
        found = node.run("find", "/sys/fs/bpf/kubebee", "-type", "f", check=False).stdout
        return sorted(found.split())

    def xdp(self, node: Node) -> dict[str, Any]:
        """What runs at XDP on a node's eth0; empty for nothing."""
        (link,) = json.loads(node.run("ip", "-j", "link", "show", "eth0").stdout)
        found: dict[str, Any] = link.get("xdp", {}).get("prog", {})
        return found

    def map_sum(self, node: Node, unit: str, name: str) -> int:
        """Sum of the values of a counting map, over its entries and processors, by its pin."""
        (pin,) = [pin for pin in self.pins(node) if f"/m/{unit}/{name}@" in pin]
        rows = json.loads(node.run("bpftool", "-j", "map", "dump", "pinned", pin).stdout)
        return sum(_number(each["value"]) for row in rows for each in row.get("values", [row]))

    def nothing_left(self, node: Node) -> bool:
        """Whether a node has no pin, no XDP program, no tc program and no file of ours."""
        net = json.loads(node.run("bpftool", "-j", "net", "show").stdout)[0]
        files = node.run("ls", "-A", "/var/lib/kubebee", check=False).stdout.split()
        return not (self.pins(node) or self.xdp(node) or net["xdp"] or net["tc"] or files)


@dataclass(frozen=True)
class OnNode:
    """A node of the cluster as `support.seen` looks at it."""

    node: Node

    def run(self, *argv: str, check: bool = True) -> Done:
        """Run a command on it."""
        return self.node.run(*argv, check=check)

    def bpftool(self, *argv: str) -> Any:
        """What bpftool says there, decoded."""
        return json.loads(self.run("bpftool", "-j", *argv).stdout or "null")


def _number(value: list[str] | int) -> int:
    """A value as bpftool prints it: bytes in hexadecimal, or a number where BTF says so."""
    if isinstance(value, int):
        return value
    return int.from_bytes(bytes(int(byte, 16) for byte in value), "little")


class Pings:
    """A stream of numbered pings from a host to an address: what is lost is counted by the sender.

    Args:
        host: who sends.
        address: to whom.
        per_second: how many.
    """

    def __init__(self, host: Any, address: str, per_second: int = 500) -> None:
        self._host, self._address = host, address
        self._interval = 1 / per_second
        self.sent = self.lost = 0

    def __enter__(self) -> Self:
        self._process = self._host.popen("ping", "-q", "-i", f"{self._interval:.4f}", self._address)
        self._since = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        from cluster import end

        words = end(self._process).decode().split()
        self.sent = int(words[words.index("transmitted,") - 2])
        self.lost = self.sent - int(words[words.index("received,") - 1])
