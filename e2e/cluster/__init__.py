"""A real Kubernetes cluster on one machine, without container engine, registry or virtual machines.

The control plane is plain processes; a node is a set of namespaces with its own containerd and kubelet.
"""

from cluster.cluster import Cluster
from cluster.commands import wait_until
from cluster.errors import ClusterError
from cluster.host import Client, end
from cluster.node import Node
from cluster.spec import ClusterSpec, NodeSpec

__all__ = ["Client", "Cluster", "ClusterError", "ClusterSpec", "Node", "NodeSpec", "end", "wait_until"]
