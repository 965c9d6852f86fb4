"""Which specs there are to pass: lists in the repository, one full name a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

CONFORMANCE_OF_SERVICES = r"\[sig-network\] Services .*\[Conformance\]"
OF_NETWORKS = (
    r"\[sig-network\] (Services|HostPort|Networking|Conntrack|EndpointSlice(Mirroring)?|Topology Hints"
    r"|Service endpoints latency|Traffic Distribution|Service CIDRs|Connectivity Pod Lifecycle|NoSNAT|DNS) "
)
NOT_OF_NETWORKS = "|".join(
    [
        r"\[Disruptive\]",  # break the cluster for those after them
        r"\[Feature:OffByDefault\]",
        r"\[Feature:Networking-|\[Provider:",  # a way out, a cloud
        r"\[Feature:(LoadBalancer|IPv6DualStack|SCTPConnectivity)\]",
        r"\[Feature:(NetworkingPerformance|PerformanceDNS)\]",
        "DNS configMap",  # change how the cluster resolves names
        "should check kube-proxy urls",  # its own, not what it does
    ]
)
_SIX_NODES = "needs three zones of two nodes each, more than this machine has room for"
UNFIT: Mapping[str, str] = {
    "[sig-network] DNS should support configurable pod resolv.conf": (
        "starts the CoreDNS that the original image agnhost has beside agnhost"
    ),
    "[sig-network] Services should be rejected for evicted pods (no endpoints exist)": (
        "has a pod evicted for what it wrote to disk, which kubelets that share one do not look at"
    ),
    "[sig-network] Traffic Distribution should route traffic correctly between pods on multiple nodes when "
    "using PreferClose": _SIX_NODES,
    "[sig-network] Traffic Distribution should route traffic correctly between pods on multiple nodes when "
    "using PreferSameZone [FeatureGate:PreferSameTrafficDistribution] [Beta]": _SIX_NODES,
    "[sig-network] Traffic Distribution should route traffic to an endpoint on the same node or fall back to "
    "same zone when using PreferSameNode [FeatureGate:PreferSameTrafficDistribution] [Beta]": _SIX_NODES,
}
"""Of those that match, what the e2e cluster is not made for, whoever serves Services; why."""
SERVICES = Path(__file__).with_name("services.txt")
"""The conformance specs of Services."""
BASELINE = Path(__file__).with_name("baseline.txt")
"""All specs about Services and networks that pass with kube-proxy on the e2e cluster."""
BASELINE_NODES = 3
"""Some of these need so many, in as many zones."""


def read(path: Path) -> list[str]:
    """The names of a list; lines that begin with # are comments."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def write(path: Path, names: Iterable[str], *comments: str) -> None:
    """Write a list."""
    path.write_text("".join(f"{line}\n" for line in [*(f"# {each}" for each in comments), *names]))
