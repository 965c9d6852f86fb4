"""tc programs on the clsact qdisc, for kernels without tcx (before 6.6)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubebee.bpf.syscall import BpfError

if TYPE_CHECKING:
    from pyroute2.netlink.exceptions import NetlinkError

_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_ETH_P_ALL = 0x0003


@dataclass(frozen=True, slots=True)
class ClsactFilter:
    """A filter of ours. It stays until remove(): unlike a link nothing holds it but the interface."""

    ifindex: int
    ingress: bool
    priority: int
    handle: int

    def remove(self) -> None:
        """Remove the filter; that it or the interface is gone already is no error."""
        from pyroute2 import IPRoute, NetlinkError  # 25 MB: only where it is needed

        try:
            with IPRoute() as route:
                route.tc(
                    "del-filter",
                    "bpf",
                    self.ifindex,
                    self.handle,
                    parent=_parent(self.ingress),
                    prio=self.priority,
                    protocol=_ETH_P_ALL,
                )
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                raise _refused("cannot remove a tc filter", self.ifindex, error) from error


def attach_clsact(
    prog_fd: int, ifindex: int, ingress: bool, priority: int, handle: int = 1, name: str = "kubebee"
) -> ClsactFilter:
    """Attach a program in direct-action mode, replacing the one at the same priority and handle in place.

    Args:
        prog_fd: a program of type SCHED_CLS.
        ifindex: the interface; gets a clsact qdisc if it has none.
        ingress: direction.
        priority: lower runs first; 1 to 65535.
        handle: tells filters of one priority apart.
        name: what `tc filter show` calls it.

    Raises:
        BpfError: netlink refused.
    """
    from pyroute2 import IPRoute, NetlinkError  # 25 MB: only where it is needed

    try:
        with IPRoute() as route:
            try:
                route.tc("add", "clsact", ifindex)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
            route.tc(
                "replace-filter",
                "bpf",
                ifindex,
                handle,
                fd=prog_fd,
                name=name,
                parent=_parent(ingress),
                prio=priority,
                protocol=_ETH_P_ALL,
                direct_action=True,
            )
    except NetlinkError as error:
        raise _refused("cannot attach to clsact", ifindex, error) from error
    return ClsactFilter(ifindex, ingress, priority, handle)


def _parent(ingress: bool) -> int:
    return _INGRESS if ingress else _EGRESS


def _refused(what: str, ifindex: int, error: NetlinkError) -> BpfError:
    return BpfError(what, error.code, where=f"interface {ifindex}")
