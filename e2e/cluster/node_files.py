"""The files that a node is configured with, as text."""

from __future__ import annotations

import json

import yaml

from cluster.spec import DNS_SERVICE_ADDRESS, MAX_NODES, ClusterSpec, NodeSpec

PAUSE_IMAGE = "kubebee.dev/e2e/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
KUBE_PROXY_MODES = ("nftables", "iptables")
_UNUSED_PLUGINS = (
    "snapshotter.v1.aufs",
    "snapshotter.v1.btrfs",
    "snapshotter.v1.devmapper",
    "snapshotter.v1.zfs",
    "tracing.processor.v1.otlp",
)


def containerd(node: NodeSpec) -> str:
    """config.toml of containerd. Its folders are the usual ones: each node has its own /run and /var/lib."""
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [{", ".join(f'"io.containerd.{plugin}"' for plugin in _UNUSED_PLUGINS)}]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE nobody may lower an OOM score; runc ends with "can't get final child's PID".
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{node.home}/cni"
"""


def cni(node: NodeSpec, *, host_ports: bool = False) -> str:
    """The pod network: a routed pair of links for each pod, an address of the node's range.

    Args:
        node: whose pods.
        host_ports: serve them by CNI's own plugin, which kube-proxy leaves them to.
    """
    ipam = {"type": "host-local", "ranges": [[{"subnet": node.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    # ipMasq would rewrite the source of pod to pod traffic, which Services' conformance tests look at.
    plugins: list[dict[str, object]] = [{"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": ipam}]
    if host_ports:
        plugins.append({"type": "portmap", "capabilities": {"portMappings": True}})
    return json.dumps({"cniVersion": "0.4.0", "name": node.cluster.name, "plugins": plugins}, indent=1)


def kubelet(node: NodeSpec) -> str:
    """The kubelet's configuration."""
    pki = node.cluster.certificates
    return yaml.safe_dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node.address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{pki}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": f"{pki}/{node.name}-server.crt",
            "tlsPrivateKeyFile": f"{pki}/{node.name}-server.key",
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{node.name}",
            "enforceNodeAllocatable": [],
            "failCgroupV1": False,
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "oomScoreAdj": 0,
            "resolvConf": f"{node.home}/resolv.conf",
            "clusterDNS": [DNS_SERVICE_ADDRESS],
            "clusterDomain": "cluster.local",
            "volumePluginDir": "/var/lib/kubelet/plugins-exec",
            "nodeStatusUpdateFrequency": "4s",
            "nodeLeaseDurationSeconds": 16,
            "syncFrequency": "10s",
            # The nodes share this machine's disk: what else fills it is no reason to evict their pods.
            "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }
    )


def kube_proxy(node: NodeSpec, mode: str) -> str:
    """kube-proxy's configuration; leaves alone the connection tracking limits, which all nodes share."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "clusterCIDR": node.cluster.pods,
            "hostnameOverride": node.name,
            "oomScoreAdj": 0,
            "clientConnection": {"kubeconfig": f"{node.cluster.certificates}/kube-proxy.kubeconfig"},
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
        }
    )


def pod_routes(cluster: ClusterSpec, *, but: int = 0) -> str:
    """``ip -batch`` lines: routes to the pods of every node there may be, but one.

    All at once, so that a node that joins changes nothing on the others.
    """
    nodes = (cluster.node(number) for number in range(1, MAX_NODES + 1) if number != but)
    return "".join(f"route replace {node.pods} via {node.address}\n" for node in nodes)


def node_object(node: NodeSpec) -> str:
    """The Node as it is before its kubelet joins: it brings the range of its pods along."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name},
            "spec": {"podCIDR": node.pods, "podCIDRs": [node.pods]},
        }
    )
