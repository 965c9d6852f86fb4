"""A node with kube-proxy: rules of the shape that its modes nftables and iptables write, or the real one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from lab import NODE, Lab
from lab.netns import Namespace
from support.api_server import ApiServer
from support.node_agent import NODE_NAME
from support.running import wait_for

HEALTHZ, METRICS = 10256, 10249
PROGRAM = os.environ.get("KUBEBEE_KUBE_PROXY", "")
"""Path of the real one, as `make cluster` builds it below .build/cluster."""
SERVES_WITHIN_S = 240.0
"""With 10,000 Services of ten endpoints its first pass takes more than a minute."""
Served = Mapping[tuple[str, str, int], Sequence[str]]
"""By address, protocol and port: the endpoints, as address:port."""

_NFT = """
table ip kube-proxy {{
  chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat;
    meta mark & 0x4000 == 0x4000 masquerade fully-random
  }}
  chain filter-forward {{
    type filter hook forward priority -110;
    ct state invalid drop
  }}
{chains}
  chain services {{ ip daddr . meta l4proto . th dport vmap {{ {services} }}; }}
}}
"""


def nftables(node: Namespace, served: Served) -> None:
    """Rules of mode nftables."""
    chains, services = [], []
    for number, ((address, protocol, port), endpoints) in enumerate(served.items()):
        for index, endpoint in enumerate(endpoints):
            chains.append(
                f"chain endpoint-{number}-{index} {{ meta l4proto {protocol} dnat to {endpoint}; }}"
            )
        choices = ", ".join(f"{i} : goto endpoint-{number}-{i}" for i in range(len(endpoints)))
        chains.append(
            f"chain service-{number} {{ meta mark set mark or 0x4000; "
            f"numgen random mod {len(endpoints)} vmap {{ {choices} }}; }}"
        )
        services.append(f"{address} . {protocol} . {port} : goto service-{number}")
    _nft(node, _NFT.format(chains="\n".join(chains), services=", ".join(services)))


def iptables(node: Namespace, served: Served, program: str = "iptables-nft") -> None:
    """Rules of mode iptables, and one of somebody else beside them."""
    nat = ["*nat", ":KUBE-SERVICES - [0:0]", ":KUBE-POSTROUTING - [0:0]", ":KUBE-MARK-MASQ - [0:0]"]
    rules = [
        '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        "-A POSTROUTING -s 192.0.2.1/32 -j ACCEPT",
        "-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000",
        "-A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
    ]
    for number, ((address, protocol, port), endpoints) in enumerate(served.items()):
        nat.append(f":KUBE-SVC-{number} - [0:0]")
        rules.append(f"-A KUBE-SERVICES -d {address}/32 -p {protocol} --dport {port} -j KUBE-SVC-{number}")
        rules.append(f"-A KUBE-SVC-{number} -j KUBE-MARK-MASQ")
        for index, endpoint in enumerate(endpoints):
            nat.append(f":KUBE-SEP-{number}-{index} - [0:0]")
            left = len(endpoints) - index
            chance = f"-m statistic --mode random --probability {1 / left:.5f} " if left > 1 else ""
            rules.append(f"-A KUBE-SVC-{number} {chance}-j KUBE-SEP-{number}-{index}")
            rules.append(f"-A KUBE-SEP-{number}-{index} -p {protocol} -j DNAT --to-destination {endpoint}")
    _restore(node, program, "\n".join([*nat, *rules, "COMMIT", ""]))


def rules(node: Namespace) -> str:
    """What of nftables' rules is on a node."""
    return node.run("nft", "list", "ruleset").stdout


@contextlib.contextmanager
def process(node: Namespace, port: int = HEALTHZ) -> Iterator[None]:
    """A port where kube-proxy listens, as long as it runs."""
    with node.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("", port))
        listening.listen()
        yield


def _nft(node: Namespace, text: str) -> None:
    _feed(node, ["nft", "-f", "-"], text)


def _restore(node: Namespace, program: str, text: str) -> None:
    _feed(node, [f"{program}-restore", "--noflush"], text)


def _feed(node: Namespace, argv: Sequence[str], text: str) -> None:
    done = subprocess.run(node.command(argv), input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def real(lab: Lab, api: ApiServer, folder: Path, mode: str) -> Iterator[int]:
    """`PROGRAM` on the lab's node, until the block ends; its rules stay, as those of a killed one do.

    Gives its process id.

    Args:
        lab: where.
        api: has its Services; the Node is added here.
        folder: for its configuration and log.
        mode: nftables or iptables.
    """
    metadata = {"name": NODE_NAME, "creationTimestamp": "2026-01-01T00:00:00Z"}
    addresses = [{"type": "InternalIP", "address": NODE}]
    api.put({"kind": "Node", "metadata": metadata, "status": {"addresses": addresses}})
    kubeconfig, config, log = (
        folder / name for name in ("kube-proxy.kubeconfig", "kube-proxy.yaml", "log.kp")
    )
    kubeconfig.write_text(api.kubeconfig())
    json = "application/json"
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clientConnection": {"kubeconfig": str(kubeconfig), "contentType": json, "acceptContentTypes": json},
        "hostnameOverride": NODE_NAME,
        # These are the machine's, not the node's alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    config.write_text(yaml.safe_dump(settings))
    with log.open("w") as out:
        argv = lab.node_command([PROGRAM, f"--config={config}", "--v=2"])
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        done = "SyncProxyRules complete"  # said of each family
        wait_for("kube-proxy serves", lambda: log.read_text().count(done) >= 2, SERVES_WITHIN_S)
        yield process.pid
    finally:
        process.kill()
        process.wait()
