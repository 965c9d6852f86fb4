"""Which interfaces send on what XDP gives them.

Most drivers do while an XDP program is attached. A veth does only while its other end takes frames, and else
loses them without a word: pods' links, and the uplinks of nodes that are containers themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubebee.bpf.netdev import XdpFeature, xdp_features
from kubebee.bpf.netlink import Interface, dump_interfaces

_NATIVE = ("native", "multi")


def frame_takers(links: Iterable[Interface], features: Mapping[int, XdpFeature] | None) -> frozenset[int]:
    """Interfaces that frames can be redirected to.

    Args:
        links: of this network namespace.
        features: as the kernel says; None: a kernel that does not, where cards are trusted that run XDP.
    """
    if features is not None:
        return frozenset(index for index, flags in features.items() if flags & XdpFeature.NDO_XMIT)
    return frozenset(
        link.index for link in links if not link.kind and link.xdp is not None and link.xdp.mode in _NATIVE
    )


def frame_losers(links: Iterable[Interface], features: Mapping[int, XdpFeature] | None) -> frozenset[int]:
    """Interfaces that lose what a program of their own sends out by XDP_TX."""
    takers = frame_takers((), features or {})
    return frozenset(link.index for link in links if link.kind == "veth" and link.index not in takers)


def losing_interfaces() -> frozenset[int]:
    """Those of the calling thread's network namespace.

    Raises:
        BpfError: netlink refused.
    """
    return frame_losers(dump_interfaces(), xdp_features())
