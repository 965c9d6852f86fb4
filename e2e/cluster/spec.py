"""What a cluster and its nodes are called, and where they are: everything else follows from these names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".build" / "cluster"
"""Where all clusters keep their files; built binaries and images are kept here over their lives."""
MAX_NODES = 32
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"
API_PORT = 6443
ETCD_PORT = 2379
_FIRST_NODE_HOST = 11
_CLIENT_HOST = 200
_LARGEST_NUMBER = 15
_NAME = re.compile(r"[a-z][a-z0-9]{1,5}")


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster, by its name.

    Attributes:
        name: prefix of its links, cgroups and nodes: 2 to 6 characters, as a link's name has 15.
        number: picks its addresses, so that several clusters may run at once: 172.18.NUMBER.0/24 for nodes,
            10.(244 - NUMBER).0.0/16 for pods. Service addresses are the same in all, they leave no node.
        home: folder of all clusters.
    """

    name: str = "kbc"
    number: int = 0
    home: Path = HOME

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"cluster name {self.name!r}: 2 to 6 of a-z and 0-9, a letter first")
        if not 0 <= self.number <= _LARGEST_NUMBER:
            raise ValueError(f"cluster number {self.number}: 0 to {_LARGEST_NUMBER}")

    @property
    def state(self) -> Path:
        """The folder of this cluster; gone when it is down."""
        return self.home / self.name

    @property
    def subnet(self) -> str:
        """The nodes' network."""
        return f"172.18.{self.number}.0/24"

    @property
    def gateway(self) -> str:
        """Address of the bridge on this machine, where the control plane listens."""
        return f"172.18.{self.number}.1"

    @property
    def client_address(self) -> str:
        """Address of the outside client."""
        return f"172.18.{self.number}.{_CLIENT_HOST}"

    @property
    def pods(self) -> str:
        """All pods' network."""
        return f"10.{244 - self.number}.0.0/16"

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.gateway}:{API_PORT}"

    @property
    def etcd(self) -> str:
        """URL of etcd."""
        return f"http://{self.gateway}:{ETCD_PORT}"

    @property
    def bridge(self) -> str:
        """Link that joins the nodes."""
        return f"{self.name}-br"

    @property
    def certificates(self) -> Path:
        """Folder of keys, certificates and kubeconfigs."""
        return self.state / "certificates"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        """Logs of the control plane."""
        return self.state / "logs"

    def node(self, number: int) -> NodeSpec:
        """The node of a number, 1 to MAX_NODES."""
        return NodeSpec(self, number)


@dataclass(frozen=True)
class NodeSpec:
    """A node, by its number."""

    cluster: ClusterSpec
    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= MAX_NODES:
            raise ValueError(f"node number {self.number}: 1 to {MAX_NODES}")

    @property
    def name(self) -> str:
        """Name of the Node, its hostname and its cgroup."""
        return f"{self.cluster.name}-node{self.number}"

    @property
    def address(self) -> str:
        """Its address on eth0."""
        return self.cluster.gateway.removesuffix("1") + str(_FIRST_NODE_HOST + self.number - 1)

    @property
    def pods(self) -> str:
        """Its pods' network."""
        return self.cluster.pods.replace("0.0/16", f"{self.number}.0/24")

    @property
    def bridge_end(self) -> str:
        """The bridge's end of its link."""
        return f"{self.cluster.name}-v{self.number}"

    @property
    def home(self) -> Path:
        """Folder of its "disk", configuration and logs."""
        return self.cluster.state / "nodes" / self.name
