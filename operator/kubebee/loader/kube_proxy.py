"""What of kube-proxy is on this node: the process by its ports, and its rules.

The rules of mode nftables are a table of their own. Those of mode iptables are chains named KUBE-... in
tables that others use too; by iptables-nft they can be removed here, by iptables-legacy only by
kube-proxy itself.
Source of the names: pkg/proxy/iptables and pkg/proxy/nftables of Kubernetes 1.34.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from kubebee.bpf import nft
from kubebee.bpf.listeners import listeners
from kubebee.bpf.syscall import BpfError
from kubebee.bpf.xtables import names_chain

PORTS = (10256, 10249)
"""healthz, and metrics on loopback: either may be switched off."""
TABLE = "kube-proxy"
OWN_TABLE = "kubebee-cut-over"
"""Ours: it keeps the kernel translating kube-proxy's connections when its own table is gone."""
_CHAINS = frozenset(
    {
        *("KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-FORWARD"),
        *("KUBE-PROXY-FIREWALL", "KUBE-PROXY-CANARY"),
    }
)
"""KUBE-MARK-MASQ, KUBE-FIREWALL and KUBE-KUBELET-CANARY are the kubelet's too, and do nothing alone."""
_PREFIXES = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-SEP-", "KUBE-FW-", "KUBE-XLB-")
_IPVS_DEVICE = "kube-ipvs0"


def runs_here(holds: Callable[[int], bool]) -> bool:
    """Whether somebody else listens on a port of kube-proxy's, in this network namespace."""
    taken = {each.port for each in listeners() if each.protocol == socket.IPPROTO_TCP}
    return any(port in taken and not holds(port) for port in PORTS)


def uses_ipvs() -> bool:
    """Whether its device for IPVS is there."""
    return _IPVS_DEVICE in {name for _, name in socket.if_nameindex()}


def rules_here() -> bool:
    """Whether there are rules of its that lead to Services.

    It writes all of a family in one transaction, so that with the first there are all.

    Raises:
        BpfError: the kernel refuses to say.
    """
    for family in _families():
        if TABLE in nft.tables(family) or any(chain.name == "KUBE-SERVICES" for chain in nft.chains(family)):
            return True
    return any(names_chain(family, "nat", "KUBE-SERVICES") for family in nft.FAMILIES)


def remove_rules() -> str:
    """Remove its rules; returns what was removed, in words.

    Raises:
        BpfError: the kernel refuses; what was removed before stays removed.
    """
    removed = []
    for family in _families():
        name = "ip" if family == socket.AF_INET else "ip6"
        known = nft.tables(family)
        found = [chain for chain in nft.chains(family) if _is_its(chain.name)]
        if (found or TABLE in known) and OWN_TABLE not in known:
            nft.keep_translating(family, OWN_TABLE)
        if TABLE in known:
            nft.delete_table(family, TABLE)
            removed.append(f"table {name} {TABLE}")
        if found:
            # What leads to them goes first: then nothing of them is in force, however many they are.
            nft.delete_rules(
                jump for jump in nft.jumps(family) if _is_its(jump.to) and not _is_its(jump.chain.name)
            )
            nft.delete_chains(found)
            removed.append(f"{len(found)} chains KUBE-... of {name}")
    return ", ".join(removed)


def end_translating() -> None:
    """None of kube-proxy's connections are left, or nobody takes over from it: remove our table.

    Raises:
        BpfError: the kernel refuses.
    """
    for family in _families():
        if OWN_TABLE in nft.tables(family):
            nft.delete_table(family, OWN_TABLE)


def rules_left() -> str:
    """What of its rules can't be removed from here, and what to do; "" for nothing."""
    if any(names_chain(family, "nat", "KUBE-SERVICES") for family in nft.FAMILIES):
        return (
            "kube-proxy left rules of iptables-legacy here: `kube-proxy --cleanup` on the node removes them"
        )
    return ""


def _is_its(chain: str) -> bool:
    return chain in _CHAINS or chain.startswith(_PREFIXES)


def _families() -> list[int]:
    """Those that the kernel has nftables for."""
    found: list[int] = []
    for family in nft.FAMILIES:
        try:
            nft.tables(family)
        except BpfError as error:
            if error.errno not in (errno.EINVAL, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
                raise
        else:
            found.append(family)
    return found
