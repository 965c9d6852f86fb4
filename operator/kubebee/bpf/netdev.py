"""What drivers can do with XDP, as the kernel says (generic netlink family "netdev", Linux 6.3 and later)."""

from __future__ import annotations

import errno
import functools
import struct
from enum import IntFlag

from kubebee.bpf.netlink import NETLINK_GENERIC, attributes, dump, u32
from kubebee.bpf.syscall import BpfError

_HEAD = struct.Struct("=BBH")  # command, version, reserved
_CONTROL = 0x10
_GET_FAMILY = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_DEV_GET, _DEV_IFINDEX, _DEV_XDP_FEATURES = 1, 1, 3


class XdpFeature(IntFlag):
    """enum netdev_xdp_act: what this project asks for."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4
    """Takes frames that a program on another interface redirects to it."""


def xdp_features() -> dict[int, XdpFeature] | None:
    """Return the features of each interface of this network namespace, by ifindex; None: an older kernel.

    A veth has NDO_XMIT while its other end takes frames; many cards while an XDP program is attached to them.

    Raises:
        BpfError: netlink refused.
    """
    family = _family()
    if family is None:
        return None
    found: dict[int, XdpFeature] = {}
    for payload in dump(family, _HEAD.pack(_DEV_GET, 1, 0), family, NETLINK_GENERIC):
        values = attributes(payload[_HEAD.size :])
        index, features = u32(values, _DEV_IFINDEX), values.get(_DEV_XDP_FEATURES)
        if index is not None and features is not None:
            found[index] = XdpFeature(int(struct.unpack("=Q", features)[0]) & 7)
    return found


@functools.cache
def _family() -> int | None:
    request = _HEAD.pack(_GET_FAMILY, 1, 0)
    try:
        for payload in dump(_CONTROL, request, _CONTROL, NETLINK_GENERIC):
            values = attributes(payload[_HEAD.size :])
            if values.get(_FAMILY_NAME, b"").rstrip(b"\0") == b"netdev":
                return int(struct.unpack("=H", values[_FAMILY_ID])[0])
    except BpfError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
    return None
